"""Drawing beside the network: images, frames of a video, crops of people."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distilpose.data.images import write_image
from distilpose.errors import DistilPoseError, naming
from distilpose.geometry import CROP_PADDING
from distilpose.inference.result import PoseResult
from distilpose.types import FloatArray, ImageArray
from distilpose.visualization.anonymize import Anonymize, blur_boxes
from distilpose.visualization.draw import UNSURE_POSE_SCORE, DrawStyle

THREADS = 2
DRAWN_BOX_SCORE = 0.5  # of whom both pose and box are weaker, mostly a false box, is written but not drawn

FrameWriter = Callable[[ImageArray, float], None]


@dataclass(frozen=True)
class Annotator:
    """How people are drawn.

    With ``anonymize`` "face" or "body" (the box) everybody is blurred first, weak people too. Keypoints with a lower
    score than ``keypoint_threshold`` are left out.
    """

    style: DrawStyle
    anonymize: Anonymize = "none"
    keypoint_threshold: float = 0.0

    def annotate(self, image: ImageArray, result: PoseResult) -> ImageArray:
        """(H, W, 3) image -> a drawn copy."""
        shown = result.filter(is_drawn(result))
        if shown.raw_score is not None and self.keypoint_threshold > 0:
            weak = shown.raw_score < self.keypoint_threshold
            shown = replace(shown, raw_score=np.where(weak, 0.0, shown.raw_score))
        return shown.draw(self.anonymized(image, result), style=self.style)

    def anonymized(self, image: ImageArray, result: PoseResult) -> ImageArray:
        """The image with its people blurred, if they are to be."""
        if self.anonymize == "body":
            return blur_boxes(image, result.box)
        return result.blur_faces(image) if self.anonymize == "face" else image


def is_drawn(result: PoseResult) -> NDArray[np.bool_]:
    """(N,) True for the people who are drawn: those with a sure pose, and those with a sure box, marked as unsure."""
    return np.asarray((result.pose_score >= UNSURE_POSE_SCORE) | (result.box_score >= DRAWN_BOX_SCORE))


class AnnotatedWriter:
    """Draws and writes in threads; no more than a few images wait, and on exit none.

    Args:
        annotator: that draws them.
        failures: gets a line for each image that could not be written.
        frame_writers: get the frames of a video in their order, each with its time in seconds. Their errors are raised.
    """

    def __init__(self, annotator: Annotator, failures: list[str], frame_writers: Sequence[FrameWriter] = ()) -> None:
        self._annotator, self._failures, self._frame_writers = annotator, failures, frame_writers
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="draw")
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._waiting: deque[tuple[Path | None, Future[None]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._collect(0)
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._encoder.shutdown(cancel_futures=True)

    def draw(self, source: Path, out: Path, image: ImageArray, result: PoseResult) -> None:
        """Write the drawn image to ``out``."""
        self._collect(2 * THREADS)
        work = self._pool.submit(lambda: write_image(out, self._annotator.annotate(image, result)))
        self._waiting.append((source, work))

    def draw_frame(self, image: ImageArray, result: PoseResult, time: float) -> None:
        """Give the drawn frame to the frame writers."""
        if not self._frame_writers:
            return
        self._collect(2 * THREADS)
        drawing = self._pool.submit(self._annotator.annotate, image, result)

        def work() -> None:
            for write in self._frame_writers:
                write(drawing.result(), time)

        self._waiting.append((None, self._encoder.submit(work)))

    def cut(self, source: Path, stem: str, folder: Path, image: ImageArray, result: PoseResult) -> None:
        """Write each person's part of the image to ``folder``."""

        def work() -> None:
            plain = self._annotator.anonymized(image, result)
            for person, box in enumerate(result.box):
                crop = crop_of(plain, box)
                name = person + 1 if result.track_id is None else f"track{result.track_id[person]}"
                if crop.size:
                    write_image(folder / f"{stem}_{name}.jpg", crop)

        self._collect(2 * THREADS)
        self._waiting.append((source, self._pool.submit(work)))

    def _collect(self, room: int) -> None:
        """Wait until fewer than ``room`` are waiting, or none."""
        while len(self._waiting) >= max(room, 1):
            source, work = self._waiting.popleft()
            try:
                work.result()
            except DistilPoseError as error:
                if source is None:
                    raise
                self._failures.append(naming(source, error))


def crop_of(image: ImageArray, box_xyxy: FloatArray) -> ImageArray:
    """The part of an image around a person box, padded as the network's crop is; empty for a box outside."""
    center, half = (box_xyxy[:2] + box_xyxy[2:]) / 2, (box_xyxy[2:] - box_xyxy[:2]) / 2 * CROP_PADDING
    size_wh = image.shape[1::-1]
    left, top = np.clip(np.floor(center - half), 0, size_wh).astype(int)
    right, bottom = np.clip(np.ceil(center + half), 0, size_wh).astype(int)
    return image[top:bottom, left:right]
