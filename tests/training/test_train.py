"""Whole runs: teacher, student, distillation, what is refused, and two processes."""

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from training_runs import rows, weights

from distilpose.backends.checkpoint import describe, load_checkpoint, save_checkpoint
from distilpose.cli import main as cli
from distilpose.compat import current_options
from distilpose.errors import CheckpointError, ConfigError, DatasetError, InputError
from distilpose.losses import DistillationOptions
from distilpose.models import create_model
from distilpose.training.config import DataConfig, OptimizerConfig, TrainConfig, learning_rate_factor, train_config_from
from distilpose.training.records import Records
from distilpose.training.train import train
from synthetic_people import write_synthetic_dataset


def test_teacher_then_distilled_student(make_config) -> None:
    teacher = train(make_config("teacher", model="tokenpose_s"))
    config = make_config("student", teacher=str(teacher.last), ema_decay=0.5)
    student = train(config)
    out = Path(config.out)

    log = rows(out / "losses.csv")
    terms = ["keypoint", "visual_token", "keypoint_token", "simulated_heatmap", "score", "total"]
    assert list(log[0])[-6:] == terms
    assert len(log) == 4
    for row in log:
        assert float(row["total"]) == pytest.approx(sum(float(row[term]) for term in terms[:-1]), rel=1e-4)
    assert [row["epoch"] for row in rows(out / "evaluation.csv")] == ["1", "2"]
    assert list((out / "tensorboard").iterdir())

    assert student.best is not None
    description = describe(load_checkpoint(student.best))
    assert description.training["teacher"] == str(teacher.last)
    assert 0 <= description.training["validation"]["AP"] <= 1
    assert description.training["validation"]["AP"] == student.best_ap
    with safe_open(student.last, "pt") as file:
        assert set(file.keys()) == set(load_checkpoint(student.last).state_dict())
    state = torch.load(out / "state.ckpt", weights_only=True)["step"]
    assert {name.split(".")[0] for name in state} == {"model"}  # no teacher inside


def test_widths_may_differ_through_a_projection_that_is_not_saved(make_config, trained_teacher) -> None:
    config = make_config("student", teacher=trained_teacher, epochs=1)
    config.model_options["dim"] = 24
    result = train(config)
    names = set(load_checkpoint(result.last).state_dict())
    with safe_open(result.last, "pt") as file:
        assert set(file.keys()) == names
    state = torch.load(Path(config.out) / "state.ckpt", weights_only=True)["step"]
    assert state["criterion.projection.weight"].shape == (16, 24)


