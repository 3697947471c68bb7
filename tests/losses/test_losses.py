"""The loss terms: the released values, gradients, and a cell-by-cell oracle."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from distilpose.backends.checkpoint import convert_released
from distilpose.errors import ConfigError
from distilpose.losses import (
    DistillationOptions,
    distillation_losses,
    heatmap_loss,
    read_heatmap,
    render_gaussian_heatmaps,
    simulated_heatmap_loss,
)
from distilpose.losses.distillation import distillation_weight
from distilpose.models.outputs import HeatmapOutput, PoseOutput

RELEASED_NAMES = {
    "keypoint": "reg_loss",
    "visual_token": "vis_dist_loss",
    "keypoint_token": "kpt_dist_loss",
    "simulated_heatmap": "reg2hm_loss",
    "score": "score_loss",
}
RELEASED_PARAMETERS = {
    "backbone.conv1.weight": "backbone.conv1.weight",
    "encoder.patch_embedding.weight": "keypoint_head.tokenhead.patch_to_embedding.weight",
    "encoder.keypoint_tokens": "keypoint_head.tokenhead.keypoint_token",
    "head.linear.weight": "keypoint_head.tokenhead.mlp_head.1.weight",
    "encoder.blocks.0.qkv.weight": "keypoint_head.tokenhead.transformer.layers.0.0.fn.fn.to_qkv.weight",
}


def golden_labels(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of the golden losses: formula in the reference folder's notes."""
    rng = np.random.default_rng([0, 7])
    xy = rng.random((batch, 17, 2)) * 1.2 - 0.1
    weight = (rng.random((batch, 17, 1)) < 0.8) & ((xy >= 0) & (xy <= 1)).all(-1, keepdims=True)
    return torch.from_numpy(xy).float(), torch.from_numpy(weight[..., 0]).float()


@pytest.mark.parametrize(
    "pair", ["distilpose_s<-tokenpose_s", "distilpose_s<-tokenpose_l", "distilpose_l<-tokenpose_l"]
)
def test_terms_and_gradients_equal_released_code(pair, released_file, golden_images, reference_dir) -> None:
    golden = json.loads((reference_dir / "losses.json").read_text())[pair]
    student_name, teacher_name = pair.split("<-")
    student = convert_released(released_file(student_name, golden["student_seed"])).train()
    teacher = convert_released(released_file(teacher_name, golden["teacher_seed"]))
    with torch.no_grad():
        teacher_output = teacher(golden_images)
    xy, weight = golden_labels(golden["batch"])
    losses = distillation_losses(
        student(golden_images), teacher_output, xy, weight, torch.ones_like(weight, dtype=torch.bool),
        DistillationOptions.reference(),
    )  # fmt: skip
    for name, value in losses.terms():
        assert value.item() == pytest.approx(golden[RELEASED_NAMES[name]], rel=1e-4), name
    assert losses.total.item() == pytest.approx(golden["total"], rel=1e-4)
    losses.total.backward()
    parameters = dict(student.named_parameters())
    for own, released in RELEASED_PARAMETERS.items():
        assert parameters[own].grad.norm().item() == pytest.approx(golden["grad_norm"][released], rel=1e-3), own
    total = torch.stack([p.grad.norm() for p in parameters.values()]).norm().item()
    assert total == pytest.approx(golden["grad_norm_total"], rel=1e-3)


def test_rendering_equals_the_formula_cell_by_cell() -> None:
    u, v, sx, sy = 0.3, 0.8, 1.5, 0.7
    heatmap = render_gaussian_heatmaps(torch.tensor([[[u, v]]]), torch.tensor([[[sx, sy]]]), (5, 7), sigma_floor=0.4)
    for y in range(5):
        for x in range(7):
            exponent = (x - u * 7) ** 2 / (sx**2 + 0.16) + (y - v * 5) ** 2 / (sy**2 + 0.16)
            assert heatmap[0, 0, y, x].item() == pytest.approx(math.exp(-exponent / 2), rel=1e-5)


