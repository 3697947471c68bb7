"""Who is who from frame to frame: poses of single frames -> the same number for the same person, as frames arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.errors import InputError
from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry import box_iou_xyxy
from distilpose.geometry.oks import keypoint_similarity
from distilpose.inference.decoding import KEYPOINT_SCORE_THRESHOLD
from distilpose.inference.result import PoseResult
from distilpose.options import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, check_options
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray, IntArray
from distilpose.video.pose_boxes import (
    BOX_MARGIN,
    BOX_MARGIN_HIGH,
    BOX_MARGIN_LOW,
    MIN_KEYPOINTS,
    box_area,
    extent_of,
    grown,
    keypoint_weight,
)

_POSE_SHARE = 0.75  # of the box around the pose in an expected box, while all of the body is as sure as it was
_SCALE_LIMIT = 2.0  # most that a box grows or shrinks with its pose since the detector has seen it
_BRIEF = 0.02  # seconds; no velocity is believed at once that was measured over less
_SMALLEST_STEP = 1e-3  # seconds; files with repeated time stamps exist


@dataclass(frozen=True)
class TrackingOptions:
    """How people are recognized again; the defaults do best in ``benchmarks/tracking_and_smoothing.py``."""

    oks_weight: ClosedUnitInterval = 0.7  # share of pose similarity; the rest is box overlap
    confident: ClosedUnitInterval = 0.3  # pose score from which a track lives on, and people are matched first
    keep: ClosedUnitInterval = 0.2  # pose score below which a pose has fallen apart; `expected` no longer follows it
    min_similarity: ClosedUnitInterval = 0.2  # somebody less similar to where a track is expected is somebody else
    max_lost: NonNegativeFloat = 1.5  # seconds for which a person out of sight is remembered
    max_unconfirmed: NonNegativeFloat = 5.0  # seconds for which `expected` names a person whom no detector sees
    velocity_time: PositiveFloat = 0.3  # seconds over which velocity is averaged
    damping_time: PositiveFloat = 1.0  # seconds until a person out of sight should have slowed down to 1 / e
    doubt_time: PositiveFloat = 0.5  # seconds out of sight after which people are looked for twice as far around

    def __post_init__(self) -> None:
        check_options(self)


class _Tracks(NamedTuple):
    """Everybody who is remembered, oldest first: row t of every array is one track."""

    id: IntArray  # (T,)
    born: FloatArray  # (T,) seconds
    seen: FloatArray  # (T,) seconds, last time
    hits: IntArray  # (T,) how often seen with confidence
    pose_score: FloatArray  # (T,) last one
    box_score: FloatArray  # (T,) the detector's last one
    xy: FloatArray  # (T, K, 2) last pose
    weight: FloatArray  # (T, K) of its keypoints
    box: FloatArray  # (T, 4) around it
    velocity: FloatArray  # (T, 2) pixels per second
    growth: FloatArray  # (T,) of the logarithm of size, per second
    anchor_time: FloatArray  # (T,) seconds, when the detector last saw this person
    anchor_xy: FloatArray  # (T, K, 2) pose when the detector last saw this person
    anchor_weight: FloatArray  # (T, K)
    anchor_box: FloatArray  # (T, 4) what the detector said


class PoseTracker:
    """Gives the people of a video numbers that last, one frame after the other.

    A person is matched to the track whose predicted pose and box (constant velocity and growth, slowing down) are most
    like the found ones, over all people of the frame at once, in two rounds: confident people come first, then weak
    ones meet the tracks that are left. Everybody else starts a track, weak people too, so every person has a number.
    One who was not yet seen with confidence twice is forgotten as soon as a frame misses them; the others are
    remembered for ``max_lost`` seconds and looked for ever further around. `expected` names nobody who was only weak.

    Example:
        >>> tracker = PoseTracker()
        >>> tracker.update(PoseResult.empty(), time=0.0).track_id
        array([], dtype=int64)
    """

    def __init__(self, options: TrackingOptions | None = None) -> None:
        self._options = options or TrackingOptions()
        self._skeleton: Skeleton | None = None  # of the first result
        self._tracks = self._fresh(PoseResult.empty(), np.zeros(0, dtype=np.bool_), 0.0)
        self._time = -np.inf
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._tracks.id)

    def update(self, result: PoseResult, time: float, *, detected: bool | NDArray[np.bool_] = True) -> PoseResult:
        """Recognize the people of the next frame.

        Args:
            result: the frame's people.
            time: of the frame in seconds; frames need not be evenly spaced.
            detected: False where ``result.box`` came from `expected`, for all people or (N,): such a box says nothing
                new, so the person is matched by one drawn around the pose, and the detector's last word is kept.

        Returns:
            The same people in the same order with ``track_id`` (from 1 on, never given twice).

        Raises:
            InputError: time goes backwards or is not finite, the skeleton is another, or ``detected`` does not fit.
        """
        self._check_time(time)
        if self._skeleton is None:
            self._skeleton = result.skeleton
            self._tracks = self._fresh(PoseResult.empty(self._skeleton), np.zeros(0, dtype=np.bool_), time)
        if result.skeleton != self._skeleton:
            raise InputError(
                f"expected poses of the skeleton {self._skeleton.name}, as before, got {result.skeleton.name}: start a "
                "new PoseTracker for other poses"
            )
        if np.shape(detected) not in ((), (len(result),)):
            raise InputError(
                f"detected must be one bool or one for each of {len(result)} people, got shape {np.shape(detected)}"
            )
        from_detector = np.broadcast_to(np.asarray(detected, dtype=np.bool_), (len(result),))
        tracks = _rows(self._tracks, time - self._tracks.seen <= self._options.max_lost)
        seen = self._fresh(result, from_detector, time)
        found = self._match(tracks, seen, time)
        again, new = np.flatnonzero(found >= 0), np.flatnonzero(found < 0)
        seen.id[again], seen.id[new] = tracks.id[found[again]], np.arange(self._next_id, self._next_id + len(new))
        self._next_id += len(new)
        followed = self._follow(_rows(tracks, found[again]), _rows(seen, again), from_detector[again])
        missed = np.setdiff1d(np.arange(len(tracks.id)), found)
        missed = missed[tracks.hits[missed] > 1]
        parts = zip(_rows(tracks, missed), followed, _rows(seen, new), strict=True)
        everybody = _Tracks(*(np.concatenate(values) for values in parts))
        self._tracks = _rows(everybody, np.argsort(everybody.id))
        self._time = time
        return replace(result, track_id=seen.id)

    def expected(self, time: float) -> PersonBoxes:
        """Say where the people in sight will be at ``time`` in seconds, for a frame without a detector.

        A box lies between two: the one around the confident keypoints of the last pose (`boxes_around`), which follows
        the body, and the detector's last one, moved and scaled as the pose has been since, which counts the more the
        less of the body is still sure. Neither is made from earlier expected boxes, so nothing adds up over frames.

        Returns:
            Boxes of those seen in the last frame with a pose score of at least ``keep``, and by the detector within
            ``max_unconfirmed`` seconds, longest known first, with the detector's last score.

        Raises:
            InputError: time goes backwards or is not finite.
        """
        self._check_time(time)
        good = (self._tracks.seen == self._time) & (self._tracks.hits > 0)
        good &= time - self._tracks.anchor_time <= self._options.max_unconfirmed
        tracks = _rows(self._tracks, good & (self._tracks.pose_score >= self._options.keep))
        around = grown(extent_of(tracks.xy, tracks.weight), BOX_MARGIN)
        trust = _POSE_SHARE * _still_spanned(tracks)[:, None]
        boxes = trust * around + (1 - trust) * _carried_anchor(tracks)
        return PersonBoxes(self._predicted(tracks, boxes.reshape(-1, 2, 2), time).reshape(-1, 4), tracks.box_score)

    def _check_time(self, time: float) -> None:
        if not np.isfinite(time) or time < self._time:
            raise InputError(
                f"time must be finite and not go backwards, got {time} s after {self._time} s: start a new PoseTracker "
                "for another video"
            )

    def _predicted(self, tracks: _Tracks, xy: FloatArray, time: float) -> FloatArray:
        """(T, P, 2) points of the tracks' last poses, moved on to ``time``; sizes about the center of the box."""
        damping = self._options.damping_time
        travel = damping * -np.expm1(-(time - tracks.seen) / damping)  # seconds, were the speed constant
        center = ((tracks.box[:, :2] + tracks.box[:, 2:]) / 2)[:, None]
        scale = np.exp(np.clip(tracks.growth * travel, -np.log(_SCALE_LIMIT), np.log(_SCALE_LIMIT)))
        return np.asarray(center + (xy - center) * scale[:, None, None] + (tracks.velocity * travel[:, None])[:, None])

    def _match(self, tracks: _Tracks, seen: _Tracks, time: float) -> NDArray[np.intp]:
        """(N,) row of each person's track, -1 where there is none."""
        found = np.full(len(seen.xy), -1, dtype=np.intp)
        if not len(tracks.id) or not len(found):
            return found
        similarity, cost = self._compare(tracks, seen, time)
        confident = seen.hits > 0
        rounds = ((confident, tracks.hits > 0), (np.ones_like(confident), np.ones(len(cost), dtype=np.bool_)))
        for people, known in rounds:
            row, column = np.flatnonzero(people & (found < 0)), np.setdiff1d(np.flatnonzero(known), found)
            allowed = similarity[np.ix_(column, row)] >= self._options.min_similarity
            from scipy.optimize import linear_sum_assignment  # single images need no scipy

            picked, person = linear_sum_assignment(np.where(allowed, cost[np.ix_(column, row)], 2.0))
            good = allowed[picked, person]
            found[row[person[good]]] = column[picked[good]]
        return found

    def _compare(self, tracks: _Tracks, seen: _Tracks, time: float) -> tuple[FloatArray, FloatArray]:
        """(T, N) similarity in [0, 1], and the cost of calling the two the same."""
        options = self._options
        gap = time - tracks.seen
        reach = 1 + gap / options.doubt_time
        box = self._predicted(tracks, tracks.box.reshape(-1, 2, 2), time).reshape(-1, 4)
        overlap = np.empty((len(box), len(seen.box)))
        for far in np.unique(reach):  # both boxes grow alike, and most tracks have been seen in the last frame
            rows = reach == far
            overlap[rows] = box_iou_xyxy(_scaled(box[rows], far), _scaled(seen.box, far))
        assert self._skeleton is not None
        area = (box_area(box)[:, None] + box_area(seen.box)[None]) / 2 * reach[:, None] ** 2
        predicted = self._predicted(tracks, tracks.xy, time)
        alike = _weighted_oks(predicted, tracks.weight, seen, area, self._skeleton.oks_sigmas)
        similarity = options.oks_weight * alike + (1 - options.oks_weight) * overlap
        # Looking further around flatters whoever is out of sight: of two that fit alike, the one in sight is meant.
        absent = (self._time - tracks.seen) / max(options.max_lost, _SMALLEST_STEP)
        ratio = np.abs(np.log(box_area(box)[:, None] / box_area(seen.box)[None])) / 2
        other_size = (absent[:, None] > 0) & (ratio > np.log(_SCALE_LIMIT))
        return np.where(other_size, 0.0, similarity), 1 - similarity + 0.2 * absent[:, None]

    def _fresh(self, result: PoseResult, from_detector: NDArray[np.bool_], time: float) -> _Tracks:
        """The people of a frame, each as a track that begins; a detector's box is kept within what is usual."""
        weight = keypoint_weight(result)
        extent = extent_of(result.xy, weight)
        usual, inner, outer = (grown(extent, margin) for margin in (BOX_MARGIN, BOX_MARGIN_LOW, BOX_MARGIN_HIGH))
        now, zero = np.full(len(result), float(time)), np.zeros(len(result))
        return _Tracks(
            id=zero.astype(np.int64),
            born=now,
            seen=now,
            hits=(result.pose_score >= self._options.confident).astype(np.int64),
            pose_score=result.pose_score,
            box_score=result.box_score,
            xy=result.xy,
            weight=weight,
            box=np.where(from_detector[:, None], result.box, usual),
            velocity=np.zeros((len(result), 2)),
            growth=zero,
            anchor_time=now,
            anchor_xy=result.xy,
            anchor_weight=weight,
            anchor_box=np.clip(result.box, np.minimum(inner, outer), np.maximum(inner, outer)),
        )

    def _follow(self, tracks: _Tracks, seen: _Tracks, from_detector: NDArray[np.bool_]) -> _Tracks:
        """The tracks (T,) of the people (T,) seen again."""
        step = np.maximum(seen.seen - tracks.seen, _SMALLEST_STEP)
        known = np.maximum(np.maximum(seen.seen - tracks.born, step), _BRIEF)
        memory = self._options.velocity_time
        share = np.expm1(-step / memory) / np.expm1(-known / memory)  # a running mean at first, then an exponential one
        shift, growth = _motion(tracks.xy, seen.xy, tracks.weight * seen.weight)
        for name in ("box_score", "anchor_time", "anchor_xy", "anchor_weight", "anchor_box"):  # a detector's last word
            getattr(seen, name)[~from_detector] = getattr(tracks, name)[~from_detector]
        return seen._replace(
            born=tracks.born,
            hits=tracks.hits + seen.hits,
            velocity=tracks.velocity + share[:, None] * (shift / step[:, None] - tracks.velocity),
            growth=tracks.growth + share * (growth / step - tracks.growth),
        )


