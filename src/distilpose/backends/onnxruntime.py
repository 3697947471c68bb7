"""ONNX files in ONNX Runtime: sessions of any file, and exported models as inference backends."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilpose.backends.base import INPUT_NAME, ExportedBackend, existing_file, unreadable
from distilpose.backends.description import METADATA_KEY
from distilpose.backends.device import (
    AUTO,
    PROVIDERS,
    RuntimeInfo,
    log_runtime,
    onnx_provider,
    parse_device,
    run_threads,
)
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import ConfigError, require_package


class OnnxRuntimeBackend(ExportedBackend):
    """An exported ``.onnx`` file in ONNX Runtime.

    Args:
        path: written by ``distilpose export``.
        threads: of one run on the CPU; see `default_threads` when None.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``tensorrt``, ``coreml`` or ``directml``.

    Raises:
        ConfigError: onnxruntime is not installed, or lacks the device.
        CheckpointError: the file is missing, broken, damaged, foreign or newer, or does not run.
    """

    def __init__(self, path: str | Path, threads: int | None = None, *, device: str = AUTO) -> None:
        path = existing_file(path)
        self._session = open_onnx_session(path, threads, device=device)
        try:
            text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except UnicodeDecodeError as error:  # ONNX Runtime does not check the encoding when it opens a file
            raise unreadable(path, "ONNX Runtime", error) from error
        names = [output.name for output in self._session.get_outputs()]
        super().__init__([path], text, names, session_runtime(self._session))

    def _run(self, images: NetworkInput) -> Any:
        return run_session(self._session, self._names, {INPUT_NAME: images})


def is_exported(path: Path) -> bool:
    """Whether ``distilpose export`` wrote an ONNX file: its metadata have our key, in protobuf's encoding."""
    return b"\n%c%s\x12" % (len(METADATA_KEY), METADATA_KEY.encode()) in path.read_bytes()


def open_onnx_session(
    file: Path | bytes, threads: int | None = None, *, device: str = AUTO, name: Path | None = None
) -> Any:
    """Any ONNX file as a session of ONNX Runtime. Its threads sleep while they wait, to leave the machine to others.

    ``file`` is a path, or content whose ``name`` stands in errors; the rest is that of `OnnxRuntimeBackend`.

    Raises:
        ConfigError: onnxruntime is not installed, or lacks the device.
        CheckpointError: the file is broken.
    """
    path = name if isinstance(file, bytes) else file
    assert path is not None
    require_package("onnxruntime", str(path))
    import onnxruntime

    threads = run_threads(threads)
    wanted = parse_device(device)
    kind = onnx_provider(wanted, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors come as exceptions; warnings are about its own optimizer
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [PROVIDERS["cpu"]]
    if kind != "cpu":
        numbered = kind in ("cuda", "tensorrt", "directml")
        providers.insert(0, (PROVIDERS[kind], {"device_id": str(wanted.index)} if numbered else {}))
    try:
        source = file if isinstance(file, bytes) else os.fspath(file)
        session = onnxruntime.InferenceSession(source, options, providers=providers)
        _ = [tensor.name for tensor in session.get_inputs() + session.get_outputs()]  # may not be UTF-8
    except Exception as error:  # its exceptions share no base class
        raise unreadable(path, f"ONNX Runtime on {kind}", error) from error
    if wanted.kind != AUTO and session.get_providers()[0] != PROVIDERS[kind]:
        raise ConfigError(
            f"device {wanted}: ONNX Runtime has {PROVIDERS[kind]} but cannot start it here: install the driver "
            "and libraries that it needs, or say device cpu"
        )
    log_runtime(path, session_runtime(session))
    return session


def run_session(session: Any, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The named outputs of a run; raises whatever the runtime does, `TypeError` for one that is no array of numbers."""
    answers: list[NDArray[Any]] = session.run(list(names), dict(feeds))
    for name, answer in zip(names, answers, strict=True):
        if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "biuf":
            raise TypeError(f"output {name!r} is no array of numbers")
    return answers


def session_runtime(session: Any) -> RuntimeInfo:
    """What runs a session."""
    import onnxruntime

    provider = session.get_providers()[0]
    kind = next((kind for kind, known in PROVIDERS.items() if known == provider), provider)
    number = session.get_provider_options().get(provider, {}).get("device_id")
    threads = session.get_session_options().intra_op_num_threads if kind == "cpu" else None
    device = kind if number is None else f"{kind}:{number}"
    return RuntimeInfo(f"ONNX Runtime {onnxruntime.__version__}", device, threads, "float32")
