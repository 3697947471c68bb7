"""Many training runs side by side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _ablate_arguments(parser: ArgumentParser) -> None:
    from distilpose.training.ablation import AblationConfig

    parser.usage = "distilpose ablate CONFIG [--only NAME ...] [--key value ...]"
    parser.add_argument("--config", action="config", metavar="CONFIG", help="configuration file (first argument)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="train these variants now, not all")
    parser.add_class_arguments(AblationConfig, as_group=False)


def _ablate(args: Namespace) -> int:
    from dataclasses import fields

    from rich.console import Console

    from distilpose.training.ablation import AblationConfig, Variant, ablate, ablation_table, merge_settings

    values = {f.name: args[f.name] for f in fields(AblationConfig)}
    values["base"] = merge_settings(args.base, args.get("base_changes", {}))
    values["variants"] = [Variant(**vars(variant)) for variant in args.variants]
    result = ablate(AblationConfig(**values), only=args.only, console=Console(stderr=True))
    for failure in result.failures:
        print(f"failed: {failure}", file=sys.stderr)
    Console().print(ablation_table(result.rows, result.reference))
    print("written:", *result.files)
    return 1 if result.failures else 0


ABLATE = Command(
    "train and compare runs that differ in one thing each; goes on where it stopped",
    (
        "configs/ablation/sweep.yaml --base.data.root data",
        "configs/ablation/sweep.yaml --only 'student alone' 'all four'",
    ),
    _ablate_arguments,
    _ablate,
)
