"""The list of presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _models_arguments(parser: ArgumentParser) -> None:
    pass


def _models(_: Namespace) -> int:
    from rich.console import Console

    from distilpose.benchmark.complexity import models_table

    Console().print(models_table())
    return 0


MODELS = Command("list the presets with size, cost and published AP", ("",), _models_arguments, _models)
