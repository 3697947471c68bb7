"""Lists of images in, Parquet out, on one machine or many: ``distilpose predict-bulk``."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distilpose import __version__
from distilpose.backends.address import split_address
from distilpose.backends.loading import EXPORTED_SUFFIXES, SHIPPED_MODELS, shipped_file
from distilpose.bulk.engine import check_address, max_workers, ray_session, work_in_ray
from distilpose.bulk.inputs import check_apart, fingerprint, list_inputs
from distilpose.bulk.options import BulkOptions
from distilpose.bulk.output_files import IMAGES_NAME, MODEL_NAME, POSES_NAME, RunFolder
from distilpose.bulk.worker import ShardReport, ShardWorker
from distilpose.errors import CheckpointError, ConfigError, DistilPoseError, InputError, require_package
from distilpose.files import OutputLock
from distilpose.formats.image_ids import image_ids
from distilpose.inference.progress import Meter

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)

FAILURES_TOLD = 20  # the others are in the table


class BulkReport(NamedTuple):
    """What the folder holds after `predict_bulk`."""

    poses: Path  # folder of the table with a row per person
    images: Path  # folder of the table with a row per image
    num_images: int  # images predicted, with people or without
    num_people: int  # people in all of them
    num_failed: int  # images that could not be predicted. A command that has any exits with 1.
    failures: tuple[str, ...]  # name and reason of the first `FAILURES_TOLD` of them
    num_shards: int  # of the run
    num_resumed: int  # shards that were there before


def predict_bulk(options: BulkOptions, *, progress: bool = False) -> BulkReport:
    """Predict the poses in many images, by many processes, into two Parquet tables.

    ``images/`` has a row for every row of the list: ``row`` (its place from 0), ``source``, ``image_id``, ``height``,
    ``width``, ``people``, and ``error``, which is null for all that were predicted. ``poses/`` has a row for every
    person, see `output_files.poses_schema`. The list is cut into shards, a file in either folder each. Shards that a
    run before has finished are not done again; so a run that was killed is gone on with by the same command.
    ``progress`` shows a bar on the standard error stream.

    Raises:
        InputError: ``source`` is unusable, ``out`` holds another run, is in use by one or cannot be written, or shards
            could not be done.
        ConfigError: no machine has ``threads`` cores, ``out`` would be read as ``source``, or a package is missing.
        CheckpointError: the model file is unusable.
    """
    source, root, shard_size = options.source, options.root, options.shard_size
    for package in ("pyarrow", "ray"):
        require_package(package, "bulk prediction", "bulk")
    import pyarrow

    check_apart(source, options.out)
    check_address(options.address)
    address = shipped_file(options.model)
    file, values = split_address(address)
    given = _files_at(Path(file))
    if not given:
        raise CheckpointError(
            f"{options.model} is not a file: expected a model written by distilpose export, a checkpoint, a foreign "
            f"network, or one of {', '.join(SHIPPED_MODELS)}"
        )
    columns = {"ids": options.ids, "boxes": options.boxes, "box_scores": options.box_scores}
    table = list_inputs(source, root, paths=options.paths, **columns)
    id_type = "string" if str(table.schema.field("image_id").type) == "string" else "int64"
    named = options.detector or (None if options.boxes else "auto")
    detector = None if named is None else _same_everywhere(named)
    folder = RunFolder(options.out)
    folder.start(
        {
            "distilpose": __version__,
            "source": os.path.realpath(source),
            "root": None if root is None else os.path.realpath(root),
            "list": fingerprint(table),
            "model": _digest(given),
            "model_options": values,
            "detector_content": _digest(_files_at(Path((detector or "").partition(":")[2].partition("?")[0]))),
            "images": len(table),
            "shard_size": shard_size,
            "detector": detector,
            "tile": options.tile,
            "detection_threshold": options.detection_threshold,
            "max_people": options.max_people,
            "flip_test": options.flip_test,
        }
    )
    if options.ids is None:
        ids = pyarrow.array(image_ids(table.column("source").to_pylist()), pyarrow.int64())
        table = table.set_column(table.schema.get_field_index("image_id"), "image_id", ids)
    with OutputLock(folder.path, "distilpose predict-bulk"):
        num_shards = -(-len(table) // shard_size)
        finished = folder.finished(num_shards, retry_failed=options.retry_failed)
        left = {k: table.slice(k * shard_size, shard_size) for k in range(num_shards) if k not in finished}
        if left:
            try:
                ready = f"{_ready_model(Path(file).absolute(), folder.path)}{address.removeprefix(file)}"
                boxes = options.boxes if detector is None else None
                job = replace(options, out=folder.path, model=ready, detector=detector, boxes=boxes)
                ShardWorker(job, id_type)  # what is wrong with model or detector is told here, once and in plain words
            except DistilPoseError:
                folder.abandon()
                raise
            with ray_session(options.address):
                most = max_workers(options.threads)
                reports = work_in_ray(job, id_type, [*left.items()], min(len(left), most, options.workers or most))
                _drive(reports, left, len(table), progress)
        return _report(folder, num_shards, len(finished), len(table))


def _files_at(place: Path) -> list[Path]:
    """The files of a model or a detector on the disk: one, a graph and its weights, or all of a folder."""
    if place.is_dir() and place != Path():
        return sorted(file for file in place.rglob("*") if file.is_file())
    parts = (place, place.with_suffix(".bin")) if place.suffix == ".xml" else (place,)
    return [part for part in parts if part.is_file()]


def _digest(files: Sequence[Path]) -> str | None:
    """Of the contents; None of no files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest() if files else None


