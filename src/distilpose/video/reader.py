"""Videos, read through PyAV: true times, upright images with square pixels."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np

from distilpose.errors import ConfigError, InputError, require_package
from distilpose.inference.people import Frame, FrameId
from distilpose.types import ImageArray

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream


VIDEO_SUFFIXES = (
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".ivf",
    ".m2t", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts",
    ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
LARGEST_FRAME = 178_956_970  # pixels, as Pillow's limit for images
DEFAULT_RATE = 30.0
_HIGHEST_RATE = 240.0  # believed, in frames a second; beyond it the times of the first frames tell the rate
_TIMED_FRAMES = 30
_EPSILON = 1e-6  # seconds: times are fractions
_JUMP_PERIODS = 3  # a time that steps back by more frames begins a new video in the file
_INDEXED = {"mov", "mp4", "matroska", "webm"}  # formats that find a time surely, and time every frame


class VideoReader:
    """The frames of a video as a player shows them.

    A rotation or mirroring stored by a camera is applied, pixels that are not square are stretched, times are those of
    the file.

    Args:
        path: of any file that FFmpeg reads.
        every: take each n-th frame.
        start: first second to take.
        end: second before which to stop; None for the end of the video.

    Attributes:
        path: as above.
        size_hw: (H, W) of the frames handed out, in pixels.
        rate: mean frames per second of what is handed out.
        num_frames: about how many frames will come; None if the file does not say.

    Raises:
        InputError: the file is missing, unreadable, or has no image.
        ConfigError: ``every``, ``start`` or ``end`` is out of range.
    """

    def __init__(self, path: str | Path, *, every: int = 1, start: float = 0.0, end: float | None = None) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1 (each n-th frame), got {every}")
        if not start >= 0 or (end is not None and not end > start):
            raise ConfigError(f"expected 0 <= start < end in seconds, got start {start} and end {end}")
        self.path = Path(path)
        self._every, self._start, self._end = every, start, end
        self._container = open_video(self.path)
        try:
            self._stream = image_stream(self._container, self.path)
            self._zero = self._stream.start_time or 0
            self._period = 1 / float(self._stream.average_rate or self._stream.guessed_rate or DEFAULT_RATE)
            decoded = ((time, frame) for time, frame, _ in self._decoded() if frame is not None)
            start_time, first = next(decoded, (0.0, None))
            if first is None:
                raise InputError(f"{self.path}: none of its frames can be decoded")
            height, width, _ = _upright_rgb(first, self._stream.sample_aspect_ratio).shape
            if 1 / self._period > _HIGHEST_RATE:  # that of the clock, where a browser's recording tells no other
                times = [time - start_time for time, _ in islice(decoded, _TIMED_FRAMES)]
                self._period = max(self._period, times[-1] / len(times)) if times else 1 / DEFAULT_RATE
        except BaseException:
            self.close()
            raise
        self.size_hw: tuple[int, int] = (height, width)
        self.rate = 1 / self._period / every
        self.num_frames = self._count_frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    @property
    def duration(self) -> float | None:
        """Of the whole video in seconds, some formats estimate it; None if the file does not say."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return None if self._container.duration is None else self._container.duration / 1e6

    def frames(self) -> Iterator[Frame]:
        """Decode from the start; a frame that cannot be decoded comes with its error, and the next ones follow.

        Images are (H, W, 3) uint8 RGB, upright, with square pixels. Numbers count skipped frames. The time never steps
        back, but from a broken frame, whose time is estimated.
        """
        self._rewind()
        number, first = 0, (0 if self._start == 0 else None)
        before = self._seek() if self._start > 0 else None
        for time, frame, error in self._decoded():
            if first is None:
                if time < self._start - _EPSILON or error is not None:
                    number += 1
                    continue
                first = number = number if before is None else before
            if self._end is not None and time >= self._end - _EPSILON:
                return
            if error is not None:
                yield FrameId(self.path, number, time), InputError(f"frame {number} at {time:.2f} s: {error}")
            elif (number - first) % self._every == 0:
                assert frame is not None
                image = _upright_rgb(frame, self._stream.sample_aspect_ratio)
                yield FrameId(self.path, number, time, (image.shape[0], image.shape[1])), image
            number += 1

    def _count_frames(self) -> int | None:
        if not self.duration:
            return None
        total = self._stream.frames or self.duration / self._period
        end = self.duration if self._end is None else min(self._end, self.duration)
        share = max(0.0, end - self._start) / self.duration
        return max(1, -(-round(total * share) // self._every))

    def _seek(self) -> int | None:
        """Go to the last key frame before the start, and count the frames before that; None without a sure index."""
        import av

        if not _INDEXED & set(self._container.format.name.split(",")):
            return None  # the video is decoded from its beginning
        assert self._stream.time_base is not None
        limit = self._zero + (self._start - _EPSILON) / float(self._stream.time_base)
        before = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.dts is not None and packet.dts > limit:
                    break
                before += packet.pts is not None and packet.pts < limit and not packet.is_discard
            self._container.seek(int(limit), stream=self._stream)
        except av.error.FFmpegError:
            self._rewind()
            return None
        return before

    def _rewind(self) -> None:
        self._container.close()
        self._container = open_video(self.path)
        self._stream = image_stream(self._container, self.path)

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame | None, str | None]]:
        """Time and frame, or what is wrong with it, from where the file stands; time never goes back."""
        import av

        assert self._stream.time_base is not None
        tick = float(self._stream.time_base)
        time, offset, lost = -self._period, 0.0, 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                decoded = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                lost += 1
                yield time + lost * self._period, None, why(error)
                continue
            for frame in decoded:
                lost = 0
                shown = time + self._period if frame.pts is None else (frame.pts - self._zero) * tick + offset
                if shown < time - _JUMP_PERIODS * self._period:  # videos joined end to end begin anew
                    offset += time + self._period - shown
                    shown = time + self._period
                time = max(time, shown)
                yield time, None if frame.is_corrupt else frame, "its data is damaged" if frame.is_corrupt else None


