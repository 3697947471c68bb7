"""The command line: parse, call one function, exit code. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from distilpose import __version__
from distilpose.cli.ablate import ABLATE
from distilpose.cli.benchmark import BENCHMARK
from distilpose.cli.command import Command, completion_script, examples_text, printable, read_options
from distilpose.cli.convert import CONVERT
from distilpose.cli.doctor import DOCTOR
from distilpose.cli.evaluate import EVALUATE
from distilpose.cli.export import EXPORT
from distilpose.cli.label import LABEL
from distilpose.cli.models import MODELS
from distilpose.cli.predict import PREDICT
from distilpose.cli.predict_bulk import PREDICT_BULK
from distilpose.cli.serve import SERVE
from distilpose.cli.train import TRAIN
from distilpose.cli.web import WEB
from distilpose.cli.yaml_values import bound_yaml
from distilpose.compat import current_names, current_options, refuse_deleted
from distilpose.errors import ConfigError, DistilPoseError, missing_package
from distilpose.files import load_yaml, read_yaml

COMMANDS: dict[str, Command] = {
    "predict": PREDICT,
    "predict-bulk": PREDICT_BULK,
    "train": TRAIN,
    "ablate": ABLATE,
    "label": LABEL,
    "evaluate": EVALUATE,
    "export": EXPORT,
    "serve": SERVE,
    "web": WEB,
    "models": MODELS,
    "convert": CONVERT,
    "benchmark": BENCHMARK,
    "doctor": DOCTOR,
}


# What installs all that a command needs.
_EXTRAS = {"train": "train", "ablate": "train", "export": "export", "evaluate": "evaluate", "serve": "serve"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``distilpose`` with these arguments and return its exit code.

    0: all went well. 1: bad input, or part of a batch failed. 2: wrong usage. 130: interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal in another encoding gets escapes, not an exception
            stream.reconfigure(errors="backslashreplace")
    args = current_options(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"distilpose {__version__}")
        return 0
    if args[0] == "--completion":
        return _print_completion(args[1:])
    name = args[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: {printable(repr(name))} is no command of distilpose; {hint}", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        return _run(name, args[1:])
    except DistilPoseError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("distilpose"):
            raise
        print(f"error: {missing_package(error.name, f'distilpose {name}', _EXTRAS.get(name))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = "; --resume goes on from the last whole epoch" if name in ("train", "ablate") else ""
        print(f"interrupted: what was written stays{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has left, as in `distilpose models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _print_completion(args: Sequence[str]) -> int:
    shells = ("bash", "zsh", "tcsh")
    if len(args) != 1 or args[0] not in shells:
        print(f"error: expected --completion and one of {', '.join(shells)}", file=sys.stderr)
        return 2
    try:
        print(completion_script(COMMANDS, args[0]))
    except DistilPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: distilpose COMMAND ...",
        "",
        "Fast 2D human pose: distil heatmap teachers into regression students.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        "examples:",
        *(examples_text(name, COMMANDS[name].examples[:1]) for name in ("predict", "serve", "train")),
        "",
        "distilpose COMMAND --help explains a command. --version prints the version, --completion bash|zsh|tcsh the",
        "completion of commands and options for a shell.",
    ]
    return "\n".join(lines)


def _run(name: str, args: list[str]) -> int:
    command = COMMANDS[name]
    if isinstance(command.options, str):
        return command.run(read_options(command, name, args))
    import argparse

    from jsonargparse import ArgumentParser

    bound_yaml()
    parser = ArgumentParser(
        prog=f"distilpose {name}",
        description=command.summary,
        epilog=f"examples:\n{examples_text(name, command.examples)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.options(parser)
    if name in ("train", "ablate"):
        args = args[1:] if args[:1] == ["--config"] else args
        if args and not args[0].startswith("-"):
            args = ["--config", _current_config(args[0]), *args[1:]]
        elif not any(word.startswith(("-h", "--help", "--config", "--out", "--print_config")) for word in args):
            example = f"distilpose {name} {command.examples[0]}"
            print(f"error: {name} expects a configuration file first, got none: {example}", file=sys.stderr)
            return 2
    changes: dict[str, Any] = {}
    if name == "ablate":
        args, changes = _take_base_changes(args)
    try:
        parsed = parser.parse_args(args)
    except UnicodeDecodeError as error:
        raise ConfigError(f"a configuration file cannot be read ({error}): save it as UTF-8") from error
    if changes:
        parsed.base_changes = changes
    return command.run(parsed)


def _current_config(file: str) -> str:
    """The file; where it uses names of an earlier version, its content with the names of this one."""
    import yaml

    content = read_yaml(file, "a configuration")
    current = current_names(content)
    refuse_deleted(current)
    return file if current == content else yaml.safe_dump(current, sort_keys=False)


def _take_base_changes(args: list[str]) -> tuple[list[str], dict[str, Any]]:
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
