"""How well people are recognised again and how calm their poses are: generated motion and real films."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table

from distilpose.errors import ConfigError, InputError
from distilpose.geometry import box_iou_xyxy
from distilpose.inference.smoothing import OneEuroSmoother, smooth_zero_lag
from distilpose.inference.tracking import BOX_MARGIN, PoseTracker, TrackingOptions, keypoint_extent
from distilpose.results import PoseResult
from distilpose.skeleton import COCO_17

FloatArray = NDArray[np.float64]
Film = Sequence[tuple[PoseResult, float]]  # people and seconds, frame by frame

SEEDS = (1, 2, 3, 4, 5)  # reported; the defaults of the package were chosen on other seeds
IMAGE_WH = (1280, 720)
_STRIDE = 0.8  # body heights walked in one cycle of both legs
_HIDDEN = 0.5  # share of a person behind another from which the detector no longer finds them
_MOVING_AVERAGE = 5  # frames
_HEIGHT, _ORIGIN = 300.0, 400.0  # pixels; of generated motion that is smoothed
_LAGS = np.arange(-0.1, 0.3001, 0.002)  # seconds


class Gait(NamedTuple):
    """What a body does, each of shape (...).

    Attributes:
        phase: of the legs in radians.
        swing: of arms and legs, 0 standing to 1 walking.
        facing: 1 to the right, -1 to the left, 0 towards the camera.
        raised: angle of the arms to the side in radians.
    """

    phase: ArrayLike
    swing: ArrayLike
    facing: ArrayLike
    raised: ArrayLike = 0.0


def body(gait: Gait) -> FloatArray:
    """(..., 17, 2) COCO keypoints of a walking body in body heights, y down, from the ground below its hip."""
    phase, swing, facing, raised = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in gait))
    across = np.maximum(0.25, np.sqrt(np.maximum(0.0, 1 - facing**2)))  # how much of the body's width is seen
    bob = -0.01 * swing * np.cos(2 * phase)
    xy = np.zeros((*phase.shape, 17, 2))

    def put(index: int, x: ArrayLike, y: ArrayLike) -> None:
        xy[..., index, 0], xy[..., index, 1] = x, y

    put(0, 0.06 * facing, -0.90 + bob)
    for left, side in ((0, 1.0), (1, -1.0)):
        put(1 + left, 0.045 * facing + side * 0.02 * across, -0.925 + bob)
        put(3 + left, -0.01 * facing + side * 0.045 * across, -0.91 + bob)
        shoulder = np.stack([side * 0.11 * across, -0.80 + bob], axis=-1)
        hip = np.stack([side * 0.07 * across, -0.52 + bob], axis=-1)
        arm = -side * 0.5 * swing * np.sin(phase)
        elbow = shoulder + 0.17 * _arm(arm, facing, side * raised)
        leg = side * 0.45 * swing * np.sin(phase)
        bend = 0.7 * swing * np.maximum(0.0, side * np.cos(phase))  # the leg that swings forward
        knee = hip + 0.25 * _direction(leg, facing)
        xy[..., 5 + left, :], xy[..., 11 + left, :] = shoulder, hip
        xy[..., 7 + left, :], xy[..., 9 + left, :] = (
            elbow,
            elbow + 0.15 * _arm(arm + 0.3 * swing, facing, side * raised),
        )
        xy[..., 13 + left, :], xy[..., 15 + left, :] = knee, knee + 0.23 * _direction(leg - bend, facing)
    return xy


def _direction(angle: FloatArray, facing: FloatArray) -> FloatArray:
    return np.stack([np.sin(angle) * facing, np.cos(angle)], axis=-1)


def _arm(angle: FloatArray, facing: FloatArray, raised: FloatArray) -> FloatArray:
    along = np.sin(angle) * facing * np.cos(raised) + np.sin(raised)
    return np.stack([along, np.cos(angle) * np.cos(raised)], axis=-1)


class Level(NamedTuple):
    """How hard a scene is.

    Attributes:
        name: of the row.
        people: how many.
        lanes: from how many depths; people of one lane never pass each other at the same distance to the camera.
        rate: frames per second.
        missed: share of people that the detector overlooks.
        false: wrong people per frame.
        box_noise: standard deviation of a box edge, in sides of the box.
        turning: stops and reversals per second and person.
    """

    name: str
    people: int
    lanes: float
    rate: float
    missed: float
    false: float
    box_noise: float
    turning: float


LEVELS = (
    Level("easy", 3, 1.0, 30, 0.02, 0.05, 0.03, 0.0),
    Level("crossings", 5, 0.3, 30, 0.05, 0.1, 0.04, 0.3),
    Level("crowd", 12, 0.4, 30, 0.08, 0.3, 0.05, 0.3),
    Level("5 frames per second", 5, 0.3, 5, 0.05, 0.1, 0.04, 0.3),
)


class SceneFrame(NamedTuple):
    """One moment of a generated scene.

    Attributes:
        time: in seconds.
        result: what detector and model find.
        truth_id: (V,) who is in sight.
        truth_box: (V, 4) where.
    """

    time: float
    result: PoseResult
    truth_id: NDArray[np.int64]
    truth_box: FloatArray


def scene(level: Level, seed: int, seconds: float = 12.0) -> list[SceneFrame]:
    """Walk people up and down before a camera, past one another, and look at them with a fallible detector and model.

    A person more than half behind a nearer one is not found; keypoints behind a nearer one are less sure, noisier and
    sometimes put onto the nearer one's body.
    """
    rng = np.random.default_rng([seed, level.people, int(level.rate)])
    time = np.arange(0, seconds, 1 / level.rate)
    xy, height = _walks(level, time, rng)
    extent = np.concatenate([xy.min(2), xy.max(2)], axis=-1)
    longer = (extent[..., 2:] - extent[..., :2]).max(-1, keepdims=True)
    box = extent + longer * BOX_MARGIN * [-1, -1, 1, 1]
    return [_look(level, float(t), xy[i], box[i], height, rng) for i, t in enumerate(time)]


def _walks(level: Level, time: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(F, N, 17, 2) keypoints in pixels and (N,) body heights, farthest first."""
    count, fine = level.people, 4  # velocity is drawn at four times the frame rate
    step = 1 / (level.rate * fine)
    height = 220 * np.sort(1 + level.lanes * rng.uniform(-0.5, 0.5, count))
    width = IMAGE_WH[0]
    x = rng.uniform(0.1, 0.9, count) * width
    speed = rng.uniform(0.3, 0.8, count) * height  # pixels per second
    heading = rng.choice([-1.0, 1.0], count)
    target, velocity, phase = heading * speed, heading * speed, rng.uniform(0, 2 * np.pi, count)
    ground = 120 + 2 * height
    frames = []
    for tick in range(len(time) * fine):
        turn = rng.random(count) < level.turning * step
        target = np.where(turn, rng.choice([-1.0, 0.0, 1.0], count) * speed, target)
        wall = np.where(x < 0.06 * width, 1.0, np.where(x > 0.94 * width, -1.0, 0.0))
        target = np.where(wall != 0, wall * speed, target)
        velocity = velocity + (target - velocity) * step / 0.15  # seconds to turn round
        x = x + velocity * step
        phase = phase + np.abs(velocity) / (_STRIDE * height) * 2 * np.pi * step
        if tick % fine == 0:
            pace = velocity / speed
            pose = body(Gait(phase, np.minimum(1, np.abs(pace)), np.clip(pace, -1, 1)))
            frames.append(pose * height[:, None, None] + np.stack([x, ground], axis=-1)[:, None])
    return np.stack(frames), height


