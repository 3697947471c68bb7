"""Files in, files out: ``distilpose predict``."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from distilpose.boxes_file import PersonBoxes, match_boxes, match_image_ids
from distilpose.errors import ConfigError, DistilPoseError, InputError
from distilpose.images import list_images, read_image, write_image
from distilpose.inference.detectors import create_detector
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.stream import Predicted, Scene, predict_stream
from distilpose.postprocess import FlipTest
from distilpose.results import PoseResult

if TYPE_CHECKING:
    from torch import nn

    from distilpose.runtimes import Runner

PREDICTIONS_NAME = "predictions.json"
BATCH_SIZE = 8  # on CPUs more is no faster and takes memory
DRAWING_THREADS = 2
DRAWN_POSE_SCORE = 0.2  # weaker people, mostly false boxes of a detector, are written but not drawn


class PredictReport(NamedTuple):
    """What `predict_files` did.

    Attributes:
        predictions: the file written.
        num_images: images predicted, with people or without.
        num_people: people in them.
        failures: one line for each image left out: its name and why. A command that has any exits with 1.
    """

    predictions: Path
    num_images: int
    num_people: int
    failures: tuple[str, ...]


class _PeopleSource(NamedTuple):
    """Where the boxes of an image come from, and its id."""

    find: Callable[[Path, NDArray[np.uint8]], PersonBoxes]
    image_ids: dict[Path, int | None]


def predict_files(
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    model: nn.Module | Runner | str | Path,
    boxes: str | Path | None = None,
    annotations: str | Path | None = None,
    detector: str | None = None,
    flip_test: FlipTest = "off",
    batch_size: int = BATCH_SIZE,
    pictures: bool = True,
    progress: bool = False,
) -> PredictReport:
    """Predict the poses in pictures and write them to ``out``.

    ``predictions.json`` is a COCO results list, one entry per person: ``image_id``, ``category_id``, ``keypoints``
    (x, y, score in [0, 1] each), ``score`` (of the pose), and besides ``image`` (path), ``box_xyxy``, ``box_score``,
    ``raw_score`` (K) as the model gave it and ``sigma`` (K, 2) in image pixels; the last two are null from a model
    that has none. ``image_id`` is null where `boxes_file.match_image_ids` finds none.

    A drawn picture is called after its image, with the folder's name in front where two share a name. People with a
    pose score below `DRAWN_POSE_SCORE` are not drawn. An unreadable image does not stop the rest, and what was
    predicted before an interruption is written.

    Args:
        sources: image files and folders of images.
        out: folder, made if missing.
        model: what `PosePredictor` takes.
        boxes: boxes file, see `boxes_file.match_boxes`.
        annotations: COCO file that gives images their ids.
        detector: name in `DETECTORS`; either this or ``boxes``.
        flip_test: see `PosePredictor`.
        batch_size: crops that the model sees at once, of one or several pictures.
        pictures: draw them.
        progress: show a bar on the standard error stream.

    Raises:
        InputError: no image, an unusable boxes or annotation file, or ``out`` would overwrite an input.
        ConfigError: not exactly one of ``boxes`` and ``detector``, or an unknown name.
        CheckpointError: the model file is unusable.
    """
    paths = list_images(sources)
    people_source = _people_source(paths, boxes, annotations, detector)
    predictor = PosePredictor(model, flip_test=flip_test, batch_size=batch_size)
    drawings = dict(zip(paths, _picture_paths(paths, Path(out)), strict=True)) if pictures else {}
    predictions = Path(out) / PREDICTIONS_NAME
    inputs = [*paths, *(Path(file) for file in (boxes, annotations) if file is not None)]
    _prepare_folder(Path(out), [predictions, *drawings.values()], inputs)
    rows: list[dict[str, Any]] = []
    failures: list[str] = []

    def load(path: Path) -> Scene:
        image = read_image(path)
        return Scene(image, *people_source.find(path, image))

    try:
        with (
            _Artist(failures) as artist,
            closing(predict_stream(predictor, paths, load, keep_images=pictures)) as stream,
        ):
            for path, image, result, error in _with_progress(stream, len(paths), progress):
                if result is None:
                    assert error is not None
                    failures.append(_naming(path, error))
                    continue
                rows += prediction_rows(result, path, people_source.image_ids[path])
                if image is not None:
                    artist.draw(path, drawings[path], image, result)
    finally:  # whatever happened to the pictures
        write_predictions(predictions, rows)
    return PredictReport(predictions, len(paths) - len(failures), len(rows), tuple(failures))


class _Artist:
    """Draws and writes pictures beside the network; no more than a few wait, and on exit none.

    Args:
        failures: gets a line for each picture that could not be written.
    """

    def __init__(self, failures: list[str]) -> None:
        self._failures = failures
        self._pool = ThreadPoolExecutor(DRAWING_THREADS, thread_name_prefix="draw")
        self._drawing: deque[tuple[Path, Future[None]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        while self._drawing:
            self._collect()

    def draw(self, source: Path, out: Path, image: NDArray[np.uint8], result: PoseResult) -> None:
        while len(self._drawing) >= 2 * DRAWING_THREADS:
            self._collect()
        self._drawing.append((source, self._pool.submit(_draw, out, image, result)))

    def _collect(self) -> None:
        source, drawing = self._drawing.popleft()
        try:
            drawing.result()
        except DistilPoseError as error:
            self._failures.append(_naming(source, error))


def _draw(path: Path, image: NDArray[np.uint8], result: PoseResult) -> None:
    write_image(path, result.filter(result.pose_score >= DRAWN_POSE_SCORE).draw(image))


def _people_source(
    paths: Sequence[Path], boxes: str | Path | None, annotations: str | Path | None, detector: str | None
) -> _PeopleSource:
    if (boxes is None) == (detector is None):
        given = "neither" if boxes is None else "both"
        raise ConfigError(f"expected either a boxes file or a detector (such as whole-image), got {given}")
    annotation_file = None if annotations is None else Path(annotations)
    if detector is not None:
        detect = create_detector(detector)
        return _PeopleSource(lambda _, image: detect([image])[0], match_image_ids(paths, annotation_file))
    assert boxes is not None
    matched = match_boxes(Path(boxes), paths, annotation_file)
    return _PeopleSource(lambda path, _: matched.people[path], matched.image_ids)


def _prepare_folder(out: Path, outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    overwritten = {path.resolve() for path in outputs} & {path.resolve() for path in inputs}
    if overwritten:
        raise InputError(f"{out} would get a file in place of the input {min(overwritten)}: choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made a folder ({error.strerror}): choose another") from error


def _picture_paths(paths: Sequence[Path], out: Path) -> list[Path]:
    """One name per image; names may not differ in case only, which some file systems ignore."""
    stems = Counter(path.stem.lower() for path in paths)
    used: set[str] = set()
    names = []
    for path in paths:
        alone = stems[path.stem.lower()] == 1
        base = path.stem if alone else f"{path.resolve().parent.name}_{path.stem}"
        name, number = base, 1
        while name.lower() in used:
            number += 1
            name = f"{base}_{number}"
        used.add(name.lower())
        names.append(out / f"{name}.jpg")
    return names


def _naming(path: Path, error: DistilPoseError) -> str:
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def prediction_rows(result: PoseResult, path: Path, image_id: int | None) -> list[dict[str, Any]]:
    """The people of one picture as entries of ``predictions.json``."""
    return [
        {
            **entry,
            "image": path.as_posix(),
            "box_xyxy": result.box[person].tolist(),
            "box_score": float(result.box_score[person]),
            "raw_score": None if result.raw_score is None else result.raw_score[person].tolist(),
            "sigma": None if result.sigma is None else result.sigma[person].tolist(),
        }
        for person, entry in enumerate(result.to_coco(image_id))
    ]


def write_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a json list, one person per line; a file of that name is replaced only when the new one is complete."""
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    part = path.with_name(f".{path.name}.part")
    part.write_text(f"[\n{lines}\n]\n" if rows else "[]\n", encoding="utf-8")
    part.replace(path)


def _with_progress(stream: Iterator[Predicted[Path]], total: int, show: bool) -> Iterable[Predicted[Path]]:
    if not show:
        return stream
    from rich.console import Console
    from rich.progress import track

    return track(stream, "Predicting", total=total, console=Console(stderr=True))
