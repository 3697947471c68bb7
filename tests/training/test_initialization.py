"""Where a run starts from: parts of another model, and files in torchvision's ResNet layout."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models import PoseModel, create_model
from distilpose.models.backbones.resnet import ResNet
from distilpose.training.initialization import load_start_weights, read_resnet_weights
from distilpose.training.train import train

ALL = ("backbone", "encoder", "head")
SIZE = {"input_size_hw": (64, 64)}


def imagenet_weights() -> dict[str, Tensor]:
    """What torchvision's ResNet-18 holds, by its published names, with other numbers."""
    norm = {"weight": 1, "bias": 1, "running_mean": 1, "running_var": 1}
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512), "fc.bias": (1000,)}

    def conv_and_norm(conv: str, bn: str, channels: int, channels_in: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (channels, channels_in, kernel, kernel)
        shapes.update({f"{bn}.{name}": (channels,) for name in norm})

    conv_and_norm("conv1", "bn1", 64, 3, 7)
    channels_in = 64
    for stage, channels in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            conv_and_norm(f"{name}.conv1", f"{name}.bn1", channels, channels_in, 3)
            conv_and_norm(f"{name}.conv2", f"{name}.bn2", channels, channels, 3)
            if channels_in != channels:
                conv_and_norm(f"{name}.downsample.0", f"{name}.downsample.1", channels, channels_in, 1)
            channels_in = channels
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("model", ["deeppose_r18", "simplebaseline_r18", "distilpose_s"])
def test_imagenet_weights_start_a_backbone(model: str, suffix: str, tmp_path: Path) -> None:
    weights, path = imagenet_weights(), tmp_path / f"resnet18{suffix}"
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    tokens = {"backbone": "resnet18", "patch_size_hw": (4, 4), "dim": 16, "depth": 1, "num_heads": 2}
    fresh = create_model(model, **SIZE, **(tokens if model == "distilpose_s" else {}))
    head = {name: value.clone() for name, value in fresh.head.state_dict().items()}
    load_start_weights(fresh, path, ALL)
    own = fresh.backbone.state_dict()
    for name, value in weights.items():
        assert name.startswith("fc.") or torch.equal(own[name], value), name
    assert all(torch.equal(value, head[name]) for name, value in fresh.head.state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights.pop("layer4.1.bn2.bias"), "missing layer4.1.bn2.bias"),
        (lambda weights: weights.update({"layer4.2.conv1.weight": torch.zeros(1)}), "extra layer4.2.conv1.weight"),
        (lambda weights: weights.update({"bn1.weight": torch.zeros(3)}), r"bn1.weight has shape \[3\]"),
    ],
)
def test_imagenet_weights_that_do_not_fit_are_refused(change, named, tmp_path: Path) -> None:
    weights, path = imagenet_weights(), tmp_path / "resnet18.pth"
    change(weights)
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=named):
        load_start_weights(create_model("deeppose_r18", **SIZE), path, ["backbone"])


def test_imagenet_weights_need_a_resnet_and_its_part(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(imagenet_weights(), path)
    with pytest.raises(ConfigError, match="distilpose_s"):
        load_start_weights(create_model("distilpose_s", input_size_hw=(64, 48), depth=1), path, ALL)
    with pytest.raises(ConfigError, match="init_parts"):
        load_start_weights(create_model("deeppose_r18", **SIZE), path, ["head"])


def test_other_files_are_not_taken_for_a_resnet(released_file, tmp_path: Path) -> None:
    own = save_checkpoint(create_model("deeppose_r18", **SIZE), tmp_path / "own.safetensors")
    (tmp_path / "text.pth").write_text("hello")
    for path in (own, released_file("distilpose_s"), tmp_path / "text.pth", tmp_path / "nowhere.pth"):
        assert read_resnet_weights(path) is None
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        load_start_weights(create_model("deeppose_r18", **SIZE), tmp_path / "text.pth", ALL)


def test_a_student_takes_the_teacher_s_backbone_and_goes_on_from_itself(tmp_path: Path) -> None:
    teacher = create_model("simplebaseline_r18", **SIZE)
    path = save_checkpoint(teacher, tmp_path / "teacher.safetensors")
    student = create_model("deeppose_r18", **SIZE)
    load_start_weights(student, path, ["backbone"])
    own, other = student.backbone.state_dict(), teacher.backbone.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)

    again = create_model("deeppose_r18", **SIZE)
    load_start_weights(again, save_checkpoint(student, tmp_path / "student.safetensors"), ALL)  # it has no encoder
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), student.parameters(), strict=True))


def test_a_part_that_one_of_two_lacks_is_named(tmp_path: Path) -> None:
    tokens = create_model("tokenpose_s", input_size_hw=(64, 48), dim=16, depth=1, num_heads=2)
    path = save_checkpoint(tokens, tmp_path / "tokens.safetensors")
    with pytest.raises(ConfigError, match="leave encoder out of init_parts"):
        load_start_weights(create_model("deeppose_r18", **SIZE), path, ["encoder"])
    with pytest.raises(CheckpointError, match="shares no tensor"):
        load_start_weights(create_model("deeppose_r18", **SIZE), path, ["head"])


def test_blocks_of_another_number_of_heads_are_refused_and_a_part_of_the_tensors_is_said(tmp_path, caplog) -> None:
    def build(num_heads: int, depth: int = 1) -> PoseModel:
        return create_model("tokenpose_s", input_size_hw=(64, 48), dim=16, depth=depth, num_heads=num_heads)

    path = save_checkpoint(build(4, depth=2), tmp_path / "four.safetensors")
    with pytest.raises(ConfigError, match=r"has 4 attention heads, the model 2: set model_options\.num_heads 4"):
        load_start_weights(build(2), path, ALL)
    with caplog.at_level(logging.WARNING):
        load_start_weights(build(2), path, ["backbone", "head"])
    assert not caplog.text
    load_start_weights(build(4, depth=3), path, ["encoder"])
    assert re.search(r"init: \d+ of \d+ tensors from the encoder of", caplog.text)


def test_a_run_starts_from_a_file_and_distils(make_config, tmp_path: Path) -> None:
    """The whole way: teacher without tokens, then a student without tokens from ImageNet-like weights."""
    small = {"input_size_hw": [64, 64]}
    teacher = train(make_config("teacher", model="simplebaseline_r18", model_options=small, epochs=1))
    path = tmp_path / "resnet18.pth"
    torch.save(ResNet(18).state_dict(), path)
    config = make_config(
        "student", model="deeppose_r18", model_options=small, teacher=str(teacher.last), teacher_flip=True, epochs=1,
        init=str(path), init_parts=["backbone"],
    )  # fmt: skip
    result = train(config)
    assert result.best_ap is not None
    header = (Path(config.out) / "losses.csv").read_text().splitlines()[0]
    assert header.endswith("keypoint,simulated_heatmap,score,total")
