"""What a distillation step costs, part by part, and what each way of saving time is worth."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from distilpose.benchmark.measure import measure_complexity, measure_peak
from distilpose.data.augment import AugmentOptions
from distilpose.data.coco import load_person_samples
from distilpose.data.dataset import MixedSampler, PersonDataset, build_loader
from distilpose.losses import DistillationCriterion, DistillationOptions, Labels
from distilpose.models import create_model, token_encoder
from distilpose.models.distilpose import DistilPose
from distilpose.models.linear import TokenLinear
from distilpose.models.outputs import HeatmapOutput

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
from synthetic_people import write_synthetic_dataset

BATCH = 16
STEPS = 5
PARTS = ("teacher", "student forward", "losses", "backward", "optimizer")


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


@dataclass(frozen=True)
class StepOptions:
    """Ways to make a step faster; without any it is the plain eager float32 loop.

    Attributes:
        channels_last: images, weights and feature maps with the channels innermost.
        fused_attention: torch's fused attention instead of two products and a softmax, and the encoder's linear
            layers by its convolution kernels (`models.linear`).
        fused_adam: one kernel for the whole update.
        stored_teacher: the teacher's outputs are there already (`training.teacher_cache`).
        bfloat16: mixed precision: other arithmetic, so never part of a float32 figure.
    """

    channels_last: bool = False
    fused_attention: bool = False
    fused_adam: bool = False
    stored_teacher: bool = False
    bfloat16: bool = False


TOGETHER = StepOptions(channels_last=True, fused_attention=True, fused_adam=True)
VARIANTS = {
    "plain loop": StepOptions(),
    "channels last alone": StepOptions(channels_last=True),
    "attention and linear alone": StepOptions(fused_attention=True),
    "fused Adam alone": StepOptions(fused_adam=True),
    "all three": TOGETHER,
    "all, stored teacher": replace(TOGETHER, stored_teacher=True),
    "all, bfloat16": replace(TOGETHER, bfloat16=True),
    "all, bfloat16, stored teacher": replace(TOGETHER, bfloat16=True, stored_teacher=True),
}


class StepTimes(NamedTuple):
    """One way of stepping.

    Attributes:
        speed: samples per second beside the peak.
        seconds: of each of `PARTS`, median.
    """

    speed: Measurement
    seconds: tuple[float, ...]


def measure_step(name: str, size_hw: tuple[int, int], options: StepOptions, steps: int = STEPS) -> StepTimes:
    """Time bare distillation steps on random tensors: distilpose_s taught by tokenpose_s.

    The arithmetic that a step cannot avoid is counted: three times the student's forward pass and, unless stored,
    once the teacher's. The peak is that of the step's own arithmetic.

    Args:
        name: of the figure.
        size_hw: (H, W) of the crops.
        options: how to step.
        steps: timed, after one that is not.
    """
    step = _Step(size_hw, options)
    peak = measure_peak(torch.bfloat16 if options.bfloat16 else torch.float32)
    with _attention(options.fused_attention):
        step.run()
        laps = [step.run() for _ in range(steps)]
    seconds = tuple(statistics.median(lap[part] for lap in laps) for part in range(len(PARTS)))
    total = statistics.median(sum(lap) for lap in laps)
    return StepTimes(Measurement(name, BATCH / total, step.gmacs, peak), seconds)


def measure_with_data(size_hw: tuple[int, int], steps: int = STEPS, workers: int = 1) -> tuple[float, float]:
    """Samples per second of steps on crops that are read, augmented and normalized meanwhile, and of bare ones.

    Args:
        size_hw: (H, W) of the crops.
        steps: timed.
        workers: processes that load.

    Returns:
        with data loading, bare; one step of each in turn, medians.
    """
    step = _Step(size_hw, TOGETHER)
    with tempfile.TemporaryDirectory() as folder:
        annotations = write_synthetic_dataset(Path(folder), 64)
        samples = load_person_samples(annotations, annotations.parent / "images").samples
        dataset = PersonDataset(samples, size_hw, augment=AugmentOptions(color_jitter=0.3))
        sampler = MixedSampler([len(samples)], samples_per_epoch=BATCH * (2 * steps + 2))
        batches = iter(build_loader(dataset, batch_size=BATCH, sampler=sampler, num_workers=workers))
        loaded, bare = [], []
        for _ in range(2):
            step.run(next(batches).images)
        for _ in range(steps):
            start = time.perf_counter()
            step.run(next(batches).images)
            loaded.append(time.perf_counter() - start)
            next(batches)  # the loader works during the bare step as well
            start = time.perf_counter()
            step.run()
            bare.append(time.perf_counter() - start)
    return BATCH / statistics.median(loaded), BATCH / statistics.median(bare)


class _Step:
    """Models, optimizer and tensors of one way of stepping."""

    def __init__(self, size_hw: tuple[int, int], options: StepOptions) -> None:
        student = create_model("distilpose_s", input_size_hw=size_hw)
        assert isinstance(student, DistilPose)
        self._options = options
        self._student = student
        teacher = create_model("tokenpose_s", input_size_hw=size_hw).eval().requires_grad_(False)
        self._teacher = teacher
        known = SimpleNamespace(tokens=teacher.token_layout, keypoint_mask=[True] * teacher.num_keypoints)
        self._criterion = DistillationCriterion(DistillationOptions(), student, known)
        teacher_gmacs = 0 if options.stored_teacher else _gmacs("tokenpose_s", size_hw)
        self.gmacs = 3 * _gmacs("distilpose_s", size_hw) + teacher_gmacs
        self._format = torch.channels_last if options.channels_last else torch.contiguous_format
        for model in (self._student, self._teacher):
            model.to(memory_format=self._format)  # type: ignore[call-overload]  # torch's stub lacks it
        self._adam = torch.optim.Adam(student.parameters(), fused=options.fused_adam, foreach=False)
        self._images = torch.randn(BATCH, 3, *size_hw)
        self._target, self._weight = torch.rand(BATCH, 17, 2), torch.ones(BATCH, 17)
        with torch.no_grad():
            self._stored: HeatmapOutput[Tensor] = self._teacher(self._images)

    def run(self, images: Tensor | None = None) -> tuple[float, ...]:
        """One step; seconds of each of `PARTS`."""
        clock = [time.perf_counter()]
        images = (self._images if images is None else images).contiguous(memory_format=self._format)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._options.bfloat16):
            with torch.no_grad():
                heard = self._stored if self._options.stored_teacher else self._teacher(images)
            clock.append(time.perf_counter())
            output = self._student(images)
        clock.append(time.perf_counter())
        terms = self._criterion(output, heard, Labels(self._target, self._weight, self._weight > 0))
        clock.append(time.perf_counter())
        self._adam.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        clock.append(time.perf_counter())
        self._adam.step()
        clock.append(time.perf_counter())
        return tuple(end - start for start, end in pairwise(clock))


@cache
def _gmacs(name: str, size_hw: tuple[int, int]) -> float:
    """Of one crop; counted once, not for every way of stepping."""
    with torch.random.fork_rng():  # a cached call draws nothing, so the first must leave no trace
        return measure_complexity(create_model(name, input_size_hw=size_hw)).gmacs


@contextmanager
def _attention(fused: bool) -> Iterator[None]:
    if fused:
        yield
        return
    with textbook_encoder():
        yield


@contextmanager
def textbook_encoder() -> Iterator[None]:
    """Attention as two products and a softmax, and torch's own linear layers, as the published code has them."""
    with (
        patch.object(token_encoder, "attention", _plain_attention),
        patch.object(TokenLinear, "forward", torch.nn.Linear.forward),
    ):
        yield


