"""Token products by way of convolutions are the same products."""

import pytest
import torch
from torch import nn

from distilpose.models.linear import TokenLinear, _runs_as_convolution


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = TokenLinear(24, 40, bias=bias, dtype=dtype)
    plain = nn.Linear(24, 40, bias=bias, dtype=dtype)
    plain.load_state_dict(ours.state_dict())
    tokens = torch.randn(3, 7, 24, dtype=dtype)
    results = []
    for layer in (ours, plain):
        given = tokens.clone().requires_grad_()
        out = layer(given)
        (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum().backward()
        results.append([out, given.grad, *(parameter.grad for parameter in layer.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_only_float32_on_cpus_takes_the_way() -> None:
    assert _runs_as_convolution(torch.zeros(1, 2, 3))
    assert not _runs_as_convolution(torch.zeros(1, 2, 3, dtype=torch.float64))
    assert not _runs_as_convolution(torch.zeros(1, 2, 3, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not _runs_as_convolution(torch.zeros(1, 2, 3))
        assert TokenLinear(3, 4)(torch.zeros(1, 2, 3)).dtype == torch.bfloat16
