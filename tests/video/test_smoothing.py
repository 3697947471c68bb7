"""Smoothing: the formula, what stays as it is, what is taken away, and what is held."""

import json
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilpose.errors import ConfigError, InputError
from distilpose.inference.result import PoseResult
from distilpose.skeletons import COCO_17, Skeleton
from distilpose.video.smoothing import USUAL_SPREAD, OneEuroOptions, OneEuroSmoother, relative_spread, smooth_zero_lag

STICK = Skeleton("stick", ("top", "mid", "end"), ((0, 2),), ((0, 1), (1, 2)), (0,), (2,), (0.1, 0.1, 0.1))
BASE = np.array([[0.0, 0.0], [0.0, 50.0], [0.0, 100.0]])  # 100 px long
Smooth = Callable[[list[PoseResult], list[float]], list[PoseResult]]


def stick(
    xy: np.ndarray, track_id: int | None = 1, score: np.ndarray | None = None, sigma: np.ndarray | None = None
) -> PoseResult:
    return PoseResult(
        xy=xy[None],
        box=np.array([[0.0, 0, 10, 100]]),
        box_score=np.ones(1),
        pose_score=np.ones(1),
        raw_score=None if score is None else score[None],
        sigma=None if sigma is None else sigma[None],
        track_id=None if track_id is None else np.array([track_id]),
        skeleton=STICK,
    )


def live(results: list[PoseResult], times: list[float]) -> list[PoseResult]:
    smooth = OneEuroSmoother()
    return [smooth(result, time) for result, time in zip(results, times, strict=True)]


def zero_lag(results: list[PoseResult], times: list[float]) -> list[PoseResult]:
    smoothed = [result for _, result in smooth_zero_lag(zip(times, results, times, strict=True))]
    assert all(result is not None for result in smoothed)
    return smoothed  # type: ignore[return-value]


def poses(results: list[PoseResult]) -> np.ndarray:
    return np.stack([result.xy[0] for result in results])


def right(x: float) -> np.ndarray:
    return np.array([x, 0.0])


BOTH = pytest.mark.parametrize("smooth", [live, zero_lag])


