"""Whole runs and evaluations with teachers of every kind; what the docs show is a configuration."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from distilpose.backends.checkpoint import describe, load_checkpoint, save_checkpoint
from distilpose.cli import main as cli
from distilpose.data.coco import load_person_samples
from distilpose.errors import ConfigError, DistilPoseError, TrainingDivergedError
from distilpose.losses import DistillationOptions
from distilpose.models import create_model
from distilpose.models.outputs import HeatmapOutput
from distilpose.teachers.config import KINDS, teacher_config_from
from distilpose.teachers.networks import OnnxSource
from distilpose.training.config import train_config_from
from distilpose.training.train import train

DOCS = Path(__file__).parents[2] / "docs" / "teachers.md"


@pytest.fixture(scope="module")
def teachers(onnx_file, drawn_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A teacher of every kind, as it stands in a configuration, but for ViTPose."""
    tmp_path = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    large = create_model("tokenpose_m", input_size_hw=(96, 96), patch_size_hw=(4, 4), dim=16, depth=1, num_heads=2)
    save_checkpoint(large, tmp_path / "large.safetensors")
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "heatmaps.json").write_text(json.dumps({"format": 1, "keypoints": "coco_17"}))
    for person in load_person_samples(drawn_data / "person_keypoints.json", drawn_data / "images").samples:
        values = np.random.default_rng(person.annotation_id).random((17, 16, 12))
        np.save(maps / f"{person.annotation_id}.npy", values.astype(np.float16))
    onnx = {"kind": "onnx", "file": str(onnx_file())}
    return {
        "checkpoint": str(tmp_path / "large.safetensors"),
        "onnx": onnx,
        "simcc": {"kind": "simcc", "file": str(onnx_file("axes"))},
        "heatmaps": {"kind": "heatmaps", "folder": str(maps)},
        "ensemble": {"kind": "ensemble", "members": [onnx, str(tmp_path / "large.safetensors")], "weights": [1, 3]},
    }


@pytest.fixture
def teacher(kind: str, teachers: dict[str, Any], request: pytest.FixtureRequest) -> Any:
    """The teacher of the test's kind."""
    if kind == "vitpose":  # transformers takes seconds to import
        return {"kind": "vitpose", "model": str(request.getfixturevalue("vitpose_folder")()), "flip": True}
    return teachers[kind]


def kinds(*fast: str) -> list[Any]:
    return [pytest.param(kind, marks=[] if kind in fast else [pytest.mark.slow]) for kind in KINDS]


