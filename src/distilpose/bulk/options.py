"""Options of ``distilpose predict-bulk`` and of `predict_bulk`, which takes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distilpose.backends.loading import DEFAULT_MODEL
from distilpose.errors import ConfigError
from distilpose.inference.decoding import FlipTest
from distilpose.options import PositiveInt, check_options, option

SHARD_SIZE = 500  # images: some seconds of work, which is what a killed worker costs


@dataclass(frozen=True)
class BulkOptions:
    """What to predict, with what, where, and by how many processes.

    Attributes:
        source: folder of images, with all below it; Parquet list of paths; tar shards; or a pattern: 'shards/*.tar'.
            On a cluster every machine must see it, and --out, under the same path
        out: folder of the results, made if missing; a run that was stopped goes on in it
        model: exported file (.onnx, .xml, .tflite), foreign network (.onnx, .zip), checkpoint, or the name of one that
            comes with the package; a checkpoint is exported first where that is possible
        device: where the pose model runs: auto, cpu, cuda, cuda:1, mps, openvino:GPU
        address: Ray cluster: auto on one of its machines, or HOST:6379; without it, work on this machine
        detector: as of predict: auto, nanodet, hf:FOLDER, onnx:FILE, whole-image; auto without --boxes
        tile: also look for people in tiles with sides of so many pixels: small people in large images
        detection_threshold: leave out boxes with a lower score; by default it depends on the detector, and a sure pose
            keeps a weak box of the built-in one
        boxes: column of a list with the people of each image, a list of x1, y1, x2, y2 in image pixels, null for
            nobody; in place of a detector
        box_scores: column of a list with the scores of --boxes; 1 each by default
        paths: column of a list with the images
        ids: column of a list that becomes image_id: whole numbers or texts; by default the number that a
            file's name is, else a free one from 1 on
        root: folder that relative paths of a list start from; where the list lies by default
        max_people: of each image, those with the best boxes
        flip_test: average with the mirrored crop: half as fast, a little more accurate ('reference': as published)
        workers: processes, at most as many as the cores of all machines allow; so many by default
        threads: cores of each worker
        batch_size: crops per run of the model
        shard_size: images per output file
        retry_failed: do output files with failed images again
        accept_failures: write failures as rows also where storage seems to be at fault: input or output errors, a lack
            of memory, or a shard of 10 and more whose images are all missing. Else such shards stay unfinished

    Raises:
        ConfigError: a value is out of range, or options do not go together.
    """

    source: str | Path = option(metavar="SOURCE", positional=True)
    out: str | Path = option("poses", metavar="DIR")
    model: str | Path = option(DEFAULT_MODEL, metavar="NAME|FILE")
    device: str = "auto"
    address: str | None = option(metavar="RAY")
    detector: str | None = option(metavar="NAME")
    tile: PositiveInt | None = None
    detection_threshold: float | None = option(metavar="S")
    boxes: str | None = option(metavar="COLUMN")
    box_scores: str | None = option(metavar="COLUMN")
    paths: str = option("path", metavar="COLUMN")
    ids: str | None = option(metavar="COLUMN")
    root: str | Path | None = option(metavar="DIR")
    max_people: PositiveInt | None = None
    flip_test: FlipTest = "off"
    workers: PositiveInt | None = None
    threads: PositiveInt = 1
    batch_size: PositiveInt = 8
    shard_size: PositiveInt = SHARD_SIZE
    retry_failed: bool = False
    accept_failures: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.boxes is not None and self.detector is not None:
            raise ConfigError(f"expected a boxes column or a detector, got both: {self.boxes} and {self.detector}")
        if self.box_scores is not None and self.boxes is None:
            raise ConfigError(f"the scores in {self.box_scores!r} need boxes: name their column as well")
