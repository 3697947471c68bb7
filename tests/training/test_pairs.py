"""Every teacher with every student: gradient steps on one batch, losses finite and falling, no parameter forgotten."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distilpose.data.coco import load_person_samples
from distilpose.data.dataset import Batch, PersonDataset, SampleKey
from distilpose.data.synthetic import write_synthetic_dataset
from distilpose.errors import ConfigError
from distilpose.losses import DistillationOptions, distillation_losses, render_gaussian_heatmaps
from distilpose.models import PoseModel, create_model
from distilpose.models.backbones.hrnet import HRNet
from distilpose.models.base import HeatmapModel, RegressionModel
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.models.simple_baseline import HeatmapNet, PointwiseHead
from distilpose.teachers.ensemble import unmirror_heatmaps
from distilpose.training.config import OptimizerConfig
from distilpose.training.distillation import make_task
from distilpose.training.initialization import initialize_pointer
from distilpose.training.module import PoseTraining

SIZE_HW = (64, 64)
TOKENS = {"patch_size_hw": (4, 4), "dim": 16, "depth": 1, "num_heads": 2}
TEACHERS = ("tokenpose", "simplebaseline", "hrnet", "coarse")
STUDENTS = ("distilpose", "deeppose")
STEPS = 3


class Coarse(HeatmapModel):
    """A teacher whose heatmaps have cells of 8 crop pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = build("simplebaseline")
        self.input_size_hw, self.num_keypoints = SIZE_HW, 17
        self.heatmap_size_hw = (SIZE_HW[0] // 8, SIZE_HW[1] // 8)

    def forward(self, images: Tensor) -> HeatmapOutput[Tensor]:
        return HeatmapOutput(F.avg_pool2d(self.fine(images).heatmaps, 2))


def build(name: str) -> PoseModel:
    torch.manual_seed(1)
    if name == "coarse":
        return Coarse()
    if name == "hrnet":
        return HeatmapNet(HRNet(width=8), PointwiseHead(8, 17), num_keypoints=17, input_size_hw=SIZE_HW)
    if name in ("distilpose", "tokenpose"):
        return create_model(f"{name}_s", input_size_hw=SIZE_HW, **TOKENS)
    return create_model(f"{name}_r18", input_size_hw=SIZE_HW)


def read_batch(annotations: Path, images: Path) -> Batch:
    dataset = PersonDataset(load_person_samples(annotations, images).samples, SIZE_HW)
    return dataset.collate([dataset[SampleKey(0, index, index)] for index in range(2)])


@pytest.fixture(scope="module", params=["drawn people", "photographs"])
def batch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    if request.param == "photographs":
        folder = request.getfixturevalue("shared_data") / "coco_fixture"
        return read_batch(folder / "test_coco.json", folder)
    folder = tmp_path_factory.mktemp("pairs")
    return read_batch(write_synthetic_dataset(folder, 2, seed=2), folder / "images")


@pytest.fixture(scope="module")
def teachers(batch: Batch) -> dict[str, PoseModel]:
    """Each after a few steps of its own on the batch."""
    found = {}
    for name in TEACHERS:
        teacher = build(name)
        losses = learn(teacher, None, batch, DistillationOptions())
        assert losses[-1] < losses[0], name
        found[name] = teacher
    return found


def learn(model: PoseModel, teacher: PoseModel | None, batch: Batch, options: DistillationOptions) -> list[float]:
    """Total loss before each of some steps of Adam on one batch."""
    task = make_task(model, teacher, options, target_sigma=1.0)
    adam = torch.optim.Adam([*model.parameters(), *task.extra_parameters()], lr=1e-3, fused=True)
    totals = []
    for _ in range(STEPS):
        terms = task.losses(model.train()(batch.images), batch, lambda value: value)
        assert all(term.isfinite() for term in terms.values())
        total = torch.stack(list(terms.values())).sum()
        adam.zero_grad()
        total.backward()
        silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
        assert not silent
        adam.step()
        totals.append(total.item())
    return totals


@pytest.mark.parametrize("teacher_name", TEACHERS)
@pytest.mark.parametrize("student_name", STUDENTS)
def test_any_student_learns_from_any_teacher(
    student_name: str, teacher_name: str, batch: Batch, teachers: dict[str, PoseModel], caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher = build(student_name), teachers[teacher_name]
    comparable = (student_name, teacher_name) == ("distilpose", "tokenpose")
    with caplog.at_level(logging.WARNING):
        task = make_task(student, teacher, DistillationOptions(), target_sigma=1.0)
    assert ("token losses are off" in caplog.text) == (not comparable)
    with torch.no_grad():
        names = set(task.losses(student(batch.images), batch, lambda value: value))
    tokens = {"visual_token", "keypoint_token"}
    assert names == {"keypoint", "simulated_heatmap", "score"} | (tokens if comparable else set())

    losses = learn(student, teacher, batch, DistillationOptions(sigma_floor=1.0))
    assert losses[-1] < 0.98 * losses[0]
    assert all(not parameter.requires_grad for parameter in teacher.parameters())

    # Heatmaps and scores alone carry a gradient to the whole student, too.
    options = DistillationOptions(keypoint=0, token=0, sigma_floor=1.0)
    terms = make_task(student, teacher, options, 1.0).losses(student(batch.images), batch, lambda value: value)
    student.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad.any() for parameter in student.parameters())


@pytest.mark.parametrize("cells", [8, 16, 32])
def test_the_simulated_heatmap_covers_the_same_part_of_the_crop_at_any_stride(cells: int) -> None:
    crop_hw = (64, 48)
    size_hw = (cells, cells * 3 // 4)
    xy = torch.tensor([[[0.4, 0.6], [0.7, 0.3]]])
    sigma = torch.tensor([[[1.5, 2.0], [3.0, 1.0]]])  # cells of 4 crop pixels
    row, column = (torch.arange(n) / n for n in size_hw)
    x_px, y_px = (column[None, None, None] - xy[..., :1, None]) * 48, (row[:, None] - xy[..., 1:, None]) * 64
    expected = torch.exp(-((x_px / (4 * sigma[..., :1, None])) ** 2 + (y_px / (4 * sigma[..., 1:, None])) ** 2) / 2)

    def loss(heatmaps: Tensor, crop_size_hw: tuple[int, int] | None) -> float:
        options = DistillationOptions(token=0, score=0, sigma_floor=0)
        weight = torch.ones(1, 2)
        terms = distillation_losses(
            PoseOutput(xy, sigma, None), HeatmapOutput(heatmaps), xy, weight, weight > 0, options,
            crop_size_hw=crop_size_hw,
        )  # fmt: skip
        assert terms.simulated_heatmap is not None
        return terms.simulated_heatmap.item()

    assert loss(expected, crop_hw) < 1e-10
    assert (loss(expected, None) < 1e-10) == (cells == 16)  # without the crop's size, cells of 4 pixels are meant


@pytest.mark.parametrize("stride", [0.5, 1, 2, 4, 8])
def test_mirrored_heatmaps_of_any_stride_return_to_where_they_belong(stride: float) -> None:
    width = 64
    size_hw = (4, round(width / stride))
    sigma = torch.full((1, 2, 2), 4.0)
    xy = torch.tensor([[[0.45, 0.5], [0.6, 0.5]]])
    mirrored = xy[:, [1, 0]].clone()
    mirrored[..., 0] = 1 - 1 / width - mirrored[..., 0]
    maps, seen = (render_gaussian_heatmaps(points, sigma, size_hw, 0.0) for points in (xy, mirrored))
    back = unmirror_heatmaps(seen, torch.tensor([1, 0]), width)
    inside = slice(1, -1)  # the outermost cell is repeated, not known
    assert (back - maps)[..., inside].abs().max() < 0.02
    if stride not in (1,):
        assert (unmirror_heatmaps(seen, torch.tensor([1, 0]), size_hw[1]) - maps)[..., inside].abs().max() > 0.02


@pytest.mark.parametrize(
    ("student", "teacher", "options", "named"),
    [
        ("deeppose", "tokenpose", DistillationOptions(token=0.05), "student without tokens"),
        ("distilpose", "simplebaseline", DistillationOptions(token=0.05), "teacher without tokens"),
        ("deeppose", "hrnet", DistillationOptions(simulated_heatmap=0, score=0), "weigh 0"),
        ("deeppose", "distilpose", DistillationOptions(), "heatmap model"),
        ("hrnet", "simplebaseline", DistillationOptions(), "trained on labels"),
    ],
)
def test_pairs_that_cannot_be_name_the_reason(
    student: str, teacher: str, options: DistillationOptions, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        make_task(build(student), build(teacher), options, target_sigma=1.0)


def test_grids_that_differ_switch_token_losses_off_aloud(caplog: pytest.LogCaptureFixture) -> None:
    student = create_model("distilpose_s", input_size_hw=SIZE_HW, **{**TOKENS, "patch_size_hw": (2, 4)})
    assert isinstance(student, RegressionModel)
    with caplog.at_level(logging.WARNING):
        make_task(student, build("tokenpose"), DistillationOptions(), target_sigma=1.0)
    assert "patch_size_hw" in caplog.text
    with pytest.raises(ConfigError, match="different grids"):
        make_task(student, build("tokenpose"), DistillationOptions(token=5e-4), target_sigma=1.0)


def test_what_needs_tokens_or_fine_features_says_so() -> None:
    model = build("deeppose")
    with pytest.raises(ConfigError, match="'plain'"):
        initialize_pointer(model, torch.zeros(1, 3, *SIZE_HW), seed=0)
    task = make_task(model, None, DistillationOptions(), target_sigma=1.0)
    with pytest.raises(ConfigError, match="backbone_heatmap"):
        PoseTraining(model, task, OptimizerConfig(), epochs=1, backbone_heatmap=1.0)


def test_deep_supervision_watches_a_heatmap_net() -> None:
    model = build("hrnet")
    module = PoseTraining(
        model, make_task(model, None, DistillationOptions(), 1.0), OptimizerConfig(), epochs=1, backbone_heatmap=1.0
    )
    assert module.deep_supervision is not None
    assert isinstance(module.deep_supervision.read, nn.Conv2d)
    assert module.deep_supervision.read.out_channels == 17