def test_one_euro_is_the_formula() -> None:
    """One keypoint, uneven times, written out in plain Python."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 0.08, 30)).tolist()
    moving = [30 * math.sin(3 * t) + rng.normal() for t in times], [20 * t + rng.normal() for t in times]
    results = [stick(np.array([BASE[0], [x, 40 + y], BASE[2]])) for x, y in zip(*moving, strict=True)]
    options = OneEuroOptions(min_cutoff=1.2, beta=3.0, speed_cutoff=0.9)
    smooth = OneEuroSmoother(options)
    found = [smooth(result, t).xy[0, 1] for result, t in zip(results, times, strict=True)]

    def share(cutoff: float, step: float) -> float:
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau / step)

    def size(result: PoseResult) -> float:
        return float(max(np.ptp(result.xy[0, :, 0]), np.ptp(result.xy[0, :, 1])))

    x, y = results[0].xy[0, 1]
    speed_x = speed_y = 0.0
    length = size(results[0])
    assert found[0].tolist() == [x, y]
    for i in range(1, len(times)):
        step = times[i] - times[i - 1]
        new_x, new_y = results[i].xy[0, 1]
        part = share(0.9, step)
        length += part * (size(results[i]) - length)
        speed_x += part * ((new_x - x) / step - speed_x)
        speed_y += part * ((new_y - y) / step - speed_y)
        part = share(1.2 + 3.0 * math.hypot(speed_x, speed_y) / length, step)
        x, y = x + part * (new_x - x), y + part * (new_y - y)
        assert found[i].tolist() == pytest.approx([x, y], rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_straight_motion_passes_the_zero_lag_smoother_exactly(seed: int, scored: bool) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.005, 0.2, 25))
    velocity = rng.normal(0, 200, (3, 2))
    score = (lambda: rng.random(3)) if scored else (lambda: None)
    results = [stick(BASE + velocity * t, score=score()) for t in times]
    np.testing.assert_allclose(poses(zero_lag(results, times.tolist())), poses(results), atol=1e-6)


def test_parabolas_pass_away_from_the_ends() -> None:
    times = np.arange(30) / 30
    results = [stick(BASE + np.array([3.0, -2.0]) * (8 * (t - 0.5) ** 2)) for t in times]
    np.testing.assert_allclose(poses(zero_lag(results, times.tolist()))[2:-2], poses(results)[2:-2], atol=1e-6)


def test_quick_turns_are_not_overshot() -> None:
    times = np.arange(60) / 30
    corner = np.array([min(t, 1.0) * 100 for t in times])  # stops dead
    smoothed = poses(zero_lag([stick(BASE + right(x)) for x in corner], times.tolist()))[:, 0, 0]
    assert smoothed.max() < 101
    assert np.abs(smoothed - corner).max() < 2.5  # of 100 px of body, at 1 body per second


@BOTH
def test_noise_is_reduced(smooth: Smooth) -> None:
    rng, times = np.random.default_rng(0), (np.arange(200) / 30).tolist()
    results = [stick(BASE + rng.normal(0, 1, (3, 2))) for _ in times]
    before, after = (np.std(poses(list_) - BASE) for list_ in (results, smooth(results, times)))
    assert after < 0.6 * before
    trembling = [np.abs(np.diff(poses(list_), 2, axis=0)).mean() for list_ in (results, smooth(results, times))]
    assert trembling[1] < 0.4 * trembling[0]


def test_a_single_wrong_frame_is_taken_out() -> None:
    times = (np.arange(31) / 30).tolist()
    results = [stick(BASE + right(20 * t)) for t in times]
    truth = poses(results)
    for frame in (0, 1, 15, 30):
        for wrong in (truth[frame][STICK.flip_index], truth[frame] + [[0, 0], [60, 0], [0, 0]]):  # 100 px, 60 px off
            one = [*results[:frame], stick(wrong), *results[frame + 1 :]]
            assert np.abs(poses(zero_lag(one, times)) - truth).max() < 1.0, frame


@BOTH
@pytest.mark.parametrize("by", ["score", "sigma"])
def test_uncertain_keypoints_are_smoothed_more(smooth: Smooth, by: str) -> None:
    rng, times = np.random.default_rng(0), (np.arange(60) / 30).tolist()
    noise = rng.normal(0, 1, (60, 1, 2))
    unsure = rng.random((60, 3)) < 0.5  # in these frames, and then rather wrong
    unsure[:, 2] = False  # "end" is always sure, "top" never
    unsure[:, 0] = True
    results = []
    for off, u in zip(noise, unsure, strict=True):
        xy = BASE + off * np.array([[1.0], [5.0 if u[1] else 1.0], [1.0]])
        if by == "score":
            results.append(stick(xy, score=np.where(u, 0.25, 0.9)))
        else:
            results.append(stick(xy, sigma=np.repeat(np.where(u, 10.0, 1.0)[:, None], 2, axis=1)))
    smoothed = poses(smooth(results, times)) - BASE
    blind = [replace(result, raw_score=None, sigma=None) for result in results]
    unweighted = poses(smooth(blind, times)) - BASE
    # What varies from frame to frame in sureness comes out better for knowing it.
    assert np.std(smoothed[:, 1]) < 0.8 * np.std(unweighted[:, 1])
    if smooth is live:  # and the same noise is calmer on a keypoint that is never sure
        assert np.std(smoothed[:, 0]) < 0.7 * np.std(smoothed[:, 2])


def test_score_comes_before_sigma() -> None:
    result = stick(BASE, score=np.array([0.9, 0.5, 0.1]), sigma=np.array([[8.0, 8], [3, 3], [1, 1]]))
    size = np.array([100.0])
    scored = relative_spread(result, size)[0]
    assert scored[0] < scored[1] < scored[2]
    by_sigma = relative_spread(replace(result, raw_score=None), size)[0]
    assert by_sigma.tolist() == pytest.approx([0.08, 0.03, 0.01])
    assert relative_spread(replace(result, raw_score=None, sigma=None), size).tolist() == [[USUAL_SPREAD] * 3]


@BOTH
def test_resolution_does_not_matter(smooth: Smooth) -> None:
    rng, times = np.random.default_rng(0), np.cumsum(np.random.default_rng(1).uniform(0.01, 0.1, 40)).tolist()
    results = [stick(BASE + rng.normal(0, 2, (3, 2)) + right(30 * np.sin(4 * t))) for t in times]
    larger = [replace(result, xy=8 * result.xy) for result in results]
    np.testing.assert_allclose(poses(smooth(larger, times)), 8 * poses(smooth(results, times)), rtol=1e-9)


@BOTH
def test_people_do_not_mix_and_gaps_are_not_bridged(smooth: Smooth) -> None:
    times = [0.0, 0.04, 0.08, 0.12, 2.0, 2.04, 2.08, 2.12]
    results = [stick(BASE + (0 if t < 1 else 500)) for t in times]
    np.testing.assert_allclose(poses(smooth(results, times)), poses(results), atol=1e-9)
    changed = [stick(BASE + 500 * (i % 2), track_id=1 + i % 2) for i in range(8)]
    times = [0.03 * i for i in range(8)]
    np.testing.assert_allclose(poses(smooth(changed, times)), poses(changed), atol=1e-9)


@BOTH
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_tracks_and_doubled_times_are_borne(smooth: Smooth, frames: int) -> None:
    rng = np.random.default_rng(0)
    results = [stick(BASE + rng.normal(0, 1, (3, 2))) for _ in range(frames)]
    for times in ([0.0, 0.04, 0.08], [1.0, 1.0, 1.0], [1.0, 1.0 + 1e-9, 1.0 + 2e-9]):
        smoothed = poses(smooth(results, times[:frames]))
        assert np.abs(smoothed - BASE).max() < 4


@BOTH
def test_nothing_that_was_passed_is_changed_and_the_rest_is_kept(smooth: Smooth) -> None:
    rng, times = np.random.default_rng(0), (np.arange(20) / 10).tolist()
    results = [stick(BASE + rng.normal(0, 1, (3, 2)), score=rng.random(3), sigma=rng.random((3, 2))) for _ in times]
    before = json.dumps([result.to_dict() for result in results])
    smoothed = smooth(results, times)
    assert json.dumps([result.to_dict() for result in results]) == before
    for result, found in zip(results, smoothed, strict=True):
        assert json.dumps({**found.to_dict(), "xy": 0}) == json.dumps({**result.to_dict(), "xy": 0})
    for found in smoothed:
        found.xy[:] = 0  # a caller may write into what it got
    after = poses(smooth(results, times))
    assert np.abs(after - BASE).max() < 5


@BOTH
def test_wrong_input_is_named(smooth: Smooth) -> None:
    with pytest.raises(InputError, match="needs track ids, got 1 people without"):
        smooth([stick(BASE, track_id=None)], [0.0])
    twice = PoseResult(
        xy=np.stack([BASE, BASE]),
        box=np.array([[0.0, 0, 10, 100]] * 2),
        box_score=np.ones(2),
        pose_score=np.ones(2),
        track_id=np.array([4, 4]),
        skeleton=STICK,
    )
    with pytest.raises(InputError, match=r"different for each person of a frame, got \[4, 4\]"):
        smooth([twice], [0.0])
    with pytest.raises(InputError, match=r"not go backwards, got 0\.5 s after 1\.0 s"):
        smooth([stick(BASE), stick(BASE)], [1.0, 0.5])


def test_options_are_checked() -> None:
    for wrong in ({"min_cutoff": 0.0}, {"speed_cutoff": -1.0}, {"beta": -1.0}, {"max_gap": np.inf}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            OneEuroOptions(**wrong)  # type: ignore[arg-type]
    for window, max_gap in ((0.0, 1.0), (1.0, 0.0), (np.nan, 1.0)):
        with pytest.raises(ConfigError, match="greater than 0 seconds"):
            smooth_zero_lag([], window, max_gap=max_gap)  # at once, not at the first item
    smoother = OneEuroSmoother()
    smoother(stick(BASE), 0.0)
    with pytest.raises(InputError, match="expected poses of 3 keypoints, as before, got 17"):
        smoother(PoseResult.empty(COCO_17), 0.1)


def test_the_live_smoother_forgets() -> None:
    smoother = OneEuroSmoother()
    for i in range(500):
        smoother(stick(BASE, track_id=i), 0.1 * i)
    assert smoother._known is not None
    assert len(smoother._known) <= 7


def test_every_item_comes_out_once_in_order_broken_and_empty_ones_too() -> None:
    items: list[tuple[int, PoseResult | None, float]] = [(i, stick(BASE + i), i / 30) for i in range(40)]
    items[7] = (7, None, 7 / 30)
    items[8] = (8, PoseResult.empty(STICK), 8 / 30)
    out = list(smooth_zero_lag(items))
    assert [item for item, _ in out] == list(range(40))
    assert out[7][1] is None
    assert out[8][1] is not None
    assert len(out[8][1]) == 0
    for item, result in out:
        if item not in (7, 8):
            np.testing.assert_allclose(result.xy[0], BASE + item, atol=1e-6)
    assert list(smooth_zero_lag([])) == []


@pytest.mark.parametrize(("rate", "window"), [(30, 0.4), (100, 0.4), (30, 1.0)])
def test_only_half_a_window_is_read_ahead(rate: int, window: float) -> None:
    read = 0

    def video() -> Iterator[tuple[int, PoseResult, float]]:
        nonlocal read
        for i in range(300):
            read += 1
            yield i, stick(BASE), i / rate

    for out, (number, _) in enumerate(smooth_zero_lag(video(), window)):
        assert number == out
        assert read - out <= math.floor(window / 2 * rate) + 2


def test_what_was_given_out_is_let_go_and_few_wait_even_if_time_stands_still() -> None:
    class Image:
        pass

    images: list[weakref.ref[Image]] = []

    def items() -> Iterator[tuple[Image, PoseResult | None, float]]:
        for number in range(400):
            image = Image()
            images.append(weakref.ref(image))
            yield image, None, 0.01 * min(number, 200)

    for _ in smooth_zero_lag(items(), window=0.4):
        assert sum(image() is not None for image in images) <= 124
    assert len(images) == 400


def test_zero_lag_has_none_and_live_has_some() -> None:
    """A symmetric turn stays symmetric; the live filter is late."""
    times = np.arange(61) / 30
    results = [stick(BASE + right(100 * abs(t - 1.0))) for t in times]
    smoothed = poses(zero_lag(results, times.tolist()))[:, 0, 0]
    np.testing.assert_allclose(smoothed, smoothed[::-1], atol=1e-9)
    assert int(smoothed.argmin()) == 30
    late = poses(live(results, times.tolist()))[:, 0, 0]
    assert (late[20:30] > 100 * np.abs(times[20:30] - 1)).all()  # on the way down it is still above ...
    assert (late[35:45] < 100 * np.abs(times[35:45] - 1)).all()  # ... on the way up still below
