"""``train`` and ``ablate``: a configuration file, changed by the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from distilpose.cli.command import Command, table_console
from distilpose.compat import current_names, refuse_deleted
from distilpose.errors import ConfigError, printable
from distilpose.files import load_yaml, read_yaml
from distilpose.options import refuse_unknown_names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_FLAGS = ("resume", "skip_invalid", "only")  # options that a file may hold beside the configuration's own


def _read_train(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    from distilpose.training.config import TrainConfig

    parser.usage = "distilpose train CONFIG [--resume] [--skip-invalid] [--key value ...]"
    parser.add_argument("--config", action="config", metavar="CONFIG", help="configuration file (first argument)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--skip-invalid", action="store_true", help="report invalid annotations and go on without them")
    parser.add_class_arguments(TrainConfig, as_group=False)
    return parser.parse_args(_with_config(parser, words, TrainConfig))


def _train(args: Namespace) -> int:
    from rich.console import Console

    from distilpose.training.data import check_files, files_of
    from distilpose.training.processes import LAUNCHED
    from distilpose.training.train import train

    config = train_config(args)
    check_files({"run": files_of(config)})
    result = train(config, resume=args.resume, skip_invalid=args.skip_invalid, console=Console(stderr=True))
    if os.environ.get("RANK", "0") != "0" or LAUNCHED in os.environ:
        return 0  # one process of the run says it
    print(f"last weights: {result.last}")
    if result.best_ap is not None:
        print(f"best weights: {result.best} (AP {result.best_ap * 100:.1f} at epoch {result.best_epoch})")
    return 0


def train_config(args: Namespace) -> Any:
    """The parsed ``train`` arguments as a `TrainConfig`."""
    from distilpose.training.config import TrainConfig, train_config_from

    return train_config_from({f.name: args[f.name] for f in fields(TrainConfig)})


def _read_ablate(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    from distilpose.training.ablation import AblationConfig

    parser.usage = "distilpose ablate CONFIG [--only NAME ...] [--key value ...]"
    parser.add_argument("--config", action="config", metavar="CONFIG", help="configuration file (first argument)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="train these variants now, not all")
    parser.add_class_arguments(AblationConfig, as_group=False)
    words, changes = _take_base_changes(_with_config(parser, words, AblationConfig))
    args = parser.parse_args(words)
    args.base_changes = changes
    return args


def _ablate(args: Namespace) -> int:
    from rich.console import Console

    from distilpose.training.ablation import AblationConfig, Variant, ablate, ablation_table, merge_settings

    values = {f.name: args[f.name] for f in fields(AblationConfig)}
    values["base"] = merge_settings(args.base, args.base_changes)
    values["variants"] = [Variant(**vars(variant)) for variant in args.variants]
    result = ablate(AblationConfig(**values), only=args.only, console=Console(stderr=True))
    for failure in result.failures:
        print(printable(f"failed: {failure}"), file=sys.stderr)
    table_console().print(ablation_table(result.rows, result.reference))
    print(printable(f"written: {' '.join(map(str, result.files))}"))
    return 1 if result.failures else 0


def _with_config(parser: ArgumentParser, words: Sequence[str], options: type) -> list[str]:
    """A leading configuration file as ``--config``; with names of an earlier version, its content in those of this."""
    import yaml

    words = words[1:] if words[:1] == ["--config"] else words
    if words and not words[0].startswith("-"):
        content = read_yaml(words[0], "a configuration")
        if not isinstance(content, dict):
            raise ConfigError(
                f"{words[0]} is no configuration: expected a YAML mapping of names to values, such as "
                f"configs/quickstart/student.yaml, got {'nothing' if content is None else type(content).__name__}"
            )
        current = current_names(content)
        refuse_deleted(current)
        try:
            refuse_unknown_names({name: value for name, value in current.items() if name not in _FLAGS}, options)
        except ConfigError as error:
            raise ConfigError(f"{words[0]}: {error}") from error
        config = words[0] if current == content else yaml.safe_dump(current, sort_keys=False)
        return ["--config", config, *words[1:]]
    if not any(word.startswith(("-h", "--help", "--config", "--out", "--print_config")) for word in words):
        name, example = parser.prog.split()[-1], (parser.epilog or "").splitlines()[1].strip()
        print(f"error: {name} expects a configuration file first, got none: {example}", file=sys.stderr)
        sys.exit(2)
    return [*words]


def _take_base_changes(args: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split ``--base.a.b value`` off: of a plain mapping the parser would replace all of ``a``."""
    rest: list[str] = []
    changes: dict[str, Any] = {}
    words = iter(args)
    for word in words:
        if not word.startswith("--base."):
            rest.append(word)
            continue
        key, separator, value = word.removeprefix("--base.").partition("=")
        text = value if separator else next(words, None)
        if text is None:
            raise ConfigError(f"expected a value after {word}, got none")
        *parents, last = key.split(".")
        place = changes
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{word} changes a part of {parent!r}, which another --base option sets as a whole")
        try:
            place[last] = load_yaml(text)
        except ValueError as error:
            raise ConfigError(f"expected a YAML value after --base.{key}, got {text!r}") from error
    return rest, changes


@cache
def bound_yaml() -> None:
    """Let jsonargparse read no YAML that `load_yaml` refuses, in options and texts of a configuration."""
    import yaml
    from jsonargparse import get_loader, set_loader

    load = get_loader("yaml")  # reads 1e-4 as a number and dates as texts

    def load_bounded(text: str) -> Any:
        try:
            load_yaml(text)
        except ValueError as error:
            raise yaml.YAMLError(str(error)) from error
        return load(text)

    set_loader("yaml", load_bounded, (yaml.YAMLError,))


TRAIN = Command(
    "train a teacher, a student, or a student from a frozen teacher",
    (
        "configs/quickstart/student.yaml",
        "configs/quickstart/student.yaml --resume",
        "configs/paper/distilpose_s.yaml --data.root /datasets/coco --teacher runs/tokenpose_s/best.safetensors",
    ),
    _read_train,
    _train,
)
ABLATE = Command(
    "train and compare runs that differ in one thing each; goes on where it stopped",
    (
        "configs/ablation/sweep.yaml --base.data.root data",
        "configs/ablation/sweep.yaml --only 'student alone' 'all four'",
    ),
    _read_ablate,
    _ablate,
)
