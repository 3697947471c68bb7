"""Parameters and multiply-accumulates of a model."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from distilpose.backends.checkpoint import read_description
from distilpose.backends.loading import SHIPPED_WEIGHTS
from distilpose.models import MODELS, create_model, list_models
from distilpose.models.presets import PoseModel

aten = torch.ops.aten
Size = tuple[int, ...]


class Complexity(NamedTuple):
    """What one crop costs.

    Attributes:
        parameters: trainable numbers.
        gmacs_published: 1e9 multiply-accumulates as the paper's counter has them: convolutions, linear and norm
            layers, one per rectified value, no attention products.
        gmacs: convolutions, linear and norm layers, and the two matrix products of every attention.
    """

    parameters: int
    gmacs_published: float
    gmacs: float


# Like `torch.utils.flop_counter`, whose formulas give two operations for each multiply-accumulate.
def _batch_norm(x: Size, *_: Any, **__: Any) -> int:
    return 2 * 2 * prod(x)


def _layer_norm(x: Size, *_: Any, **__: Any) -> int:
    return 2 * 5 * prod(x)


def _one_per_value(x: Size, *_: Any, out_shape: Size, **__: Any) -> int:
    return 2 * prod(out_shape)


ACTIVATIONS = (aten.relu, aten.relu_)
FORMULAS = {
    **dict.fromkeys((aten.native_batch_norm, aten._native_batch_norm_legit_no_training), _batch_norm),
    aten.native_layer_norm: _layer_norm,
    **dict.fromkeys(ACTIVATIONS, _one_per_value),
}


def measure_complexity(model: PoseModel) -> Complexity:
    """Count one crop at the model's input size; only shapes are computed, so it takes no time and no memory.

    Source:
        Products and convolutions: `torch.utils.flop_counter`. Norm layers as the published counts have them: two
        multiply-accumulates for each value of a batch norm, five of a layer norm.
    """
    was_training = model.training
    shapes = {name: value.to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    images = torch.zeros(1, 3, *model.input_size_hw, device="meta")
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter, torch.no_grad():
        functional_call(model.eval(), shapes, (images,))
    model.train(was_training)
    macs = {operation: count / 2 for operation, count in counter.get_flop_counts()["Global"].items()}
    total = sum(macs.values())
    attention = macs.get(aten.bmm, 0)  # on shapes alone, attention is its two batched products
    activations = sum(macs.get(operation, 0) for operation in ACTIVATIONS)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Complexity(parameters, (total - attention) / 1e9, (total - activations) / 1e9)


def models_table() -> Table:
    """Every preset with its size, its cost, and what is published about it."""
    table = Table(title="presets")
    table.add_column("model", no_wrap=True)
    for heading in ("parameters", "GMACs\npublished", "with\nattention", "input\n(H x W)", "AP [1]"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in list_models():
        with torch.device("meta"):  # counting needs shapes, not weights
            model = create_model(name)
        cost, card = measure_complexity(model), MODELS[name]
        height, width = model.input_size_hw
        table.add_row(
            name,
            f"{cost.parameters:,}",
            f"{cost.gmacs_published:.2f}",
            f"{cost.gmacs:.3f}",
            f"{height} x {width}",
            "-" if card.published_ap is None else f"{card.published_ap:.1f}",
        )
    table.caption = "[1] COCO val2017, detector boxes of 56.4 AP, flip test, as published: " + "; ".join(
        f"{name}: {card.source}" for name, card in sorted(MODELS.items()) if card.published_ap is not None
    )
    shipped = (f"{name} ({read_description(path).model})" for name, path in SHIPPED_WEIGHTS.items())
    table.caption += f"\nshipped weights, for --model: {', '.join(shipped)}"
    return table