def _look(
    level: Level, time: float, xy: FloatArray, box: FloatArray, height: FloatArray, rng: np.random.Generator
) -> SceneFrame:
    count = len(xy)
    area = (box[:, 2:] - box[:, :2]).prod(1)
    size = np.maximum(
        0, np.minimum(box[:, None, 2:], box[None, :, 2:]) - np.maximum(box[:, None, :2], box[None, :, :2])
    )
    cover = np.triu(size.prod(-1) / area[:, None], 1).max(1)  # by anybody nearer: later rows are
    spread = 0.01 * np.exp(0.4 * rng.standard_normal((count, 17)))
    seen = xy.copy()
    for person in range(count):
        for nearer in range(person + 1, count):
            behind = ((xy[person] > box[nearer, :2]) & (xy[person] < box[nearer, 2:])).all(1)
            spread[person, behind] *= 3
            taken = behind & (rng.random(17) < 0.3)
            seen[person, taken] = xy[nearer, taken]
    seen += rng.standard_normal(seen.shape) * spread[..., None] * height[:, None, None]
    visible = cover < _HIDDEN
    found = np.flatnonzero(visible & (rng.random(count) >= level.missed))
    false = rng.poisson(level.false)
    false_height = rng.uniform(100, 300, false)
    pose = body(Gait(*(rng.uniform(low, high, false) for low, high in ((0, 6), (0, 1), (-1, 1)))))
    place = rng.uniform([0, 200], IMAGE_WH, (false, 2))
    all_xy = np.concatenate([seen[found], pose * false_height[:, None, None] + place[:, None]])
    extent = np.concatenate([all_xy.min(1), all_xy.max(1)], axis=1)
    true_box = np.concatenate([box[found], extent[len(found) :]])
    sides = np.tile(true_box[:, 2:] - true_box[:, :2], 2)
    box_score = np.concatenate([0.95 - 0.5 * cover[found] - 0.1 * rng.random(len(found)), rng.uniform(0.2, 0.7, false)])
    all_spread = np.concatenate([spread[found], rng.uniform(0.01, 0.06, (false, 1)) * np.ones(17)])
    score = np.exp(-all_spread / 0.03)
    result = PoseResult(
        xy=all_xy,
        box=true_box + rng.standard_normal(true_box.shape) * level.box_noise * sides,
        box_score=box_score,
        pose_score=box_score * score.mean(1),
        raw_score=score,
        sigma=np.repeat((all_spread * np.concatenate([height[found], false_height])[:, None])[..., None], 2, axis=-1),
    )
    order = rng.permutation(len(result))  # a detector does not know people
    return SceneFrame(time, result.filter(order), np.flatnonzero(visible), box[visible])


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
    table = Table(title="generated scenes, people recognised again (matches: box IoU of 0.5)")
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
    """A film's poses, smoothed one way.

    Attributes:
        film: generated motion or name of a film.
        method: of smoothing.
        jitter: mean norm of a keypoint's acceleration, in body heights per s^2.
        error: mean distance to the truth in body heights; None where it is unknown.
        lag: shift in milliseconds at which the error is least; None where nothing is known or moves.
    """

    film: str
    method: str
    jitter: float
    error: float | None = None
    lag: float | None = None