def _still_spanned(tracks: _Tracks) -> FloatArray:
    """(T,) share of the pose's extent, as the detector last saw it, that the keypoints sure then and now span."""
    then, now = (weight >= KEYPOINT_SCORE_THRESHOLD for weight in (tracks.anchor_weight, tracks.weight))
    both = then & now
    spanned = box_area(extent_of(tracks.anchor_xy, both.astype(np.float64)))
    share = spanned / box_area(extent_of(tracks.anchor_xy, tracks.anchor_weight))
    return np.where(both.sum(1) < MIN_KEYPOINTS, 0.0, np.minimum(share, 1.0))


def _carried_anchor(tracks: _Tracks) -> FloatArray:
    """(T, 4) the detector's last boxes, moved and scaled as the poses were since then."""
    weight = tracks.anchor_weight * tracks.weight
    shift, growth = _motion(tracks.anchor_xy, tracks.xy, weight)
    center = _weighted_mean(tracks.anchor_xy, weight)[:, None]
    scale = np.exp(np.clip(growth, -np.log(_SCALE_LIMIT), np.log(_SCALE_LIMIT)))[:, None, None]
    corners = (tracks.anchor_box.reshape(-1, 2, 2) - center) * scale + center + shift[:, None]
    return np.asarray(corners.reshape(-1, 4))