@pytest.mark.parametrize("form", [pytest.param("pixels", marks=pytest.mark.slow), "rle"])
def test_a_student_alone_and_one_with_a_teacher_learn_by_every_keypoint_form(
    form, make_config, trained_teacher
) -> None:
    losses = DistillationOptions(keypoint_form=form)
    alone = make_config("alone", losses=losses)
    result = train(alone)
    with safe_open(result.last, "pt") as file:
        assert set(file.keys()) == set(load_checkpoint(result.last).state_dict())  # no flow inside
    log = rows(Path(alone.out) / "losses.csv")
    assert len(log) == 4
    assert all(torch.tensor(float(row["keypoint"])).isfinite() for row in log)

    keypoint_mask = make_config("keypoint_mask", losses=losses, teacher=trained_teacher, epochs=1, evaluate_every=9)
    train(keypoint_mask)
    assert {"keypoint", "simulated_heatmap", "score"} < set(rows(Path(keypoint_mask.out) / "losses.csv")[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"model": "tokenpose_s", "teacher": "itself", "losses": DistillationOptions(teacher_heatmap=0)},
            "heatmap is 0",
        ),
        ({"teacher": "itself", "losses": DistillationOptions(token=0, simulated_heatmap=0, score=0)}, "weigh 0"),
        ({"teacher": "itself", "no_sigma": True}, "sigma"),
        ({"no_sigma": True, "losses": DistillationOptions(keypoint_form="rle")}, "keypoint_form"),
        ({"epochs": 0}, "epochs"),
        ({"target_sigma": 0.0}, "target_sigma"),
        ({"target_sigma": float("nan")}, "target_sigma must be a number above 0, got nan"),
        ({"optimizer": OptimizerConfig(lr=float("nan"))}, "optimizer.lr must be a number of at least 0, got nan"),
        ({"model_options": {"input_size_hw": [64.0, 48]}}, r"input_size_hw must be two whole numbers"),
        ({"model": "distilpose_m", "model_options": {"visual_depth": "abc"}}, "visual_depth must be a whole number"),
        ({"start": "pointer", "init": "x"}, "init_parts"),
        ({"ema_decay": 1.5}, "ema_decay"),
        ({"teacher_flip": True}, "name a teacher"),
        ({"data.batch_size": 1000}, "batch_size"),
        ({"data.workers": -1}, "data.workers must be a whole number of at least 0 and at most 256, got -1"),
        ({"data.workers": 100_000}, "at least 0 and at most 256, got 100000"),
        ({"devices": 500}, r"devices must be at most \d+, as this machine has \(cpu\), got 500"),
        ({"seed": -1}, "seed must be a whole number of at least 0 .*, got -1"),
        ({"seed": 2**63}, "seed must be a whole number of at least 0 .*, got 9223372036854775808"),
        ({"accelerator": "tpu"}, "accelerator must be one of auto, cpu, gpu, mps"),
        ({"accelerator": "gpu"}, "device cuda:0 is not there for torch"),
        ({"precision": "bf17"}, "precision must be one of 32-true"),
        ({"model": None}, "model must have a value, got None"),
        ({"freeze": None}, "freeze must have a value, got None"),
        ({"freeze": "backbone"}, "freeze must be a list, got 'backbone'"),
        ({"sync_batchnorm": "yes"}, "sync_batchnorm must be true or false, got 'yes'"),
        ({"data.train": None}, "data.train must be DatasetConfig, got None"),
        ({"losses": {"keypoint": 1}}, "losses must be DistillationOptions, got {'keypoint': 1}"),
        ({"optimizer": OptimizerConfig(milestones=[-3])}, "optimizer.milestones must be a whole number of at least 0"),
        ({"sync_batchnorm": True}, "sync_batchnorm works on GPUs"),
        ({"out": "/dev/null"}, "/dev/null cannot be written .*: expected a folder"),
        ({"freeze": ["backbome"]}, "the model has backbone, encoder, head"),
        ({"freeze": ["backbone", "encoder", "head"]}, "nothing to train"),
    ],
)
def test_contradictions_are_found_before_training(changes, named, make_config, request) -> None:
    if changes.get("teacher"):
        changes = {**changes, "teacher": request.getfixturevalue("trained_teacher")}
    no_sigma = changes.pop("no_sigma", False)
    config = make_config("run", **{key: value for key, value in changes.items() if not key.startswith("data.")})
    for key in changes.keys() - vars(config).keys():
        setattr(config.data, key.removeprefix("data."), changes[key])
    if no_sigma:
        config.model_options["num_sigmas"] = 0
    with pytest.raises((ConfigError, InputError), match=named):
        train(config)


def test_numbers_of_numpy_train_as_plain_ones_do(make_config) -> None:
    options = {"losses": DistillationOptions(keypoint=np.float32(1)), "optimizer": OptimizerConfig(lr=np.float32(1e-3))}
    config = make_config("run", epochs=np.int64(1), seed=np.int64(0), **options)
    config.data.batch_size = np.int64(config.data.batch_size)
    train(config)
    config.epochs = np.int64(2)
    train(config, resume=True)
    assert len(rows(Path(config.out) / "evaluation.csv")) == 2


def test_an_image_that_a_loading_process_cannot_read_is_told_without_a_traceback(
    make_config, tmp_path, monkeypatch
) -> None:
    def break_images(*_: object) -> None:
        for file in (tmp_path / "images").iterdir():
            file.write_text("no image")

    write_synthetic_dataset(tmp_path, 8)
    monkeypatch.setattr(Records, "begin_epoch", break_images)
    config = make_config("run", epochs=1)
    config.data = replace(config.data, root=str(tmp_path), validation=None, workers=1, check_images=False)
    with pytest.raises(
        DatasetError, match=r"^annotation \d+: .*: replace the file or take its annotations out$"
    ) as kept:
        train(config)
    assert not multiprocessing.active_children(), f"this process could not end while {kept.type} is kept"


