"""The table of presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distilpose.cli.command import DEFAULT_MODEL, Command

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ModelsOptions:
    """Nothing to choose."""


def _models(_: ModelsOptions) -> int:
    from rich.console import Console

    Console().print(models_table())
    return 0


def models_table() -> Table:
    """Every preset with its size, its cost, and what is published about it."""
    from rich.table import Table

    from distilpose.models import MODEL_CARDS, MODELS, list_models

    table = Table(title="presets")
    table.add_column("model", no_wrap=True)
    for heading in ("parameters", "GMACs as\nthe paper", "GMACs,\nall", "input\n(H x W)", "AP [1]"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in list_models():
        card, (height, width) = MODEL_CARDS[name], MODELS[name].input_size_hw
        table.add_row(
            name,
            f"{card.parameters:,}",
            f"{card.gmacs_published:.2f}",
            f"{card.gmacs:.3f}",
            f"{height} x {width}",
            "-" if card.published_ap is None else f"{card.published_ap:.1f}",
        )
    table.caption = "[1] COCO val2017, detector boxes of 56.4 AP, flip test, as published: " + "; ".join(
        f"{name}: {card.source}" for name, card in sorted(MODEL_CARDS.items()) if card.published_ap is not None
    )
    table.caption += f"\nshipped weights, for --model: {DEFAULT_MODEL}"
    return table


MODELS = Command(
    "list the presets with size, cost and published AP", ("",), "distilpose.cli.models:ModelsOptions", _models
)
