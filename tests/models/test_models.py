"""Presets: size, cost, options, and agreement with the released code's outputs."""

import copy

import numpy as np
import pytest
import torch

from distilpose.backends.checkpoint import convert_released
from distilpose.benchmark.measure import measure_complexity
from distilpose.errors import ConfigError
from distilpose.models import MODEL_CARDS, create_model, list_models
from distilpose.models.token_encoder import patchify, sine_position_code

LARGE = ("distilpose_l", "tokenpose_l")
SMALL = {"input_size_hw": (64, 48), "dim": 32, "depth": 2, "num_heads": 4}


def relative_error(actual: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(actual.numpy() - expected.reshape(actual.shape)).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    "name", ["distilpose_s", "tokenpose_s", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def test_outputs_equal_released_code(name, released_file, golden_images, reference_dir) -> None:
    model = convert_released(released_file(name))
    golden = np.load(reference_dir / f"{name}.npz")
    with torch.inference_mode():
        features = model.backbone(golden_images)
        output = model(golden_images)
    errors = {
        "kpt_token": relative_error(output.keypoint_tokens, golden["kpt_token"]),
        "vis_token": relative_error(output.visual_tokens[: len(golden["vis_token"])], golden["vis_token"]),
        "feature": relative_error(torch.stack([features.mean(), features.std()]), golden["feature_mean_std"]),
    }
    if name.startswith("distilpose"):
        errors["pred"] = relative_error(output.xy_norm, golden["pred"])
        errors["score"] = relative_error(output.score, golden["score"])
        errors["sigma"] = relative_error(output.sigma, golden["sigma"])
    else:
        errors["pred"] = relative_error(output.heatmaps[:1], golden["pred"])
    assert max(errors.values()) <= 1e-4, errors


def test_position_code_equals_released(reference_dir) -> None:
    golden = np.load(reference_dir / "pos_embedding.npy")
    assert np.abs(sine_position_code((16, 16), 192).numpy() - golden).max() < 1e-5


# parameters, GMACs published (arXiv:2303.02455), GMACs with attention products (counted from the layer sizes)
@pytest.mark.parametrize(
    ("name", "parameters", "published", "with_attention"),
    [
        ("distilpose_s", 5_364_101, 2.38, 2.724),
        ("distilpose_l", 21_265_637, 10.33, 10.654),
        ("tokenpose_s", 6_620_736, None, 2.745),
        ("tokenpose_l", 69_411_360, 17.03, 17.347),
    ],
)
def test_published_parameters_and_cost(name, parameters, published, with_attention) -> None:
    card = MODEL_CARDS[name]
    assert card.parameters == parameters
    assert card.gmacs == pytest.approx(with_attention, abs=0.002)
    if published is not None:
        assert card.gmacs_published == pytest.approx(published, abs=0.02)


COSTLY = ("tokenpose_l", "hrnet_w32", "hrnet_w48")  # each takes seconds, the others of their families do not


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in COSTLY else []) for name in list_models()]
)
def test_cards_hold_what_is_counted(name) -> None:
    with torch.device("meta"):
        cost = measure_complexity(create_model(name))
    card = MODEL_CARDS[name]
    assert card.parameters == cost.parameters
    assert (card.gmacs_published, card.gmacs) == (round(cost.gmacs_published, 2), round(cost.gmacs, 3))


def test_presets_cost_what_they_promise() -> None:
    tiny, medium, shipped, mobile, lite, teacher, published = (
        MODEL_CARDS[f"{name}"]
        for name in (
            "distilpose_t", "distilpose_m", "distilpose_p", "distilpose_mobilenet", "distilpose_lite0", "tokenpose_m",
            "distilpose_s",
        )
    )  # fmt: skip
    assert tiny.gmacs < medium.gmacs < shipped.gmacs < teacher.gmacs < published.gmacs
    assert max(mobile.gmacs, lite.gmacs, medium.gmacs) <= 0.7
    assert max(card.parameters for card in (tiny, medium, shipped, mobile, lite)) * 2 < 12e6  # bytes in float16
    for student, large in (("distilpose_mobilenet", "tokenpose_mobilenet"), ("distilpose_lite0", "tokenpose_lite2")):
        assert MODEL_CARDS[large].gmacs > 1.5 * MODEL_CARDS[student].gmacs
        with torch.device("meta"):
            assert create_model(student).token_layout == create_model(large).token_layout


