"""Parameters and multiply-accumulates of a model."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from distilpose.models import PoseModel

aten = torch.ops.aten


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
def _batch_norm(x: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * 2 * prod(x)


def _layer_norm(x: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * 5 * prod(x)


def _one_per_value(x: tuple[int, ...], *_: Any, out_shape: tuple[int, ...], **__: Any) -> int:
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