def _motion(before: FloatArray, after: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(T, 2) shift of the weighted mean and (T,) logarithm of the growth of the spread about it, from (T, P, 2)."""
    mean_before, mean_after = _weighted_mean(before, weight), _weighted_mean(after, weight)
    spread = [
        np.sqrt((weight * ((points - mean[:, None]) ** 2).sum(-1)).sum(1) / weight.sum(1)) + 1.0  # pixel: never 0 / 0
        for points, mean in ((before, mean_before), (after, mean_after))
    ]
    return mean_after - mean_before, np.log(spread[1] / spread[0])


def _weighted_mean(xy: FloatArray, weight: FloatArray) -> FloatArray:
    return np.asarray((xy * weight[..., None]).sum(1) / weight.sum(1)[:, None])


def _weighted_oks(
    xy: FloatArray, weight: FloatArray, seen: _Tracks, area: FloatArray, sigmas: Sequence[float]
) -> FloatArray:
    """(T, N) OKS in which a keypoint counts as much as both poses believe in it."""
    terms = keypoint_similarity(xy[:, None], seen.xy[None], area, sigmas)
    return np.asarray(np.einsum("tnk,tk,nk->tn", terms, weight, seen.weight) / (weight @ seen.weight.T))


def _scaled(boxes_xyxy: FloatArray, factor: float) -> FloatArray:
    center = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    half = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / 2 * factor
    return np.asarray(np.concatenate([center - half, center + half], axis=1))


def _rows(tracks: _Tracks, index: NDArray[np.bool_] | NDArray[np.intp]) -> _Tracks:
    """Copies of some rows."""
    return _Tracks(*(values[index] for values in tracks))  # type: ignore[arg-type]
