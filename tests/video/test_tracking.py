"""Tracking: numbers that last, through crossings, losses and frames without a detector."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilpose.errors import ConfigError, InputError
from distilpose.geometry import box_iou_xyxy
from distilpose.inference.result import PoseResult
from distilpose.skeletons import Skeleton
from distilpose.video.pose_boxes import (
    BOX_MARGIN,
    boxes_around,
    find_duplicates,
    keypoint_extent,
)
from distilpose.video.tracking import PoseTracker, TrackingOptions
from walking_people import Gait, body

HEIGHT = 200.0


def seeds(count: int) -> list[object]:
    """One seed in the fast tests, all in the slow ones."""
    return [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, count))]


def people(*xy: np.ndarray, score: float = 0.8, box_score: float = 1.0) -> PoseResult:
    """A result of these (17, 2) poses with ordinary boxes around them."""
    count = len(xy)
    bare = PoseResult(
        xy=np.array(xy).reshape(count, 17, 2),
        box=np.tile([0.0, 0, 1, 1], (count, 1)),
        box_score=np.full(count, box_score),
        pose_score=np.full(count, box_score * score),
        raw_score=np.full((count, 17), score),
        sigma=np.full((count, 17, 2), 3.0),
    )
    return with_box(bare, boxes_around(bare))


def with_box(result: PoseResult, box: np.ndarray) -> PoseResult:
    return PoseResult.from_dict({**result.to_dict(), "box": box})


def walker(x: float, y: float = 500.0, phase: float = 0.0, facing: float = 1.0, height: float = HEIGHT) -> np.ndarray:
    return body(Gait(phase, 1.0, facing)) * height + [x, y]


def ids(result: PoseResult) -> list[int]:
    assert result.track_id is not None
    return result.track_id.tolist()


def join(*parts: PoseResult) -> PoseResult:
    rows = [part.to_dict() for part in parts]
    names = ("xy", "box", "box_score", "pose_score", "raw_score", "sigma")
    return PoseResult.from_dict({**rows[0], **{name: [x for row in rows for x in row[name]] for name in names}})


def cross(tracker: PoseTracker, times: np.ndarray, rng: np.random.Generator, hide: bool = True) -> list[list[int]]:
    """Two people walk through each other; the hind one is hidden meanwhile. Rows in random order, ids put right."""
    found = []
    for t in times:
        front, hind = walker(200 + 150 * t, 520, 6 * t), walker(800 - 150 * t, 500, 7 * t, -1.0, 0.9 * HEIGHT)
        poses = [front + rng.normal(0, 2, (17, 2)), hind + rng.normal(0, 2, (17, 2))]
        if hide and abs(front[0, 0] - hind[0, 0]) < 70:
            found.append([ids(tracker.update(people(poses[0]), t))[0], 0])
            continue
        order = rng.permutation(2)
        given = ids(tracker.update(people(*(poses[i] for i in order)), t))
        found.append([given[list(order).index(0)], given[list(order).index(1)]])
    return found


@pytest.mark.parametrize("seed", seeds(5))
@pytest.mark.parametrize("oks_weight", [0.7, 1.0])
def test_identities_are_kept_through_a_crossing_with_an_occlusion(seed: int, oks_weight: float) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.02, 0.05, 130))  # uneven, as of a camera
    found = cross(PoseTracker(TrackingOptions(oks_weight=oks_weight)), times, rng)
    hidden = [row for row in found if row[1] == 0]
    assert len(hidden) > 5
    assert {tuple(row) for row in found if row[1]} == {tuple(found[0])}
    assert {row[0] for row in hidden} == {found[0][0]}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_every_row_gets_a_number_of_its_own_and_nothing_else_changes(seed: int, bare: bool, detected: bool) -> None:
    rng = np.random.default_rng(seed)
    tracker, time, known = PoseTracker(), 0.0, 0
    for _ in range(6):
        time += float(rng.choice([0.0, 0.03, 0.2, 3.0]))
        count = int(rng.integers(0, 6))
        xy = rng.uniform(0, 400, (count, 1, 2)) + rng.normal(0, rng.choice([0.0, 60.0]), (count, 17, 2))
        corner = xy.min(1)
        result = PoseResult(
            xy=xy,
            box=np.concatenate([corner, corner + rng.uniform(1, 200, (count, 2))], axis=1),
            box_score=rng.random(count),
            pose_score=rng.random(count) - 0.1,
            raw_score=None if bare else rng.normal(0.3, 0.5, (count, 17)),
            sigma=None if bare else rng.uniform(0, 9, (count, 17, 2)),
        )
        before = json.dumps(result.to_dict())
        tracked = tracker.update(result, time, detected=detected)
        assert json.dumps(result.to_dict()) == before
        assert json.dumps({**tracked.to_dict(), "track_id": None}) == before
        given_ids = ids(tracked)
        assert len(set(given_ids)) == count
        assert all(number > 0 for number in given_ids)
        new = [number for number in given_ids if number > known]
        assert sorted(new) == list(range(known + 1, known + 1 + len(new)))  # never given before
        known += len(new)
        expected = tracker.expected(time + 0.1)
        assert expected.boxes_xyxy.shape == (len(expected.box_score), 4)
        assert (expected.boxes_xyxy[:, 2:] > expected.boxes_xyxy[:, :2]).all()


def test_found_again_after_a_short_loss_and_somebody_new_after_a_long_one() -> None:
    for pause, same in ((1.0, True), (1.4, True), (1.7, False), (60.0, False)):
        tracker = PoseTracker()
        for t in np.arange(0, 1.01, 0.1):
            first = ids(tracker.update(people(walker(300 + 40 * t, phase=t)), t))
        again = ids(tracker.update(people(walker(300 + 40 * (1 + pause), phase=2.0)), 1 + pause))
        assert (again == first) == same, pause


def test_lost_tracks_are_led_on_and_the_far_away_is_somebody_else() -> None:
    def after(x: float) -> bool:
        tracker = PoseTracker()
        for t in np.arange(0, 1.01, 1 / 30):
            first = ids(tracker.update(people(walker(100 + 200 * t, phase=6 * t)), t))
        return ids(tracker.update(people(walker(x, phase=9)), 1.8)) == first

    assert after(300 + 0.8 * 150)  # went on, if a little slower
    assert not after(300 - 0.8 * 200)  # is where nobody was going
    assert not after(900)


def test_a_person_of_another_size_is_not_the_lost_one() -> None:
    tracker = PoseTracker()
    for t in (0.0, 0.1, 0.2):
        tracker.update(people(walker(300)), t)
    tracker.update(people(), 0.3)
    small = walker(300, 400, height=0.4 * HEIGHT)
    assert ids(tracker.update(people(small), 0.8)) == [2]


def test_low_and_changing_frame_rates_keep_a_walker() -> None:
    tracker, rng = PoseTracker(), np.random.default_rng(0)
    times = np.cumsum(rng.choice([0.03, 0.1, 0.25, 0.5], 60))
    found = [ids(tracker.update(people(walker(100 + 120 * t, phase=6 * t)), t)) for t in times]
    assert found == [[1]] * 60


def test_weak_people_keep_a_number_while_seen_and_leave_no_trace() -> None:
    tracker = PoseTracker()
    for t in (0.0, 0.1, 0.2):
        assert ids(tracker.update(people(walker(300), score=0.1), t)) == [1]
        assert len(tracker.expected(t).box_score) == 0
    tracker.update(people(), 0.3)
    assert len(tracker) == 0
    assert ids(tracker.update(people(walker(300), score=0.1), 0.4)) == [2]


def test_confident_people_choose_first() -> None:
    tracker = PoseTracker()
    tracker.update(people(walker(300)), 0.0)
    exact_but_weak, near_and_sure = people(walker(300), score=0.1), people(walker(310))
    assert ids(tracker.update(join(exact_but_weak, near_and_sure), 0.03)) == [2, 1]


def test_a_person_becomes_weak_behind_something_and_stays_the_same() -> None:
    tracker = PoseTracker()
    scores = (0.8, 0.8, 0.1, 0.1, 0.8)
    found = [ids(tracker.update(people(walker(300), score=score), 0.1 * i)) for i, score in enumerate(scores)]
    assert found == [[1]] * 5


def test_memory_is_bounded() -> None:
    tracker = PoseTracker()
    for i in range(300):  # somebody new in every frame, twice there
        result = people(walker(3000 * (i // 2)), walker(3000 * (i // 2), 3000, height=100))
        tracker.update(result, 0.1 * i)
    assert len(tracker) <= 2 * 1.5 / 0.2 + 4


def test_other_skeletons() -> None:
    stick = Skeleton("stick", ("top", "end"), (), ((0, 1),), (0,), (1,), (0.1, 0.1))
    tracker = PoseTracker()
    for t in (0.0, 0.1, 0.2):
        xy = np.array([[[100 + 50 * t, 0], [100, 80]], [[300.0, 0], [300, 80]]])
        box = np.array([[90.0, -5, 110, 85], [290, -5, 310, 85]])
        result = PoseResult(xy=xy, box=box, box_score=np.ones(2), pose_score=np.ones(2), skeleton=stick)
        assert ids(tracker.update(result, t)) == [1, 2]
    with pytest.raises(InputError, match="skeleton stick, as before, got coco_17"):
        tracker.update(PoseResult.empty(), 0.3)


@pytest.mark.parametrize("time", [0.9, np.nan, np.inf])
def test_time_goes_on(time: float) -> None:
    tracker = PoseTracker()
    tracker.update(people(walker(0)), 1.0)
    with pytest.raises(InputError, match="not go backwards"):
        tracker.update(people(walker(0)), time)
    with pytest.raises(InputError, match="not go backwards"):
        tracker.expected(time)


def test_doubled_time_stamps_throw_nobody_off() -> None:
    tracker = PoseTracker()
    for i, t in enumerate([0.0, 0.0, 0.04, 0.04, 0.08, 0.08]):
        assert ids(tracker.update(people(walker(300 + 4 * i)), t)) == [1]


def test_boxes_without_area_are_borne() -> None:
    tracker, result = PoseTracker(), people(walker(300), walker(600))
    for t in (0.0, 0.1, 0.2):
        flat = with_box(result, np.array([[300.0, 300, 300, 500], [600, 400, 590, 300]]))
        assert ids(tracker.update(flat, t)) == [1, 2]
    assert len(tracker.expected(0.3).box_score) == 2


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InputError, match="one for each of 1 people"):
        PoseTracker().update(people(walker(0)), 0.0, detected=np.array([True, False]))
    for wrong in ({"oks_weight": 1.5}, {"min_similarity": -0.1}, {"max_lost": -1.0}, {"damping_time": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            TrackingOptions(**wrong)


def with_xy(result: PoseResult, xy: np.ndarray) -> PoseResult:
    return PoseResult.from_dict({**result.to_dict(), "xy": xy})


def run_without_detector(noise: float, keep_only: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """(expected box, true box) over four seconds after one look of a detector at a walking, nearing person.

    Args:
        noise: of the keypoints, in heights of the box that the model was given: a bigger crop is a coarser one.
        keep_only: in half of the frames only so many keypoints, from the head down, are sure.
    """
    rng, tracker, found = np.random.default_rng(0), PoseTracker(), []
    for i in range(120):
        t = i / 30
        height = HEIGHT * (1 + 0.1 * t)
        truth = people(walker(200 + 100 * t, 600, 6 * t, height=height))
        box = truth.box if i == 0 else tracker.expected(t).boxes_xyxy
        assert len(box) == 1, i
        found.append((box[0], truth.box[0]))
        step = noise * (box[0, 3] - box[0, 1])
        score = np.full((1, 17), 0.8)
        if keep_only is not None and i % 2 and i:
            score[0, keep_only:] = 0.1
        seen = PoseResult.from_dict(
            {**truth.to_dict(), "xy": truth.xy + rng.normal(0, step, truth.xy.shape), "box": box, "raw_score": score}
        )
        assert ids(tracker.update(seen, t, detected=i == 0)) == [1]
    return found


@pytest.mark.parametrize(("noise", "iou"), [(0.0, 0.75), (0.02, 0.65), (0.04, 0.5)])
def test_expected_boxes_do_not_drift_over_a_hundred_frames(noise: float, iou: float) -> None:
    found = run_without_detector(noise)
    overlaps = np.array([box_iou_xyxy(a[None], b[None])[0, 0] for a, b in found])
    assert overlaps[1:].min() > iou
    heights = np.array([(a[3] - a[1]) / (b[3] - b[1]) for a, b in found])
    assert np.abs(heights[10:40].mean() - heights[-30:].mean()) < 0.05  # neither shrinks nor grows
    assert 0.95 < heights[-30:].mean() < 1.2


def test_expected_boxes_bear_unsure_legs() -> None:
    found = run_without_detector(0.01, keep_only=13)
    heights = [(a[3] - a[1]) / (b[3] - b[1]) for a, b in found]
    assert min(heights) > 0.75  # around the sure keypoints alone: 0.6


def test_expected_boxes_lead_a_walker_and_name_the_detectors_score() -> None:
    tracker = PoseTracker()
    for t in np.arange(0, 1.01, 0.1):
        tracker.update(people(walker(100 + 200 * t, phase=0), box_score=0.7), t)
    now, then = tracker.expected(1.0), tracker.expected(1.2)
    moved = then.boxes_xyxy - now.boxes_xyxy
    assert moved[0, [0, 2]] == pytest.approx(200 * (1 - np.exp(-0.2)), rel=0.05)
    assert np.abs(moved[0, [1, 3]]).max() < 2
    assert now.box_score.tolist() == [0.7]


def test_only_people_in_sight_with_a_whole_pose_are_expected() -> None:
    tracker = PoseTracker()
    both = people(walker(100), walker(600))
    tracker.update(both, 0.0)
    tracker.update(both, 0.1)
    tracker.update(both.filter([0]), 0.2)
    assert len(tracker) == 2
    assert tracker.expected(0.3).boxes_xyxy[:, 2].tolist() < [400]  # the other is out of sight
    tracker.update(people(walker(100), score=0.15), 0.3, detected=False)
    assert len(tracker.expected(0.4).box_score) == 0  # fallen apart: not followed ...
    assert ids(tracker.update(people(walker(100)), 0.5)) == [1]  # ... but known


def test_boxes_around_a_pose_are_as_the_labels_are() -> None:
    result = people(walker(100))
    extent = keypoint_extent(result)
    longer = (extent[0, 2:] - extent[0, :2]).max()
    np.testing.assert_allclose(boxes_around(result) - extent, [longer * BOX_MARGIN * [-1, -1, 1, 1]])
    point = with_xy(result, np.full((1, 17, 2), 7.0))
    assert (boxes_around(point)[:, 2:] > boxes_around(point)[:, :2]).all()


def test_duplicates_are_found_and_neighbors_are_not() -> None:
    rng = np.random.default_rng(0)
    one, other = walker(300, phase=1.0), walker(340, phase=2.5)
    result = people(one, other, one + rng.normal(0, 2, (17, 2)), other + 1, walker(900))
    assert find_duplicates(result).tolist() == [False, False, True, True, False]
    kept = result.filter(~find_duplicates(result))
    np.testing.assert_array_equal(kept.xy, result.xy[[0, 1, 4]])
    assert len(find_duplicates(PoseResult.empty())) == 0


@pytest.mark.parametrize("seed", seeds(4))
def test_two_tracks_on_one_body_are_resolved_without_a_detector(seed: int) -> None:
    """The model finds the front person in both boxes while they pass; the front one keeps its number."""
    rng, tracker, counts = np.random.default_rng(seed), PoseTracker(), []
    for i in range(100):
        t = i / 30
        front, hind = walker(200 + 130 * t, 510, 6 * t), walker(620 - 130 * t, 500, 7 * t, -1.0, 0.95 * HEIGHT)
        near = abs(front[:, 0].mean() - hind[:, 0].mean()) < 50
        truth = people(hind, front)
        if i % 40 == 0:
            result = truth
        else:
            expected = tracker.expected(t)
            centers = (expected.boxes_xyxy[:, 0] + expected.boxes_xyxy[:, 2]) / 2
            seen = [
                front if near or abs(c - front[:, 0].mean()) < abs(c - hind[:, 0].mean()) else hind for c in centers
            ]
            noisy = people(*(pose + rng.normal(0, 2, (17, 2)) for pose in seen))
            result = with_box(noisy, expected.boxes_xyxy)
        tracked = tracker.update(result.filter(~find_duplicates(result)), t, detected=i % 40 == 0)
        counts.append(len(tracked))
        offset = np.abs(tracked.xy - front).mean((1, 2))
        if i == 0:
            hind_id, front_id = ids(tracked)
        assert ids(tracked)[int(offset.argmin())] == front_id
    assert 1 in counts  # there were two on one
    assert sorted(ids(tracked)) == [hind_id, front_id]  # found again by the detector, after less than max_lost