def test_start_weights(make_config, trained_teacher) -> None:
    frozen = OptimizerConfig(lr=0.0)
    config = make_config("student", init=trained_teacher, init_parts=["backbone"], epochs=1, optimizer=frozen)
    train(config)
    own, other = weights(Path(config.out) / "last.safetensors"), weights(Path(trained_teacher))
    assert torch.equal(own["backbone.layer1.0.conv1.weight"], other["backbone.layer1.0.conv1.weight"])
    assert not torch.equal(own["encoder.keypoint_tokens"], other["encoder.keypoint_tokens"])

    again = make_config("again", init=str(Path(config.out) / "last.safetensors"), epochs=1, optimizer=frozen)
    train(again)
    restarted = weights(Path(again.out) / "last.safetensors")
    assert torch.equal(own["encoder.keypoint_tokens"], restarted["encoder.keypoint_tokens"])
    narrow = {"input_size_hw": [64, 48], "dim": 24, "depth": 1, "num_heads": 2}
    wrong = make_config("wrong", init=trained_teacher, init_parts=["head"], model_options=narrow)
    with pytest.raises(CheckpointError, match="init_parts"):
        train(wrong)


def test_frozen_parts_stay_and_the_backbone_has_its_own_rate(make_config) -> None:
    start = train(make_config("start", epochs=1, evaluate_every=9)).last
    options = {"init": str(start), "epochs": 1, "evaluate_every": 9}
    plain, frozen, slow = (
        weights(train(make_config(name, **options, **changes)).last)
        for name, changes in (("plain", {}), ("frozen", {"freeze": ["backbone"]}), ("slow", {"backbone_lr": 0.1}))
    )
    before = weights(start)

    def moved(after: dict[str, torch.Tensor], part: str) -> float:
        return sum(float((after[name] - before[name]).abs().sum()) for name in before if name.startswith(part))

    assert moved(frozen, "backbone") == 0  # batch-norm statistics, too
    assert moved(frozen, "encoder") > 0
    assert 0 < moved(slow, "backbone.layer1.0.conv1.weight") < 0.3 * moved(plain, "backbone.layer1.0.conv1.weight")


def test_a_heatmap_model_learns_from_a_heatmap_teacher_of_another_size(make_config, tmp_path: Path) -> None:
    large = create_model("tokenpose_s", input_size_hw=[96, 96], patch_size_hw=[4, 4], dim=16, depth=1, num_heads=2)
    teacher = save_checkpoint(large, tmp_path / "teacher.safetensors")
    config = make_config("run", model="tokenpose_s", teacher=str(teacher), epochs=1)
    result = train(config)
    log = rows(Path(config.out) / "losses.csv")
    assert list(log[0])[-3:] == ["heatmap", "teacher_heatmap", "total"]
    assert all(float(row["teacher_heatmap"]) > 0 for row in log)
    assert describe(load_checkpoint(result.last)).training["teacher"] == str(teacher)


def test_a_student_alone_may_learn_its_score(make_config, caplog) -> None:
    config = make_config("run", losses=DistillationOptions(score_target="oks", score_mask="all"), epochs=1)
    train(config)
    assert "score" in rows(Path(config.out) / "losses.csv")[0]
    assert "only a teacher teaches the score" not in caplog.text


