"""The whole way: images on disk to ``predictions.json``, and where its time goes."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import numpy as np
from rich.table import Table

from distilpose.backends.base import InferenceBackend
from distilpose.backends.loading import as_backend
from distilpose.data.images import read_image, write_image
from distilpose.data.preprocess import network_input
from distilpose.data.synthetic import draw_people
from distilpose.export.export import SUFFIXES, export_model
from distilpose.formats.boxes import match_boxes
from distilpose.formats.writers import PoseRecord, prediction_rows, write_predictions
from distilpose.inference.options import OutputOptions, PredictOptions
from distilpose.inference.predict import predict_files
from distilpose.inference.predictor import PosePredictor
from distilpose.models import create_model
from distilpose.types import FloatArray, ImageArray

T = TypeVar("T")

IMAGES = 60
IMAGE_HW = (480, 640)
PEOPLE = 3  # of an image; what is wholly covered drops out
BATCH = 8
ROUNDS = 3


class EndToEnd(NamedTuple):
    """One runtime, images in a row.

    Attributes:
        runtime: its name.
        images_per_second: from files to ``predictions.json``, no images drawn.
        people_per_second: likewise.
        bare_per_second: people per second of the network alone at the same batch size.
        milliseconds: of one person, each stage alone: decoding, cropping, network, output.
    """

    runtime: str
    images_per_second: float
    people_per_second: float
    bare_per_second: float
    milliseconds: dict[str, float]

    @property
    def share_of_bare(self) -> float:
        """Whole way over network alone."""
        return self.people_per_second / self.bare_per_second


def measure_end_to_end(name: str = "distilpose_s", say: Callable[[str], None] = lambda _: None) -> list[EndToEnd]:
    """Predict drawn people in JPEG files of 640 x 480 with a preset of fresh weights, in every runtime.

    Args:
        name: preset.
        say: told what is being done.
    """
    with tempfile.TemporaryDirectory() as folder:
        images, boxes = _draw(Path(folder) / "images")
        model = create_model(name).eval()
        backends: dict[str, InferenceBackend] = {"torch": as_backend(model)}
        for runtime, format in (("onnxruntime", "onnx"), ("openvino", "openvino")):
            path = Path(folder) / f"model{SUFFIXES[format]}"  # type: ignore[index]
            export_model(model, path, format=format)  # type: ignore[arg-type]
            backends[runtime] = as_backend(path)
        found = []
        for runtime, backend in backends.items():
            say(f"end to end, {name}, {runtime}")
            found.append(_measure(runtime, backend, images, boxes, Path(folder) / "out"))
        return found


def _draw(folder: Path) -> tuple[list[Path], Path]:
    folder.mkdir()
    rows, images = [], []
    for number in range(IMAGES):
        image, people = draw_people(np.random.default_rng(number), IMAGE_HW, PEOPLE)
        images.append(folder / f"{number}.jpg")
        write_image(images[-1], image)
        rows += [{"image_id": number, "box_xyxy": person.box_xyxy.tolist(), "score": 1.0} for person in people]
    boxes = folder / "boxes.json"
    boxes.write_text(json.dumps(rows))
    return images, boxes


def _measure(runtime: str, backend: InferenceBackend, images: Sequence[Path], boxes: Path, out: Path) -> EndToEnd:
    matched = match_boxes(boxes, images, None).people
    people = sum(len(found.boxes_xyxy) for found in matched.values())
    crops = np.zeros((BATCH, *backend.description.input_size_hw, 3), dtype=np.uint8)
    network_images = network_input(crops, backend.description.normalization)
    backend(network_images)
    whole, bare, plain = [], [], OutputOptions(images=False)
    for _ in range(ROUNDS):  # in turn
        bare += [_seconds(lambda: backend(network_images)) / BATCH for _ in range(5)]
        report, seconds = _timed(
            lambda: predict_files(PredictOptions(images, out, model=backend, boxes=boxes, output=plain))
        )
        assert report.num_people == people
        whole.append(seconds)
    bare += [_seconds(lambda: backend(network_images)) / BATCH for _ in range(5)]
    predictor = PosePredictor(backend, batch_size=BATCH)
    read, decoding = _timed(lambda: [read_image(path) for path in images])
    pairs = [(image, matched[path].boxes_xyxy) for path, image in zip(images, read, strict=True)]
    cropping = median(
        _seconds(lambda: [len(predictor.prepare(image, of_image).images) for image, of_image in pairs])
        for _ in range(ROUNDS)
    )
    network = median(bare)
    total = median(whole) / people
    milliseconds = {
        "decoding": 1000 * decoding / people,
        "cropping": 1000 * cropping / people,
        "network": 1000 * network,
        "output": 1000 * _output_seconds(predictor, pairs, out / "alone.json") / people,
    }
    return EndToEnd(runtime, len(images) / median(whole), 1 / total, 1 / network, milliseconds)


def _output_seconds(predictor: PosePredictor, pairs: Sequence[tuple[ImageArray, FloatArray]], out: Path) -> float:
    """Of bringing keypoints back into their images and writing them."""
    prepared = [predictor.prepare(image, boxes) for image, boxes in pairs if len(boxes)]
    keypoints = [predictor.run(item.images) for item in prepared]

    def write() -> None:
        rows = []
        for item, found in zip(prepared, keypoints, strict=True):
            result = predictor.finish(item, found)
            rows += prediction_rows(PoseRecord(out.name, result, size_hw=(0, 0)))
        write_predictions(out, rows)

    return median(_seconds(write) for _ in range(ROUNDS))


def end_to_end_table(found: Sequence[EndToEnd], name: str = "distilpose_s") -> Table:
    """One runtime in a row."""
    table = Table(
        title=f"{name}, float32: {IMAGES} JPEG files of {IMAGE_HW[1]} x {IMAGE_HW[0]} to predictions.json",
        caption=f"batches of {BATCH}, no images drawn; ms: each stage alone",
    )
    table.add_column("")
    for row in found:
        table.add_column(row.runtime, justify="right", no_wrap=True)
    lines: list[tuple[str, list[str]]] = [
        ("images per second", [f"{row.images_per_second:.1f}" for row in found]),
        ("people per second", [f"{row.people_per_second:.1f}" for row in found]),
        ("people per second, network alone", [f"{row.bare_per_second:.1f}" for row in found]),
        ("whole way over network alone", [f"{100 * row.share_of_bare:.0f} %" for row in found]),
    ]
    for stage in found[0].milliseconds:
        lines.append((f"{stage}, ms a person", [f"{row.milliseconds[stage]:.2f}" for row in found]))
    for what, cells in lines:
        table.add_row(what, *cells)
    return table


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _seconds(work: Callable[[], object]) -> float:
    return _timed(work)[1]
