"""Parameters and multiply-accumulates of a model."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from fvcore.nn import FlopCountAnalysis
from rich.table import Table
from torch import Tensor, nn

from distilpose.checkpoint import read_description
from distilpose.loading import SHIPPED_WEIGHTS
from distilpose.models import MODELS, create_model, list_models
from distilpose.models.zoo import PoseModel

ATTENTION = "scaled_dot_product_attention"
ACTIVATIONS = ("relu", "relu_")


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


class _Tensors(nn.Module):
    """A model whose output has no None in it, which tracing cannot follow."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for value in self.model(images) if value is not None)


def attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-accumulates of softmax(Q K^T) V, Q (B, heads, T, d), K (B, heads, S, d): 2 B heads T S d."""
    query, key = ([int(side) for side in value.type().sizes()] for value in inputs[:2])
    return 2 * prod(query) * key[-2]


def _output_elements(inputs: list[Any], outputs: list[Any]) -> int:
    return prod(int(side) for side in outputs[0].type().sizes())


def measure_complexity(model: PoseModel) -> Complexity:
    """Count one crop at the model's input size.

    Source:
        Operator counts of fvcore; attention products by `attention_macs`.
    """
    was_training = model.training
    images = torch.zeros(1, 3, *model.input_size_hw, device=next(model.parameters()).device)
    counts = FlopCountAnalysis(_Tensors(model).eval(), images).set_op_handle(f"aten::{ATTENTION}", attention_macs)
    for name in ACTIVATIONS:
        counts.set_op_handle(f"aten::{name}", _output_elements)
    counts.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = counts.by_operator()
    model.train(was_training)
    total = sum(by_operator.values())
    attention = by_operator.get(ATTENTION, 0)
    activations = sum(by_operator.get(name, 0) for name in ACTIVATIONS)
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
        model.to_empty(device="cpu")
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