def test_names_of_earlier_versions(make_config) -> None:
    values = json.loads(json.dumps(asdict(make_config("run"))))
    del values["losses"]
    old = {"backbone_heatmap": 10, "optimiser": values.pop("optimizer"), "start": "pointing"}
    config = train_config_from({**values, **old})
    assert (config.losses.backbone_heatmap, config.start) == (10, "pointer")
    assert train_config_from(json.loads(json.dumps(asdict(config)))) == config
    given = train_config_from({**values, "losses": {"token": 1.0}, "backbone_heatmap": 2.0})
    assert (given.losses.token, given.losses.backbone_heatmap) == (1.0, 2.0)
    assert current_options(["--backbone_heatmap=3", "--base.backbone_heatmap", "1"]) == [
        "--losses.backbone_heatmap=3", "--base.losses.backbone_heatmap", "1",
    ]  # fmt: skip


def test_people_without_labels_need_a_teacher(make_config) -> None:
    config = make_config("run")
    config.data.train[0].unlabeled = True
    with pytest.raises(ConfigError, match="learned from a teacher alone"):
        config.check()
    config.teacher = "teacher.safetensors"
    with pytest.raises(ConfigError, match="distil_unannotated"):
        config.check()


def test_deep_supervision_trains_the_backbone_and_leaves_no_trace(make_config) -> None:
    losses = DistillationOptions(backbone_heatmap=10.0)
    config = make_config("run", model="tokenpose_s", losses=losses, target_sigma=1.0, epochs=8)
    config.ema_decay, config.evaluate_every = 0.5, 8
    result = train(config)
    loss = [float(row["backbone_heatmap"]) for row in rows(Path(config.out) / "losses.csv")]
    assert sum(loss[-4:]) < 0.9 * sum(loss[:4])
    with safe_open(result.last, "pt") as file:
        assert set(file.keys()) == set(load_checkpoint(result.last).state_dict())


def test_learning_rate_of_the_paper() -> None:
    factor = learning_rate_factor(OptimizerConfig(), steps_per_epoch=585, epochs=300)
    assert factor(0) == pytest.approx(1e-3)
    assert factor(250) == pytest.approx(0.5005)
    assert factor(500) == factor(200 * 585 - 1) == 1
    assert factor(200 * 585) == pytest.approx(0.1)
    assert factor(260 * 585) == pytest.approx(0.01)


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(write_config, tmp_path) -> None:
    """Losses, masked ones included, do not depend on how a batch is spread over processes."""

    def run(name: str, devices: int, batch_size: int, teacher: Path | None) -> Path:
        file = write_config(
            name,
            model="tokenpose_s" if teacher is None else "distilpose_s",
            teacher=None if teacher is None else str(teacher / "last.safetensors"),
            data={"batch_size": batch_size},
            losses={"mask": "reference"},
            epochs=2,
            devices=devices,
        )
        command = [sys.executable, "-m", "distilpose", "train", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    teacher = run("teacher", 1, 8, None)
    one, two = run("one", 1, 8, teacher), run("two", 2, 4, teacher)
    single, double = rows(one / "losses.csv"), rows(two / "losses.csv")
    assert len(single) == len(double) == 8
    for a, b in zip(single, double, strict=True):
        for term in ("keypoint", "visual_token", "keypoint_token", "simulated_heatmap", "score", "total"):
            assert float(a[term]) == pytest.approx(float(b[term]), rel=1e-4), (a["step"], term)


def test_a_plain_value_where_a_mapping_belongs_is_named() -> None:
    with pytest.raises(ConfigError, match=r"losses must be a mapping"):
        train_config_from({"out": "x", "data": {"train": []}, "losses": 5})
    with pytest.raises(ConfigError, match="a training configuration must be a mapping of names to values, got list"):
        train_config_from([1])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="teacher must be a path, or a mapping with a kind, got 5"):
        TrainConfig("run", DataConfig([]), teacher=5).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": ["planted.json"]}, "data.train must hold mappings with annotations and images, got 'planted.json'"),
        ({"train": [], "validation": "planted.json"}, "data.validation must be a mapping with annotations and images"),
    ],
)
def test_a_text_in_place_of_a_data_set_imports_no_module(data, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("planted.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    with pytest.raises(ConfigError, match=message):
        train_config_from({"out": "x", "data": data})
    Path("run.json").write_text(json.dumps({"out": "x", "data": data}))
    assert cli.main(["train", "run.json"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("ran").exists()
