"""What ``predict_files`` may be told: how videos are read, and what is written."""

from __future__ import annotations

from dataclasses import dataclass

from distilpose.errors import ConfigError


@dataclass(frozen=True)
class VideoOptions:
    """How videos and cameras are read and followed.

    Attributes:
        every: take each n-th frame.
        start: first second.
        end: second before which to stop; None for the end.
        detect_every: look for people in each n-th taken frame; in between, people are where their pose leads.
        smooth: smooth poses over time.

    Raises:
        ConfigError: a number is out of range.
    """

    every: int = 1
    start: float = 0.0
    end: float | None = None
    detect_every: int = 1
    smooth: bool = True

    def __post_init__(self) -> None:
        if self.every < 1 or self.detect_every < 1:
            raise ConfigError(f"every and detect_every must be 1 or more, got {self.every} and {self.detect_every}")
        if not self.start >= 0 or (self.end is not None and not self.end > self.start):
            raise ConfigError(f"expected 0 <= start < end in seconds, got start {self.start} and end {self.end}")


@dataclass(frozen=True)
class OutputOptions:
    """What is written beside ``predictions.json``.

    Attributes:
        images: drawn images and videos.
        style: name in `draw.STYLES`; None draws sides on images, and people on videos.
        anonymize: blur the faces in images, videos and crops.
        keypoint_threshold: keypoints with a lower score are not drawn.
        crops: each person cut out of the image, in ``crops/``.
        json_lines: ``poses.jsonl``, a line per image or frame.
        parquet: ``poses.parquet``, a row per person.
        preview: port of a page on this machine that shows what a camera sees; 0 takes a free one, None shows none.
    """

    images: bool = True
    style: str | None = None
    anonymize: bool = False
    keypoint_threshold: float = 0.0
    crops: bool = False
    json_lines: bool = False
    parquet: bool = False
    preview: int | None = None
