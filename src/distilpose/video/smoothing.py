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
from distilpose.types import FloatArray
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
    """How far off each keypoint may be, (N, K) in sizes (N,) of its person; `USUAL_SPREAD` where nothing is known.

    Sigma says so only in a model trained for it (residual log-likelihood). In the students of simulated heatmaps sigma
    is the width of the teacher's peak and *small* where nothing is sure (rank correlation with the error -0.57, of the
    score -0.64, shipped student, coco_val_train_crops), so the score comes first.
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
    """Strength of the live smoother; chosen on generated motion (``benchmarks/tracking_and_smoothing.py``)."""

    min_cutoff: PositiveFloat = 1.0  # cut-off frequency in Hz of a keypoint at rest: lower is calmer
    beta: NonNegativeFloat = 6.0  # Hz of cut-off for each size of the person per second: higher follows quicker
    speed_cutoff: PositiveFloat = 1.5  # cut-off frequency in Hz of the speed's own filter
    max_gap: NonNegativeFloat = 0.5  # seconds out of sight after which smoothing starts anew

    def __post_init__(self) -> None:
        check_options(self)


class _Filtered(NamedTuple):
    """What the filter knows of a person."""

    time: float  # seconds
    size: float  # pixels
    xy: FloatArray  # (K, 2) smoothed
    speed: FloatArray  # (K, 2) smoothed, pixels per second


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
        self._known: dict[int, _Filtered] = {}  # by track id
        self._time = -np.inf

    def __call__(self, result: PoseResult, time: float) -> PoseResult:
        """People with ``track_id`` at ``time`` in seconds -> the same with smoothed ``xy``.

        Raises:
            InputError: no track ids or one twice, or time goes backwards.
        """
        track_ids = _track_ids(result)
        self._time = _next_time(time, self._time)
        for known in self._known.values():
            if known.xy.shape != result.xy.shape[1:]:
                raise InputError(f"expected poses of {len(known.xy)} keypoints, as before, got {result.xy.shape[1]}")
        self._known = {n: known for n, known in self._known.items() if time - known.time <= self._options.max_gap}
        size, xy = _sizes(result), result.xy.copy()
        spread = relative_spread(result, size)
        for row, number in enumerate(track_ids):
            now = _Filtered(time, size[row], result.xy[row].copy(), np.zeros_like(xy[row]))
            if number in self._known:
                now = self._filter(self._known[number], now, spread[row])
            self._known[number] = now
            xy[row] = now.xy
        return replace(result, xy=xy)

    def _filter(self, old: _Filtered, now: _Filtered, spread: FloatArray) -> _Filtered:
        options = self._options
        step = max(now.time - old.time, _SMALLEST_STEP)
        part = _share(options.speed_cutoff, step)
        size = old.size + part * (now.size - old.size)  # an arm stretched out makes nobody bigger
        speed = old.speed + part * ((now.xy - old.xy) / step - old.speed)
        quickness = np.linalg.norm(speed, axis=-1) / size
        cutoff = (options.min_cutoff + options.beta * quickness) * USUAL_SPREAD / spread
        xy = old.xy + _share(cutoff, step)[:, None] * (now.xy - old.xy)
        return _Filtered(now.time, float(size), xy, speed)


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
    return _smoothed(map(_held, items), window, max_gap)


class _Poses(NamedTuple):
    """One person's poses in a row, or one of them (without the leading axis)."""

    time: FloatArray  # (M,) seconds
    size: FloatArray  # (M,) pixels
    xy: FloatArray  # (M, K, 2) pixels
    spread: FloatArray  # (M, K) sizes


class _Held(NamedTuple, Generic[Item]):
    """An item that waits for those after it."""

    item: Item  # taken out when it is given out: it may hold an image
    result: PoseResult | None
    time: float
    poses: dict[int, _Poses]  # by track id, in the order of the rows


def _held(item: tuple[Item, PoseResult | None, float]) -> _Held[Item]:
    _, result, time = item
    if result is None:
        return _Held(*item, {})
    size = _sizes(result)
    rows = zip([np.float64(time)] * len(result), size, result.xy, relative_spread(result, size), strict=True)
    return _Held(*item, {number: _Poses(*row) for number, row in zip(_track_ids(result), rows, strict=True)})  # type: ignore[arg-type]


def _smoothed(items: Iterable[_Held[Item]], window: float, max_gap: float) -> Iterator[tuple[Item, PoseResult | None]]:
    held: deque[_Held[Item]] = deque()
    half = window / 2 + _SMALLEST_STEP  # rounded times do not make a window lopsided
    middle = 0  # index in ``held`` of the next item to give out
    last = -np.inf
    for item in items:
        last = _next_time(item.time, last)
        held.append(item)
        while item.time - held[middle].time > half or len(held) - middle > _MAX_AHEAD:
            yield _smooth_one(held, middle, half, max_gap)
            held[middle] = held[middle]._replace(item=_GIVEN_OUT)
            middle += 1
            while held[middle].time - held[0].time > half:
                held.popleft()
                middle -= 1
    for rest in range(middle, len(held)):
        yield _smooth_one(held, rest, half, max_gap)


def _smooth_one(held: deque[_Held[Item]], middle: int, half: float, max_gap: float) -> tuple[Item, PoseResult | None]:
    center = held[middle]
    if center.result is None:
        return center.item, None
    near = [other.poses for other in held if abs(other.time - center.time) <= half]
    xy = center.result.xy.copy()
    for row, number in enumerate(center.poses):
        same_person = [poses[number] for poses in near if number in poses]
        track = _Poses(*(np.stack(values) for values in zip(*same_person, strict=True)))
        part = np.concatenate([[0], np.cumsum(np.diff(track.time) > max_gap)])  # parted by gaps
        unbroken = part == part[np.searchsorted(track.time, center.time)]
        xy[row] = _fit(_Poses(*(values[unbroken] for values in track)), center.time, half / _HALF_PER_STD, xy[row])
    return center.item, replace(center.result, xy=xy)


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


def _share(cutoff: Any, step: float) -> Any:
    """How much of a new value a low-pass filter of this cut-off (Hz) takes after ``step`` seconds."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


def _sizes(result: PoseResult) -> FloatArray:
    """(N,) longer side of the confident keypoints' extent in pixels, at least 1."""
    extent = keypoint_extent(result)
    return np.asarray(np.maximum((extent[:, 2:] - extent[:, :2]).max(1), 1.0))


def _track_ids(result: PoseResult) -> list[int]:
    if result.track_id is None:
        if len(result) == 0:
            return []
        raise InputError(f"smoothing needs track ids, got {len(result)} people without: run PoseTracker.update first")
    ids: list[int] = result.track_id.tolist()
    if len(set(ids)) < len(ids):
        raise InputError(f"track_id must be different for each person of a frame, got {ids}")
    return ids


def _next_time(time: float, last: float) -> float:
    if not np.isfinite(time) or time < last:
        raise InputError(f"time must be finite and not go backwards, got {time} s after {last} s")
    return time