def test_rendering_with_one_sigma_is_round() -> None:
    sigma = torch.tensor([[[1.3]]]).expand(-1, -1, 2)
    heatmap = render_gaussian_heatmaps(torch.tensor([[[0.5, 0.5]]]), sigma, (8, 8))[0, 0]
    assert torch.allclose(heatmap, heatmap.T)


def test_rendering_and_loss_pass_gradcheck() -> None:
    generator = torch.Generator().manual_seed(1)
    xy = torch.rand(2, 3, 2, generator=generator, dtype=torch.double, requires_grad=True)
    sigma = (torch.rand(2, 3, 2, generator=generator, dtype=torch.double) + 0.2).requires_grad_()
    teacher = torch.rand(2, 3, 6, 5, generator=generator, dtype=torch.double)
    weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.5]], dtype=torch.double)

    def loss(xy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return simulated_heatmap_loss(render_gaussian_heatmaps(xy, sigma, (6, 5)), teacher, weight)

    assert torch.autograd.gradcheck(loss, (xy, sigma))


def test_sigma_cannot_collapse() -> None:
    sigma = torch.full((1, 1, 2), 1e-6, requires_grad=True)
    heatmap = render_gaussian_heatmaps(torch.tensor([[[0.55, 0.55]]]), sigma, (8, 8))
    assert heatmap.max() > 0.1
    assert heatmap.isfinite().all()
    heatmap.sum().backward()
    assert sigma.grad.isfinite().all()


def test_reading_finds_the_peak_where_it_was_drawn() -> None:
    xy = torch.tensor([[[0.25, 0.5], [0.75, 0.125]]])
    heatmaps = render_gaussian_heatmaps(xy, torch.ones(1, 2, 2), (16, 8), sigma_floor=0.0)
    assert torch.allclose(read_heatmap(heatmaps, xy), torch.ones(1, 2))
    assert torch.allclose(read_heatmap(heatmaps, xy, "nearest"), torch.ones(1, 2))
    # The released code rounds u (W - 1): another cell than the one that the map is drawn around.
    assert (read_heatmap(heatmaps, xy, "reference") < 0.99).any()


def test_reading_between_cells_and_outside() -> None:
    heatmaps = torch.arange(12, dtype=torch.float32).view(1, 1, 3, 4)
    half_way = read_heatmap(heatmaps, torch.tensor([[[1.5 / 4, 0.5 / 3]]]))
    assert half_way.item() == pytest.approx((1 + 2 + 5 + 6) / 4)
    assert read_heatmap(heatmaps, torch.tensor([[[1.0, 1.0]]])).item() == pytest.approx(11)
    assert read_heatmap(heatmaps, torch.tensor([[[-3.0, -3.0]]])).item() == pytest.approx(0)


@pytest.mark.parametrize(
    ("mask", "unannotated_too", "expected"),
    [
        ("visible", False, [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
        ("visible", True, [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]),
        ("all", False, [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]),
        ("all", True, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]),
        ("reference", False, [[1.0, 0.5, 0.0], [1.0, 0.5, 0.0]]),
        ("reference", True, [[1.0, 0.5, 0.0], [1.0, 0.5, 0.0]]),
    ],
)
def test_masks(mask, unannotated_too, expected) -> None:
    labeled = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    annotated = torch.tensor([[True, True, False], [True, True, False]])
    options = DistillationOptions(mask=mask, distil_unannotated=unannotated_too)
    weight = distillation_weight(labeled, annotated, labeled.mean(0), options)
    assert torch.equal(weight, torch.tensor(expected))


def random_outputs(sigma: bool = True, score: bool = True, tokens: int = 8):
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    student = PoseOutput(
        draw(2, 4, 2).requires_grad_(),
        draw(2, 4, 2) + 1 if sigma else None,
        draw(2, 4) if score else None,
        draw(2, 4, tokens),
        draw(2, 6, tokens),
    )
    return student, HeatmapOutput(draw(2, 4, 8, 6), draw(2, 4, 8), draw(2, 6, 8)), draw(2, 4, 2)


def test_unlabeled_keypoints_get_no_gradient_from_labels_or_visible_mask() -> None:
    student, teacher, target = random_outputs()
    weight = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    annotated = torch.ones(2, 4, dtype=torch.bool)
    distillation_losses(student, teacher, target, weight, annotated, DistillationOptions(token=0)).total.backward()
    gradient = student.xy_norm.grad.abs().sum(-1)
    assert (gradient[weight == 0] == 0).all()
    assert (gradient[weight == 1] > 0).all()


def test_reference_mask_does_reach_unlabeled_keypoints() -> None:
    student, teacher, target = random_outputs()
    weight = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    options = DistillationOptions.reference()
    annotated = torch.ones(2, 4, dtype=torch.bool)
    distillation_losses(student, teacher, target, weight, annotated, options).simulated_heatmap.backward()
    assert (student.xy_norm.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(
    ("missing", "options"),
    [
        ({"sigma": False}, DistillationOptions(token=0)),
        ({"score": False}, DistillationOptions(token=0)),
        ({"tokens": 4}, DistillationOptions(token=5e-4)),
    ],
)
def test_a_term_without_its_output_is_an_error(missing, options) -> None:
    student, teacher, target = random_outputs(**missing)
    weight = torch.ones(2, 4)
    with pytest.raises(ConfigError):
        distillation_losses(student, teacher, target, weight, weight > 0, options)


def test_token_terms_have_the_published_weight_where_tokens_are_alike_and_are_off_elsewhere() -> None:
    weight = torch.ones(2, 4)
    student, teacher, target = random_outputs()
    default, published = (
        distillation_losses(student, teacher, target, weight, weight > 0, options)
        for options in (DistillationOptions(), DistillationOptions(token=5e-4))
    )
    assert default.visual_token is not None
    assert torch.equal(default.total, published.total)
    student, teacher, target = random_outputs(tokens=4)
    losses = distillation_losses(student, teacher, target, weight, weight > 0, DistillationOptions())
    assert losses.visual_token is losses.keypoint_token is None
    assert losses.simulated_heatmap is not None


def test_switched_off_terms_are_absent_and_a_lonely_student_has_labels_only() -> None:
    student, teacher, target = random_outputs(sigma=False, score=False)
    weight = torch.ones(2, 4)
    options = DistillationOptions(simulated_heatmap=0, score=0)
    with_tokens = distillation_losses(student, teacher, target, weight, weight > 0, options)
    assert [name for name, _ in with_tokens.terms()] == ["keypoint", "visual_token", "keypoint_token"]
    alone = distillation_losses(student, None, target, weight, weight > 0, DistillationOptions())
    assert [name for name, _ in alone.terms()] == ["keypoint"]
    expected = 0.5 * (student.xy_norm - target).square().mean()  # smooth L1 below 1
    assert alone.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_heatmap_loss_is_zero_for_the_perfect_teacher() -> None:
    xy = torch.tensor([[[0.4, 0.6], [0.2, 0.9]]])
    perfect = render_gaussian_heatmaps(xy, torch.full((1, 2, 2), 2.0), (16, 12), sigma_floor=0.0)
    assert heatmap_loss(HeatmapOutput(perfect), xy, torch.ones(1, 2)).item() == pytest.approx(0, abs=1e-12)
    assert heatmap_loss(HeatmapOutput(perfect + 1), xy, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    "options",
    [{"keypoint": -1.0}, {"simulated_heatmap": math.nan}, {"token": math.nan}, {"score": math.inf}, {"mask": "some"}],
)
def test_impossible_options(options) -> None:
    with pytest.raises(ConfigError):
        DistillationOptions(**options)
