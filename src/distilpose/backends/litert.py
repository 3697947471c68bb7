"""Exported ``.tflite`` files in LiteRT."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from distilpose.backends.base import INPUT_NAME, ExportedBackend, existing_file, unreadable
from distilpose.backends.description import METADATA_KEY
from distilpose.backends.device import AUTO, RuntimeInfo, log_runtime, not_there, parse_device, run_threads
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import require_package


class LiteRtBackend(ExportedBackend):
    """An exported ``.tflite`` file in LiteRT on the CPU; it holds one crop, so that a batch is run one by one.

    ``threads`` and errors are those of `OnnxRuntimeBackend`; ``device`` is ``auto`` or ``cpu``.
    """

    def __init__(self, path: str | Path, threads: int | None = None, *, device: str = AUTO) -> None:
        path = existing_file(path)
        require_package("ai_edge_litert", str(path))
        from ai_edge_litert.interpreter import Interpreter

        wanted, used = parse_device(device), run_threads(threads)
        if wanted.kind not in (AUTO, "cpu"):
            raise not_there(wanted, "LiteRT", ["cpu"])
        try:
            text = description_text(path.read_bytes())
            self._run_one = Interpreter(str(path), num_threads=used).get_signature_runner()
            names = list(self._run_one.get_output_details())
        except Exception as error:  # of flatbuffers, struct and LiteRT
            raise unreadable(path, "LiteRT", error) from error
        runtime = RuntimeInfo(f"LiteRT {version('ai-edge-litert')}", "cpu", used, "float32")
        super().__init__([path], text, names, log_runtime(path, runtime))

    def _run(self, images: NetworkInput) -> Any:
        parts = [self._run_one(**{INPUT_NAME: image[None]}) for image in images]
        return [np.concatenate([part[name] for part in parts]) for name in self._names]


def description_text(content: bytes) -> str | None:
    """The description among the metadata of a file; None without one."""
    from ai_edge_litert.schema_py_generated import Model

    model = Model.GetRootAs(content)
    entries = [model.Metadata(index) for index in range(model.MetadataLength())]
    buffers = [entry.Buffer() for entry in entries if entry.Name() == METADATA_KEY.encode()]
    return model.Buffers(buffers[0]).DataAsNumpy().tobytes().decode() if buffers else None
