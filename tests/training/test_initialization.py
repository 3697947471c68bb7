"""Where a run starts from: parts of another model."""

import logging
import re
from pathlib import Path

import pytest
import torch

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models import PoseModel, create_model
from distilpose.models.backbones.resnet import ResNet
from distilpose.training.initialization import load_start_weights
from distilpose.training.train import train

ALL = ("backbone", "encoder", "head")
SIZE = {"input_size_hw": (64, 64)}


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
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="distilpose.training.initialization"):
        load_start_weights(build(2), path, ["backbone", "head"])
    assert not caplog.text
    load_start_weights(build(4, depth=3), path, ["encoder"])
    assert re.search(r"init: \d+ of \d+ tensors from the encoder of", caplog.text)


@pytest.mark.slow
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
