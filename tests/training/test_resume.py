"""Runs that end early: killed, interrupted, diverged; what they leave, and what they go on from."""

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from training_runs import assert_same_run, die_at, rows, weights

from distilpose.errors import CheckpointError, ConfigError, InputError, TrainingDivergedError
from distilpose.files import OutputLock
from distilpose.losses import DistillationOptions
from distilpose.training.config import TrainConfig
from distilpose.training.loop import Training
from distilpose.training.records import Records, _append_row
from distilpose.training.train import train


@pytest.mark.slow
def test_a_resumed_likelihood_run_goes_on_with_its_flow(make_config, monkeypatch) -> None:
    options = {"losses": DistillationOptions(keypoint_form="rle"), "epochs": 2, "evaluate_every": 9}
    whole, cut = make_config("whole", **options), make_config("cut", **options)
    train(whole)
    die_at(monkeypatch, epoch=1)
    with pytest.raises(RuntimeError, match="killed"):
        train(cut)
    monkeypatch.undo()
    train(cut, resume=True)
    assert_same_run(Path(whole.out), Path(cut.out))
    flows = []
    for config in (whole, cut):
        state = torch.load(Path(config.out) / "state.ckpt", weights_only=True)["step"]
        flows.append([value for name, value in state.items() if name.startswith("criterion.flow.")])
    assert len(flows[0]) == 6 * 6  # weight and bias of three layers in each of six couplings
    assert all(torch.equal(a, b) for a, b in zip(*flows, strict=True))
    assert any(value.abs().max() > 0 for value in flows[0][4::6])  # the last layers started at zero


def test_a_killed_run_resumes_with_the_numbers_of_an_uninterrupted_one(make_config, monkeypatch) -> None:
    whole = make_config("whole", epochs=3, ema_decay=0.9)
    train(whole)

    cut = make_config("cut", epochs=3, ema_decay=0.9)
    die_at(monkeypatch, epoch=2, batch=1)
    with pytest.raises(RuntimeError, match="killed"):
        train(cut)
    assert len(rows(Path(cut.out) / "losses.csv")) == 5  # the row of the step that will be done again
    monkeypatch.undo()
    train(cut, resume=True)
    assert_same_run(Path(whole.out), Path(cut.out))
    evaluations = rows(Path(cut.out) / "evaluation.csv")
    assert evaluations == rows(Path(whole.out) / "evaluation.csv")

    (Path(cut.out) / "state.ckpt").unlink()
    last = Path(cut.out) / "last.safetensors"
    before = last.read_bytes()
    with pytest.raises(ConfigError, match=r"holds weights, but not state.ckpt, .*'init: .*last.safetensors'"):
        train(cut, resume=True)
    assert last.read_bytes() == before


