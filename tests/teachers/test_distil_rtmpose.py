"""The page "Distil RTMPose-m into a student for your keypoints", step by step on a small random network."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from distilpose.cli import main as cli
from distilpose.training.config import train_config_from

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "distil_rtmpose.md").read_text(encoding="utf-8")
CONFIG, SKELETON_FILE = ROOT / "configs" / "rtmpose" / "student.yaml", ROOT / "examples" / "upper_body.yaml"
STUDENT, SKELETON = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONFIG, SKELETON_FILE))


def test_the_page_shows_the_files() -> None:
    assert [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)] == [STUDENT, SKELETON]
    train_config_from(STUDENT).check()


@pytest.mark.slow
def test_the_steps_of_the_page(
    onnx_file, drawn_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(onnx_file("axes"), "rtmpose-m.onnx")
    labels, images = drawn_data / "person_keypoints.json", drawn_data / "images"
    assert cli.main(["label", str(labels), "--images", str(images), "--teacher", str(CONFIG), "--out", "labels"]) == 0
    labeled = json.loads(Path("labels/person_keypoints.json").read_text())["annotations"]
    assert len(labeled) == len(json.loads(labels.read_text())["annotations"])
    people = {"annotations": str(labels), "images": str(images), "skeleton": "coco_17"}
    sets = [people, {**people, "annotations": "labels/person_keypoints.json", "zero_means_unknown": True}]
    small = {"input_size_hw": [64, 48], "dim": 16, "depth": 1, "num_heads": 2}
    student = STUDENT | {
        "model": "distilpose_s", "model_options": small, "init": None, "epochs": 1, "accelerator": "cpu",
        "data": {"skeleton": str(SKELETON_FILE), "train": sets, "samples_per_epoch": 4, "batch_size": 4, "workers": 0},
    }  # fmt: skip
    Path("student.yaml").write_text(yaml.safe_dump(student))
    assert cli.main(["train", "student.yaml"]) == 0
    assert cli.main(["export", "--model", "runs/upper_body/last.safetensors", "--out", "upper_body.onnx"]) == 0
    image = next(images.iterdir())
    words = ["predict", str(image), "--model", "upper_body.onnx", "--detector", "whole-image", "--verbose"]
    capsys.readouterr()
    assert cli.main(words) == 0
    (person,) = json.loads(Path("poses/predictions.json").read_text())
    assert len(person["keypoints"]) == 3 * len(SKELETON["keypoints"])
