"""The training step: every teacher with every student, and what is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distilpose.data.coco import load_person_samples
from distilpose.data.dataset import Batch, PersonDataset, SampleKey
from distilpose.errors import ConfigError
from distilpose.losses import DistillationOptions, Labels
from distilpose.models import PoseModel, create_model
from distilpose.models.backbones.hrnet import HRNet
from distilpose.models.base import HeatmapModel
from distilpose.models.outputs import HeatmapOutput
from distilpose.models.simple_baseline import HeatmapNet, PointwiseHead
from distilpose.teachers.adapter import FlipAverage, unmirror_heatmaps
from distilpose.training.initialization import initialize_pointer
from distilpose.training.step import TrainingStep, teacher_of_model
from synthetic_people import write_synthetic_dataset

SIZE_HW = (64, 64)
TOKENS = {"patch_size_hw": (4, 4), "dim": 16, "depth": 1, "num_heads": 2}
TEACHERS = ("tokenpose", "simplebaseline", "hrnet", "coarse")
STUDENTS = ("distilpose", "deeppose")
SMALL: dict[str, Any] = {"input_size_hw": (64, 48), "dim": 16, "depth": 2, "num_heads": 2, "num_keypoints": 4}


class Coarse(HeatmapModel):
    """A teacher whose heatmaps have cells of 8 crop pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = build("simplebaseline")
        self.backbone = self.fine.backbone
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


def small(name: str, **options: Any) -> PoseModel:
    torch.manual_seed(0)
    return create_model(name, **{**SMALL, **options})


def read_batch(annotations: Path, images: Path) -> Batch:
    dataset = PersonDataset(load_person_samples(annotations, images).samples, SIZE_HW)
    return dataset.collate([dataset[SampleKey(0, index, index)] for index in range(2)])


@pytest.fixture(scope="module", params=["drawn people", pytest.param("photographs", marks=pytest.mark.slow)])
def batch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    if request.param == "photographs":
        folder = request.getfixturevalue("shared_data") / "coco_fixture"
        return read_batch(folder / "test_coco.json", folder)
    folder = tmp_path_factory.mktemp("pairs")
    return read_batch(write_synthetic_dataset(folder, 2, seed=2), folder / "images")


@pytest.fixture
def noise() -> Batch:
    """Three crops of 64 x 48 with four keypoints."""
    generator = torch.Generator().manual_seed(1)
    images, ones = torch.randn(3, 3, 64, 48, generator=generator), torch.ones(3, 4)
    return Batch(images, torch.rand(3, 4, 2, generator=generator), ones, ones > 0, torch.zeros(3), torch.zeros(3))


@pytest.fixture(scope="module")
def teachers(batch: Batch) -> dict[str, PoseModel]:
    """Each after a few steps of its own on the batch."""
    found = {name: build(name) for name in TEACHERS}
    for name, teacher in found.items():
        losses = learn(TrainingStep(teacher, DistillationOptions(), target_sigma=1.0), batch)
        assert losses[-1] < losses[0], name
        teacher.requires_grad_(True)
    return found


def learn(step: TrainingStep, batch: Batch) -> list[float]:
    """Total loss before each of three steps of Adam on one batch."""
    adam = torch.optim.Adam(step.parameters(), lr=1e-3, fused=True)
    totals = []
    step.begin_epoch()
    for _ in range(3):
        terms = step(batch)
        assert all(term.isfinite() for term in terms.values())
        total = torch.stack(list(terms.values())).sum()
        adam.zero_grad()
        total.backward()
        silent = [name for name, value in step.named_parameters() if value.grad is None or not value.grad.any()]
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
        step = TrainingStep(student, DistillationOptions(sigma_floor=1.0), teacher)
    assert ("token losses are off" in caplog.text) == (not comparable)
    tokens = {"visual_token", "keypoint_token"}
    assert set(step(batch)) == {"keypoint", "simulated_heatmap", "score"} | (tokens if comparable else set())
    losses = learn(step, batch)
    assert losses[-1] < 0.98 * losses[0]
    assert all(not parameter.requires_grad for parameter in teacher.parameters())

    # Heatmaps and scores alone carry a gradient to the whole student, too.
    student.zero_grad()
    options = DistillationOptions(keypoint=0, token=0, sigma_floor=1.0)
    torch.stack(list(TrainingStep(student, options, teacher)(batch).values())).sum().backward()
    assert all(parameter.grad.any() for parameter in student.parameters())


