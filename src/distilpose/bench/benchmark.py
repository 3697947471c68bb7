"""What `distilpose benchmark` measures, in one run on one machine, beside that machine's matrix-product peak."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from distilpose.bench.accuracy import accuracy_table, measure_accuracy
from distilpose.bench.bulk import bulk_table, measure_bulk
from distilpose.bench.data_throughput import measure_data_throughput
from distilpose.bench.detection import detection_table, measure_detection
from distilpose.bench.end_to_end import end_to_end_table, measure_end_to_end
from distilpose.bench.film_speed import film_table, measure_film, tracked_poses
from distilpose.bench.inference_speed import (
    WAYS,
    measure_files,
    measure_speeds,
    ratios_table,
    speed_ratios,
    speeds_table,
)
from distilpose.bench.ladder import ladder_table, measure_ladder, plot_ladder
from distilpose.bench.measure import Measurement, measure_peak, measure_peaks
from distilpose.bench.people_over_time import (
    measure_smoothing,
    measure_smoothing_of,
    measure_tracking,
    smoothing_table,
    tracking_table,
)
from distilpose.bench.plot import plot_accuracy_against_speed
from distilpose.bench.profile import measure_profiles, profile_table
from distilpose.bench.serving import measure_serving, serving_tables
from distilpose.bench.training_speed import PARTS, VARIANTS, measure_step, measure_with_data
from distilpose.bulk.cost import ClusterAssumptions, cost_table
from distilpose.errors import ConfigError
from distilpose.models import list_models

TRAINING_SIZES_HW = ((128, 96), (256, 192))
STUDENT = "distilpose_s"


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        models: presets to time in every runtime; without them and ``files``, all of them.
        files: checkpoints and exported files to time.
        runtimes: those in which ``models`` are timed; all when empty.
        ladder: ``out`` folder of a finished `distilpose ablate` of students, to hold accuracy against speed.
        end_to_end: the whole way from files to ``predictions.json``.
        profile: kinds of operation inside the runtimes, before and after the rewrites.
        training: distillation steps and data loading.
        model: trained model of ``annotations``, whose exports are evaluated, of ``films``, ``serving`` and ``bulk``.
        annotations: COCO keypoint file.
        images: its images.
        calibration: what int8 is calibrated with.
        films: to measure from file to drawn film, and how much steadier smoothing makes their poses.
        detector: of the people in ``films``, `hog` when None; with ``annotations``: how many people it finds.
        over_time: tracking and smoothing on generated scenes.
        serving: the server under load, beside the bare pipeline.
        bulk: bulk prediction of thousands of pictures, beside a plain loop.
    """

    models: Sequence[str] = ()
    files: Sequence[Path] = ()
    runtimes: Sequence[str] = ()
    ladder: Path | None = None
    end_to_end: bool = True
    profile: bool = False
    training: bool = False
    model: str | Path = ""
    annotations: Path | None = None
    images: Path | None = None
    calibration: Path | None = None
    films: Sequence[Path] = ()
    detector: str | None = None
    over_time: bool = False
    serving: bool = False
    bulk: bool = False


def benchmark(
    options: BenchmarkOptions,
    *,
    show: Callable[[Table], None],
    json_file: str | Path | None = None,
    plot: str | Path | None = None,
    progress: Console | None = None,
) -> None:
    """Measure, showing each table as soon as it is there; ``json_file`` is written again with each.

    Args:
        options: what to measure.
        show: called with each table.
        json_file: where to write the numbers as well.
        plot: picture of accuracy against measured speed to write: of the ladder where one is named, else as published.
        progress: where to say what is being measured.

    Raises:
        ConfigError: an unknown preset, or accuracy options that do not belong together.
    """
    unknown = sorted(set(options.models) - set(list_models()))
    if unknown:
        raise ConfigError(f"models must be among {', '.join(list_models())}, got {', '.join(unknown)}")
    runtimes = sorted({way.runtime for way in WAYS})
    if set(options.runtimes) - set(runtimes):
        raise ConfigError(f"runtimes must be among {', '.join(runtimes)}, got {', '.join(options.runtimes)}")
    labelled = (options.annotations, options.images)
    if any((*labelled, options.calibration)) and not all(labelled):
        raise ConfigError("accuracy needs --annotations and --images together: name both or none")
    if all(labelled) and not options.calibration and not options.detector:
        raise ConfigError("with --annotations name --calibration for the exports of --model, or --detector, or both")

    def say(what: str) -> None:
        if progress is not None:
            progress.print(f"measuring {what} ...", style="dim")

    content: dict[str, Any] = {"threads": torch.get_num_threads()}

    def write(name: str, values: Any) -> None:
        content[name] = values
        if json_file is not None:
            Path(json_file).write_text(json.dumps(content, indent=2) + "\n")

    if options.training:  # first: its loader forks, which wants a process without the runtimes' threads
        _training(show, write, say)
    others = any(
        (
            options.files,
            options.ladder,
            options.films,
            options.over_time,
            options.detector,
            options.serving,
            options.bulk,
        )
    )
    models = options.models or ([] if others else list_models())
    speeds = measure_speeds(models, runtimes=options.runtimes, say=say) + measure_files(options.files, say=say)
    if speeds:
        show(speeds_table(speeds))
        write("inference", [speed.to_dict() for speed in speeds])
    ratios = speed_ratios(speeds)
    if ratios:
        show(ratios_table(ratios))
        write("ratios", [ratio._asdict() for ratio in ratios])
    if options.ladder is not None:
        steps = measure_ladder(options.ladder, say=say)
        show(ladder_table(steps))
        write("ladder", [{"rung": step.name, "ap": step.ap, "pck": step.pck, **step.speed.to_dict()} for step in steps])
        if plot is not None:
            plot_ladder(steps, Path(plot))
    elif plot is not None:
        plot_accuracy_against_speed(speeds, Path(plot))
    if options.end_to_end and models:
        whole = measure_end_to_end(STUDENT, say)
        show(end_to_end_table(whole, STUDENT))
        write("end_to_end", [{**row._asdict(), "share_of_bare": row.share_of_bare} for row in whole])
    if options.annotations and options.images and options.calibration:
        found = measure_accuracy(options.model, options.annotations, options.images, options.calibration, say)
        show(accuracy_table(found, str(options.model), options.annotations))
        write("accuracy", [row._asdict() for row in found])
    if options.annotations and options.images and options.detector:
        say(f"people found by {options.detector}")
        quality = measure_detection(options.detector, options.annotations, options.images)
        show(detection_table(quality, options.detector, options.annotations))
        write("detection", quality._asdict())
    _films(options, show, write, say)
    _services(options, show, write, say)
    if options.profile:
        say(f"profiles of {STUDENT}")
        profiles = measure_profiles(STUDENT)
        for profile in profiles:
            show(profile_table(profile))
        write("profiles", [profile._asdict() for profile in profiles])


