"""Videos, written through PyAV: H.264 that browsers play, true times, and the sound of the original."""

from __future__ import annotations

import errno
import logging
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from distilpose.errors import DistilPoseError, InputError, require_package
from distilpose.files import open_part, part_path
from distilpose.types import ImageArray
from distilpose.video.reader import DEFAULT_RATE, image_stream, open_video, resize, why

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

logger = logging.getLogger(__name__)

LARGEST_SIDE = 4096  # pixels: what H.264 players are sure to show
_CLOCK = Fraction(1, 90_000)  # ticks of written videos: MPEG's own clock, fine enough for any frame rate
_KEYFRAME_SECONDS = 2
_BT709, _STUDIO_RANGE = 1, 1  # H.264's numbers for the colors that players expect
_H264_OPTIONS = {"crf": "20", "preset": "veryfast"}
# Readable while it is written and after a crash, an ordinary MP4 once it is closed
_MP4_OPTIONS = {
    "movflags": "hybrid_fragmented+negative_cts_offsets",
    "use_editlist": "1",  # sound or images that begin later do so in the file as well
    "frag_duration": f"{_KEYFRAME_SECONDS}000000",  # microseconds: no more than this is lost when the machine stops
    "flush_packets": "1",
}
_COPIED_SOUND = frozenset({"aac", "mp3", "opus", "ac3", "eac3", "flac"})  # of MP4; other sound becomes AAC
_COPIED_FROM = frozenset({"mov", "mp4", "matroska", "webm"})  # formats that time every packet of sound
_SOUND_RATE = 48_000
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