def open_video(path: Path) -> InputContainer:
    """Open a video for reading.

    Raises:
        InputError: it is missing or unreadable.
        ConfigError: PyAV is missing.
    """
    require_package("av", "reading videos")
    import av

    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        return av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise InputError(f"{path} cannot be read as a video ({why(error)}): is it one, and complete?") from error


def image_stream(container: InputContainer, path: Path) -> VideoStream:
    """The video's images; raises `InputError` if it has none."""
    images = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]  # no cover art
    if not images:
        held = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise InputError(f"{path}: expected a video, got a file without an image track (it holds {held})")
    images[0].thread_type = "AUTO"
    return images[0]


def _upright_rgb(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> ImageArray:
    """(H, W, 3) with square pixels, turned and mirrored as the frame's display matrix says."""
    from av.sidedata.sidedata import Type

    width, height = max(1, round(frame.width * float(pixel_aspect or 1))), frame.height
    if max(width, frame.width) * height > LARGEST_FRAME:
        raise InputError(
            f"expected frames of at most {LARGEST_FRAME // 10**6} million pixels, got {width} x {height} (pixel aspect "
            f"{pixel_aspect}): convert the video to a smaller size"
        )
    image: ImageArray = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    if width != frame.width:
        image = resize(image, (width, height))
    side_data: Any = frame.side_data
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return np.ascontiguousarray(image)
    # How far a step along x goes across and down on the screen, then the same for a step along y.
    across_x, down_x, _, across_y, down_y = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if abs(across_x) + abs(down_y) < abs(down_x) + abs(across_y):  # x and y change places
        image, across_x, down_y = image.transpose(1, 0, 2), across_y, down_x
    return np.ascontiguousarray(image[:: -1 if down_y < 0 else 1, :: -1 if across_x < 0 else 1])


def resize(image: ImageArray, size_wh: tuple[int, int]) -> ImageArray:
    """(H, W, 3) -> the same image at another size."""
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def why(error: Exception) -> str:
    """What FFmpeg says of an error."""
    return str(getattr(error, "strerror", None) or error)
