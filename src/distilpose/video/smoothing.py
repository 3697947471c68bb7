"""Less trembling: the poses of tracked people, smoothed over true time, live or, without lag, for files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from distilpose.errors import ConfigError, InputError
from distilpose.inference.result import PoseResult
from distilpose.options import NonNegativeFloat, PositiveFloat, check_options
from distilpose.types import FloatArray, IntArray
from distilpose.video.pose_boxes import keypoint_extent

Item = TypeVar("Item")

USUAL_SPREAD = 0.03  # sizes of a person: an error of this much makes a keypoint an ordinary one
# Median error over size is about 0.30 exp(-3.45 score) for the shipped student on 600 people of coco_val_train_crops.
_ERROR_AT_SCORE_0, _ERROR_FALL = 0.30, 3.45
_TRUST_LIMIT = 4.0  # no keypoint is smoothed more than this many times more or less than an ordinary one
_FASTEST_TURN = 30.0  # sizes per s^2: an arm swung over a quarter of the body's height twice a second
_SMALLEST_STEP = 1e-3  # seconds; files with repeated time stamps exist
_GIVEN_OUT: Any = None
_MAX_AHEAD = 120  # items that wait, whatever their times say
_HALF_PER_STD = 2.0  # a window ends two standard deviations from its middle


def relative_spread(result: PoseResult, size: FloatArray) -> FloatArray:
    """How far off each keypoint may be, in sizes of its person.

    Sigma says so only in a model trained for it (residual log-likelihood). In the students of simulated heatmaps sigma
    is the width of the teacher's peak and *small* where nothing is sure (rank correlation with the error -0.57, of the
    score -0.64, shipped student, coco_val_train_crops), so the score comes first.

    Args:
        result: N people.
        size: (N,) pixels.

    Returns:
        (N, K) greater than 0; `USUAL_SPREAD` where nothing is known.
    """
    if result.score is not None:
        spread = _ERROR_AT_SCORE_0 * np.exp(-_ERROR_FALL * result.score)
    elif result.sigma is not None:
        spread = np.sqrt((result.sigma**2).mean(-1)) / size[:, None]
    else:
        spread = np.full(result.xy.shape[:2], USUAL_SPREAD)
    return np.clip(spread, USUAL_SPREAD / _TRUST_LIMIT, USUAL_SPREAD * _TRUST_LIMIT)


@dataclass(frozen=True)
class OneEuroOptions:
    """Strength of the live smoother; chosen on generated motion (``benchmarks/tracking_and_smoothing.py``).

    Attributes:
        min_cutoff: cut-off frequency in Hz of a keypoint at rest: lower is calmer.
        beta: by how many Hz the cut-off rises for each size of the person per second: higher follows quicker.
        speed_cutoff: cut-off frequency in Hz of the speed's own filter.
        max_gap: seconds out of sight after which smoothing starts anew.
    """

    min_cutoff: PositiveFloat = 1.0
    beta: NonNegativeFloat = 6.0
    speed_cutoff: PositiveFloat = 1.5
    max_gap: NonNegativeFloat = 0.5

    def __post_init__(self) -> None:
        check_options(self)


class _Filtered(NamedTuple):
    """What the filter knows of each person, row by row, ids in rising order."""

    track_id: IntArray  # (T,)
    time: FloatArray  # (T,) seconds
    size: FloatArray  # (T,) pixels
    xy: FloatArray  # (T, K, 2) smoothed
    speed: FloatArray  # (T, K, 2) smoothed, pixels per second


class OneEuroSmoother:
    """Smooths poses as they arrive: a keypoint at rest strongly, a quick one hardly at all.

    Source:
        Casiez, Roussel, Vogel: "1 Euro Filter", CHI 2012. Here speed is that of the point in the plane (x and y share
        one cut-off) in sizes of the person, so that resolution and distance do not matter, and the cut-off is divided
        by how much less sure than usual a keypoint is.

    Example:
        >>> smooth = OneEuroSmoother()
        >>> len(smooth(PoseResult.empty(), time=0.0))
        0
    """

    def __init__(self, options: OneEuroOptions | None = None) -> None:
        self._options = options or OneEuroOptions()
        self._known: _Filtered | None = None
        self._time = -np.inf

    def __call__(self, result: PoseResult, time: float) -> PoseResult:
        """Smooth the next frame.

        Args:
            result: people with ``track_id``.
            time: of the frame in seconds.

        Returns:
            The same people with smoothed ``xy``.

        Raises:
            InputError: no track ids or one twice, or time goes backwards.
        """
        track_id = _track_ids(result)
        self._time = _next_time(time, self._time)
        size = _sizes(result)
        now = _Filtered(track_id, np.full(len(result), float(time)), size, result.xy.copy(), np.zeros_like(result.xy))
        known = self._known
        if known is not None:
            if known.xy.shape[1:] != result.xy.shape[1:]:
                raise InputError(
                    f"expected poses of {known.xy.shape[1]} keypoints, as before, got {result.xy.shape[1]}"
                )
            known = _Filtered(*(v[time - known.time <= self._options.max_gap] for v in known))  # type: ignore[arg-type]
            _, row, before = np.intersect1d(track_id, known.track_id, return_indices=True)
            old = _Filtered(*(values[before] for values in known))  # type: ignore[arg-type]
            spread = relative_spread(result, size)[row]
            for values, filtered in zip(
                now[2:], self._filter(old, result.xy[row], size[row], spread, time), strict=True
            ):
                values[row] = filtered
        self._known = now if known is None else _merged(known, now)
        return replace(result, xy=now.xy.copy())

    def _filter(
        self, old: _Filtered, xy: FloatArray, size: FloatArray, spread: FloatArray, time: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(T,) size, (T, K, 2) position and speed, smoothed."""
        options = self._options
        step = np.maximum(time - old.time, _SMALLEST_STEP)[:, None]
        part = _share(np.full_like(step, options.speed_cutoff), step)
        steady_size = old.size + part[:, 0] * (size - old.size)  # an arm stretched out makes nobody bigger
        speed = old.speed + part[..., None] * ((xy - old.xy) / step[..., None] - old.speed)
        quickness = np.linalg.norm(speed, axis=-1) / steady_size[:, None]
        cutoff = (options.min_cutoff + options.beta * quickness) * USUAL_SPREAD / spread
        return steady_size, old.xy + _share(cutoff, step)[..., None] * (xy - old.xy), speed


