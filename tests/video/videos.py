"""Videos for tests, written with PyAV and known frame by frame."""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from distilpose.errors import DistilPoseError
from distilpose.inference.people import Frame

Image = NDArray[np.uint8]


class Shown(NamedTuple):
    """A frame that was read: its image, or the error in its place."""

    number: int | None
    time: float
    size_hw: tuple[int, int]
    image: Any
    error: DistilPoseError | None


def shown(frames: Iterable[Frame]) -> list[Shown]:
    """What a `VideoReader` gives, part by part."""
    found = []
    for frame_id, image in frames:
        parts = (None, image) if isinstance(image, DistilPoseError) else (image, None)
        assert frame_id.time is not None
        found.append(Shown(frame_id.frame, frame_id.time, frame_id.size_hw, *parts))
    return found


def numbered_frame(number: int, size_hw: tuple[int, int] = (48, 64)) -> Image:
    """Bright top left, dark elsewhere; the number is in the brightness of the lower half."""
    image = np.full((*size_hw, 3), 30, dtype=np.uint8)
    image[: size_hw[0] // 4, : size_hw[1] // 4] = 230
    image[size_hw[0] // 2 :] = 20 + 5 * number
    return image


def frame_number(image: Image) -> int:
    return round((float(image[-image.shape[0] // 4 :].mean()) - 20) / 5)


def write_video(
    path: Path,
    images: Sequence[Image],
    *,
    times: Sequence[float] | None = None,
    rate: int = 10,
    pixel_aspect: Fraction | None = None,
    sound: str | None = None,
    sound_rate: int = 48000,
    sound_from: float = 0.0,
    codec: str = "libx264",
) -> Path:
    """Write images at ``times`` in seconds, or evenly; ``sound`` is the codec of a tone from ``sound_from`` on."""
    height, width = images[0].shape[:2]
    even = (height % 2 == 0) and (width % 2 == 0)
    with av.open(str(path), "w") as container:
        options = {"crf": "8", "g": "10"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if even else "yuv444p"
        clock = Fraction(1, 1000)
        stream.codec_context.time_base = clock
        if pixel_aspect is not None:
            stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = pixel_aspect
        tone = None if sound is None else container.add_stream(sound, rate=sound_rate)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = clock
            frame.pts = round(1000 * (number / rate if times is None else times[number]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            piece = sound_rate // 50
            for start in range(round(sound_rate * sound_from), round(sound_rate * len(images) / rate), piece):
                wave = np.sin(2 * np.pi * 440 * np.arange(start, start + piece) / sound_rate)
                samples = av.AudioFrame.from_ndarray(np.int16(8000 * wave)[None], format="s16", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = sound_rate, start, Fraction(1, sound_rate)
                container.mux(tone.encode(samples))
            container.mux(tone.encode(None))
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write into a video that a pixel goes to (x, y) [[a, b], [c, d]], moved into the image (ISO 14496-12, tkhd)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def top_boxes(path: Path) -> list[str]:
    """Names of an MP4's outermost boxes, in order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        size, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8].decode()
        size = int.from_bytes(data[at + 8 : at + 16]) if size == 1 else size
        names.append(name)
        at += size or len(data)
    return names


def sound_seconds(path: Path) -> tuple[str, float, float] | None:
    """Codec of a video's sound, and where it is first heard and ends in seconds; None without any."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        end = frames[-1].time + frames[-1].samples / frames[-1].sample_rate
        heard = next(frame.time for frame in frames if np.abs(frame.to_ndarray().astype(float)).max() > 0.02)
        return stream.codec_context.name, heard, end
