"""Students that cost less: blocks that only read do what they say, and nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from distilpose.backends.description import FORMAT_VERSION, ModelDescription
from distilpose.backends.loading import DEFAULT_MODEL, load_model
from distilpose.benchmark.measure import measure_complexity
from distilpose.errors import ConfigError
from distilpose.models import create_model
from distilpose.models.token_encoder import TokenEncoder

SIZE_HW = (64, 48)
K = 3


def encoder(depth: int = 3, **savings: int | None) -> TokenEncoder:
    """Equal weights for equal depth, attention that attends."""
    torch.manual_seed(0)
    built = TokenEncoder(8, (16, 12), (4, 3), K, dim=24, depth=depth, num_heads=2, mlp_ratio=2, **savings)
    generator = torch.Generator().manual_seed(1)
    for part in built.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.data.normal_(generator=generator, std=2 * part.in_features**-0.5)
    return built.double().eval()


@pytest.fixture
def features() -> Tensor:
    return torch.randn(2, 8, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_updating_some_tokens_is_updating_all_and_keeping_some() -> None:
    block = encoder().blocks[0]
    tokens = torch.randn(2, 9, 24, dtype=torch.float64)
    assert close((block(tokens, 4),), (block(tokens)[:, :4],))
    block, tokens = block.float(), tokens.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(block(tokens, 4), block(tokens)[:, :4], atol=0.05)


def test_keypoints_do_not_notice_that_the_last_block_reads(features: Tensor) -> None:
    whole, reading = encoder()(features), encoder(visual_depth=2)(features)
    assert close(whole[:1], reading[:1])
    assert not torch.allclose(whole[1], reading[1])
    # The visual tokens are those of the first two blocks.
    assert close(encoder(visual_depth=3)(features), whole)
    shallow = encoder(depth=2)
    shallow.load_state_dict({k: v for k, v in encoder().state_dict().items() if not k.startswith("blocks.2.")})
    assert close(shallow(features)[1:], reading[1:])


def test_without_visual_blocks_visual_tokens_are_the_embedded_patches(features: Tensor) -> None:
    built = encoder(visual_depth=0)
    embedded = []
    built.patch_embedding.register_forward_hook(lambda *call: embedded.append(call[2]))
    keypoint_tokens, visual_tokens = built(features)
    assert torch.equal(visual_tokens, embedded[0])
    assert not torch.allclose(keypoint_tokens[0], keypoint_tokens[1])


def test_gradients_reach_every_weight(features: Tensor) -> None:
    built = encoder(visual_depth=1)
    built(features)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.parameters())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"visual_depth": 4}, "visual_depth"),
        ({"visual_depth": -1}, "visual_depth"),
        ({"prune_after": 1, "keep_tokens": 4}, "the option prune_after is gone"),
    ],
)
def test_impossible_savings_name_themselves(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        create_model("distilpose_t", input_size_hw=SIZE_HW, depth=3, **options)


def test_files_from_before_the_new_m_hold_the_shipped_architecture() -> None:
    values = ModelDescription("distilpose_m", "regression", (64, 48), (16, 12)).to_dict()
    assert values["format"] == FORMAT_VERSION
    assert ModelDescription.from_dict(values).model == "distilpose_m"
    assert ModelDescription.from_dict({**values, "format": 1}).model == "distilpose_p"
    assert ModelDescription.from_dict({**values, "format": 1, "model": "distilpose_s"}).model == "distilpose_s"
    assert ModelDescription.from_dict({**values, "options": {"depth": 3, "prune_after": None}}).options == {"depth": 3}
    assert load_model(DEFAULT_MODEL, exported=False).preset == "distilpose_mobilenet"


def test_reading_is_counted() -> None:
    def gmacs(**options: int) -> float:
        return measure_complexity(create_model("distilpose_m", input_size_hw=(128, 96), **options)).gmacs

    whole, reading = gmacs(visual_depth=4), gmacs()
    # One reading block of D = 192, K = 17, P = 64: queries, keys and values, attention, its output, MLP and norms.
    block = 17 * 192**2 + 2 * 81 * 192**2 + 2 * 17 * 81 * 192 + 17 * 192**2 + 2 * 17 * 192 * 576
    full = 4 * 81 * 192**2 + 2 * 81 * 81 * 192 + 2 * 81 * 192 * 576
    assert (whole - reading) * 1e9 == pytest.approx(3 * (full - block), rel=0.01)