def _ready_model(model: Path, out: Path) -> Path:
    """A file that workers load: exported files as they are, checkpoints exported, or themselves if that cannot be."""
    if model.suffix in (*EXPORTED_SUFFIXES, ".zip"):
        return model
    exported = out / MODEL_NAME / "model.xml"
    if exported.is_file():  # the manifest says that it is of the same model
        return exported
    from distilpose.export.export import export_model

    try:
        export_model(model, exported, format="openvino")
    except ConfigError as error:
        logger.warning("workers run the checkpoint in torch, which is slower than an exported file (%s)", error)
        return model
    return exported


def _same_everywhere(detector: str) -> str:
    """A detector's name that means the same for every worker: files by absolute paths."""
    kind, colon, place = detector.partition(":")
    file, question, keys = place.partition("?")
    return f"{kind}{colon}{Path(file).absolute()}{question}{keys}" if colon and Path(file).exists() else detector


def _drive(reports: Iterator[ShardReport], left: dict[int, pyarrow.Table], total: int, progress: bool) -> None:
    """Wait for all shards; raises what kept one from being written."""
    reasons: dict[int, str | None] = dict.fromkeys(left)
    before = total - sum(map(len, left.values()))

    def images() -> Generator[None]:
        yield from (None for _ in range(before))
        for report in reports:
            if report.disk_error is not None:
                raise InputError(f"{report.disk_error}; finished shards stay, and the same command goes on after them")
            if report.error is None:
                del reasons[report.shard]
            else:
                reasons[report.shard] = report.error
            yield from (None for _ in range(report.images))

    with Meter(progress) as meter, closing(images()) as done:
        for _ in meter.track(done, "Predicting", "images", total):
            pass
    if reasons:
        shard, reason = next(iter(reasons.items()))
        rows = left[shard].column("row")
        raise InputError(
            f"{len(reasons)} of {len(left)} shards could not be done, the first is {shard} with rows {rows[0]} to "
            f"{rows[-1]}: {reason or 'no worker answered'}. "
            "The others are finished; the same command tries these again"
        )


def _report(folder: RunFolder, num_shards: int, num_resumed: int, num_rows: int) -> BulkReport:
    images = people = failed = 0
    failures: list[str] = []
    for shard in range(num_shards):
        found = folder.summary(shard)
        images, people, failed = images + found.images, people + found.people, failed + found.failed
        if found.failed and len(failures) < FAILURES_TOLD:
            for row in folder.read_failures(shard)[: FAILURES_TOLD - len(failures)]:
                failures.append(row["error"] if row["source"] in row["error"] else f"{row['source']}: {row['error']}")
    if images != num_rows:
        raise InputError(f"{folder.path / IMAGES_NAME} has {images} rows for {num_rows} images: it was changed by hand")
    return BulkReport(
        folder.path / POSES_NAME, folder.path / IMAGES_NAME, images - failed, people, failed, tuple(failures),
        num_shards, num_resumed,
    )  # fmt: skip
