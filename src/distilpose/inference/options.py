"""Options of ``distilpose predict`` and of `predict_files`, which takes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distilpose.backends.loading import DEFAULT_MODEL
from distilpose.errors import ConfigError
from distilpose.formats.writers import check_formats
from distilpose.inference.decoding import FlipTest
from distilpose.options import NonNegativeFloat, Port, PositiveInt, Seconds, check_options, option

if TYPE_CHECKING:
    from torch import nn

    from distilpose.backends.base import InferenceBackend
    from distilpose.detection.detectors import Detector

    ModelSource = nn.Module | InferenceBackend | str | Path
    DetectorSource = Detector | str
    Sources = Sequence[str | Path]
else:  # what a command line can say
    ModelSource = DetectorSource = str
    Sources = list[str]


@dataclass(frozen=True)
class VideoOptions:
    """How videos and cameras are read and followed.

    Attributes:
        every: videos: take each n-th frame
        start: videos: first second, or [HOURS:]MINUTES:SECONDS
        end: videos and cameras: where to stop; the end by default
        detect_every: videos and cameras: run the detector in each n-th frame taken; between detections, boxes follow
            the tracked poses. Default: ten times a second in a video, each third frame of 30 a second; in every frame
            of a camera
        smooth: smooth the poses of a video over time

    Raises:
        ConfigError: a number is out of range.
    """

    every: PositiveInt = 1
    start: Seconds = option(0.0, metavar="TIME")
    end: Seconds | None = option(metavar="TIME")
    detect_every: PositiveInt | None = None
    smooth: bool = True

    def __post_init__(self) -> None:
        check_options(self)
        if self.end is not None and not self.end > self.start:
            raise ConfigError(f"expected start < end in seconds, got start {self.start} and end {self.end}")


@dataclass(frozen=True)
class OutputOptions:
    """What is written beside ``predictions.json``.

    Attributes:
        images: draw the people of each image and video
        style: how people are drawn; sides on images and people on videos by default
        anonymize: blur the faces, or the whole boxes (body), of the people found in all that is drawn
        keypoint_threshold: do not draw keypoints of a lower score
        crops: write each person cut out of the image, in crops/
        format: besides predictions.json, one or several of csv, csv-wide, csv-dlc, coco-dataset, jsonl, parquet,
            openpose, openpose-coco, yolo, labelstudio, trc, separated by commas
        json_lines: the same as --format jsonl
        parquet: the same as --format parquet
        preview: camera: show it on a page of this machine at this port; 0: any free port
    """

    images: bool = True
    style: Literal["sides", "people", "labels", "skeleton", "minimal"] | None = None
    anonymize: Literal["none", "face", "body"] = "none"
    keypoint_threshold: NonNegativeFloat = option(0.0, metavar="S")
    crops: bool = False
    format: str = option("coco", metavar="NAME[,NAME]")
    json_lines: bool = False
    parquet: bool = False
    preview: Port | None = option(metavar="PORT")

    def __post_init__(self) -> None:
        check_options(self)
        check_formats(self.formats)

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of all formats to write, in `formats.writers.WRITERS`; ``coco`` is always among them."""
        more = {"jsonl": self.json_lines, "parquet": self.parquet}
        names = [name.strip() for name in self.format.split(",") if name.strip()]
        return ("coco", *names, *(name for name, is_wanted in more.items() if is_wanted))


@dataclass(frozen=True)
class PredictOptions:
    """What to predict, with what, and what to write.

    Attributes:
        sources: images, videos, folders, patterns such as 'photos/**/*.jpg', file: addresses, webcam:0
        out: folder of the results, made if missing
        model: checkpoint (.safetensors, released .pth), exported file (.onnx, .xml), folder of save_pretrained, hub
            id, or the name of one that comes with the package
        boxes: person boxes: COCO detections or annotations (json)
        annotations: COCO json whose images tell which id each file has
        detector: where boxes come from without --boxes. hf:FOLDER or hf:ID: a detector of the transformers library;
            onnx:FILE; hog: OpenCV's, which finds whole upright people only; whole-image: one person fills the image.
            Default: a small hf: model if it is there or can be downloaded, else hog
        detection_threshold: leave out boxes with a lower score; by default it depends on the detector
        max_people: of each image, those with the best boxes
        flip_test: average with the mirrored crop: half as fast, a little more accurate ('reference': as published)
        batch_size: crops per run of the model, of one or several images
        video: how videos and cameras are read
        output: what is written

    Raises:
        ConfigError: a value is out of range.
    """

    sources: Sources = option(metavar="SOURCE", positional=True)
    out: str | Path = option("poses", metavar="DIR")
    model: ModelSource = option(DEFAULT_MODEL, metavar="NAME|FILE")
    boxes: str | Path | None = option(metavar="FILE")
    annotations: str | Path | None = option(metavar="FILE")
    detector: DetectorSource | None = option(metavar="NAME")
    detection_threshold: float | None = option(metavar="S")
    max_people: PositiveInt | None = None
    flip_test: FlipTest = "off"
    batch_size: PositiveInt = 8  # on CPUs more is no faster and takes memory
    video: VideoOptions = field(default_factory=VideoOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    def __post_init__(self) -> None:
        check_options(self)
