"""Who is in a picture: the stage between reading and poses."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.detection.detectors import Detector
from distilpose.errors import DistilPoseError, InputError
from distilpose.formats.boxes import PersonBoxes, match_boxes, match_image_ids
from distilpose.geometry import check_boxes_xyxy
from distilpose.inference.batching import Scene
from distilpose.types import FloatArray, ImageArray

NOBODY = PersonBoxes(np.zeros((0, 4)), np.zeros(0))
DETECTION_BATCH = 4  # pictures that a detector sees at once


class Place(NamedTuple):
    """Which picture, or which frame of which film or camera.

    Attributes:
        source: file, or ``webcam:NUMBER``.
        frame: number in its film, from 0; None for a picture.
        time: of the frame in seconds; None for a picture.
        size_hw: (H, W) in pixels; (0, 0) if it could not be read.
    """

    source: Path
    frame: int | None = None
    time: float | None = None
    size_hw: tuple[int, int] = (0, 0)


Shot = tuple[Place, ImageArray | DistilPoseError]
Finder = Callable[[Sequence[tuple[Place, ImageArray]]], Sequence[PersonBoxes]]


class People(NamedTuple):
    """Where boxes come from, and the ids of the pictures.

    Attributes:
        find: pictures to the boxes of each.
        image_ids: of the pictures; None for one without.
    """

    find: Finder
    image_ids: dict[Path, int | None]


def people_by_detector(detector: Detector, pictures: Sequence[Path], annotations: Path | None) -> People:
    """Boxes by a detector.

    Raises:
        InputError: ``annotations`` is unreadable or broken.
    """
    return People(lambda shots: detector([image for _, image in shots]), match_image_ids(pictures, annotations))


def people_by_file(
    boxes: Path, pictures: Sequence[Path], films: Sequence[Path], annotations: Path | None, threshold: float
) -> People:
    """Boxes from a file, those with a score of ``threshold`` and above.

    Raises:
        InputError: a file is unreadable or broken, fits no source, or has boxes of a film without frame numbers.
    """
    matched = match_boxes(boxes, [*pictures, *films], annotations)
    for film in films:
        if len(matched.people[film].box_score):
            raise InputError(f"{boxes}: boxes of the film {film} need a frame field, the number of the frame from 0")
    for picture in pictures:
        if picture in matched.frames:
            raise InputError(f"{boxes}: boxes of the picture {picture} have a frame field, which only films have")

    def find(shots: Sequence[tuple[Place, ImageArray]]) -> list[PersonBoxes]:
        found = []
        for place, _ in shots:
            if place.frame is None:
                people = matched.people[place.source]
            else:
                people = matched.frames.get(place.source, {}).get(place.frame, NOBODY)
            good = people.box_score >= threshold
            found.append(PersonBoxes(people.boxes_xyxy[good], people.box_score[good]))
        return found

    return People(find, {picture: matched.image_ids[picture] for picture in pictures})


def best_rows(score: FloatArray, most: int | None) -> NDArray[np.intp]:
    """Which rows to keep: the ``most`` of highest score, best first; all in their order when there are no more."""
    if most is None or len(score) <= most:
        return np.arange(len(score))
    return np.argsort(-score, kind="stable")[:most]


def locate(
    shots: Iterable[Shot], find: Finder, *, most: int | None = None, batch: int = DETECTION_BATCH
) -> Generator[tuple[Place, Scene | DistilPoseError]]:
    """Find the people of picture after picture, ``batch`` at once.

    Args:
        shots: pictures, or why there is none.
        find: their boxes.
        most: people of a picture that are kept.
        batch: pictures given to ``find`` at once. An error of one batch is tried again one by one.
    """
    rest = iter(shots)
    while several := list(islice(rest, batch)):
        readable = [(place, image) for place, image in several if not isinstance(image, DistilPoseError)]
        found = iter(_find_all(readable, find))
        for place, image in several:
            if isinstance(image, DistilPoseError):
                yield place, image
                continue
            people = next(found)
            if isinstance(people, DistilPoseError):
                yield place, people
            else:
                kept = best_rows(people.box_score, most)
                yield place, Scene(image, people.boxes_xyxy[kept], people.box_score[kept])


def _find_all(shots: Sequence[tuple[Place, ImageArray]], find: Finder) -> Sequence[PersonBoxes | DistilPoseError]:
    if not shots:
        return ()
    try:
        return _checked(find(shots))
    except DistilPoseError as error:
        if len(shots) == 1:
            return (error,)
    return [found for shot in shots for found in _find_all([shot], find)]


def _checked(people: Sequence[PersonBoxes]) -> Sequence[PersonBoxes]:
    for found in people:
        check_boxes_xyxy(found.boxes_xyxy)
    return people
