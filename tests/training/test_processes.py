"""Several processes: who sees what, who writes, and what a killed one leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from training_runs import assert_same_run, rows

from distilpose.backends.checkpoint import describe, load_checkpoint
from distilpose.errors import ConfigError
from distilpose.models import create_model
from distilpose.training.data import TrainingData
from distilpose.training.processes import Processes, check_same_start, find_processes, has_lost_process
from distilpose.training.train import train

EPOCHS = 12
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
ALONE = [sys.executable, "-m"]


def start(launcher: list[str], file: Path, *more: str, **variables: str) -> subprocess.Popen[str]:
    command = [*launcher, "distilpose", "train", str(file), *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(file: Path, run: subprocess.Popen[str]) -> None:
    """Until the run has made a file; a run that ends before shows its output."""
    deadline = time.monotonic() + 240
    while not file.exists():
        if run.poll() is not None or time.monotonic() > deadline:
            run.kill()
            pytest.fail(f"no {file}: {run.communicate()[0]}")
        time.sleep(0.01)


def finish(run: subprocess.Popen[str], file: Path) -> Path:
    output, _ = run.communicate(timeout=240)
    assert run.returncode == 0, output
    return Path(json.loads(file.read_text())["out"])


def logged(out: Path) -> list[dict[str, str]]:
    return rows(out / "losses.csv")


def test_two_ranks_see_different_people_and_together_those_of_one(make_config) -> None:
    config = make_config("run")
    config.data.batch_size, config.data.samples_per_epoch = 1, None  # everybody once, nobody left over
    data = TrainingData(config, describe(create_model(config.model, **config.model_options)))

    def seen(rank: int, world_size: int) -> list[int]:
        loader = data.train_loader(rank, world_size)
        loader.sampler.set_epoch(3)
        return [index for batch in loader for index in batch.sample_index.tolist()]

    one, first, second = seen(0, 1), seen(0, 2), seen(1, 2)
    assert not set(first) & set(second)
    assert abs(len(first) - len(one) / 2) < 1
    assert (one[0::2][: len(first)], one[1::2]) == (first, second)


def test_torchrun_tells_how_many_processes_there_are(monkeypatch) -> None:
    assert find_processes(3) == Processes(3, 1)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "12"}.items():
        monkeypatch.setenv(name, value)
    assert find_processes(1) == find_processes(4) == Processes(12, 3)
    with pytest.raises(ConfigError, match=r"started 4 processes .* devices is 2: leave devices out"):
        find_processes(2)


def test_only_errors_of_communication_are_taken_for_a_lost_process() -> None:
    assert has_lost_process(RuntimeError("[.../gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"))
    assert has_lost_process(torch.distributed.DistBackendError("NCCL"))
    assert not has_lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.slow
def test_torchrun_and_devices_train_alike_and_one_process_writes(write_config) -> None:
    by_torchrun, by_devices = write_config("torchrun", epochs=3), write_config("devices", epochs=3, devices=2)
    first = finish(start(TORCHRUN, by_torchrun), by_torchrun)
    second = finish(start(ALONE, by_devices), by_devices)
    assert_same_run(first, second)
    for out in (first, second):
        assert len(logged(out)) == 3 * 32 // 8
        assert len(list((out / "tensorboard").glob("events.*"))) == 1
        assert not list(out.rglob("*.part"))
        assert describe(load_checkpoint(out / "last.safetensors")).training["devices"] == 2


def ranks_of(run: psutil.Process) -> dict[int, psutil.Process]:
    return {int(child.environ()["RANK"]): child for child in run.children() if "RANK" in child.environ()}


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1, None])
def test_a_killed_process_ends_the_run_soon_and_resume_loses_nothing(victim, write_config, tmp_path) -> None:
    """Rank 0, rank 1, or the launcher that started them."""
    whole, cut = write_config("whole", devices=2), write_config("cut", devices=2)
    finish(start(ALONE, whole), whole)
    run = start(ALONE, cut)
    out = tmp_path / "cut"
    wait_for(out / "state.ckpt", run)  # the first whole epoch
    launcher = psutil.Process(run.pid)
    ranks = ranks_of(launcher)
    (launcher if victim is None else ranks[victim]).kill()
    output, _ = run.communicate(timeout=120)
    psutil.wait_procs(list(ranks.values()), timeout=60)
    assert not any(process.is_running() for process in ranks.values())
    if victim is None:
        assert run.returncode == -signal.SIGKILL
    else:
        assert run.returncode == 1
        assert f"error: process {victim} of 2 was killed by SIGKILL" in output
        assert "--resume goes on from the last whole epoch" in output
        assert "Traceback" not in output

    assert len(logged(out)) < EPOCHS * 4  # it was not through
    finish(start(ALONE, cut, "--resume"), cut)
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(write_config, tmp_path) -> None:
    file = write_config("run", devices=2, epochs=10_000)
    run = start(ALONE, file)
    wait_for(tmp_path / "run" / "state.ckpt", run)
    ranks = ranks_of(psutil.Process(run.pid))
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "--resume goes on" in output
    assert "Traceback" not in output
    assert not any(process.is_running() for process in ranks.values())


def test_processes_that_find_different_epochs_are_refused(monkeypatch) -> None:
    def gather(into: list[Any], mine: Any) -> None:
        into[:] = [mine, 0]

    check_same_start(3)  # alone
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    check_same_start(0)
    with pytest.raises(ConfigError, match=r"different epochs .*\(7, 0, by rank\).*all machines see"):
        check_same_start(7)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.slow
def test_machines_with_output_folders_of_their_own_are_refused(write_config, tmp_path) -> None:
    here, there = write_config("here", epochs=1), write_config("there", epochs=1)
    finish(start(ALONE, here), here)
    shared = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # fmt: skip
    runs = [
        start(ALONE, file, "--resume", "--epochs", "2", RANK=str(rank), GROUP_RANK=str(rank), **shared)
        for rank, file in enumerate((here, there))
    ]
    for run in runs:
        output, _ = run.communicate(timeout=240)
        assert run.returncode == 1
        assert "different epochs to go on from (1, 0, by rank)" in output


def test_a_teacher_cache_is_of_one_machine(make_config, monkeypatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    config = make_config("run")
    config.teacher, config.teacher_cache, config.data.variants = "teacher.safetensors", "store", 2
    with pytest.raises(ConfigError, match="one machine, got 2 machines"):
        train(config)


@pytest.mark.slow
def test_torchrun_names_the_killed_rank(write_config, tmp_path) -> None:
    file = write_config("run", epochs=10_000)
    run = start(TORCHRUN, file)
    wait_for(tmp_path / "run" / "state.ckpt", run)
    ranks = [child for child in psutil.Process(run.pid).children() if child.environ().get("RANK") == "1"]
    ranks[0].kill()
    output, _ = run.communicate(timeout=90)
    assert run.returncode == 1
    assert f"exitcode  : -9 (pid: {ranks[0].pid})" in output
    assert "rank      : 1 (local_rank: 1)" in output
    done = len(logged(tmp_path / "run")) // 4
    finish(start(TORCHRUN, file, "--resume", "--epochs", str(done + 2)), file)
    assert len(logged(tmp_path / "run")) == 4 * (done + 2)