def _plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weight = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
    mixed: Tensor = weight @ value
    return mixed


TRAINING_SIZES_HW = {"128x96": (128, 96), "256x192": (256, 192)}


def main() -> None:
    """Show the speed of distillation steps and of data loading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="timed of each variant; 1 for a short run")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of a step")
    parser.add_argument(
        "--sizes", nargs="+", choices=TRAINING_SIZES_HW, default=list(TRAINING_SIZES_HW), help="of crops"
    )
    args = parser.parse_args()
    measurements = []
    parts: dict[str, dict[str, tuple[float, ...]]] = {}
    for height, width in map(TRAINING_SIZES_HW.__getitem__, args.sizes):
        of_size = parts[f"{height} x {width}"] = {}
        for variant in args.variants:
            name = f"step {height} x {width}, {variant}"
            times = measure_step(name, (height, width), VARIANTS[variant], args.steps)
            measurements.append(times.speed)
            of_size[variant] = times.seconds
    height, width = TRAINING_SIZES_HW[args.sizes[0]]
    peak = measure_peak()
    for name, speed in zip(
        ("from files", "bare, in turn with it"), measure_with_data((height, width), args.steps), strict=True
    ):
        measurements.append(Measurement(f"step {height} x {width}, {name}", speed, 0, peak))
    Console().print(_steps_table(measurements))
    for size, of_size in parts.items():
        Console().print(_parts_table(size, of_size))


def _steps_table(measurements: list[Measurement]) -> Table:
    table = Table(title=f"training with {torch.get_num_threads()} threads, median of the runs; step: of distillation")
    table.add_column("what")  # the names fold on a narrow terminal, the figures never
    for heading in ("per\nsecond", "of torch's\nproduct", "GFLOP/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for m in measurements:
        share = "-" if m.share_of_peak is None else f"{100 * m.share_of_peak:.0f} %"
        table.add_row(m.name, f"{m.per_second:.1f}", share, f"{m.peak_gflops:.0f}")
    return table


def _parts_table(size: str, parts: Mapping[str, tuple[float, ...]]) -> Table:
    table = Table(title=f"where the time of a {size} distillation step goes")
    table.add_column("what")
    for heading in ("ms", *(part.replace(" ", "\n") for part in PARTS)):
        table.add_column(heading, justify="right", no_wrap=True)
    for variant, seconds in parts.items():
        total = sum(seconds)
        table.add_row(variant, f"{1000 * total:.0f}", *(f"{100 * lap / total:.0f} %" for lap in seconds))
    return table


if __name__ == "__main__":
    main()