def smooth_zero_lag(
    items: Iterable[tuple[Item, PoseResult | None, float]],
    window: float = 0.4,
    *,
    max_gap: float = 0.25,
) -> Iterator[tuple[Item, PoseResult | None]]:
    """Smooth a video's poses by what comes before and after: no lag, at the price of a delay of half the window.

    Through each person's poses around a frame goes a parabola (a line near the ends of a track or with few poses),
    fitted with weights that fall with distance in time and with uncertainty; a pose that one frame throws off both of
    its neighbors, further than a body could turn in that time, counts little. Straight motion stays as it is.

    Args:
        items: (anything, people with ``track_id``, seconds) in order of time; None for a frame without a result.
        window: seconds from the first pose that counts to the last.
        max_gap: seconds out of sight across which nothing is smoothed.

    Yields:
        Each item once, in order, with smoothed ``xy``. At most the items within ``window`` are held, and one more.

    Raises:
        InputError: no track ids or one twice, or time goes backwards.
        ConfigError: ``window`` or ``max_gap`` is not positive.

    Source:
        Local polynomial regression: Cleveland, "Robust locally weighted regression", JASA 1979; here with a Gaussian
        in time and one robust weighting, by the median of three neighbors in place of his residuals.
    """
    if not 0 < window < np.inf or not 0 < max_gap < np.inf:
        raise ConfigError(f"window and max_gap must be greater than 0 seconds, got {window} and {max_gap}")
    return _smoothed(_held(items), window, max_gap)


class _Poses(NamedTuple):
    """One person's poses in a row, or one of them (without the leading axis)."""

    time: FloatArray  # (M,) seconds
    size: FloatArray  # (M,) pixels
    xy: FloatArray  # (M, K, 2) pixels
    spread: FloatArray  # (M, K) sizes


@dataclass(frozen=True, eq=False)
class _Held(Generic[Item]):
    """An item that waits for those after it."""

    item: Item  # taken out when it is given out: it may hold an image
    result: PoseResult | None
    time: float
    rows: dict[int, int]  # row of each track id
    size: FloatArray  # (N,)
    spread: FloatArray  # (N, K)


def _held(items: Iterable[tuple[Item, PoseResult | None, float]]) -> Iterator[_Held[Item]]:
    last = -np.inf
    for item, result, time in items:
        last = _next_time(time, last)
        if result is None:
            yield _Held(item, None, time, {}, np.zeros(0), np.zeros((0, 0)))
            continue
        rows = {int(number): row for row, number in enumerate(_track_ids(result))}
        size = _sizes(result)
        yield _Held(item, result, time, rows, size, relative_spread(result, size))


def _smoothed(items: Iterator[_Held[Item]], window: float, max_gap: float) -> Iterator[tuple[Item, PoseResult | None]]:
    held: deque[_Held[Item]] = deque()
    half = window / 2 + _SMALLEST_STEP  # rounded times do not make a window lopsided
    middle = 0  # index in ``held`` of the next item to give out
    for item in items:
        held.append(item)
        while item.time - held[middle].time > half or len(held) - middle > _MAX_AHEAD:
            yield _smooth_one(held, middle, half, max_gap)
            held[middle] = replace(held[middle], item=_GIVEN_OUT)
            middle += 1
            while held[middle].time - held[0].time > half:
                held.popleft()
                middle -= 1
    for last in range(middle, len(held)):
        yield _smooth_one(held, last, half, max_gap)


