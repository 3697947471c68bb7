"""Who is in an image: the stage between reading and poses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.detection.detectors import (
    DEFAULT_DETECTOR,
    Detector,
    WholeImage,
    check_detector_fits,
    create_detector,
)
from distilpose.detection.nanodet import NANODET_THRESHOLD, NanodetDetector
from distilpose.errors import ConfigError, DistilPoseError, InputError, as_failure
from distilpose.formats.boxes import PersonBoxes, match_boxes, match_image_ids
from distilpose.geometry import check_boxes_xyxy
from distilpose.geometry.boxes import box_share_xyxy, check_array, overlaps_image
from distilpose.inference.batching import LocatedImage
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD
from distilpose.inference.predictor import PosePredictor
from distilpose.types import FloatArray, ImageArray
from distilpose.video.pose_boxes import boxes_around, find_duplicates

logger = logging.getLogger(__name__)

NOBODY = PersonBoxes(np.zeros((0, 4)), np.zeros(0))
DETECTION_BATCH = 4  # images that a detector sees at once
_FIT_KEYPOINTS = 5  # confident ones of a first pose, by which a box is fitted
_FIT_PIXELS = 8  # least side of a fitted box
WEAK_SCORE = 0.2  # least one of a box that a pose may confirm
WEAK_SIDE = 0.2  # least longer side of such a box, in longer sides of the image
SAME_PERSON_SHARE = 0.5  # overlap with a sure box, in areas of the smaller one, from which it is that person's
CONFIRMING_SCORE = 0.4  # least mean keypoint score of a pose that confirms its box


class FrameId(NamedTuple):
    """Which image, or which frame of which video or camera."""

    source: Path  # file, or ``webcam:NUMBER``
    frame: int | None = None  # number in its video, from 0; None for an image
    time: float | None = None  # of the frame in seconds; None for an image
    size_hw: tuple[int, int] = (0, 0)  # (H, W) in pixels; (0, 0) if it could not be read


Frame = tuple[FrameId, ImageArray | DistilPoseError]
Finder = Callable[[Sequence[tuple[FrameId, ImageArray]]], Sequence[PersonBoxes]]


class People(NamedTuple):
    """Where boxes come from, and the ids of the images."""

    find: Finder  # images to the boxes of each
    image_ids: dict[Path, int]  # of images; frames of videos get the next free ones


class FittedWholeImage:
    """Takes the image for an image of one person and fits the box to the pose: a first pose gives it."""

    def __init__(self, predictor: PosePredictor) -> None:
        self._predictor = predictor

    def __call__(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each -> one box of score 1 each."""
        return [self._fit(image, whole) for image, whole in zip(images, WholeImage()(images), strict=True)]

    def _fit(self, image: ImageArray, whole: PersonBoxes) -> PersonBoxes:
        first = self._predictor(image, whole.boxes_xyxy)
        score = first.score
        if score is not None and (score[0] > KEYPOINT_SCORE_THRESHOLD).sum() < _FIT_KEYPOINTS:
            return whole
        box = np.clip(boxes_around(first), 0, [image.shape[1], image.shape[0]] * 2)
        is_box = (box[0, 2:] - box[0, :2] >= _FIT_PIXELS).all()
        return PersonBoxes(box, whole.box_score) if is_box else whole


