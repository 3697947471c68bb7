"""The criteria: the released values and gradients, each term by hand, masks, scores, and what is refused."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distilpose.backends.checkpoint import convert_released
from distilpose.errors import ConfigError
from distilpose.losses import (
    DistillationCriterion,
    DistillationOptions,
    HeatmapCriterion,
    Labels,
    ResidualFlow,
    heatmap_mse,
    read_heatmap,
    render_gaussian_heatmaps,
    residual_likelihood_loss,
)
from distilpose.losses.distillation import distillation_weight
from distilpose.models.backbones.base import Backbone
from distilpose.models.base import TokenLayout
from distilpose.models.outputs import CELL, HeatmapOutput, PoseOutput

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
WEIGHT = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]])


def golden_labels(batch: int) -> Labels:
    """Labels of the golden losses: formula in the reference folder's notes."""
    rng = np.random.default_rng([0, 7])
    xy = rng.random((batch, 17, 2)) * 1.2 - 0.1
    weight = (rng.random((batch, 17, 1)) < 0.8) & ((xy >= 0) & (xy <= 1)).all(-1, keepdims=True)
    labeled = torch.from_numpy(weight[..., 0]).float()
    return Labels(torch.from_numpy(xy).float(), labeled, torch.ones_like(labeled, dtype=torch.bool))


@pytest.mark.parametrize(
    "pair",
    [
        "distilpose_s<-tokenpose_s",
        pytest.param("distilpose_s<-tokenpose_l", marks=pytest.mark.slow),
        pytest.param("distilpose_l<-tokenpose_l", marks=pytest.mark.slow),
    ],
)
def test_terms_and_gradients_equal_released_code(pair, released_file, golden_images, reference_dir) -> None:
    golden = json.loads((reference_dir / "losses.json").read_text())[pair]
    student_name, teacher_name = pair.split("<-")
    student = convert_released(released_file(student_name, golden["student_seed"])).train()
    teacher = convert_released(released_file(teacher_name, golden["teacher_seed"]))
    known = SimpleNamespace(tokens=teacher.token_layout, keypoint_mask=[True] * 17)
    criterion = DistillationCriterion(DistillationOptions.reference(), student, known)
    with torch.no_grad():
        heard = teacher(golden_images)
    terms = criterion(student(golden_images), heard, golden_labels(golden["batch"]))
    assert set(terms) == set(RELEASED_NAMES)
    for name, value in terms.items():
        assert value.item() == pytest.approx(golden[RELEASED_NAMES[name]], rel=1e-4), name
    total = torch.stack(list(terms.values())).sum()
    assert total.item() == pytest.approx(golden["total"], rel=1e-4)
    total.backward()
    parameters = dict(student.named_parameters())
    for own, released in RELEASED_PARAMETERS.items():
        assert parameters[own].grad.norm().item() == pytest.approx(golden["grad_norm"][released], rel=1e-3), own
    norm = torch.stack([p.grad.norm() for p in parameters.values()]).norm().item()
    assert norm == pytest.approx(golden["grad_norm_total"], rel=1e-3)


def build(options: DistillationOptions, *, alone: bool = False, dim: int = 8, **student: Any) -> DistillationCriterion:
    """For four keypoints on crops of 32 x 24, with tokens on a 2 x 3 grid."""
    torch.manual_seed(4)
    values = {
        "num_keypoints": 4, "num_sigmas": 2, "with_score": True, "input_size_hw": (32, 24),
        "token_layout": TokenLayout((2, 3), dim),
    }  # fmt: skip
    teacher = SimpleNamespace(tokens=TokenLayout((2, 3), 8), keypoint_mask=[True] * 4)
    return DistillationCriterion(options, SimpleNamespace(**values | student), None if alone else teacher, [0.1] * 4)


def outputs(dim: int = 8) -> tuple[PoseOutput[Tensor], HeatmapOutput[Tensor], Labels]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    student = PoseOutput(
        draw(2, 4, 2).requires_grad_(), (draw(2, 4, 2) + 1).requires_grad_(), draw(2, 4).requires_grad_(),
        draw(2, 4, dim), draw(2, 6, dim),
    )  # fmt: skip
    labels = Labels(draw(2, 4, 2), WEIGHT, torch.ones(2, 4, dtype=torch.bool), area=torch.tensor([50.0, 80.0]))
    return student, HeatmapOutput(draw(2, 4, 8, 6), draw(2, 4, 8), draw(2, 6, 8)), labels


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


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
    weight = distillation_weight(Labels(torch.zeros(2, 3, 2), labeled, annotated), options)
    assert torch.equal(weight, torch.tensor(expected))


