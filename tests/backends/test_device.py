"""Device names for every runtime: what is there is taken, what is not is an error that says what is."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from distilpose.backends import device as devices
from distilpose.backends.base import runtime_of
from distilpose.backends.device import default_threads, onnx_provider, parse_device, torch_device
from distilpose.backends.exported import open_onnx_session
from distilpose.backends.loading import as_backend, load_model
from distilpose.errors import ConfigError
from distilpose.models import create_model
from foreign_files import simcc

SMALL = {"input_size_hw": (64, 48), "dim": 32, "depth": 1, "num_heads": 4}


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cuda:-1", "tpu", "", "openvino:", "cpu:0", "cuda:1 "])
def test_what_is_no_device_is_refused(text: str) -> None:
    if text.strip() != text:
        assert parse_device(text).number == 1
        return
    with pytest.raises(ConfigError, match="device must be auto, cpu, cuda"):
        parse_device(text)


def fake_torch(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("name", "gpus", "mps", "expected"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 2, True, "cuda:0"),
        ("auto", 0, True, "mps"),
        ("cpu", 2, True, "cpu"),
        ("cuda", 2, False, "cuda:0"),
        ("cuda:1", 2, False, "cuda:1"),
        ("mps", 0, True, "mps"),
    ],
)
def test_torch_device(monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, mps: bool, expected: str) -> None:
    fake_torch(monkeypatch, gpus, mps)
    assert torch_device(name) == expected


def test_processes_of_one_run_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch(monkeypatch, 2, False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (torch_device("auto"), torch_device("cuda"), torch_device("cuda:0")) == ("cuda:1", "cuda:1", "cuda:0")


@pytest.mark.parametrize("name", ["cuda:2", "mps", "openvino:GPU", "tensorrt", "coreml"])
def test_a_missing_torch_device_names_what_is_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fake_torch(monkeypatch, 2, False)
    with pytest.raises(ConfigError, match=f"device {name} is not there for torch .*: it has cpu, cuda:0, cuda:1 here"):
        torch_device(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("auto", "cuda"), ("cuda:1", "cuda"), ("cpu", "cpu"), ("tensorrt", "tensorrt"), ("mps", None), ("directml", None)],
)
def test_providers(name: str, kind: str | None) -> None:
    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    if kind is None:
        with pytest.raises(ConfigError, match="it has cpu, cuda, tensorrt here"):
            onnx_provider(parse_device(name), there)
    else:
        assert onnx_provider(parse_device(name), there) == kind


def test_a_provider_that_does_not_start_is_no_silent_fallback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    class Session:
        def __init__(self, file: str, options: Any, providers: list[Any]) -> None:
            asked.append(providers)

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

        def get_inputs(self) -> list[Any]:
            return []

        get_outputs = get_inputs

        def get_provider_options(self) -> dict[str, Any]:
            return {}

        def get_session_options(self) -> Any:
            return onnxruntime.SessionOptions()

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(ConfigError, match="device cuda:1: ONNX Runtime has CUDAExecutionProvider but cannot start it"):
        open_onnx_session(tmp_path / "x.onnx", device="cuda:1")
    open_onnx_session(tmp_path / "x.onnx")  # nothing was asked for
    assert asked[0] == [("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]


def test_backends_say_what_runs(tmp_path: Path) -> None:
    onnx = as_backend(simcc(tmp_path / "m.onnx"), "cpu", threads=2)
    info = runtime_of(onnx)
    assert (info.device, info.threads, info.compute) == ("cpu", 2, "float32")
    assert str(info) == f"ONNX Runtime {onnxruntime.__version__} on cpu, 2 threads, float32"
    with pytest.raises(ConfigError, match="it has cpu here"):
        as_backend(simcc(tmp_path / "m.onnx"), "cuda:3")
    model = create_model("distilpose_s", **SMALL)
    assert str(runtime_of(as_backend(model, "cpu"))).startswith(f"torch {torch.__version__.split('+')[0]} on cpu")
    with pytest.raises(ConfigError, match="chosen when a model is loaded"):
        as_backend(onnx, "cpu")
    with pytest.raises(ConfigError, match=r"threads must be a whole number of at least 1 and at most 1024, got 0"):
        load_model(simcc(tmp_path / "m.onnx"), threads=0)


def test_bfloat16_is_near_and_not_the_same() -> None:
    model = create_model("distilpose_s", **SMALL)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 48)).astype(np.float32)
    exact, rounded = (as_backend(model, compute=compute)(images).xy_norm for compute in ("float32", "bfloat16"))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.02
    with pytest.raises(ConfigError, match="compute float16 is for GPUs"):
        as_backend(model, compute="float16")
    with pytest.raises(ConfigError, match="compute must be one of"):
        as_backend(model, compute="int8")  # type: ignore[arg-type]


def test_threads_follow_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for cpu in range(8):
        (tmp_path / str(cpu)).write_text(f"{cpu % 6}")  # cpu0 and cpu6 share a core, cpu1 and cpu7 too
    monkeypatch.setattr(devices, "_SIBLINGS", str(tmp_path / "{}"))
    for usable, threads in (({0, 6, 1}, 2), ({5}, 1), (set(range(8)), 4)):
        monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _, usable=usable: usable)
        assert default_threads() == threads


NO_SOCKETS = """
import socket, sys
def refuse(*args, **kwargs):
    raise SystemExit("a socket was opened")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from distilpose.backends.exported import import_openvino
import_openvino("the test")
import distilpose.export.openvino_file
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""


def test_openvino_is_imported_without_its_telemetry(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", NO_SOCKETS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
    assert list(tmp_path.iterdir()) == []  # no client id either