class ConfirmedDetector:
    """Finds people with the built-in detector, and those of whom it is unsure where the pose model sees a person.

    A weak box is looked at if it is large in the image and overlaps no sure one by much. It stays, with the least score
    of a sure box, if the mean score of its keypoints is high enough and no better box has the same pose.
    """

    def __init__(self, predictor: PosePredictor, *, threads: int | None = None, tile: int | None = None) -> None:
        self._predictor = predictor
        self._detector = NanodetDetector(weak_threshold=WEAK_SCORE, threads=threads, tile=tile)

    def __call__(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each -> for each N >= 0 boxes in its pixels, best score first."""
        return [self._confirm(image, found) for image, found in zip(images, self._detector(images), strict=True)]

    def _confirm(self, image: ImageArray, found: PersonBoxes) -> PersonBoxes:
        boxes, scores = found.boxes_xyxy, found.box_score.copy()
        sure = scores >= NANODET_THRESHOLD
        large = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) >= WEAK_SIDE * max(image.shape[:2])
        shared = np.maximum(box_share_xyxy(boxes, boxes[sure]), box_share_xyxy(boxes[sure], boxes).T)
        weak = ~sure & large & ~(shared > SAME_PERSON_SHARE).any(1)
        if weak.any():
            poses = self._predictor(image, boxes[weak])
            if poses.score is not None:
                is_pose = poses.score.mean(1) >= CONFIRMING_SCORE
                rows = np.flatnonzero(weak)[is_pose][~find_duplicates(poses.filter(is_pose))]
                scores[rows], sure[rows] = NANODET_THRESHOLD, True
        return PersonBoxes(boxes[sure], scores[sure])


def open_detector(
    detector: str | Detector,
    predictor: PosePredictor,
    *,
    threshold: float | None = None,
    threads: int | None = None,
    tile: int | None = None,
) -> Detector:
    """The detector of a prediction, by name as `create_detector` takes it.

    ``whole-image`` fits its box to the pose; the built-in one, without a ``threshold``, is a `ConfirmedDetector`.

    Raises:
        ConfigError: there is no such detector, or it finds people for a model of something else.
    """
    if not isinstance(detector, str):
        if not callable(detector):
            raise ConfigError(f"detector must be a name or a function of images, got {detector!r}")
        return detector
    check_detector_fits(detector, predictor.skeleton)
    if detector == DEFAULT_DETECTOR and threshold is None:
        return ConfirmedDetector(predictor, threads=threads, tile=tile)
    found = create_detector(detector, threshold=threshold, threads=threads, tile=tile)
    return FittedWholeImage(predictor) if isinstance(found, WholeImage) else found


def people_by_detector(detector: Detector, images: Sequence[Path], annotations: Path | None) -> People:
    """Boxes by a detector."""
    return People(lambda frames: detector([image for _, image in frames]), match_image_ids(images, annotations))


def people_by_hand(boxes: FloatArray, images: Sequence[Path], annotations: Path | None) -> People:
    """The same (N, 4) boxes, such as typed on the command line, for every image."""
    check_boxes_xyxy(boxes)

    def find(frames: Sequence[tuple[FrameId, ImageArray]]) -> list[PersonBoxes]:
        checked = [check_boxes_xyxy(boxes, image.shape[:2]) for _, image in frames]
        return [PersonBoxes(each, np.ones(len(each))) for each in checked]

    return People(find, match_image_ids(images, annotations))


def read_boxes(text: str) -> FloatArray | None:
    """``10,20,300,400``, several with ``;`` between -> (N, 4) boxes; None for else, such as a file's name.

    Raises:
        InputError: a box has not four numbers.
    """
    try:
        rows = [[float(number) for number in row.split(",")] for row in text.split(";")]
    except ValueError:
        return None
    if rows == [[rows[0][0]]]:  # a file whose name is a number
        return None
    if any(len(row) != 4 for row in rows):
        raise InputError(f"boxes must be a file, or X1,Y1,X2,Y2 with ; between boxes, got {text!r}: give four numbers")
    return np.array(rows)


def people_by_file(
    boxes: Path, images: Sequence[Path], videos: Sequence[Path], annotations: Path | None, threshold: float
) -> People:
    """Boxes from a file, those with a score of ``threshold`` and above.

    Raises:
        InputError: a file is unreadable or broken, fits no source, or has boxes of a video without frame numbers.
    """
    matched = match_boxes(boxes, [*images, *videos], annotations)
    for video in videos:
        if len(matched.people[video].box_score):
            raise InputError(f"{boxes}: boxes of the video {video} need a frame field, the number of the frame from 0")
    for image, _ in matched.frames:
        if image not in videos:
            raise InputError(f"{boxes}: boxes of the image {image} have a frame field, which only videos have")

    def find(frames: Sequence[tuple[FrameId, ImageArray]]) -> list[PersonBoxes]:
        found = []
        for frame_id, image in frames:
            if frame_id.frame is None:
                people = matched.people[frame_id.source]
            else:
                people = matched.frames.get((frame_id.source, frame_id.frame), NOBODY)
            good = people.box_score >= threshold
            inside = overlaps_image(people.boxes_xyxy, image.shape[:2])
            if (good & ~inside).any():
                box = people.boxes_xyxy[good & ~inside][0].tolist()
                logger.warning("%s: a box lies outside of %s and is left out: %s", boxes, frame_id.source, box)
            good &= inside
            found.append(PersonBoxes(people.boxes_xyxy[good], people.box_score[good]))
        return found

    return People(find, {image: matched.image_ids[image] for image in images})


def best_rows(score: FloatArray, max_people: int | None) -> NDArray[np.intp]:
    """Rows of the ``max_people`` highest scores, best first; all in their order when there are no more."""
    if max_people is None or len(score) <= max_people:
        return np.arange(len(score))
    return np.argsort(-score, kind="stable")[:max_people]


def locate(
    frames: Iterable[Frame], find: Finder, *, max_people: int | None = None, batch: int = DETECTION_BATCH
) -> Generator[tuple[FrameId, LocatedImage | DistilPoseError]]:
    """Find the people of image after image, ``batch`` at once.

    Args:
        frames: images, or why there is none.
        find: their boxes.
        max_people: people of an image that are kept.
        batch: images given to ``find`` at once. An error of one batch is tried again one by one.
    """
    rest = iter(frames)
    while several := list(islice(rest, batch)):
        readable = [(frame_id, image) for frame_id, image in several if not isinstance(image, DistilPoseError)]
        found = iter(_find_all(readable, find))
        for frame_id, image in several:
            people = image if isinstance(image, DistilPoseError) else next(found)
            if isinstance(people, DistilPoseError):
                yield frame_id, people
            else:
                assert not isinstance(image, DistilPoseError)
                kept = best_rows(people.box_score, max_people)
                yield frame_id, LocatedImage(image, people.boxes_xyxy[kept], people.box_score[kept])


def checked_people(people: Iterable[PersonBoxes], num_images: int) -> list[PersonBoxes]:
    """What a detector, perhaps a foreign one, has found in so many images, as arrays that fit together.

    Raises:
        InputError: there is not one answer for each image, or a box or a score is unusable.
    """
    try:
        answers = [(found.boxes_xyxy, found.box_score) for found in people]
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"expected a list of PersonBoxes from the detector, got {type(people).__name__}: {error}"
        ) from error
    if len(answers) != num_images:
        raise InputError(f"expected a detector's boxes for each of {num_images} images, got {len(answers)} answers")
    checked = []
    for boxes_xyxy, box_score in answers:
        boxes = check_boxes_xyxy(boxes_xyxy)
        checked.append(PersonBoxes(boxes, check_array(box_score, "box_score", len(boxes))))
    return checked


def _find_all(frames: Sequence[tuple[FrameId, ImageArray]], find: Finder) -> Sequence[PersonBoxes | DistilPoseError]:
    try:
        return checked_people(find(frames), len(frames)) if frames else ()
    except Exception as error:  # of a foreign detector, or of one image
        if len(frames) == 1:
            return (as_failure(error),)
    return [found for frame in frames for found in _find_all([frame], find)]
