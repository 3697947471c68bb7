"""Formats that poses are written in, by name: one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from distilpose.errors import ConfigError
from distilpose.formats.coco import coco_dataset, coco_results, json_lines, prediction_rows
from distilpose.formats.csv import DeepLabCutFolder, long_csv, wide_csv
from distilpose.formats.image_ids import image_ids
from distilpose.formats.labelstudio import label_studio_tasks
from distilpose.formats.openpose import openpose_folder
from distilpose.formats.parquet import ParquetFolder, parquet_rows, parquet_schema, write_parquet
from distilpose.formats.record import ComposedFile, GrowingFile, PoseRecord, PoseWriter
from distilpose.formats.trc import TrcFolder
from distilpose.formats.yolo import yolo_folder
from distilpose.inference.result import PoseResult

__all__ = [
    "PREDICTIONS_NAME", "WRITERS", "Format", "PoseRecord", "PoseWriter", "open_writers", "parquet_rows",
    "parquet_schema", "prediction_rows", "save_result",
]  # fmt: skip


class Format(NamedTuple):
    """How one format is written."""

    name: str  # of its file or folder among the results
    open: Callable[[Path], PoseWriter]  # makes the writer of a path
    about: str  # what opens it, in a few words


WRITERS: dict[str, Format] = {
    "coco": Format("predictions.json", coco_results, "COCO results list"),
    "coco-dataset": Format("annotations.json", coco_dataset, "COCO annotation file, for CVAT and FiftyOne"),
    "jsonl": Format("poses.jsonl", json_lines, "a JSON line per image or frame"),
    "parquet": Format("poses.parquet", ParquetFolder, "a row per person, for pandas, Polars, DuckDB"),
    "csv": Format("poses.csv", long_csv, "a row per person and keypoint"),
    "csv-wide": Format("poses_wide.csv", wide_csv, "a row per person"),
    "csv-dlc": Format("deeplabcut", DeepLabCutFolder, "DeepLabCut's header rows, a row per frame"),
    "openpose": Format("openpose", openpose_folder, "a JSON per image or frame, BODY_25"),
    "openpose-coco": Format("openpose_coco", partial(openpose_folder, order="coco_18"), "the same, COCO-18"),
    "yolo": Format("yolo", yolo_folder, "YOLO pose labels with data.yaml"),
    "labelstudio": Format("labelstudio.json", label_studio_tasks, "Label Studio tasks with predictions"),
    "trc": Format("trc", TrcFolder, "a marker file per person, for OpenSim"),
}
PREDICTIONS_NAME = WRITERS["coco"].name
_BY_SUFFIX = {".json": "coco", ".jsonl": "jsonl", ".parquet": "parquet", ".csv": "csv"}


def check_formats(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ConfigError: one is not in `WRITERS`.
    """
    for name in names:
        if name not in WRITERS:
            raise ConfigError(f"format must be one of {', '.join(WRITERS)}, got {name!r}")
    return tuple(dict.fromkeys(names))


def open_writers(folder: Path, names: Iterable[str]) -> Iterator[PoseWriter]:
    """Open the writers of several formats, one after the other; a folder's or file's name is that of its format.

    ``coco`` comes last: should another fail to open, an earlier run's ``predictions.json`` stays.

    Raises:
        ConfigError: a format is unknown, or its library is missing.
        OSError: the disk is full or not writable.
    """
    for name in sorted(check_formats(names), key=lambda name: name == "coco"):
        yield WRITERS[name].open(folder / WRITERS[name].name)


def save_result(
    result: PoseResult,
    path: str | Path,
    format: str | None = None,
    *,
    source: str = "",
    size_hw: tuple[int, int] | None = None,
    image_id: int | None = None,
) -> None:
    """Write one image's people to a file (or folder, in formats that are folders).

    ``format`` is a name in `WRITERS`; None takes it from the suffix: .json (COCO results), .jsonl, .parquet, .csv. The
    file calls the image ``source`` and ``image_id`` (by default see `image_ids`); ``size_hw`` is (H, W) in pixels, by
    default of ``result.image``. Where it fails, a file that was there stays.

    Raises:
        ConfigError: the format is unknown or cannot be told from the suffix, or its library is missing.
        InputError: the format needs the size of the image.
        OSError: the disk is full or not writable.
    """
    path = Path(path)
    name = _BY_SUFFIX.get(path.suffix.lower()) if format is None else format
    if name is None:
        raise ConfigError(
            f"{path}: expected a suffix of {', '.join(_BY_SUFFIX)}, or a format among {', '.join(WRITERS)}"
        )
    check_formats([name])
    if size_hw is None:
        size_hw = (0, 0) if result.image is None else (result.image.shape[0], result.image.shape[1])
    record = PoseRecord(source, result, size_hw, image_ids([source])[0] if image_id is None else image_id)
    if name == "parquet":  # one file, where a run makes a folder of them
        write_parquet(path, parquet_rows(record), result.skeleton.keypoint_names)
        return
    writer = WRITERS[name].open(path)
    try:
        writer.write(record)
    except BaseException:
        if isinstance(writer, GrowingFile | ComposedFile):
            writer.discard()  # not an empty file in place of a good one
        else:
            writer.close()
        raise
    writer.close()
