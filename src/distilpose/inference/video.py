"""Films in and out, through PyAV: true times, upright square pixels, sound kept."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from distilpose.errors import ConfigError, DistilPoseError, InputError

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

Image = NDArray[np.uint8]

VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip
_CLOCK = Fraction(1, 90_000)  # ticks of written films: MPEG's own clock, fine enough for any frame rate
_MP4_SOUND = frozenset({"aac", "mp3", "opus", "ac3", "eac3", "flac"})  # copied as they are; others become AAC
# Readable while it is written and after a crash, an ordinary MP4 once it is closed
_MP4_OPTIONS = {
    "movflags": "hybrid_fragmented+negative_cts_offsets",
    "frag_duration": "2000000",  # microseconds: no more than this is lost when the machine stops
    "flush_packets": "1",
}
_H264_OPTIONS = {"crf": "20", "preset": "veryfast"}
_KEYFRAME_SECONDS = 2
_BT709 = 1
_DEFAULT_RATE = 30.0
_EPSILON = 1e-6  # seconds: times are fractions


class VideoFrame(NamedTuple):
    """One frame of a film, or the place where one is missing.

    Attributes:
        number: of the frame in its film, from 0, skipped ones counted.
        time: seconds since the film began; it never steps back but after a broken frame, whose time is estimated.
        image: (H, W, 3) uint8 RGB, upright, with square pixels; None if it is broken.
        error: why it is broken.
    """

    number: int
    time: float
    image: Image | None
    error: DistilPoseError | None = None


class VideoReader:
    """The frames of a film as a player shows them.

    A rotation stored by a phone is applied, pixels that are not square are stretched, times are those of the file.

    Args:
        path: of any file that FFmpeg reads.
        every: take each n-th frame.
        start: first second to take.
        end: second before which to stop; None for the end of the film.

    Attributes:
        path: as above.
        size_hw: (H, W) of the frames handed out, in pixels.
        rate: mean frames per second of what is handed out.
        num_frames: about how many frames will come; None if the file does not say.

    Raises:
        InputError: the file is missing, unreadable, or has no picture; ``start`` lies behind its end.
        ConfigError: ``every``, ``start`` or ``end`` is out of range.
    """

    def __init__(self, path: str | Path, *, every: int = 1, start: float = 0.0, end: float | None = None) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1 (each n-th frame), got {every}")
        if not start >= 0 or (end is not None and not end > start):
            raise ConfigError(f"expected 0 <= start < end in seconds, got start {start} and end {end}")
        self.path = Path(path)
        self._every, self._start, self._end = every, start, end
        self._container = _open(self.path)
        try:
            self._stream = _picture_stream(self._container, self.path)
            self._zero = self._stream.start_time or 0
            first = self._first_image()
            self.size_hw: tuple[int, int] = (first.shape[0], first.shape[1])
            self.rate = float(self._stream.average_rate or self._stream.guessed_rate or _DEFAULT_RATE) / every
            self.num_frames = self._count_frames()
            if self.num_frames == 0:
                raise InputError(f"{path}: start {start:g} s lies behind its end ({self.duration:.1f} s)")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    @property
    def duration(self) -> float | None:
        """Of the whole film in seconds; None if the file does not say."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return None if self._container.duration is None else self._container.duration / 1e6

    def frames(self) -> Iterator[VideoFrame]:
        """Decode from the start; a frame that cannot be decoded comes with its error, and the next ones follow."""
        first_number = self._go_to_start()
        for position, frame in enumerate(self._decoded(first_number, self._start)):
            if self._end is not None and frame.time >= self._end - _EPSILON:
                return
            if position % self._every == 0 or frame.error is not None:
                yield frame

    def _first_image(self) -> Image:
        for frame in self._decoded(0, 0.0):
            if frame.image is not None:
                return frame.image
        raise InputError(f"{self.path}: none of its frames can be decoded")

    def _count_frames(self) -> int | None:
        if not self.duration:
            return None
        total = self._stream.frames or self.duration * float(self._stream.average_rate or _DEFAULT_RATE)
        end = self.duration if self._end is None else min(self._end, self.duration)
        share = max(0.0, end - self._start) / self.duration
        return -(-round(total * share) // self._every)

    def _go_to_start(self) -> int:
        """Seek to the last key frame before the start; return how many frames lie before the start."""
        import av

        before = 0
        self._rewind()
        if self._start > 0:
            assert self._stream.time_base is not None
            limit = self._zero + (self._start - _EPSILON) / float(self._stream.time_base)
            for packet in self._container.demux(self._stream):
                if packet.dts is not None and packet.dts > limit:
                    break
                before += packet.pts is not None and packet.pts < limit
            try:
                self._container.seek(int(limit), stream=self._stream)
            except av.error.FFmpegError:
                self._rewind()
        return before

    def _rewind(self) -> None:
        self._container.close()
        self._container = _open(self.path)
        self._stream = _picture_stream(self._container, self.path)

    def _decoded(self, first_number: int, start: float) -> Iterator[VideoFrame]:
        """The frames from ``start`` on, numbered from ``first_number``."""
        import av

        assert self._stream.time_base is not None
        tick = float(self._stream.time_base)
        period = 1 / float(self._stream.average_rate or _DEFAULT_RATE)
        number, time, lost = first_number, start - period, 0
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
                about = time + lost * period
                yield VideoFrame(number, about, None, InputError(f"frame {number} at {about:.2f} s: {_why(error)}"))
                number += 1
                continue
            for frame in decoded:
                shown = time + period if frame.pts is None else (frame.pts - self._zero) * tick
                if shown < start - _EPSILON:
                    continue
                time, lost = max(time, shown), 0  # there are files whose times step back
                if frame.is_corrupt:
                    broken = InputError(f"frame {number} at {time:.2f} s: its data is damaged")
                    yield VideoFrame(number, time, None, broken)
                else:
                    yield VideoFrame(number, time, _upright_rgb(frame, self._stream.sample_aspect_ratio))
                number += 1


def _open(path: Path) -> InputContainer:
    import_av()
    import av

    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        return av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise InputError(f"{path} cannot be read as a film ({_why(error)}): is it one, and complete?") from error


def import_av() -> None:
    """Say how to get PyAV where it is missing.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ConfigError('films need PyAV: pip install "distilpose[video]"') from error


def _picture_stream(container: InputContainer, path: Path) -> VideoStream:
    pictures = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]  # no cover art
    if not pictures:
        held = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise InputError(f"{path}: expected a film, got a file without a picture track (it holds {held})")
    pictures[0].thread_type = "AUTO"
    return pictures[0]


def _upright_rgb(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> Image:
    image: Image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    if pixel_aspect and pixel_aspect != 1:
        size = (max(1, round(image.shape[1] * float(pixel_aspect))), image.shape[0])
        image = _resize(image, size)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _resize(image: Image, size_wh: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


class VideoWriter:
    """Writes an MP4 that browsers play: H.264, true times, and the sound of another film.

    The file grows under a hidden name ending in ``.part`` and takes its own when it is closed. Should the machine stop
    in between, the hidden file can be played up to then.

    Args:
        path: ending in .mp4; its folder exists.
        size_hw: (H, W) of the pictures; odd sides are written one pixel larger.
        rate: about how many frames a second will come.
        sound_of: film whose sound is copied, from ``start`` to the last frame.
        start: second of ``sound_of`` at which the first frame lies.

    Raises:
        OSError: the disk is full or not writable; on `write` and `close` too. What was written stays playable.
    """

    def __init__(
        self,
        path: str | Path,
        size_hw: tuple[int, int],
        *,
        rate: float = _DEFAULT_RATE,
        sound_of: str | Path | None = None,
        start: float = 0.0,
    ) -> None:
        import_av()
        import av

        self._path = Path(path)
        self._part = self._path.with_name(f".{self._path.name}.part")
        self._size_hw, self._start, self._last_tick = size_hw, start, -1
        self._container = av.open(str(self._part), "w", format="mp4", options=_MP4_OPTIONS)
        rate_fraction = Fraction(max(rate, 0.01)).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate_fraction, options=_H264_OPTIONS)
        self._stream.height, self._stream.width = (side + side % 2 for side in size_hw)
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = self._stream.time_base = _CLOCK
        context.gop_size = max(1, round(rate * _KEYFRAME_SECONDS))
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # 16 to 235, as players expect
        self._sound = None if sound_of is None else _SoundCopy.of(Path(sound_of), self._container, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, image: Image, time: float) -> None:
        """Add a picture.

        Args:
            image: (H, W, 3) uint8 RGB of the size given.
            time: seconds on the clock of ``start``; later than the one before.
        """
        import av
        from av.video.reformatter import ColorRange, Colorspace

        if image.shape[:2] != self._size_hw:  # some films change their size on the way
            image = _resize(image, self._size_hw[::-1])
        if self._size_hw[0] % 2 or self._size_hw[1] % 2:
            image = np.pad(image, ((0, self._size_hw[0] % 2), (0, self._size_hw[1] % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.time_base = _CLOCK
        frame.pts = self._last_tick = max(self._last_tick + 1, round((time - self._start) / _CLOCK))
        self._container.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.copy_until(time)

    def close(self) -> None:
        """Finish the file and give it its name."""
        try:
            if self._last_tick >= 0:
                self._container.mux(self._stream.encode(None))
                if self._sound is not None:
                    self._sound.finish()
        finally:
            try:
                self._container.close()
            finally:
                if self._sound is not None:
                    self._sound.close()
                if self._part.exists() and self._last_tick >= 0:
                    self._part.replace(self._path)
                self._part.unlink(missing_ok=True)


class _SoundCopy:
    """Brings the sound of a film into another, keeping step with its pictures.

    Sound that MP4 holds is copied packet by packet, other sound is encoded anew as AAC.
    """

    def __init__(self, source: InputContainer, stream: AudioStream, out: Any, start: float) -> None:
        self._source, self._out, self._start = source, out, start
        self._copied = stream.codec_context.name in _MP4_SOUND
        if self._copied:
            self._target = out.add_stream_from_template(stream)
        else:
            self._target = out.add_stream("aac", rate=stream.codec_context.sample_rate)
        self._packets = source.demux(stream)
        self._waiting: Any = None
        self._tick = float(stream.time_base or 1)
        pictures = source.streams.video[0]
        self._zero = float((pictures.start_time or 0) * (pictures.time_base or 1))

    @classmethod
    def of(cls, path: Path, out: Any, start: float) -> _SoundCopy | None:
        """None where there is no sound."""
        source = _open(path)
        if not source.streams.audio:
            source.close()
            return None
        return cls(source, source.streams.audio[0], out, start)

    def copy_until(self, time: float) -> None:
        """Bring over what sounds before ``time`` in seconds of the source."""
        import av

        while True:
            try:
                packet = self._waiting if self._waiting is not None else next(self._packets, None)
                self._waiting = None
                if packet is None or packet.pts is None:
                    return
                if packet.pts * self._tick - self._zero > time:
                    self._waiting = packet
                    return
                if packet.pts * self._tick - self._zero >= self._start:
                    self._bring(packet)
            except av.error.InvalidDataError:  # damaged sound is left out
                continue
            except av.error.EOFError:
                return

    def _bring(self, packet: Any) -> None:
        offset = self._start + self._zero
        if self._copied:
            shift = round(offset / self._tick)
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._target
            self._out.mux(packet)
            return
        for frame in packet.decode():
            frame.pts -= round(offset / float(frame.time_base))
            self._out.mux(self._target.encode(frame))

    def finish(self) -> None:
        """Bring over what an encoder still holds."""
        if not self._copied:
            self._out.mux(self._target.encode(None))

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()