@pytest.mark.parametrize("form", ["smooth_l1", "pixels", "rle"])
def test_unlabeled_keypoints_get_no_gradient_from_labels_or_visible_mask(form) -> None:
    student, heard, labels = outputs()
    terms = build(DistillationOptions(token=0, keypoint_form=form))(student, heard, labels)
    assert list(terms) == ["keypoint", "simulated_heatmap", "score"]
    total(terms).backward()
    for gradient in (student.xy_norm.grad.abs().sum(-1), student.sigma.grad.abs().sum(-1), student.score.grad.abs()):
        assert (gradient > 0).equal(WEIGHT > 0)


def test_reference_mask_does_reach_unlabeled_keypoints() -> None:
    student, heard, labels = outputs()
    build(DistillationOptions.reference())(student, heard, labels)["simulated_heatmap"].backward()
    assert (student.xy_norm.grad.abs().sum(-1) > 0).all()


def test_keypoints_that_the_teacher_lacks_are_not_distilled() -> None:
    student, heard, labels = outputs()
    criterion = build(DistillationOptions(keypoint=0, token=0, mask="all"))
    criterion.keypoint_mask[2:] = 0
    total(criterion(student, heard, labels)).backward()
    for gradient in (student.sigma.grad.abs().sum(-1), student.score.grad.abs()):
        assert (gradient[:, :2] > 0).all()
        assert (gradient[:, 2:] == 0).all()