def test_a_block_costs_what_its_layer_sizes_say() -> None:
    small = {**SMALL, "num_heads": 2, "dim": 24, "mlp_ratio": 3}
    one, two = (create_model("distilpose_s", **{**small, "depth": depth}) for depth in (1, 2))
    tokens, dim = 17 + 4 * 4, 24  # SMALL: 64 x 48 pixels, a fourth of that, in patches of 4 x 3
    linear = tokens * dim * dim * (3 + 1 + 2 * 3)
    norms = 2 * 5 * tokens * dim
    attention = 2 * tokens * tokens * dim
    added = np.subtract(measure_complexity(two)[1:], measure_complexity(one)[1:]) * 1e9
    assert added == pytest.approx([linear + norms, linear + norms + attention])


def test_counting_leaves_the_model_as_it_is() -> None:
    model = create_model("distilpose_t", input_size_hw=(64, 48)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_complexity(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("num_sigmas", "with_score"), [(0, False), (0, True), (1, False), (1, True), (2, False)])
def test_outputs_that_are_not_built_are_none(num_sigmas, with_score) -> None:
    model = create_model("distilpose_s", num_sigmas=num_sigmas, with_score=with_score, num_keypoints=5, **SMALL)
    output = model(torch.randn(2, 3, 64, 48))
    assert output.xy_norm.shape == (2, 5, 2)
    assert ((output.xy_norm >= 0) & (output.xy_norm <= 1)).all()
    assert (output.score is None) == (not with_score)
    if num_sigmas == 0:
        assert output.sigma is None
    else:
        assert output.sigma.shape == (2, 5, 2)
        assert (output.sigma > 0).all()
        assert torch.equal(output.sigma[..., 0], output.sigma[..., 1]) == (num_sigmas == 1)


@pytest.mark.parametrize("name", [name for name in list_models() if name.startswith(("distilpose", "tokenpose"))])
def test_other_sizes_keypoints_depth_and_width(name) -> None:
    options = {"input_size_hw": (96, 64), "patch_size_hw": (3, 4), "num_keypoints": 3, "dim": 24, "depth": 1}
    model = create_model(name, num_heads=2, mlp_ratio=1.5, **options).eval()
    with torch.inference_mode():
        output = model(torch.randn(1, 3, 96, 64))
    assert output.keypoint_tokens.shape == (1, 3, 24)
    assert output.visual_tokens.shape == (1, 8 * 4, 24)
    if name.startswith("tokenpose"):
        assert output.heatmaps.shape == (1, 3, 24, 16)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"input_size_hw": (250, 192)}, "input_size_hw"),
        ({"patch_size_hw": (5, 3)}, "patch_size_hw"),
        ({"dim": 190}, "dim"),
        ({"num_heads": 7}, "num_heads"),
        ({"depth": 0}, "depth"),
        ({"num_sigmas": 3}, "num_sigmas"),
        ({"widht": 3}, "widht"),
        ({"input_size_hw": (256,)}, "input_size_hw"),
        ({"mlp_ratio": -1}, "mlp_ratio must be a number above 0, got -1"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio must be a number above 0, got inf"),
        ({"dim": 8 * 10**15}, "cannot be built from"),
        ({"with_score": 7}, "with_score must be true or false, got 7"),
    ],
)
def test_impossible_options_name_themselves(options, named) -> None:
    with pytest.raises(ConfigError, match=named):
        create_model("distilpose_s", **options)


def test_a_head_without_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="head_hidden must be at least 1, got -5"):
        create_model("tokenpose_s", head_hidden=-5)


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="distilpose_s"):
        create_model("distillpose")


@pytest.mark.parametrize("name", ["distilpose_s", "distilpose_mobilenet", "distilpose_lite0"])
def test_channels_last_and_bf16(name) -> None:
    torch.manual_seed(0)
    model = create_model(name, **SMALL).eval()
    images = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        plain = model(images).xy_norm
        last = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last)).xy_norm
        half = copy.deepcopy(model).to(torch.bfloat16)(images.to(torch.bfloat16)).xy_norm
    assert (plain - last).abs().max() < 1e-5
    assert half.dtype == torch.bfloat16
    assert (plain - half.float()).abs().max() < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(images).xy_norm.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())


def test_patch_order_is_row_column_channel() -> None:
    features = torch.arange(2 * 4 * 6, dtype=torch.float32).view(1, 2, 4, 6)
    patches = patchify(features, (2, 3))
    expected = [features[0, c, y, 3 + x] for y in range(2) for x in range(3) for c in range(2)]
    assert torch.equal(patches[0, 1], torch.stack(expected))
