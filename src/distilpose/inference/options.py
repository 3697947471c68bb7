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
        anonymize: blur the people found in all that is drawn: their faces, which is meant without a value, or with
            body their whole boxes
        keypoint_threshold: do not draw keypoints of a lower score
        crops: write each person cut out of the image, in crops/
        format: also write the poses so, one or several (commas may part them): coco-dataset, jsonl, parquet, csv,
            csv-wide, csv-dlc, openpose, openpose-coco, yolo, labelstudio, trc
        preview: camera: show it on a page of this machine at this port; 0: any free port
    """

    images: bool = True
    style: Literal["sides", "people", "labels", "skeleton", "minimal"] | None = None
    anonymize: Literal["none", "face", "body"] = option("none", bare="face")
    keypoint_threshold: NonNegativeFloat = option(0.0, metavar="S")
    crops: bool = False
    format: list[str] = option([], metavar="NAME")
    preview: Port | None = option(metavar="PORT")

    def __post_init__(self) -> None:
        check_options(self)
        check_formats(self.formats)

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of all formats to write, in `formats.writers.WRITERS`; ``coco`` is always among them."""
        return ("coco", *(name.strip() for names in self.format for name in names.split(",") if name.strip()))


@dataclass(frozen=True)
class PredictOptions:
    """What to predict, with what, and what to write.

    Attributes:
        sources: images, videos, folders, patterns such as 'photos/**/*.jpg', file: addresses, webcam:0, - (an image
            on the standard input)
        out: folder of the results, made if missing
        model: checkpoint (.safetensors, released .pth), exported file (.onnx, .xml, .tflite), folder of
            save_pretrained, hub id, or the name of one that comes with the package
        device: where the pose model runs: auto, cpu, cuda, cuda:1, mps, openvino:GPU
        threads: of one run on the CPU; a thread per physical core, at most four, by default
        boxes: person boxes: a file (COCO detections or annotations, YOLO, CSV, MOT), or the box itself for every
            image: 10,20,300,400 (left, top, right, bottom in pixels; several with ; between)
        annotations: COCO json whose images tell which id each file has
        detector: where boxes come from without --boxes. auto: the detector that comes with the package, with weak boxes
            that a sure pose confirms; nanodet: the same without them; whole-image: one person fills the image, and the
            box is fitted to the pose; onnx:FILE; hf:FOLDER or hf:ID: a detector of the transformers library. Default:
            auto
        tile: also look for people in tiles with sides of so many pixels: small people in large images
        detection_threshold: leave out boxes with a lower score; by default it depends on the detector, and a sure pose
            keeps a weak box of the built-in one
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
    device: str = "auto"
    threads: PositiveInt | None = None
    boxes: str | Path | None = option(metavar="FILE|X1,Y1,X2,Y2")
    annotations: str | Path | None = option(metavar="FILE")
    detector: DetectorSource | None = option(metavar="NAME")
    tile: PositiveInt | None = None
    detection_threshold: float | None = option(metavar="S")
    max_people: PositiveInt | None = None
    flip_test: FlipTest = "off"
    batch_size: PositiveInt = 8  # on CPUs more is no faster and takes memory
    video: VideoOptions = field(default_factory=VideoOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    def __post_init__(self) -> None:
        check_options(self)
