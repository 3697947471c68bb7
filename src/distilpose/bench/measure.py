"""One figure, the seconds behind it, and the peak it is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

PEAK_SIDE = 2048


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Attributes:
        name: what was done.
        per_second: how often, median of several runs; crops, or steps times batch size.
        gmacs: 1e9 multiply-accumulates of one, 0 where that is not the point.
        peak_gflops: matrix-product peak measured right before.
    """

    name: str
    per_second: float
    gmacs: float
    peak_gflops: float

    @property
    def share_of_peak(self) -> float | None:
        """Useful arithmetic over the peak; None where arithmetic is not the point."""
        return 2 * self.gmacs * self.per_second / self.peak_gflops if self.gmacs else None


def measure_peak(dtype: torch.dtype = torch.float32) -> float:
    """GFLOP/s of a matrix product in ``dtype``, best of three: what this machine can do right now."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE).to(dtype)
    return 2 * PEAK_SIDE**3 / min(_seconds(lambda: a @ a) for _ in range(3)) / 1e9


def median_seconds(work: Callable[[], object], runs: int = 5) -> float:
    """Of some work, after one run that is not timed."""
    work()  # warm up
    return statistics.median(_seconds(work) for _ in range(runs))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
