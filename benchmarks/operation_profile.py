"""Where a model's time goes inside a runtime, by kind of operation, before and after the rewrites of the export."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from distilpose.backends.base import INPUT_NAME
from distilpose.export.export import SUFFIXES, export_model
from distilpose.models import create_model
from distilpose.types import Float32Array

RUNS = 10
SHOWN = 8


class Profile(NamedTuple):
    """One graph in one runtime.

    Attributes:
        name: of both.
        milliseconds: of one crop by kind of operation, as the runtime names them, longest first.
    """

    name: str
    milliseconds: dict[str, float]


def measure_profiles(name: str = "distilpose_s", batch: int = 8) -> list[Profile]:
    """Profile a preset of fresh weights with OpenVINO's counters and ONNX Runtime's profiler.

    Args:
        name: preset.
        batch: crops at once.
    """
    model = create_model(name).eval()
    images = np.random.default_rng(0).standard_normal((batch, 3, *model.input_size_hw)).astype(np.float32)
    profiles = []
    with tempfile.TemporaryDirectory() as folder:
        for rewrite in (False, True):
            graph = "rewritten" if rewrite else "not rewritten"
            onnx, openvino = (Path(folder) / f"{rewrite}{SUFFIXES[format]}" for format in ("onnx", "openvino"))
            export_model(model, openvino, format="openvino", rewrite=rewrite)
            profiles.append(_sorted(f"openvino, {graph}", _openvino(openvino, images)))
            export_model(model, onnx, format="onnx", rewrite=rewrite)
            profiles.append(_sorted(f"onnxruntime, {graph}", _onnxruntime(onnx, images)))
    return profiles


def _sorted(name: str, seconds: Mapping[str, float]) -> Profile:
    return Profile(name, dict(sorted(seconds.items(), key=lambda item: -item[1])))


def _openvino(path: Path, images: Float32Array) -> dict[str, float]:
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    request = openvino.compile_model(openvino.Core().read_model(path), "CPU", settings).create_infer_request()
    total: dict[str, float] = defaultdict(float)
    request.infer({INPUT_NAME: images})
    for _ in range(RUNS):
        request.infer({INPUT_NAME: images})
        for node in request.profiling_info:
            if node.real_time.total_seconds():
                total[f"{node.node_type} ({node.exec_type})"] += node.real_time.total_seconds()
    return {kind: 1000 * seconds / RUNS / len(images) for kind, seconds in total.items()}


def _onnxruntime(path: Path, images: Float32Array) -> dict[str, float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        session.run(None, {INPUT_NAME: images})
    events = json.loads(Path(session.end_profiling()).read_text())
    total: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            total[event["args"]["op_name"]] += event["dur"]  # microseconds
    return {kind: duration / 1000 / RUNS / len(images) for kind, duration in total.items()}


def profile_table(profile: Profile) -> Table:
    """The kinds of operation that take longest."""
    total = sum(profile.milliseconds.values())
    table = Table(title=f"{profile.name}: {total:.1f} ms a crop")
    table.add_column("operation")
    for heading in ("ms", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = list(profile.milliseconds.items())
    for kind, milliseconds in rows[:SHOWN]:
        table.add_row(kind, f"{milliseconds:.2f}", f"{100 * milliseconds / total:.0f} %")
    rest = sum(milliseconds for _, milliseconds in rows[SHOWN:])
    table.add_row("everything else", f"{rest:.2f}", f"{100 * rest / total:.0f} %")
    return table


def main() -> None:
    """Show where the time of a preset goes, in each runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="distilpose_s", help="preset")
    args = parser.parse_args()
    for profile in measure_profiles(args.model):
        Console().print(profile_table(profile))


if __name__ == "__main__":
    main()