@pytest.mark.parametrize("name", ["distilpose_t", "distilpose_m"])
def test_light_students_learn_from_every_token_of_a_teacher_on_their_grid(name: str, noise: Batch) -> None:
    step = TrainingStep(small(name), DistillationOptions(), small("tokenpose_m"))
    terms = step(noise)
    assert set(terms) == {"keypoint", "visual_token", "keypoint_token", "simulated_heatmap", "score"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(value.grad is not None for value in step.parameters())
    other = small("tokenpose_m", patch_size_hw=(4, 4))
    assert "visual_token" not in TrainingStep(small(name), DistillationOptions(), other)(noise)


def test_the_score_learns_oks_in_crop_pixels(noise: Batch) -> None:
    """A crop that enlarges the person twice makes its area four times as large."""
    model = small("distilpose_t")
    options = DistillationOptions(keypoint=0, score=1.0, score_target="oks")
    matrix = torch.tensor([[2.0, 0, 5], [0, 2.0, 9]]).expand(3, 2, 3)
    batch = noise._replace(image_to_crop=matrix, sample_index=torch.tensor([1, 0, 1]))
    step = TrainingStep(model, options, oks_sigmas=[0.1] * 4, areas=torch.tensor([90.0, 60.0])).eval()
    output = model(noise.images)
    area = torch.tensor([240.0, 360.0, 240.0])
    labels = Labels(noise.xy_norm, noise.target_weight, noise.annotated, area=area)
    assert step(batch)["score"].item() == pytest.approx(step.criterion(output, None, labels)["score"].item(), rel=1e-5)


def test_flip_averaged_teacher_of_a_symmetric_crop_is_symmetric() -> None:
    swap = torch.tensor([1, 0])
    student, teacher = (small(name, depth=1, num_keypoints=2) for name in ("distilpose_m", "tokenpose_m"))
    half = torch.randn(1, 3, 64, 24)
    images = torch.cat([half, half.flip(-1)], dim=-1)
    nothing = torch.zeros(1, 2)
    batch = Batch(images, nothing[..., None].expand(-1, -1, 2), nothing, nothing > 0, torch.zeros(1), torch.zeros(1))
    plain, averaged = (
        TrainingStep(student, DistillationOptions(), asked).view(batch, student).heatmaps["teacher"]
        for asked in (teacher, FlipAverage(teacher_of_model(teacher, student), swap.numpy()))
    )
    torch.testing.assert_close(averaged, (plain + unmirror_heatmaps(plain, swap, 48)) / 2)
    assert not torch.allclose(averaged, plain)


def test_what_cannot_be_names_the_reason() -> None:
    with pytest.raises(ConfigError, match="teacher must be a heatmap model"):
        TrainingStep(build("deeppose"), DistillationOptions(), build("distilpose"))
    with pytest.raises(ConfigError, match="backbone_heatmap needs features at stride 4"):
        TrainingStep(build("deeppose"), DistillationOptions(backbone_heatmap=1.0))
    with pytest.raises(ConfigError, match="'plain'"):
        initialize_pointer(build("deeppose"), torch.zeros(1, 3, *SIZE_HW), seed=0)


def test_deep_supervision_watches_a_heatmap_net(batch: Batch) -> None:
    step = TrainingStep(build("hrnet"), DistillationOptions(backbone_heatmap=1.0))
    assert set(step(batch)) == {"heatmap", "backbone_heatmap"}
    assert step.backbone_head.out_channels == 17
