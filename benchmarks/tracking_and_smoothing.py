"""How well people are recognized again and how calm their poses are: generated motion and real videos."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from distilpose.errors import ConfigError, InputError
from distilpose.geometry import box_iou_xyxy
from distilpose.inference.result import PoseResult
from distilpose.skeletons import COCO_17
from distilpose.types import FloatArray
from distilpose.video.pose_boxes import keypoint_extent
from distilpose.video.smoothing import OneEuroSmoother, smooth_zero_lag
from distilpose.video.tracking import PoseTracker, TrackingOptions
from walking_people import LEVELS, Gait, Level, SceneFrame, body, scene

Video = Sequence[tuple[PoseResult, float]]  # people and seconds, frame by frame

SEEDS = (1, 2, 3, 4, 5)  # reported; the defaults of the package were chosen on other seeds
_MOVING_AVERAGE = 5  # frames
_HEIGHT, _ORIGIN = 300.0, 400.0  # pixels; of generated motion that is smoothed
_LAGS = np.arange(-0.1, 0.3001, 0.002)  # seconds


class Tracking(NamedTuple):
    """How well a tracker does at one level, over all its scenes.

    Attributes:
        level: of difficulty.
        tracker: which.
        mota: accuracy, fraction: 1 less misses, false people and switches per true person.
        idf1: F1 score of identities, fraction.
        switches: how often a true person's number changed.
        people: true people in all frames.
        milliseconds: of one update.
    """

    level: str
    tracker: str
    mota: float
    idf1: float
    switches: int
    people: int
    milliseconds: float


def measure_tracking(
    levels: Sequence[Level] = LEVELS,
    seeds: Sequence[int] = SEEDS,
    trackers: Mapping[str, TrackingOptions] | None = None,
    seconds: float = 12.0,
) -> list[Tracking]:
    """Track generated scenes with the pose tracker and with the same one on boxes alone.

    Args:
        levels: of difficulty.
        seeds: one scene each.
        trackers: what to compare, by name.
        seconds: length of a scene.

    Raises:
        ConfigError: the package motmetrics is missing.
    """
    trackers = trackers or {"pose and box": TrackingOptions(), "box alone": TrackingOptions(oks_weight=0)}
    rows = []
    for level in levels:
        scenes = [scene(level, seed, seconds) for seed in seeds]
        rows += [_evaluate(level.name, name, options, scenes) for name, options in trackers.items()]
    return rows


def _evaluate(level: str, name: str, options: TrackingOptions, scenes: Sequence[Sequence[SceneFrame]]) -> Tracking:
    """Matches by box IoU of at least 0.5, as MOTChallenge does."""
    try:
        import motmetrics
    except ImportError as error:
        raise ConfigError("measuring tracking needs the package motmetrics: pip install 'distilpose[dev]'") from error
    accumulators, spent = [], 0.0
    for frames in scenes:
        tracker, accumulator = PoseTracker(options), motmetrics.MOTAccumulator(auto_id=True)
        for frame in frames:
            start = perf_counter()
            found = tracker.update(frame.result, frame.time)
            spent += perf_counter() - start
            distance = 1 - box_iou_xyxy(frame.truth_box, found.box)
            assert found.track_id is not None
            accumulator.update(frame.truth_id, found.track_id, np.where(distance > 0.5, np.nan, distance))
        accumulators.append(accumulator)
    names = [str(index) for index in range(len(scenes))]
    wanted = ["mota", "idf1", "num_switches", "num_objects"]
    host = motmetrics.metrics.create()
    summary = host.compute_many(accumulators, metrics=wanted, names=names, generate_overall=True).loc["OVERALL"]
    count = sum(len(frames) for frames in scenes)
    return Tracking(
        level,
        name,
        float(summary["mota"]),
        float(summary["idf1"]),
        int(summary["num_switches"]),
        int(summary["num_objects"]),
        1000 * spent / count,
    )


def tracking_table(rows: Iterable[Tracking]) -> Table:
    """The rows as they are printed."""
    table = Table(title="generated scenes, people recognized again (matches: box IoU of 0.5)")
    for heading in ("scenes", "tracker"):
        table.add_column(heading)
    for heading in ("MOTA", "IDF1", "switches", "people", "ms per\nframe"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        figures = (f"{100 * row.mota:.1f}", f"{100 * row.idf1:.1f}", str(row.switches), str(row.people))
        table.add_row(row.level, row.tracker, *figures, f"{row.milliseconds:.1f}")
    return table


Motion = Callable[[FloatArray], FloatArray]


def _walking(time: FloatArray) -> FloatArray:
    moved = np.stack([0.8 * time, np.zeros_like(time)], axis=-1)[..., None, :]
    return body(Gait(2 * np.pi * time, 1.0, 1.0)) + moved


def _arm_swings(time: FloatArray) -> FloatArray:
    angle = np.pi / 2 + np.arcsin(0.95 * np.sin(2 * np.pi * 1.0 * time))  # steady between quick turns
    return body(Gait(0.0, 0.0, 0.0, angle * 0.8))


def _standing(time: FloatArray) -> FloatArray:
    return body(Gait(np.zeros_like(time), 0.0, 0.0))


# (F,) seconds -> (F, 17, 2) in body heights, from the ground
MOTIONS: dict[str, Motion] = {"walking": _walking, "arm swings": _arm_swings, "standing": _standing}


class Smoothness(NamedTuple):
    """A video's poses, smoothed one way.

    Attributes:
        video: generated motion or name of a video.
        method: of smoothing.
        jitter: mean norm of a keypoint's acceleration, in body heights per s^2.
        error: mean distance to the truth in body heights; None where it is unknown.
        lag: shift in milliseconds at which the error is least; None where nothing is known or moves.
    """

    video: str
    method: str
    jitter: float
    error: float | None = None
    lag: float | None = None


def observed(motion: Motion, rate: float, seed: int, seconds: float = 6.0) -> Video:
    """A motion as an ordinary model sees it.

    Noise is normal with a spread of its own for each keypoint and frame, which sigma and score tell; one keypoint in
    200 lies anywhere, and in one frame of 60 left and right change places.
    """
    rng = np.random.default_rng([seed, int(rate)])
    time = np.arange(0, seconds, 1 / rate)
    spread = 0.012 * np.exp(0.5 * rng.standard_normal((1, 17)) + 0.3 * rng.standard_normal((len(time), 17)))
    xy = motion(time) + rng.standard_normal((len(time), 17, 2)) * spread[..., None]
    lost = rng.random(spread.shape) < 1 / 200
    xy[lost] += rng.normal(0, 0.3, (int(lost.sum()), 2))
    swapped = rng.random(len(time)) < 1 / 60
    xy[swapped] = xy[swapped][:, COCO_17.flip_index]
    xy = _ORIGIN + _HEIGHT * xy
    score = np.clip(np.log(0.33 / spread) / 3.5 - 0.25, 0, 1)
    return [
        (
            PoseResult(
                xy=xy[i : i + 1],
                box=np.concatenate([xy[i].min(0), xy[i].max(0)])[None],
                box_score=np.ones(1),
                pose_score=np.ones(1),
                raw_score=score[i : i + 1],
                sigma=np.repeat(_HEIGHT * spread[i : i + 1, :, None], 2, axis=-1),
                track_id=np.ones(1, dtype=np.int64),
            ),
            float(t),
        )
        for i, t in enumerate(time)
    ]


def _moving_average(video: Video) -> list[PoseResult]:
    """Each keypoint's mean over the last frames of one person: what one would write in a hurry."""
    past: dict[int, list[FloatArray]] = {}
    smoothed = []
    for result, _ in video:
        assert result.track_id is not None
        xy = result.xy.copy()
        for row, number in enumerate(result.track_id):
            poses = past.setdefault(int(number), [])
            poses.append(result.xy[row])
            xy[row] = np.mean(poses[-_MOVING_AVERAGE:], axis=0)
        smoothed.append(replace(result, xy=xy))
    return smoothed