class VideoWriter:
    """Writes an MP4 that browsers play: H.264, true times, and the sound of another video.

    The file grows under a hidden name ending in ``.part`` and takes its own when it is closed. Should the machine stop
    in between, the hidden file can be played up to a few seconds before.

    Args:
        path: ending in .mp4; its folder exists.
        size_hw: (H, W) of the images; odd sides are written one pixel larger, and larger ones than `LARGEST_SIDE`
            scaled down.
        rate: about how many frames a second will come.
        sound_of: video whose sound is copied, from ``start`` to the last frame. Damaged sound is left out.
        start: second of ``sound_of`` at which the written video begins.

    Raises:
        OSError: the disk is full or not writable; on `write` and `close` too. What was written stays playable.
        InputError: the images cannot be encoded; on `write` and `close`.
        ConfigError: PyAV is missing.
    """

    def __init__(
        self,
        path: str | Path,
        size_hw: tuple[int, int],
        *,
        rate: float = DEFAULT_RATE,
        sound_of: str | Path | None = None,
        start: float = 0.0,
    ) -> None:
        require_package("av", "writing videos")
        import av

        self._path = Path(path)
        self._part = part_path(self._path)
        open_part(self._path).close()  # a link in its place would be followed
        scale = min(1.0, LARGEST_SIDE / max(size_hw))
        self._size_hw = (max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale)))
        self._start, self._period = start, 1 / max(rate, 0.01)
        self._last_tick, self._last_time = -1, start
        self._sound: _Sound | None = None
        self._is_open = True
        self._container = av.open(str(self._part), "w", format="mp4", options=_MP4_OPTIONS)
        try:
            self._add_images(rate)
            if sound_of is not None:
                self._sound = _Sound.of(Path(sound_of), self._container, start)
        except BaseException:
            self.close()
            raise

    def _add_images(self, rate: float) -> None:
        rate_fraction = Fraction(max(rate, 0.01)).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate_fraction, options=_H264_OPTIONS)
        self._stream.height, self._stream.width = (side + side % 2 for side in self._size_hw)
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = self._stream.time_base = _CLOCK
        context.gop_size = max(1, round(rate * _KEYFRAME_SECONDS))
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _STUDIO_RANGE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, image: ImageArray, time: float) -> None:
        """Add an image (H, W, 3) uint8 RGB, scaled to the size given; ``time``: seconds on the clock of ``start``."""
        import av
        from av.video.reformatter import ColorRange, Colorspace

        if image.shape[:2] != self._size_hw:
            image = resize(image, self._size_hw[::-1])
        if self._size_hw[0] % 2 or self._size_hw[1] % 2:
            image = np.pad(image, ((0, self._size_hw[0] % 2), (0, self._size_hw[1] % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.time_base = _CLOCK
        frame.pts = max(self._last_tick + 1, round((time - self._start) / _CLOCK))
        self._encode(frame)
        self._last_tick, self._last_time = frame.pts, time
        if self._sound is not None:
            self._sound.bring_until(time)

    def _encode(self, frame: Any) -> None:
        import av

        try:
            self._container.mux(self._stream.encode(frame))
        except av.error.FFmpegError as error:
            if error.errno in _DISK_ERRORS:
                raise
            raise InputError(f"{self._path} cannot be encoded as H.264 ({why(error)})") from error

    def close(self) -> None:
        """Finish the file and give it its name; without an image there is none. A second call does nothing."""
        if not self._is_open:
            return
        self._is_open, written = False, self._last_tick >= 0
        try:
            if written:
                self._encode(None)
                if self._sound is not None:
                    self._sound.bring_until(self._last_time + self._period)
                    self._sound.finish()
        finally:
            if self._sound is not None:
                self._sound.close()
            try:
                self._container.close()
            finally:
                if written and self._part.exists() and self._part.stat().st_size:
                    self._part.replace(self._path)
                self._part.unlink(missing_ok=True)


class _Sound:
    """Brings the sound of a video into another; what FFmpeg cannot do ends the sound, with a warning, not the video."""

    def __init__(self, path: Path, source: InputContainer, stream: AudioStream, out: Any, start: float) -> None:
        import av

        self._path, self._source, self._out, self._start = path, source, out, start
        images = image_stream(source, path)
        self._zero = float((images.start_time or 0) * (images.time_base or 1))
        self._tick = float(stream.time_base or 1)
        timed = bool(_COPIED_FROM & set(source.format.name.split(",")))
        self._resampler: Any = None
        if timed and stream.codec_context.name in _COPIED_SOUND:
            self._target = out.add_stream_from_template(stream)
        else:
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            self._target = out.add_stream("aac", rate=_SOUND_RATE, layout=layout)
            self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=_SOUND_RATE)
        self._packets = source.demux(stream)
        self._waiting: Any = None
        self._next_sample: int | None = None
        self._last_dts: int | None = None
        self._at_end = False

    @classmethod
    def of(cls, path: Path, out: Any, start: float) -> _Sound | None:
        """None where there is no sound, or none that can be brought over."""
        import av

        try:
            source = open_video(path)
        except DistilPoseError:  # the images came from somewhere else
            return None
        try:
            if source.streams.audio:
                return cls(path, source, source.streams.audio[0], out, start)
        except (av.error.FFmpegError, ValueError) as error:
            _warn(path, error)
        source.close()
        return None

    def bring_until(self, time: float) -> None:
        """Bring over what sounds before ``time`` in seconds of the source."""
        import av

        while not self._at_end:
            try:
                packet, self._waiting = self._waiting or next(self._packets, None), None
                if packet is None:
                    self._at_end = True
                    return
                if packet.pts is None:
                    continue
                sounds_at = packet.pts * self._tick - self._zero
                if sounds_at > time:
                    self._waiting = packet
                    return
                if sounds_at >= self._start:
                    self._bring(packet, sounds_at - self._start)
            except av.error.InvalidDataError:  # a damaged piece
                continue
            except av.error.FFmpegError as error:
                self._give_up(error)

    def _bring(self, packet: Any, at: float) -> None:
        if self._resampler is not None:
            self._encode(packet.decode(), at)
            return
        shift = round((self._start + self._zero) / self._tick)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        if self._last_dts is not None and packet.dts <= self._last_dts:
            return
        self._last_dts = packet.dts
        packet.stream = self._target
        self._out.mux(packet)

    def _encode(self, frames: Any, at: float) -> None:
        for frame in frames:
            frame.pts = None
            for piece in self._resampler.resample(frame):
                if self._next_sample is None:
                    self._next_sample = round(at * _SOUND_RATE)
                piece.pts, piece.time_base = self._next_sample, Fraction(1, _SOUND_RATE)
                self._next_sample += piece.samples
                self._out.mux(self._target.encode(piece))

    def finish(self) -> None:
        """Bring over what the encoder still holds."""
        import av

        if self._resampler is not None and self._next_sample is not None:
            try:
                self._out.mux(self._target.encode(None))
            except av.error.FFmpegError as error:
                self._give_up(error)

    def _give_up(self, error: Any) -> None:
        if error.errno in _DISK_ERRORS:
            raise error
        self._at_end = True
        if not isinstance(error, EOFError):
            _warn(self._path, error)

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()


def _warn(path: Path, error: Exception) -> None:
    logger.warning("%s: its sound cannot be brought over (%s); the images can", path, why(error))