def _films(
    options: BenchmarkOptions,
    show: Callable[[Table], None],
    write: Callable[[str, Any], None],
    say: Callable[[str], None],
) -> None:
    if options.over_time:
        say("tracking on generated scenes")
        tracking = measure_tracking()
        show(tracking_table(tracking))
        write("tracking", [row._asdict() for row in tracking])
        say("smoothing on generated motion")
        smoothing = measure_smoothing()
        show(smoothing_table(smoothing))
        write("smoothing", [row._asdict() for row in smoothing])
    speeds, steadiness, detector = {}, [], options.detector or "hog"
    for film in options.films:
        found = measure_film(film, detector, options.model, say)
        show(film_table(found, film, detector, measure_peaks().highest))
        speeds[film.name] = [speed._asdict() for speed in found]
        say(f"smoothing of {film.name}")
        steadiness += measure_smoothing_of(tracked_poses(film, detector, options.model), film.name)
    if options.films:
        show(smoothing_table(steadiness))
        write("films", speeds)
        write("smoothing_of_films", [row._asdict() for row in steadiness])


def _services(
    options: BenchmarkOptions,
    show: Callable[[Table], None],
    write: Callable[[str, Any], None],
    say: Callable[[str], None],
) -> None:
    if options.serving:
        report = measure_serving(options.model, say=say)
        peak = measure_peaks().highest
        for table in serving_tables(report, peak):
            show(table)
        write("serving", {**report._asdict(), "peak_gflops": peak, "loads": [load._asdict() for load in report.loads]})
    if options.bulk:
        bulk = measure_bulk(options.model, say)
        peak = measure_peaks().highest
        show(bulk_table(bulk, peak))
        show(cost_table(bulk.rates, ClusterAssumptions()))
        speeds = [speed._asdict() for speed in bulk.speeds]
        write("bulk", {"speeds": speeds, "rates": bulk.rates._asdict(), "peak_gflops": peak})


def _training(show: Callable[[Table], None], write: Callable[[str, Any], None], say: Callable[[str], None]) -> None:
    say("data loading")
    data = measure_data_throughput()
    measurements = [
        Measurement("training crops from files, per core", data.from_files, 0, measure_peak()),
        Measurement("training crops from memory, per core", data.from_cache, 0, measure_peak()),
    ]
    parts: dict[str, dict[str, tuple[float, ...]]] = {}
    for height, width in TRAINING_SIZES_HW:
        of_size = parts[f"{height} x {width}"] = {}
        for variant, options in VARIANTS.items():
            name = f"step {height} x {width}, {variant}"
            say(name)
            times = measure_step(name, (height, width), options)
            measurements.append(times.speed)
            of_size[variant] = times.seconds
    say("distillation with data loading")
    height, width = TRAINING_SIZES_HW[0]
    peak = measure_peak()
    for name, speed in zip(("from files", "bare, in turn with it"), measure_with_data((height, width)), strict=True):
        measurements.append(Measurement(f"step {height} x {width}, {name}", speed, 0, peak))
    show(_steps_table(measurements))
    write("figures", [{**asdict(m), "share_of_peak": m.share_of_peak} for m in measurements])
    step_seconds = {}
    for size, of_size in parts.items():
        show(_parts_table(size, of_size))
        for variant, seconds in of_size.items():
            step_seconds[f"{size}, {variant}"] = dict(zip(PARTS, seconds, strict=True))
    write("step_seconds", step_seconds)


def _steps_table(measurements: list[Measurement]) -> Table:
    table = Table(title=f"training with {torch.get_num_threads()} threads, median of 5 runs; step: of distillation")
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
