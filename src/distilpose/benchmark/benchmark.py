"""What `distilpose benchmark` measures, in one run on one machine, beside that machine's matrix-product peak."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from distilpose.benchmark.accuracy import accuracy_table, measure_accuracy
from distilpose.benchmark.detection import detection_table, measure_detection
from distilpose.benchmark.end_to_end import end_to_end_table, measure_end_to_end
from distilpose.benchmark.inference_speed import WAYS, measure_files, measure_speeds, speeds_table
from distilpose.benchmark.plot import plot_accuracy_against_speed
from distilpose.errors import ConfigError
from distilpose.models import list_models

STUDENT = "distilpose_s"


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        models: presets to time in every runtime; without them and ``files``, all of them.
        files: checkpoints and exported files to time.
        runtimes: those in which ``models`` are timed; all when empty.
        end_to_end: the whole way from files to ``predictions.json``.
        model: trained model of ``annotations``, whose exports are evaluated.
        annotations: COCO keypoint file.
        images: its images.
        calibration: what int8 is calibrated with.
        detector: how many people of ``annotations`` it finds.
    """

    models: Sequence[str] = ()
    files: Sequence[Path] = ()
    runtimes: Sequence[str] = ()
    end_to_end: bool = True
    model: str | Path = ""
    annotations: Path | None = None
    images: Path | None = None
    calibration: Path | None = None
    detector: str | None = None


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
        plot: image of published accuracy against measured speed to write.
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
    labeled = (options.annotations, options.images)
    if any((*labeled, options.calibration)) and not all(labeled):
        raise ConfigError("accuracy needs --annotations and --images together: name both or none")
    if all(labeled) and not options.calibration and not options.detector:
        raise ConfigError("with --annotations name --calibration for the exports of --model, or --detector, or both")

    def say(what: str) -> None:
        if progress is not None:
            progress.print(f"measuring {what} ...", style="dim")

    content: dict[str, Any] = {"threads": torch.get_num_threads()}

    def write(name: str, values: Any) -> None:
        content[name] = values
        if json_file is not None:
            Path(json_file).write_text(json.dumps(content, indent=2) + "\n")

    others = options.files or options.detector
    models = options.models or ([] if others else list_models())
    speeds = measure_speeds(models, runtimes=options.runtimes, say=say) + measure_files(options.files, say=say)
    if speeds:
        show(speeds_table(speeds))
        write("inference", [speed.to_dict() for speed in speeds])
    if plot is not None:
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