def test_a_finished_run_is_not_overwritten_and_resuming_it_changes_nothing(make_config) -> None:
    config = make_config("run", epochs=1)
    train(config)
    before = (Path(config.out) / "last.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="--resume"):
        train(config)
    result = train(config, resume=True)
    assert (Path(config.out) / "last.safetensors").read_bytes() == before
    assert result.best_ap is not None


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_run_goes_on_in_another_precision(make_config, precision: str) -> None:
    config = make_config("run", epochs=1)
    train(config)
    train(replace(config, epochs=2, precision=precision), resume=True)
    assert rows(Path(config.out) / "losses.csv")[-1]["epoch"] == "2"


def test_divergence_names_the_term_and_keeps_the_last_good_state(make_config, monkeypatch) -> None:
    config = make_config("run", epochs=2)
    step = Training._train_step

    def poisoned(self, batch, index):
        if self.epoch == 1:
            batch.images[0] = float("nan")
        return step(self, batch, index)

    monkeypatch.setattr(Training, "_train_step", poisoned)
    with pytest.raises(TrainingDivergedError, match=r"keypoint = nan in batch 0 of epoch 2[\s\S]*state.ckpt"):
        train(config)
    assert all(tensor.isfinite().all() for tensor in weights(Path(config.out) / "last.safetensors").values())
    monkeypatch.undo()
    train(config, resume=True)
    assert len(rows(Path(config.out) / "losses.csv")) == 4


class Planted:
    """Pickles to a call that makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_state_runs_no_code_and_a_broken_or_foreign_one_is_refused(make_config, tmp_path) -> None:
    config = make_config("run", epochs=1)
    train(config)
    file = Path(config.out) / "state.ckpt"
    whole = file.read_bytes()
    torch.save({"format": 1, "step": Planted(tmp_path / "planted")}, file)
    for content in (None, whole[: len(whole) // 2], b"", b"text"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"state.ckpt cannot be read .*init: "):
            train(config, resume=True)
    assert not (tmp_path / "planted").exists()
    torch.save({"epoch": 1, "pytorch-lightning_version": "2.6"}, file)
    with pytest.raises(CheckpointError, match="written by another version"):
        train(config, resume=True)
    state = torch.load(io.BytesIO(whole), weights_only=True)
    for name in ("settings", "crops_per_step"):  # as an earlier version wrote it
        del state[name]
    torch.save(state, file)
    config.model_options["dim"] = 32
    with pytest.raises(CheckpointError, match="does not fit its configuration"):
        train(config, resume=True)


def test_a_run_is_resumed_with_the_settings_it_was_started_with(make_config) -> None:
    config = make_config("run", epochs=1, ema_decay=0.9)
    train(config)
    file = Path(config.out) / "state.ckpt"
    before = file.read_bytes()
    data = config.data
    for changes, message in (
        ({"losses": replace(config.losses, score=0.5)}, "losses.score changed"),
        ({"optimizer": replace(config.optimizer, weight_decay=0.1)}, "optimizer.weight_decay changed"),
        ({"ema_decay": None, "seed": 3}, "seed, ema_decay changed"),
        ({"model_options": {**config.model_options, "dim": 32}}, "model_options changed"),
        ({"data": replace(data, batch_size=4)}, r"data.batch_size times devices \(8 before, 4 now\) changed"),
        ({"data": replace(data, train=[replace(data.train[0], zero_means_unknown=True)])}, "data.train.zero_means"),
        ({"data": replace(data, train=[*data.train] * 2)}, "data.train changed"),
    ):
        with pytest.raises(ConfigError, match=rf"other settings: {message}[\s\S]*init: .*last.safetensors"):
            train(replace(config, **changes), resume=True)
    assert file.read_bytes() == before
    elsewhere = replace(data, root=f"{data.root}/.", validation=None, cache_images=True)
    slower = replace(config.optimizer, lr=config.optimizer.lr / 2)
    train(replace(config, epochs=2, optimizer=slower, log_every=9, data=elsewhere), resume=True)
    assert rows(Path(config.out) / "losses.csv")[-1]["epoch"] == "2"
    state = torch.load(file, weights_only=True)
    for name in ("settings", "crops_per_step"):  # as an earlier version wrote it
        del state[name]
    torch.save(state, file)
    train(replace(config, epochs=3), resume=True)


def record(config: TrainConfig, *steps: int) -> None:
    """Steps of a run that is started, or resumed, before them."""
    values = {"steps_per_epoch": 1, "steps": steps[0] - 1, "processes": 1, "active": True}
    with Records(config, Console(file=io.StringIO()), **values) as records:
        records.begin_epoch()
        for step in steps:
            records.add_step(step, step, 8, 0.1, {"total": torch.tensor(1.0)})


def test_a_table_that_a_full_disk_left_empty_is_begun_again(make_config) -> None:
    config = make_config("run")
    Path(config.out).mkdir()
    table = Path(config.out) / "losses.csv"
    for content in ("", "\r\n"):
        table.write_text(content)
        record(config, 1, 2)
        assert [row["step"] for row in rows(table)] == ["1", "2"]
    record(config, 3)
    assert [row["step"] for row in rows(table)] == ["1", "2", "3"]
    table.unlink()
    table.touch()
    _append_row(table, {"step": 1})
    assert rows(table) == [{"step": "1"}]


def test_tensorboard_shows_the_last_step_before_a_resumption_once(make_config, monkeypatch) -> None:
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))  # files sort by number
    config = make_config("run")
    record(config, 1, 2, 3)
    record(config, 3, 4)
    events = EventAccumulator(str(Path(config.out) / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/total")] == [1, 2, 3, 4]


def test_one_training_writes_to_a_folder(make_config) -> None:
    config = make_config("run", epochs=1)
    Path(config.out).mkdir()
    message = rf"in use by distilpose train \(process {os.getpid()} .*wait for it"
    with OutputLock(config.out, "distilpose train"), pytest.raises(InputError, match=message):
        train(config)
    train(config)


@pytest.mark.slow
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["process", "with its loaders"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_resumes(number, send, write_config, tmp_path) -> None:
    data = {"batch_size": 8, "workers": 2, "samples_per_epoch": None, "validation": None}
    file = write_config("run", epochs=10_000, data=data, freeze_batchnorm=False, evaluate_every=1)
    command = [sys.executable, "-m", "distilpose", "train", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "state.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    send(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in error
    assert "Traceback" not in error
    done = len(rows(tmp_path / "run" / "losses.csv"))
    again = subprocess.run([*command, "--resume", "--epochs", str(done + 2)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
