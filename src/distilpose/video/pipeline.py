"""A video: frames -> people -> poses -> tracks -> smooth tracks; decoding and detection run ahead in threads."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.data.prefetch import prefetch
from distilpose.errors import DistilPoseError, as_failure
from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry import box_iou_xyxy
from distilpose.geometry.boxes import overlaps_image
from distilpose.inference.batching import Predicted, predict_stream
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import VideoOptions
from distilpose.inference.people import NOBODY, Finder, Frame, FrameId, best_rows, checked_people, locate
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.types import ImageArray
from distilpose.video.pose_boxes import find_duplicates
from distilpose.video.reader import VideoReader
from distilpose.video.smoothing import smooth_zero_lag
from distilpose.video.tracking import PoseTracker

DetectedFrame = tuple[FrameId, tuple[ImageArray, PersonBoxes] | DistilPoseError]

FRAMES_AHEAD = 4
# At 30 frames a second each third frame halves the CPU time, and no person or track is lost; at 5 to 10, where people
# move farther between frames, leaving one out loses some (docs/benchmarks.md, benchmarks/detect_every.py).
DETECTIONS_PER_SECOND = 10.0
SAME_PERSON_IOU = 0.3  # of a detected and an expected box, from which on the detector has not missed the person


class FrameResult(NamedTuple):
    """A frame with the people in it, or why there are none."""

    frame_id: FrameId
    image: ImageArray | None  # (H, W, 3) uint8 RGB; None where images are not kept, or the frame is broken
    result: PoseResult | None  # its people, with track ids
    error: DistilPoseError | None  # why there is no result


def watch_video(
    reader: VideoReader,
    predictor: PosePredictor,
    find: Finder,
    options: VideoOptions,
    *,
    max_people: int | None = None,
    keep_images: bool,
    interruption: Interruption,
) -> Generator[FrameResult]:
    """Predict a video frame by frame; after an interruption what was read until then is finished.

    Of the options ``detect_every`` and ``smooth`` count here, the reader knows the rest. ``max_people`` of a frame are
    kept; ``keep_images`` hands the frames on.
    """
    ahead = prefetch(takewhile(lambda _: not interruption.requested, reader.frames()), FRAMES_AHEAD)
    located_images: Generator[Any]
    detect_every = options.detect_every or max(1, round(reader.rate / DETECTIONS_PER_SECOND))
    if detect_every == 1:
        located_images = prefetch(locate(ahead, find, max_people=max_people), FRAMES_AHEAD)
        frame_results = _tracked(predict_stream(predictor, located_images, keep_images=keep_images))
    else:
        located_images = prefetch(detect_some(ahead, find, detect_every), FRAMES_AHEAD)
        frame_results = follow(located_images, predictor, max_people=max_people, keep_images=keep_images)
    with closing(ahead), closing(located_images), closing(frame_results):
        if not options.smooth:
            yield from frame_results
            return
        for item, result in smooth_zero_lag(_timed(frame_results)):
            yield item._replace(result=result)


def _timed(frame_results: Iterable[FrameResult]) -> Iterator[tuple[FrameResult, PoseResult | None, float]]:
    time = 0.0
    for item in frame_results:
        if item.result is not None:  # the times of broken frames are guesses
            assert item.frame_id.time is not None
            time = item.frame_id.time
        yield item, item.result, time


def _tracked(stream: Iterable[Predicted[FrameId]]) -> Generator[FrameResult]:
    tracker = PoseTracker()
    for frame_id, image, result, error in stream:
        assert frame_id.time is not None
        if result is not None:
            result = tracker.update(result, frame_id.time)
        yield FrameResult(frame_id, image, result, error)


def detect_some(frames: Iterable[Frame], find: Finder, detect_every: int) -> Generator[DetectedFrame]:
    """Run the detector in each ``detect_every``-th frame; a frame that fails makes the next one due."""
    since_detection = detect_every
    for frame_id, image in frames:
        since_detection += 1
        if isinstance(image, DistilPoseError):
            yield frame_id, image
        elif since_detection < detect_every:
            yield frame_id, (image, NOBODY)
        else:
            try:
                (people,), since_detection = checked_people(find([(frame_id, image)]), 1), 0
            except Exception as error:  # of a foreign detector, or of this frame alone
                yield frame_id, as_failure(error)
            else:
                yield frame_id, (image, people)


def follow(
    frames: Iterable[DetectedFrame],
    predictor: PosePredictor,
    *,
    max_people: int | None = None,
    keep_images: bool,
) -> Generator[FrameResult]:
    """Predict frame by frame; where the detector did not look, or missed somebody, boxes follow the tracked poses.

    One frame needs the poses of the one before, so there are no batches across frames. The frames come from
    `detect_some`; the rest is as in `watch_video`.
    """
    tracker = PoseTracker()
    for frame_id, found in frames:
        if isinstance(found, DistilPoseError):
            yield FrameResult(frame_id, None, None, found)
            continue
        image, detected = found
        assert frame_id.time is not None
        try:
            boxes, scores = tracker.expected(frame_id.time)
            inside = overlaps_image(boxes, image.shape[:2])  # others have left the image
            people, is_detected = joined(detected, PersonBoxes(boxes[inside], scores[inside]), max_people)
            result = predictor(image, *people)
            single = ~find_duplicates(result)
            result = tracker.update(result.filter(single), frame_id.time, detected=is_detected[single])
        except Exception as failure:  # of this frame alone
            yield FrameResult(frame_id, None, None, as_failure(failure))
            continue
        yield FrameResult(frame_id, image if keep_images else None, result, None)


def joined(
    detected: PersonBoxes, expected: PersonBoxes, max_people: int | None = None
) -> tuple[PersonBoxes, NDArray[np.bool_]]:
    """The detected boxes, and the expected ones of people whom it has missed; (N,) True for those detected."""
    missed = ~(box_iou_xyxy(expected.boxes_xyxy, detected.boxes_xyxy) > SAME_PERSON_IOU).any(1)
    boxes = np.concatenate([detected.boxes_xyxy, expected.boxes_xyxy[missed]])
    scores = np.concatenate([detected.box_score, expected.box_score[missed]])
    kept = best_rows(scores, max_people)
    is_detected = np.arange(len(scores)) < len(detected.box_score)
    return PersonBoxes(boxes[kept], scores[kept]), is_detected[kept]