@pytest.mark.parametrize("kind", kinds("checkpoint", "onnx", "heatmaps"))
def test_a_student_learns_from_it(kind: str, teacher: Any, make_config, caplog) -> None:
    config = make_config("run", teacher=teacher, epochs=1)
    config.check()
    result = train(config)
    with (Path(config.out) / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert "visual_token" not in rows[0]
    for term in ("simulated_heatmap", "score"):
        assert all(float(row[term]) > 0 for row in rows)
    assert "token losses are off" in caplog.text
    training = describe(load_checkpoint(result.last)).training
    assert training["teacher"] == teacher
    assert training["teacher_description"]["kind"] == kind


def test_a_store_and_a_resumed_run_know_their_teacher(teachers, make_config, tmp_path: Path) -> None:
    store = str(tmp_path / "store")

    def run(name: str, resume: bool = False, **changes: Any) -> None:
        config = make_config(name, teacher=teachers["onnx"] | changes, teacher_cache=store, epochs=1, evaluate_every=9)
        config.data.variants = 1
        train(config, resume=resume)

    run("first")
    assert np.load(tmp_path / "store" / "known.npy").sum() == 16
    run("second")  # the same teacher
    for changes in ({"udp": True}, {"std": [1, 1, 1]}, {"mapping": {"nose": "left_eye"}}, {"flip": True}):
        with pytest.raises(ConfigError, match="holds teacher outputs of other crops"):
            run("other", **changes)
    store = str(tmp_path / "another")
    with pytest.raises(ConfigError, match=r"holds a run with another teacher \(udp changed\)"):
        run("first", resume=True, udp=True)


def test_a_teacher_must_be_used(teachers, make_config) -> None:
    alone = DistillationOptions(simulated_heatmap=0, score=0)
    with pytest.raises(ConfigError, match="weigh 0"):
        train(make_config("b", teacher=teachers["onnx"], losses=alone))
    with pytest.raises(ConfigError, match="colors"):
        train(make_config("c", teacher=teachers["onnx"] | {"colors": "bgr"}))


@pytest.mark.parametrize("kind", [pytest.param("vitpose", marks=pytest.mark.slow), "ensemble"])
def test_a_teacher_is_evaluated_alone(kind: str, teacher: Any, drawn_data: Path, tmp_path: Path) -> None:
    data = ["--annotations", str(drawn_data / "person_keypoints.json"), "--images", str(drawn_data / "images")]
    alone, run = tmp_path / "teacher.yaml", tmp_path / "run.yaml"
    alone.write_text(yaml.safe_dump(teacher))
    run.write_text(yaml.safe_dump({"out": "x", "teacher": teacher}))
    results = []
    for file in (alone, run):
        assert cli.main(["evaluate", "--teacher", str(file), *data, "--out", str(tmp_path / "out"), "--quiet"]) == 0
        results.append(json.loads((tmp_path / "out" / "metrics.json").read_text()))
    assert results[0] == results[1]
    assert 0 <= results[0]["AP"] <= 1
    assert results[0]["PCK@0.2"] > 0


def test_our_own_teacher_is_as_good_as_the_model(teachers, drawn_data: Path, tmp_path: Path) -> None:
    """On crops of its own size nothing may be lost on the way; fresh weights, so the points are anywhere."""
    data = ["--annotations", str(drawn_data / "person_keypoints.json"), "--images", str(drawn_data / "images")]
    file = tmp_path / "teacher.yaml"
    file.write_text(yaml.safe_dump({"kind": "checkpoint", "file": teachers["checkpoint"]}))
    results = []
    for model in (["--teacher", str(file)], ["--teacher", teachers["checkpoint"]], ["--model", teachers["checkpoint"]]):
        assert cli.main(["evaluate", *model, *data, "--out", str(tmp_path / "out"), "--quiet"]) == 0
        results.append(json.loads((tmp_path / "out" / "metrics.json").read_text()))
    for metric in ("AP", "AR", "PCK@0.2"):
        assert results[0][metric] == pytest.approx(results[2][metric], abs=1e-6)
        assert results[0][metric] == results[1][metric]


def test_files_without_a_teacher_and_heatmaps_on_disk_are_not_evaluated(teachers, tmp_path: Path, capsys) -> None:
    file = tmp_path / "x.yaml"
    command = ["evaluate", "--teacher", str(file), "--annotations", "a.json", "--images", "b"]
    mixed = {"kind": "ensemble", "members": [teachers["onnx"], teachers["heatmaps"]]}
    for content, message in (
        ({"out": "x"}, "names no teacher"),
        ({"teacher": teachers["heatmaps"]}, "no network to evaluate"),
        ({"teacher": mixed}, "no network to evaluate"),
        ({"teacher": {"kind": "ensemble", "members": [teachers["onnx"], mixed]}}, "no network to evaluate"),
        ({"teacher": teachers["onnx"], "teacher_flip": "no"}, "teacher_flip must be true or false, got 'no'"),
    ):
        file.write_text(yaml.safe_dump(content))
        assert cli.main(command) == 1
        assert message in capsys.readouterr().err
    assert cli.main([*command, "--model", "y"]) == 1
    assert "--teacher and --model" in capsys.readouterr().err


def test_a_teacher_without_finite_answers_is_named_and_leaves_no_state_to_look_for(
    teachers, make_config, monkeypatch
) -> None:
    def nothing(self, images):
        return HeatmapOutput(torch.full((len(images), 17, 16, 12), float("nan")))

    monkeypatch.setattr(OnnxSource, "__call__", nothing)
    with pytest.raises(TrainingDivergedError, match="the teacher's outputs are NaN or infinite") as found:
        train(make_config("run", teacher=teachers["onnx"]))
    assert "optimizer.lr" not in str(found.value)
    assert "state.ckpt" not in str(found.value)
    assert "nothing to resume" in str(found.value)


def test_an_unusable_teacher_leaves_no_folder(make_config) -> None:
    config = make_config("run", teacher="nowhere.onnx")
    with pytest.raises(DistilPoseError, match="is not a file"):
        train(config)
    assert not Path(config.out).exists()


@pytest.mark.parametrize("second", [float("nan"), float("inf"), 0])
def test_weights_of_an_ensemble_are_finite(second: float, teachers) -> None:
    with pytest.raises(ConfigError, match="weights must be a number above 0, got"):
        teacher_config_from(teachers["ensemble"] | {"weights": [1, second]})


def test_configurations_of_the_docs() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    data = {"train": [{"annotations": "a.json", "images": "b"}]}
    kinds = set()
    for block in blocks:
        config = train_config_from({"out": "x", "data": data, **yaml.safe_load(block)})
        assert config.teacher is not None
        config.check()
        kinds.add(type(teacher_config_from(config.teacher)))
    assert kinds == set(KINDS.values())