def _smooth_one(held: deque[_Held[Item]], middle: int, half: float, max_gap: float) -> tuple[Item, PoseResult | None]:
    center = held[middle]
    if center.result is None:
        return center.item, None
    near = [other for other in held if abs(other.time - center.time) <= half]
    xy = center.result.xy.copy()
    for number, row in center.rows.items():
        poses = _unbroken([_pose_of(other, number) for other in near if number in other.rows], center.time, max_gap)
        xy[row] = _fit(poses, center.time, half / _HALF_PER_STD, xy[row])
    return center.item, replace(center.result, xy=xy)


def _pose_of(held: _Held[Item], number: int) -> _Poses:
    assert held.result is not None
    row = held.rows[number]
    return _Poses(np.float64(held.time), held.size[row], held.result.xy[row], held.spread[row])  # type: ignore[arg-type]


def _unbroken(poses: list[_Poses], time: float, max_gap: float) -> _Poses:
    """The poses that no gap parts from that at ``time``."""
    joined = _Poses(*(np.stack(values) for values in zip(*poses, strict=True)))
    part = np.concatenate([[0], np.cumsum(np.diff(joined.time) > max_gap)])
    same = part == part[np.searchsorted(joined.time, time)]
    return _Poses(*(values[same] for values in joined))


def _fit(poses: _Poses, time: float, std: float, found: FloatArray) -> FloatArray:
    """(K, 2) value at ``time`` of the polynomial fitted to each keypoint; what was ``found`` among too few poses."""
    apart = poses.time - time
    before, after = int((apart <= -_SMALLEST_STEP).sum()), int((apart >= _SMALLEST_STEP).sum())
    if before + after < 2:  # a line through two poses is no fit
        return found
    offset = apart / std
    degree = 2 if min(before, after) >= 2 else 1
    weight = np.exp(-(offset[:, None] ** 2) / 2) * (USUAL_SPREAD / poses.spread) ** 2 * _plausibility(poses)
    weight = weight / weight.max(0) + 1e-6  # sums stay well conditioned where hardly anything is believed
    powers = offset[:, None] ** np.arange(degree + 1)
    normal = np.einsum("mk,mi,mj->kij", weight, powers, powers)
    moment = np.einsum("mk,mi,mkd->kid", weight, powers, poses.xy)
    return np.asarray(np.linalg.solve(normal, moment)[:, 0])


def _plausibility(poses: _Poses) -> FloatArray:
    """(M, K) near 0 for a keypoint that one frame alone puts elsewhere, such as one that changed sides; else near 1."""
    if len(poses.time) < 3:
        return np.ones(poses.spread.shape)
    neighbors = np.stack([poses.xy[:-2], poses.xy[1:-1], poses.xy[2:]])
    off = poses.xy[1:-1] - np.median(neighbors, axis=0)
    # The outermost have one neighbor: a third of how far they lie off the line through the next two, which trembles
    # about as much.
    ends = (np.diff(poses.xy, 2, axis=0)[[0, -1]]) / 3
    away = np.linalg.norm(np.concatenate([ends[:1], off, ends[1:]]), axis=-1) / poses.size[:, None]
    step = np.diff(poses.time)
    turn = np.pad(_FASTEST_TURN * step[:-1] * step[1:] / 2, 1, mode="edge")
    usual = np.median(away, axis=0)  # of this keypoint in these frames
    scale = turn[:, None] + 4 * usual + USUAL_SPREAD / 2
    return np.asarray(1 / (1 + (away / scale) ** 4) ** 2)


def _share(cutoff: FloatArray, step: FloatArray) -> FloatArray:
    """How much of a new value a low-pass filter of this cut-off (Hz) takes after ``step`` seconds."""
    return np.asarray(1 / (1 + 1 / (2 * np.pi * cutoff * step)))


def _sizes(result: PoseResult) -> FloatArray:
    """(N,) longer side of the confident keypoints' extent in pixels, at least 1."""
    extent = keypoint_extent(result)
    return np.asarray(np.maximum((extent[:, 2:] - extent[:, :2]).max(1), 1.0))


def _track_ids(result: PoseResult) -> IntArray:
    if result.track_id is None:
        if len(result) == 0:
            return np.zeros(0, dtype=np.int64)
        raise InputError(f"smoothing needs track ids, got {len(result)} people without: run PoseTracker.update first")
    if len(np.unique(result.track_id)) < len(result):
        raise InputError(f"track_id must be different for each person of a frame, got {result.track_id.tolist()}")
    return result.track_id


def _next_time(time: float, last: float) -> float:
    if not np.isfinite(time) or time < last:
        raise InputError(f"time must be finite and not go backwards, got {time} s after {last} s")
    return time


def _merged(known: _Filtered, now: _Filtered) -> _Filtered:
    """Everybody of ``now``, and who is only in ``known``."""
    unseen = ~np.isin(known.track_id, now.track_id)
    joined = [np.concatenate([old[unseen], new]) for old, new in zip(known, now, strict=True)]
    order = np.argsort(joined[0])
    return _Filtered(*(values[order] for values in joined))
