"""Images to poses in one call: a person detector and a pose model."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import lru_cache
from io import IOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike

from distilpose.backends.device import AUTO
from distilpose.backends.loading import DEFAULT_MODEL
from distilpose.data.images import as_image
from distilpose.detection.detectors import DEFAULT_DETECTOR, Detector
from distilpose.errors import DistilPoseError, InputError, naming
from distilpose.geometry import check_boxes_xyxy
from distilpose.inference.batching import predict_stream
from distilpose.inference.decoding import FlipTest
from distilpose.inference.options import VideoOptions
from distilpose.inference.people import (
    FittedWholeImage,
    Frame,
    FrameId,
    best_rows,
    checked_people,
    locate,
    open_detector,
)
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.inference.sources import local_path
from distilpose.options import check_count
from distilpose.types import ImageArray
from distilpose.video.reader import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from distilpose.backends.base import InferenceBackend
    from distilpose.video.pipeline import FrameResult

    ImageSource = str | Path | Image | ImageArray


class PoseEstimator:
    """Finds the people in images and videos and their keypoints.

    Args:
        model: what `PosePredictor` takes; the one that comes with the package by default.
        detector: ``auto``, the one that comes with the package; ``whole-image`` for images of one person; another
            that `create_detector` takes; or a detector.
        device: where the pose model runs: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``openvino:GPU``.
        threads: of one run on the CPU; a thread per physical core, at most four, when None.
        flip_test: see `PosePredictor`.
        batch_size: crops that the model sees at once.
        detection_threshold: least score of a person box; the detector's own when None, and a sure pose keeps a weak box
            of the built-in one.
        max_people: of an image, those with the best boxes; all when None.
        tile: side in pixels of tiles in which the built-in detector also looks, for small people in large images.

    Attributes:
        predictor: boxes to poses.
        detector: images to boxes.

    Raises:
        ConfigError: a name, a device or a number is none, or a package is missing.
        CheckpointError: the model file is unusable.

    Example:
        >>> estimator = PoseEstimator(detector="whole-image")
        >>> estimator(np.zeros((120, 90, 3), np.uint8))
        PoseResult(1 person, coco_17, pose_score 0.00, image 120x90)
    """

    def __init__(
        self,
        model: nn.Module | InferenceBackend | str | Path = DEFAULT_MODEL,
        detector: str | Detector = DEFAULT_DETECTOR,
        device: str = AUTO,
        *,
        threads: int | None = None,
        flip_test: FlipTest = "off",
        batch_size: int = 8,
        detection_threshold: float | None = None,
        max_people: int | None = None,
        tile: int | None = None,
    ) -> None:
        if max_people is not None:
            max_people = check_count(max_people, "max_people")
        self.predictor = PosePredictor(
            model,
            flip_test=flip_test,
            device=None if device == AUTO else device,
            batch_size=batch_size,
            threads=threads,
        )
        self.detector = open_detector(
            detector, self.predictor, threshold=detection_threshold, threads=threads, tile=tile
        )
        self._max_people = 1 if isinstance(self.detector, FittedWholeImage) else max_people

    def __call__(self, image: ImageSource, boxes_xyxy: ArrayLike | None = None, *, bgr: bool = False) -> PoseResult:
        """Find the N >= 0 people of one image, best box first or in the order of the boxes; see `predict`."""
        pixels, scores = _pixels(image, bgr), None
        if boxes_xyxy is None:
            (people,) = checked_people(self.detector([pixels]), 1)
            kept = best_rows(people.box_score, self._max_people)
            boxes_xyxy, scores = people.boxes_xyxy[kept], people.box_score[kept]
        else:
            check_boxes_xyxy(boxes_xyxy, pixels.shape[:2])
        return replace(self.predictor(pixels, boxes_xyxy, scores), source=_name(image))

    def predict(self, images: Iterable[ImageSource], *, bgr: bool = False) -> Generator[PoseResult]:
        """Find the people of many images, taken as they are needed, the crops of several in one run of the model.

        Yields:
            A result per image, in their order. Memory is bounded.

        Raises:
            InputError: one image is given; or at the first image that is unusable, with its place from 0 and its path;
                those before it were given. `stream` and `predict_files` go on without what is unusable.
        """
        if not _are_several(images):
            got = f"an array of shape {images.shape}" if hasattr(images, "shape") else type(images).__name__
            raise InputError(f"expected several images, got {got}: for one image call the estimator itself")
        located = locate(_frames(images, bgr), self._find, max_people=self._max_people)
        with closing(predict_stream(self.predictor, located, keep_images=True)) as stream:
            for number, (frame_id, image, result, error) in enumerate(stream):
                if error is not None:
                    raise type(error)(f"image {number}: {naming(_name(frame_id.source), error)}") from error
                assert result is not None
                yield replace(result, image=image, source=_name(frame_id.source))

    def stream(
        self, source: str | Path | int, options: VideoOptions | None = None, *, keep_images: bool = True
    ) -> Iterator[FrameResult]:
        """Find and follow the people of a video or of what a camera sees.

        Args:
            source: path of a video, or number of a camera, 0 for the first.
            options: frames to take, detection in each n-th, smoothing.
            keep_images: give ``frame.image`` and ``frame.result.image``.

        Yields:
            A `FrameResult` per frame: ``result`` with track ids, smoothed; or ``error`` where it is None, and the next
            frames follow. With smoothing it comes some frames late.

        Raises:
            InputError: the video or the camera cannot be opened.
            ConfigError: PyAV is not installed.
        """
        from distilpose.inference.interruption import Interruption
        from distilpose.video.camera import Webcam, watch_camera
        from distilpose.video.pipeline import watch_video
        from distilpose.video.reader import VideoReader

        options = options or VideoOptions()
        if options.detect_every is None and isinstance(self.detector, FittedWholeImage):
            options = replace(options, detect_every=1)  # its boxes need no frame before
        common: dict[str, Any] = {"max_people": self._max_people, "interruption": Interruption()}
        with ExitStack() as stack:
            if not isinstance(source, int | str | Path):
                raise InputError(f"expected the path of a video or the number of a camera, got {source!r}")
            if isinstance(source, int):
                name = f"webcam:{source}"
                frames = watch_camera(Webcam(source), name, self.predictor, self._find, options, **common)
            else:
                reader = VideoReader(source, every=options.every, start=options.start, end=options.end)
                stack.enter_context(reader)
                frames = watch_video(reader, self.predictor, self._find, options, keep_images=keep_images, **common)
            for frame in stack.enter_context(closing(frames)):
                own = None if frame.result is None else replace(frame.result, image=frame.image)
                yield frame._replace(result=own)

    def _find(self, frames: Sequence[tuple[FrameId, ImageArray]]) -> Any:
        return self.detector([image for _, image in frames])


@overload
def predict(
    source: ImageSource, *, boxes_xyxy: ArrayLike | None = None, bgr: bool = False, **options: Any
) -> PoseResult: ...
@overload
def predict(source: Sequence[ImageSource], *, bgr: bool = False, **options: Any) -> list[PoseResult]: ...
@overload
def predict(source: Iterable[ImageSource], *, bgr: bool = False, **options: Any) -> Iterator[PoseResult]: ...
def predict(
    source: ImageSource | Iterable[ImageSource],
    *,
    boxes_xyxy: ArrayLike | None = None,
    bgr: bool = False,
    **options: Any,
) -> PoseResult | list[PoseResult] | Iterator[PoseResult]:
    """Find the people in images and their keypoints.

    The last estimator is kept, so that a second call with the same options loads nothing.

    Args:
        source: a path, a Pillow image or an array, (H, W, 3) uint8 RGB or (H, W) gray; a list of them; or a generator.
        boxes_xyxy: (N, 4) person boxes of one image in its pixels, in place of a detector.
        bgr: arrays are in OpenCV's order of channels.
        **options: of `PoseEstimator`, such as ``model`` and ``detector``.

    Returns:
        Of one image a result; of a list a list in its order; of a generator a generator, in constant memory.

    Raises:
        InputError: an image or a box is unusable; of several images the first such one, with its place and path. Or
            boxes are given with several images.
        ConfigError: an option is.
        CheckpointError: the model file is unusable.

    Example:
        >>> results = predict([np.zeros((120, 90, 3), np.uint8)] * 2)
        >>> len(results), len(results[0])
        (2, 0)
    """
    try:
        estimator = _kept_estimator(**options)
    except TypeError:  # an option without a hash, such as an array; or one that does not exist
        estimator = PoseEstimator(**options)
    if not _are_several(source):
        return estimator(source, boxes_xyxy, bgr=bgr)  # type: ignore[arg-type]
    if boxes_xyxy is not None:
        raise InputError("expected boxes_xyxy with one image, got several images: predict them one by one")
    results = estimator.predict(source, bgr=bgr)  # type: ignore[arg-type]
    return list(results) if isinstance(source, Sequence | np.ndarray) else results


_ONE_IMAGE = (str, bytes, bytearray, memoryview, IOBase, Mapping)


def _are_several(source: object) -> bool:
    """Whether these are images, not one; texts, bytes, open files and mappings are one, or none."""
    if hasattr(source, "__array__"):
        return np.ndim(source) in (1, 4)  # names, or images of one size
    return isinstance(source, Iterable) and not isinstance(source, _ONE_IMAGE)


@lru_cache(maxsize=1)
def _kept_estimator(**options: Any) -> PoseEstimator:
    return PoseEstimator(**options)


def _pixels(source: object, bgr: bool) -> ImageArray:
    if isinstance(source, str | Path):
        source = local_path(source)
        if source.suffix.lower() in VIDEO_SUFFIXES:
            raise InputError(f"{source} is a video: follow its people with PoseEstimator().stream({str(source)!r})")
    return as_image(source, bgr=bgr)


def _name(source: object) -> str:
    """What a result calls its image: its path, if it was one."""
    return str(source) if isinstance(source, str | Path) and source != Path() else ""


def _frames(images: Iterable[ImageSource], bgr: bool) -> Iterator[Frame]:
    for source in images:
        try:
            image = _pixels(source, bgr)
        except DistilPoseError as error:
            yield FrameId(Path()), error  # whose text has the path
        else:
            yield FrameId(Path(_name(source)), size_hw=(image.shape[0], image.shape[1])), image