def _one_euro(video: Video) -> list[PoseResult]:
    smooth = OneEuroSmoother()
    return [smooth(result, time) for result, time in video]


def _zero_lag(video: Video) -> list[PoseResult]:
    smoothed = [result for _, result in smooth_zero_lag((None, result, time) for result, time in video)]
    return [result for result in smoothed if result is not None]


METHODS: dict[str, Callable[[Video], list[PoseResult]]] = {
    "none": lambda video: [result for result, _ in video],
    f"mean of last {_MOVING_AVERAGE}": _moving_average,
    "One Euro (live)": _one_euro,
    "zero lag (files)": _zero_lag,
}


def measure_smoothing(
    videos: Mapping[str, Video] | None = None, seeds: Sequence[int] = SEEDS, rate: float = 30.0
) -> list[Smoothness]:
    """Smooth generated motion and, if given, videos.

    Args:
        videos: people with track ids, by name of the video.
        seeds: one sequence each for every motion.
        rate: frames per second of generated motion.

    Raises:
        InputError: as `measure_smoothing_of`.
    """
    rows = []
    for name, motion in MOTIONS.items():
        for method, smooth in METHODS.items():
            found = [_against_truth(motion, observed(motion, rate, seed), smooth) for seed in seeds]
            jitter, error, lag = np.mean(found, axis=0)
            rows.append(Smoothness(name, method, float(jitter), float(error), None if np.isnan(lag) else float(lag)))
    for name, video in (videos or {}).items():
        rows += measure_smoothing_of(video, name)
    return rows