def test_likelihood_reads_sigma_in_cells_with_a_floor() -> None:
    assert Backbone.stride == CELL
    student, _, labels = outputs()
    criterion = build(DistillationOptions(keypoint_form="rle", keypoint=2.0, sigma_floor=0.7), alone=True)
    assert isinstance(criterion.flow, ResidualFlow)
    sigma_norm = (student.sigma.square() + 0.49).sqrt() / torch.tensor([6.0, 8.0])  # the crop has 6 x 8 cells of 4 px
    expected = 2 * residual_likelihood_loss(student.xy_norm, sigma_norm, labels.xy_norm, WEIGHT, criterion.flow)
    terms = criterion(student, None, labels)
    assert list(terms) == ["keypoint"]
    assert terms["keypoint"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_lonely_student_has_labels_only_and_switched_off_terms_are_absent() -> None:
    student, heard, labels = outputs()
    alone = build(DistillationOptions(), alone=True)(student, None, labels)
    assert list(alone) == ["keypoint"]
    expected = 0.5 * ((student.xy_norm - labels.xy_norm) * WEIGHT[..., None]).square().mean()  # smooth L1 below 1
    assert alone["keypoint"].item() == pytest.approx(expected.item(), rel=1e-5)
    options = DistillationOptions(simulated_heatmap=0, score=0)
    criterion = build(options, num_sigmas=0, with_score=False)
    assert list(criterion(student, heard, labels)) == ["keypoint", "visual_token", "keypoint_token"]


def test_token_terms_have_the_published_weight_and_a_projection_where_widths_differ() -> None:
    student, heard, labels = outputs()
    default, published = (build(options)(student, heard, labels) for options in
                          (DistillationOptions(), DistillationOptions(token=5e-4)))  # fmt: skip
    assert torch.equal(total(default), total(published))
    student, heard, labels = outputs(dim=4)
    criterion = build(DistillationOptions(token=1.0), dim=4)
    assert criterion.projection.weight.shape == (8, 4)
    expected = (criterion.projection(student.visual_tokens) - heard.visual_tokens).square().mean()
    assert torch.equal(criterion(student, heard, labels)["visual_token"], expected)


@pytest.mark.parametrize(
    ("options", "student", "named"),
    [
        (DistillationOptions(), {"num_sigmas": 0}, "num_sigmas"),
        (DistillationOptions(), {"with_score": False}, "with_score"),
        (DistillationOptions(token=1.0), {"token_layout": None}, "student without tokens"),
        (DistillationOptions(token=1.0), {"token_layout": TokenLayout((3, 2), 8)}, "different grids"),
        (DistillationOptions(token=0, score=0, simulated_heatmap=0), {}, "weigh 0"),
        (DistillationOptions(simulated_heatmap=0, keypoint_form="rle"), {"num_sigmas": 0}, "keypoint_form 'rle'"),
        (DistillationOptions(score_target="oks"), {"num_keypoints": 5}, "oks_sigmas"),
    ],
)
def test_a_term_without_its_output_is_refused_when_the_criterion_is_built(options, student, named) -> None:
    with pytest.raises(ConfigError, match=named):
        build(options, **student)


def test_the_score_learns_the_heatmap_at_the_prediction() -> None:
    student, heard, labels = outputs()
    term = build(DistillationOptions(score=1.0))(student, heard, labels)["score"]
    read = read_heatmap(heard.heatmaps, student.xy_norm.detach())
    assert term.item() == pytest.approx(((student.score - read).abs() * WEIGHT).mean().item(), rel=1e-5)
    everywhere = build(DistillationOptions(score=1.0, score_mask="all"))(student, heard, labels)
    assert everywhere["score"].item() == pytest.approx((student.score - read).abs().mean().item(), rel=1e-5)
    visible = build(DistillationOptions(score=1.0))(student, heard, labels)
    assert torch.equal(everywhere["simulated_heatmap"], visible["simulated_heatmap"])


@pytest.mark.parametrize("alone", [False, True])
def test_the_score_learns_oks_of_labeled_keypoints(alone: bool) -> None:
    student, heard, labels = outputs()
    options = DistillationOptions(score=1.0, score_target="oks", score_mask="all", token=0)
    term = build(options, alone=alone)(student, None if alone else heard, labels)["score"]
    expected = 0.0
    others = torch.zeros(2, 4) if alone else read_heatmap(heard.heatmaps, student.xy_norm.detach())
    for person in range(2):
        for keypoint in range(4):
            x, y = ((student.xy_norm - labels.xy_norm)[person, keypoint] * torch.tensor([24.0, 32.0])).tolist()
            target = math.exp(-(x**2 + y**2) / (2 * labels.area[person].item() * (2 * 0.1) ** 2))
            if not WEIGHT[person, keypoint]:
                target = others[person, keypoint].item()  # alone: nobody sees it, so its score is low
            expected += (student.score[person, keypoint].item() - target) ** 2 / 8
    assert term.item() == pytest.approx(expected, rel=1e-4)
    term.backward()
    assert student.xy_norm.grad is None  # the score follows the position, never the other way round


def test_keypoints_of_which_nothing_is_known_teach_no_score() -> None:
    student, _, labels = outputs()
    annotated = torch.tensor([[True, False, True, True], [True, True, True, True]])
    options = DistillationOptions(score=1.0, score_target="oks", score_mask="all", distil_unannotated=True)
    build(options, alone=True)(student, None, labels._replace(annotated=annotated))["score"].backward()
    assert (student.score.grad != 0).equal(annotated)


def test_a_heatmap_model_learns_labels_and_its_teacher() -> None:
    xy = torch.tensor([[[0.4, 0.6], [0.2, 0.9]]])
    labels = Labels(xy, torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    perfect = render_gaussian_heatmaps(xy, torch.full((1, 2, 2), 2.0), (16, 12), sigma_floor=0.0)
    alone = HeatmapCriterion(DistillationOptions())
    assert alone(HeatmapOutput(perfect), None, labels)["heatmap"].item() == pytest.approx(0, abs=1e-12)
    assert alone(HeatmapOutput(perfect + 1), None, labels)["heatmap"].item() == pytest.approx(0.5)

    teacher = SimpleNamespace(tokens=None, keypoint_mask=[True, True])
    output, heard = torch.rand(1, 2, 16, 12, requires_grad=True), torch.rand(1, 2, 16, 12)
    for unannotated, weight in ((False, [[1.0, 0.0]]), (True, [[1.0, 1.0]])):
        options = DistillationOptions(teacher_heatmap=3.0, distil_unannotated=unannotated)
        terms = HeatmapCriterion(options, 2.0, teacher)(HeatmapOutput(output), HeatmapOutput(heard), labels)
        expected = 3 * heatmap_mse(output, heard, torch.tensor(weight))
        assert terms["teacher_heatmap"].item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ConfigError, match="teacher_heatmap is 0"):
        HeatmapCriterion(DistillationOptions(teacher_heatmap=0), 2.0, teacher)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"keypoint": -1.0}, "losses.keypoint"),
        ({"simulated_heatmap": math.nan}, "losses.simulated_heatmap"),
        ({"token": math.nan}, "losses.token"),
        ({"score": math.inf}, "losses.score"),
        ({"mask": "some"}, "losses.mask"),
        ({"keypoint": "much"}, "losses.keypoint must be a number of at least 0, got 'much'"),
        ({"keypoint": None}, "losses.keypoint must be a number"),
        ({"score_target": "labels"}, "losses.score_target must be one of"),
        ({"keypoint_form": "l2"}, "keypoint_form"),
        ({"keypoint_form": "rle", "sigma_floor": 0.0}, "sigma_floor"),
    ],
)
def test_impossible_options(options, named) -> None:
    with pytest.raises(ConfigError, match=named):
        DistillationOptions(**options)
