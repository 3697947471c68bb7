"""TRC marker files for OpenSim: a file per person of a video, the markers' x, y and z over time.

Source:
    OpenSim documentation, "Marker (.trc) Files". A pose is flat: z is 0, y points up from the lower edge of the
    image, and a pixel is written as a millimeter, so the model must be scaled to the person.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.files import open_part, part_path, write_all
from distilpose.formats.record import ImageNames, PoseRecord, image_size
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD
from distilpose.types import FloatArray

_COUNT, _RATE = "{:08d}", "{:010.4f}"  # of fixed width: the header is written anew while the file grows


class _Track(NamedTuple):
    """The last row of a file."""

    first_time: float
    time: float
    frame: int
    position: int  # of the frame among those written of its source
    rows: int


class TrcFolder:
    """Writes ``NAME_trackN.trc`` (``NAME_personN.trc`` for an image, with one row).

    Keypoints with a score below 0.2, and frames in which a track is not seen, are empty cells. The data rate is that
    of the rows.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self._path, self._names = path, ImageNames()
        self._tracks: dict[Path, _Track] = {}
        self._positions: dict[str, int] = {}

    def write(self, record: PoseRecord) -> None:
        """See `PoseWriter`."""
        result = record.result
        height, _ = image_size(record, "trc")
        position = self._positions[record.source] = self._positions.get(record.source, -1) + 1
        frame, time = (1, 0.0) if record.frame is None else (record.frame + 1, record.time or 0.0)
        stem = self._names.stem(record)
        score = np.ones(result.xy.shape[:2]) if result.score is None else result.score
        shown = score >= KEYPOINT_SCORE_THRESHOLD
        for person in range(len(result)):
            who = f"person{person + 1}" if result.track_id is None else f"track{result.track_id[person]}"
            path = self._path / f"{stem}_{who}.trc"
            before = self._tracks.get(path)
            names = result.skeleton.keypoint_names
            if before is None:
                before = _Track(time, time, frame, position, 0)
                with open_part(path) as file:
                    write_all(file, _header(path.name, before, names))
            rows = _missed(before, position, frame, time, len(names))
            rows.append(_row(frame, time, result.xy[person], shown[person], height))
            track = _Track(before.first_time, time, frame, position, before.rows + len(rows))
            _append(path, "".join(rows).encode(), _header(path.name, track, names))
            self._tracks[path] = track

    def close(self) -> None:
        """See `PoseWriter`."""
        for path in self._tracks:
            if part_path(path).exists():
                part_path(path).replace(path)


def _append(path: Path, rows: bytes, header: bytes) -> None:
    """Add whole rows or none, and then what the header says of them."""
    with part_path(path).open("r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            write_all(file, rows)
        except BaseException:
            file.truncate(end)
            raise
        file.seek(0)
        write_all(file, header)


def _header(name: str, track: _Track, names: tuple[str, ...]) -> bytes:
    span = track.time - track.first_time
    rate = _RATE.format(min((track.rows - 1) / span, 9999.0) if span > 0 else 30.0)
    count = _COUNT.format(track.rows)
    axes = "\t".join(f"X{n}\tY{n}\tZ{n}" for n in range(1, len(names) + 1))
    return (
        f"PathFileType\t4\t(X/Y/Z)\t{name}\n"
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames\n"
        f"{rate}\t{rate}\t{count}\t{len(names)}\tmm\t{rate}\t1\t{count}\n"
        "Frame#\tTime\t" + "\t\t\t".join(names) + f"\t\t\n\t\t{axes}\n\n"
    ).encode()


def _row(frame: int, time: float, xy: FloatArray, shown: NDArray[np.bool_], height: int) -> str:
    cells = [f"{x:.3f}\t{height - y:.3f}\t0" if good else "\t\t" for (x, y), good in zip(xy, shown, strict=True)]
    return "\t".join([str(frame), f"{time:.6f}", *cells]) + "\n"


def _missed(track: _Track, position: int, frame: int, time: float, markers: int) -> list[str]:
    """Empty rows for the frames since the track's last one, evenly between the two."""
    steps = position - track.position
    if track.rows == 0 or steps < 2:
        return []
    shares = np.arange(1, steps) / steps
    frames = np.rint(track.frame + shares * (frame - track.frame)).astype(int)
    return [
        "\t".join([str(number), f"{when:.6f}", *["\t\t"] * markers]) + "\n"
        for number, when in zip(frames, track.time + shares * (time - track.time), strict=True)
    ]