def measure_smoothing_of(results: Video, name: str = "video") -> list[Smoothness]:
    """Smooth the poses of a real video: its jitter before and after.

    Args:
        results: people with track ids, and seconds.
        name: of the video.

    Raises:
        InputError: nobody is in three frames running.
    """
    times = [time for _, time in results]
    return [Smoothness(name, method, _jitter(smooth(results), times)) for method, smooth in METHODS.items()]


def _against_truth(
    motion: Motion, video: Video, smooth: Callable[[Video], list[PoseResult]]
) -> tuple[float, float, float]:
    """Jitter, error in body heights, and lag in milliseconds (NaN of a motion that stands)."""
    times = np.array([time for _, time in video])
    smoothed = smooth(video)
    xy = (np.concatenate([result.xy for result in smoothed]) - _ORIGIN) / _HEIGHT
    errors = [float(np.linalg.norm(xy - motion(times - lag), axis=-1).mean()) for lag in _LAGS]
    error = float(np.linalg.norm(xy - motion(times), axis=-1).mean())
    lag = np.nan if np.ptp(errors) < 1e-9 else 1000 * float(_LAGS[int(np.argmin(errors))])
    return _jitter(smoothed, list(times), _HEIGHT), error, lag


def _jitter(results: Sequence[PoseResult], times: Sequence[float], height: float | None = None) -> float:
    """Mean norm of the acceleration between frames that follow one another; height: the median of each person's."""
    tracks: dict[int, list[tuple[int, FloatArray, float]]] = {}
    for frame, result in enumerate(results):
        if len(result) and result.track_id is None:
            raise InputError("measuring jitter needs track ids, got people without: run PoseTracker.update first")
        extent = keypoint_extent(result)
        for row in range(len(result)):
            assert result.track_id is not None
            longer = float((extent[row, 2:] - extent[row, :2]).max())
            tracks.setdefault(int(result.track_id[row]), []).append((frame, result.xy[row], longer))
    found = []
    for track in tracks.values():
        size = height or float(np.median([longer for _, _, longer in track]))
        for (first, a, _), (middle, b, _), (last, c, _) in zip(track, track[1:], track[2:], strict=False):
            if last - first == 2:
                before, after = times[middle] - times[first], times[last] - times[middle]
                acceleration = 2 * ((c - b) / after - (b - a) / before) / (before + after)
                found.append(np.linalg.norm(acceleration, axis=-1).mean() / size)
    if not found:
        raise InputError("measuring jitter needs a person in three frames running, got none")
    return float(np.mean(found))


def smoothing_table(rows: Iterable[Smoothness]) -> Table:
    """The rows as they are printed."""
    table = Table(title="trembling of poses; generated motion at 30 frames per second, and videos")
    for heading in ("motion", "smoothing"):
        table.add_column(heading)
    for heading in ("jitter\nheights / s^2", "error\n% of height", "lag\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        error = "-" if row.error is None else f"{100 * row.error:.2f}"
        table.add_row(row.video, row.method, f"{row.jitter:.2f}", error, "-" if row.lag is None else f"{row.lag:.0f}")
    return table


def main() -> None:
    """Show tracking and smoothing on generated scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the scenes; one for a short run")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a scene of tracking")
    args = parser.parse_args()
    Console().print(tracking_table(measure_tracking(seeds=args.seeds, seconds=args.seconds)))
    Console().print(smoothing_table(measure_smoothing(seeds=args.seeds)))


if __name__ == "__main__":
    main()