def observed(motion: Motion, rate: float, seed: int, seconds: float = 6.0) -> Film:
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


def _moving_average(film: Film) -> list[PoseResult]:
    """Each keypoint's mean over the last frames of one person: what one would write in a hurry."""
    past: dict[int, list[FloatArray]] = {}
    smoothed = []
    for result, _ in film:
        assert result.track_id is not None
        xy = result.xy.copy()
        for row, number in enumerate(result.track_id):
            poses = past.setdefault(int(number), [])
            poses.append(result.xy[row])
            xy[row] = np.mean(poses[-_MOVING_AVERAGE:], axis=0)
        smoothed.append(replace(result, xy=xy))
    return smoothed


def _one_euro(film: Film) -> list[PoseResult]:
    smooth = OneEuroSmoother()
    return [smooth(result, time) for result, time in film]


def _zero_lag(film: Film) -> list[PoseResult]:
    smoothed = [result for _, result in smooth_zero_lag((None, result, time) for result, time in film)]
    return [result for result in smoothed if result is not None]


METHODS: dict[str, Callable[[Film], list[PoseResult]]] = {
    "none": lambda film: [result for result, _ in film],
    f"mean of last {_MOVING_AVERAGE}": _moving_average,
    "One Euro (live)": _one_euro,
    "zero lag (files)": _zero_lag,
}


def measure_smoothing(
    films: Mapping[str, Film] | None = None, seeds: Sequence[int] = SEEDS, rate: float = 30.0
) -> list[Smoothness]:
    """Smooth generated motion and, if given, films.

    Args:
        films: people with track ids, by name of the film.
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
    for name, film in (films or {}).items():
        rows += measure_smoothing_of(film, name)
    return rows


def measure_smoothing_of(results: Film, name: str = "film") -> list[Smoothness]:
    """Smooth the poses of a real film: its jitter before and after.

    Args:
        results: people with track ids, and seconds.
        name: of the film.

    Raises:
        InputError: nobody is in three frames running.
    """
    times = [time for _, time in results]
    return [Smoothness(name, method, _jitter(smooth(results), times)) for method, smooth in METHODS.items()]


def _against_truth(
    motion: Motion, film: Film, smooth: Callable[[Film], list[PoseResult]]
) -> tuple[float, float, float]:
    """Jitter, error in body heights, and lag in milliseconds (NaN of a motion that stands)."""
    times = np.array([time for _, time in film])
    smoothed = smooth(film)
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
    table = Table(title="trembling of poses; generated motion at 30 frames per second, and films")
    for heading in ("motion", "smoothing"):
        table.add_column(heading)
    for heading in ("jitter\nheights / s^2", "error\n% of height", "lag\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        error = "-" if row.error is None else f"{100 * row.error:.2f}"
        table.add_row(row.film, row.method, f"{row.jitter:.2f}", error, "-" if row.lag is None else f"{row.lag:.0f}")
    return table
