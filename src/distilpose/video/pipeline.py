"""A film: frames -> people -> poses -> tracks -> smooth tracks, each stage beside the others, memory bounded."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.data.prefetch import run_ahead
from distilpose.errors import DistilPoseError
from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry import box_iou_xyxy
from distilpose.inference.batching import Predicted, predict_stream
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import FilmOptions
from distilpose.inference.people import NOBODY, Finder, Place, Shot, best_rows, locate
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.types import ImageArray
from distilpose.video.pose_boxes import find_duplicates
from distilpose.video.reader import VideoReader
from distilpose.video.smoothing import smooth_zero_lag
from distilpose.video.tracking import PoseTracker

FRAMES_AHEAD = 4
SAME_PERSON_IOU = 0.3  # of a detected and an expected box, from which on the detector has not missed the person


class Seen(NamedTuple):
    """A frame with the people in it, or why there are none.

    Attributes:
        place: of the frame.
        image: (H, W, 3) uint8 RGB; None where pictures are not kept, or the frame is broken.
        result: its people, with track ids.
        error: why there is no result.
    """

    place: Place
    image: ImageArray | None
    result: PoseResult | None
    error: DistilPoseError | None


def watch_film(
    reader: VideoReader,
    predictor: PosePredictor,
    find: Finder,
    options: FilmOptions,
    *,
    most: int | None = None,
    keep_images: bool,
    interruption: Interruption,
) -> Generator[Seen]:
    """Predict a film frame by frame.

    Args:
        reader: of the film.
        predictor: of the poses.
        find: the boxes of frames.
        options: ``detect_every`` and ``smooth``; the reader knows the rest.
        most: people of a frame that are kept.
        keep_images: hand the frames on.
        interruption: ends the film early; what was read until then is finished.
    """
    ahead = run_ahead(_shots(reader, interruption), FRAMES_AHEAD)
    if options.detect_every == 1:
        scenes = run_ahead(locate(ahead, find, most=most), FRAMES_AHEAD)
        seen = _tracked(predict_stream(predictor, scenes, keep_images=keep_images))
    else:
        seen = follow(ahead, predictor, find, options.detect_every, most=most, keep_images=keep_images)
    with closing(ahead), closing(seen):
        if not options.smooth:
            yield from seen
            return
        for item, result in smooth_zero_lag(_timed(seen)):
            yield item._replace(result=result)


def _timed(seen: Iterable[Seen]) -> Iterator[tuple[Seen, PoseResult | None, float]]:
    time = 0.0
    for item in seen:
        if item.result is not None:  # the times of broken frames are guesses
            assert item.place.time is not None
            time = item.place.time
        yield item, item.result, time


def _shots(reader: VideoReader, interruption: Interruption) -> Iterator[Shot]:
    for number, time, image, error in reader.frames():
        if interruption.requested:
            return
        if image is None:
            assert error is not None
            yield Place(reader.path, number, time), error
        else:
            yield Place(reader.path, number, time, (image.shape[0], image.shape[1])), image


def _tracked(stream: Iterable[Predicted[Place]]) -> Generator[Seen]:
    tracker = PoseTracker()
    for place, image, result, error in stream:
        assert place.time is not None
        if result is not None:
            result = tracker.update(result, place.time)
        yield Seen(place, image, result, error)


def follow(
    shots: Iterable[Shot],
    predictor: PosePredictor,
    find: Finder,
    detect_every: int,
    *,
    most: int | None = None,
    keep_images: bool,
) -> Generator[Seen]:
    """Predict frame by frame, with a detector in each n-th only: in between, people are where their pose leads.

    One frame needs the poses of the one before, so there are no batches across frames.

    Args:
        shots: frames, or why there is none.
        predictor: of the poses.
        find: the boxes of frames.
        detect_every: n.
        most: people of a frame that are kept.
        keep_images: hand the frames on.
    """
    tracker = PoseTracker()
    since_detection = detect_every
    for place, image in shots:
        since_detection += 1
        if isinstance(image, DistilPoseError):
            yield Seen(place, None, None, image)
            continue
        assert place.time is not None
        try:
            expected = tracker.expected(place.time)
            detected = NOBODY
            if since_detection >= detect_every:  # a frame that failed makes the next one due
                detected = find([(place, image)])[0]
                since_detection = 0
            people, is_detected = joined(detected, expected, most)
            result = predictor(image, *people)
            single = ~find_duplicates(result)
            result = tracker.update(result.filter(single), place.time, detected=is_detected[single])
        except DistilPoseError as error:
            yield Seen(place, None, None, error)
            continue
        yield Seen(place, image if keep_images else None, result, None)


def joined(
    detected: PersonBoxes, expected: PersonBoxes, most: int | None = None
) -> tuple[PersonBoxes, NDArray[np.bool_]]:
    """The detected boxes, and the expected ones of people whom the detector has missed.

    Args:
        detected: boxes of a detector.
        expected: boxes of `PoseTracker.expected`.
        most: people that are kept.

    Returns:
        The people, and (N,) True for those detected.
    """
    missed = ~(box_iou_xyxy(expected.boxes_xyxy, detected.boxes_xyxy) > SAME_PERSON_IOU).any(1)
    boxes = np.concatenate([detected.boxes_xyxy, expected.boxes_xyxy[missed]])
    scores = np.concatenate([detected.box_score, expected.box_score[missed]])
    kept = best_rows(scores, most)
    is_detected = np.arange(len(scores)) < len(detected.box_score)
    return PersonBoxes(boxes[kept], scores[kept]), is_detected[kept]
