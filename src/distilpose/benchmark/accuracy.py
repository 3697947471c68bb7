"""One trained model, exported every way: the same people, the same protocol, what each format costs in AP."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.table import Table

from distilpose.backends.checkpoint import describe
from distilpose.backends.loading import as_backend
from distilpose.backends.openvino import OpenVinoBackend
from distilpose.benchmark.inference_speed import BATCHES, ROUNDS, Way, file_bytes, run_worker, way_file
from distilpose.evaluation.evaluate import evaluate_set
from distilpose.evaluation.evaluation_set import EvaluationSet
from distilpose.export.calibration import calibration_crops
from distilpose.export.export import torch_model

WAYS = (
    Way("torch", "float32"),
    Way("onnxruntime", "float32"),
    Way("onnxruntime", "float16 weights", "float16"),
    Way("onnxruntime", "int8", "int8"),
    Way("openvino", "float32"),
    Way("openvino", "float16 weights", "float16"),
    Way("openvino", "bfloat16", bfloat16=True),
    Way("openvino", "int8", "int8"),
)


class Accuracy(NamedTuple):
    """A model in one runtime and number format.

    Attributes:
        runtime: its name.
        variant: number format.
        file_megabytes: size of the file in 1e6 bytes.
        ap: COCO AP as a fraction.
        ar: COCO AR as a fraction.
        pck: PCK@0.2 over all keypoints as a fraction; None where nothing is labeled.
        milliseconds: of one crop, by batch size.
        images: how many were evaluated.
    """

    runtime: str
    variant: str
    file_megabytes: float
    ap: float
    ar: float
    pck: float | None
    milliseconds: dict[int, float]
    images: int


def measure_accuracy(
    model: str | Path,
    annotations: Path,
    images: Path,
    calibration: Path,
    say: Callable[[str], None] = lambda _: None,
) -> list[Accuracy]:
    """Export a trained model every way, evaluate each file without flip test, and time it.

    Args:
        model: name or checkpoint.
        annotations: COCO keypoint file to evaluate on.
        images: its images.
        calibration: what `calibration_crops` takes; other people than those of ``annotations``.
        say: told what is being done.

    Raises:
        ConfigError: the model is an exported file.
        DatasetError, InputError, CheckpointError: a file is unusable.
    """
    loaded = torch_model(model)
    description = describe(loaded)
    people = EvaluationSet.load(
        annotations,
        images,
        input_size_hw=description.input_size_hw,
        skeleton=description.skeleton,
        keep_crops=True,
    )
    crops = calibration_crops(calibration, description.input_size_hw, description.skeleton)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            say(f"accuracy of {model}, {way.runtime}, {way.variant}")
            path = way_file(loaded, way, Path(folder), crops)
            backend = OpenVinoBackend(path, compute="bfloat16") if way.bfloat16 else as_backend(path)
            result = evaluate_set(backend, people)
            seconds = [run_worker(path, way, BATCHES)["seconds"] for _ in range(ROUNDS)]
            found.append(
                Accuracy(
                    runtime=way.runtime,
                    variant=way.variant,
                    file_megabytes=file_bytes(path) / 1e6,
                    ap=result.metrics["AP"],
                    ar=result.metrics["AR"],
                    pck=result.per_joint["all"].pck,
                    milliseconds={
                        batch: 1000 * median(lap[str(batch)] for lap in seconds) / batch for batch in BATCHES
                    },
                    images=result.counts["images"],
                )
            )
    return found


def accuracy_table(found: Sequence[Accuracy], model: str, annotations: Path) -> Table:
    """One way in a row."""
    table = Table(
        title=f"{model} exported every way: {found[0].images} images of {annotations.parent.name}, ground-truth boxes",
        caption="x 100, no flip test; b: crops in a batch; ms of one crop",
    )
    table.add_column("runtime, numbers", no_wrap=True)
    for heading in ("AP", "AR", "PCK\n@0.2", *(f"ms\nb {batch}" for batch in BATCHES), "file\nMB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found:
        scores = ("-" if value is None else f"{100 * value:.1f}" for value in (row.ap, row.ar, row.pck))
        times = (f"{value:.2f}" for value in row.milliseconds.values())
        table.add_row(f"{row.runtime}, {row.variant}", *scores, *times, f"{row.file_megabytes:.1f}")
    return table
