"""One model in one runtime, timed by `benchmark.run_worker` in a process with memory and threads of its own."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distilpose.backends.base import runtime_of
from distilpose.backends.loading import as_backend
from distilpose.data.preprocess import network_input

FEWEST_RUNS = 5
LEAST_SECONDS = 0.7


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """Time one file: ``file``, ``batches``, and settings of `as_backend`.

    Returns:
        Median ``seconds`` by batch size, ``peak_megabytes`` and ``runtime``, what ran it.
    """
    seconds = {}
    settings = {name: job[name] for name in ("device", "threads", "compute") if name in job}
    run = as_backend(job["file"], **settings)
    for batch in job["batches"]:
        shape = (batch, *run.description.input_size_hw, 3)
        crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        images = network_input(crops, run.description.normalization)
        run(images)
        times: list[float] = []
        while len(times) < FEWEST_RUNS or sum(times) < LEAST_SECONDS:
            start = time.perf_counter()
            run(images)
            times.append(time.perf_counter() - start)
        seconds[batch] = statistics.median(times)
    return {"seconds": seconds, "peak_megabytes": _peak_megabytes(), "runtime": str(runtime_of(run))}


def _peak_megabytes() -> float | None:
    """Most memory this process has held, in 1e6 bytes; None where the system does not say (Linux does)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    # Not getrusage: its figure begins with that of the process that started this one.
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    json.dump(measure(json.loads(sys.argv[1])), sys.stdout)
