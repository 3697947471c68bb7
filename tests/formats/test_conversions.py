"""People in the forms of other tools and back: nothing gets lost, what does not fit is refused."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distilpose.errors import ConfigError, InputError
from distilpose.formats.conversions import boxes_around
from distilpose.inference.result import _ARRAYS, PoseResult
from distilpose.skeletons import COCO_17, HALPE_26, OPENPOSE_18, Skeleton

HAND = Skeleton("hand", ("thumb", "index", "wrist"), (), ((0, 1),), (0, 1), (), (0.05, 0.05, 0.05))


def arrays(shape: tuple[int, ...], low: float = -1e6, high: float = 1e6) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, shape, elements=st.floats(low, high, allow_subnormal=False))


@st.composite
def results(draw: st.DrawFn, skeleton: Skeleton = HAND) -> PoseResult:
    """Anything that a result can hold, nobody included."""
    people, count = draw(st.integers(0, 3)), skeleton.num_keypoints
    ids = hnp.arrays(np.int64, (people,), elements=st.integers(-5, 2**40))
    return PoseResult(
        xy=draw(arrays((people, count, 2))),
        box=draw(arrays((people, 4))),
        box_score=draw(arrays((people,), 0, 1)),
        pose_score=draw(arrays((people,), -1, 2)),
        raw_score=draw(st.none() | arrays((people, count), -2, 2)),
        sigma=draw(st.none() | arrays((people, count, 2), 0, 1e4)),
        track_id=draw(st.none() | ids),
        skeleton=skeleton,
    )


def assert_same(one: PoseResult, other: PoseResult) -> None:
    assert one.skeleton == other.skeleton
    for name in _ARRAYS:
        before, after = getattr(one, name), getattr(other, name)
        assert (before is None) == (after is None), name
        if before is not None:
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after, err_msg=name)


@pytest.fixture
def result() -> PoseResult:
    """Two people with COCO's keypoints; everything there is, all numbers different."""
    rng = np.random.default_rng(0)
    return PoseResult(
        xy=rng.uniform(1, 400, (2, 17, 2)),
        box=np.array([[0.0, 0, 100, 200], [100, 50, 300, 400]]),
        box_score=np.array([0.9, 0.8]),
        pose_score=np.array([0.7, 0.6]),
        raw_score=rng.uniform(0.05, 1.2, (2, 17)),
        sigma=rng.uniform(1, 9, (2, 17, 2)),
        track_id=np.array([4, 2]),
    )


# Tables


@settings(max_examples=60, deadline=None)
@given(results(), st.randoms(use_true_random=False))
def test_pandas_round_trip_loses_nothing_whatever_the_order_of_rows(result: PoseResult, random) -> None:
    table = result.to_pandas()
    assert len(table) == 3 * len(result)
    order = random.sample(range(len(table)), len(table))
    assert_same(PoseResult.from_pandas(table.iloc[order], HAND), result)


def test_table_is_long_and_tidy(result: PoseResult, tmp_path) -> None:
    table = result.to_pandas()
    assert list(table.columns) == [
        "person", "track_id", "keypoint", "x", "y", "score", "raw_score", "sigma_x", "sigma_y", "box_x1", "box_y1",
        "box_x2", "box_y2", "box_score", "pose_score",
    ]  # fmt: skip
    row = table[(table.track_id == 2) & (table.keypoint == "left_wrist")].iloc[0]
    assert row.person == 1
    assert (row.x, row.y) == tuple(result.xy[1, 9])
    assert row.score == min(1, result.raw_score[1, 9])
    assert (row.sigma_x, row.sigma_y, row.box_x2, row.pose_score) == (*result.sigma[1, 9], 300, 0.6)
    assert not {"track_id", "raw_score", "score", "sigma_x"} & set(
        replace(result, track_id=None, raw_score=None, sigma=None).to_pandas()
    )
    table.to_parquet(tmp_path / "people.parquet")
    assert_same(PoseResult.from_pandas(pd.read_parquet(tmp_path / "people.parquet")), result)
    empty = result.filter([]).to_pandas()
    assert empty.shape == (0, 15)
    assert list(empty.dtypes) == list(table.dtypes)


def test_bare_table_gets_boxes_and_scores(result: PoseResult) -> None:
    bare = PoseResult.from_pandas(result.to_pandas()[["person", "keypoint", "x", "y"]])
    assert bare.raw_score is bare.sigma is bare.track_id is None
    assert bare.box_score.tolist() == bare.pose_score.tolist() == [1, 1]
    np.testing.assert_array_equal(bare.box[:, :2], result.xy.min(1))
    scored = PoseResult.from_pandas(result.to_pandas().drop(columns="raw_score"))
    np.testing.assert_array_equal(scored.raw_score, result.score)


def test_broken_tables_are_refused(result: PoseResult) -> None:
    table = result.to_pandas()
    for broken, message in (
        (table.drop(columns=["x", "person"]), "person, x missing"),
        (table.iloc[1:], "once per person, got 33 rows for 2 people"),
        (pd.concat([table, table]), "pass the rows of one image"),
        (table.assign(x="left"), "expected numbers in x, y"),
        (table.assign(x=np.nan), "xy must be finite"),
        (table.assign(pose_score=np.arange(34)), "one value of pose_score per person"),
    ):
        with pytest.raises(InputError, match=message):
            PoseResult.from_pandas(broken)
    with pytest.raises(InputError, match="expected keypoints of hand, got 'left_ankle': pass its skeleton"):
        PoseResult.from_pandas(table, HAND)


# COCO


@settings(max_examples=60, deadline=None)
@given(results())
def test_rows_of_predictions_json_lose_nothing(result: PoseResult) -> None:
    rows = [{**row, "raw_score": None, "sigma": None, "image": "a.jpg"} for row in result.to_coco(7)]
    for person, row in enumerate(rows):
        row |= {"box_xyxy": result.box[person].tolist(), "box_score": float(result.box_score[person])}
        for name in ("raw_score", "sigma", "track_id"):
            if getattr(result, name) is not None:
                row[name] = getattr(result, name)[person].tolist()
    back = PoseResult.from_coco(json.loads(json.dumps(rows)), HAND)
    if len(result):
        assert_same(back, result)
    assert len(back) == len(result)


def test_plain_coco_rows(result: PoseResult) -> None:
    back = PoseResult.from_coco(result.to_coco(3))
    np.testing.assert_array_equal(back.xy, result.xy)
    np.testing.assert_array_equal(back.raw_score, result.score)
    np.testing.assert_array_equal(back.pose_score, result.pose_score)
    np.testing.assert_array_equal(back.box, boxes_around(result.xy))
    assert back.sigma is back.track_id is None
    assert back.box_score.tolist() == [1, 1]
    annotation = {"image_id": 3, "keypoints": [5, 6, 2, 0, 0, 0, 8, 9, 1], "bbox": [1, 2, 10, 20], "iscrowd": 0}
    labeled = PoseResult.from_coco([annotation], HAND)
    assert labeled.box.tolist() == [[1, 2, 11, 22]]
    assert labeled.score.tolist() == [[1, 0, 1]]
    del annotation["bbox"]
    assert PoseResult.from_coco([annotation], HAND).box.tolist() == [[5, 6, 8, 9]]


def test_broken_coco_rows_are_refused(result: PoseResult) -> None:
    rows = result.to_coco(3)
    for broken, message in (
        ([rows[0], {**rows[1], "image_id": 4}], "rows of one image, got rows of 2"),
        ([{**rows[0], "keypoints": [1, 2, 3]}], "row 0: expected keypoints as 17 times x, y, score"),
        ([{"image_id": 3}], "row 0: expected keypoints"),
        ([rows[0], 2], "row 1: expected an entry of COCO keypoint results, got 2"),
        ([{**rows[0], "sigma": [[1, 1]] * 17}, rows[1]], "sigma in every row or in none, row 1 has none"),
        ([{**rows[0], "box_xyxy": [1, 2]}], "expected box_xyxy as 4 numbers"),
        ([{**rows[0], "score": "good"}], "pose_score must be an array of numbers"),
        ([{**rows[0], "keypoints": [float("nan")] * 51}], "xy must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            PoseResult.from_coco(broken)


# supervision


@settings(max_examples=60, deadline=None)
@given(results())
def test_supervision_round_trip_loses_nothing(result: PoseResult) -> None:
    assert_same(PoseResult.from_supervision(result.to_supervision(), HAND), result)


def test_supervision_s_own_tools_take_it(result: PoseResult) -> None:
    key_points = result.to_supervision()
    np.testing.assert_array_equal(key_points.keypoint_confidence, result.score)
    assert key_points.visible.all()
    chosen = PoseResult.from_supervision(key_points[np.array([False, True])])
    assert_same(chosen, result.filter([1]))
    assert len(key_points.as_detections()) == 2
    image = np.zeros((420, 420, 3), np.uint8)
    for annotator in (sv.VertexAnnotator(), sv.EdgeAnnotator(edges=[(a + 1, b + 1) for a, b in COCO_17.edges])):
        assert annotator.annotate(image.copy(), key_points).any()
    assert len(PoseResult.from_supervision(sv.KeyPoints.empty())) == 0


def test_foreign_key_points() -> None:
    xy = np.array([[[3, 4], [5, 9], [100, 100]]], dtype=np.float32)
    visible = np.array([[True, True, False]])
    confidence = np.array([[0.5, 0.25, 0.75]], dtype=np.float32)
    bare = PoseResult.from_supervision(sv.KeyPoints(xy=xy), HAND)
    assert bare.raw_score is None
    assert bare.box.tolist() == [[3, 4, 100, 100]]
    seen = PoseResult.from_supervision(sv.KeyPoints(xy=xy, visible=visible), HAND)
    assert seen.raw_score.tolist() == [[1, 1, 0]]
    assert seen.box.tolist() == [[3, 4, 5, 9]]
    covariance = np.array([[[[4.0, 1], [1, 9]]] * 3])
    full = sv.KeyPoints(
        xy=xy, keypoint_confidence=confidence, visible=visible, detection_confidence=np.array([0.5]),
        data={"covariance": covariance, "tracker_id": np.array([8])},
    )  # fmt: skip
    read = PoseResult.from_supervision(full, HAND)
    assert read.raw_score.tolist() == [[0.5, 0.25, 0]]
    assert read.sigma.tolist() == [[[2, 3]] * 3]
    assert read.track_id.tolist() == [8]
    assert read.pose_score.tolist() == [0.5]
    with pytest.raises(InputError, match=r"xy must have shape \(1, 17, 2\)"):
        PoseResult.from_supervision(full)
    with pytest.raises(InputError, match=r"expected supervision\.KeyPoints, got dict"):
        PoseResult.from_supervision({}, HAND)


@pytest.mark.parametrize(("name", "method"), [("pandas", "to_pandas"), ("supervision", "to_supervision")])
def test_missing_library_is_named_with_the_remedy(result: PoseResult, monkeypatch, name: str, method: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf'needs {name}.*pip install "distilpose\[interop\]"'):
        getattr(result, method)()


# Skeletons


@settings(max_examples=40, deadline=None)
@given(results(COCO_17))
def test_there_and_back_is_exact(result: PoseResult) -> None:
    assert_same(result.to_skeleton(OPENPOSE_18).to_skeleton(COCO_17), result)
    assert_same(result.to_skeleton(COCO_17), result)
    assert_same(result.to_skeleton("openpose_18").to_skeleton("coco_17"), result)
    with pytest.raises(ConfigError, match="dog"):
        result.to_skeleton("dog")
    halpe = result.to_skeleton(HALPE_26)
    back = halpe.to_skeleton(COCO_17)
    assert_same(replace(back, raw_score=result.raw_score), result)
    assert result.raw_score is not None or (back.raw_score == 1).all()
    assert_same(halpe.to_skeleton(OPENPOSE_18).to_skeleton(COCO_17), back)


def place(skeleton: Skeleton, name: str) -> int:
    return skeleton.keypoint_names.index(name)


def test_openpose_order_and_neck(result: PoseResult) -> None:
    openpose = result.to_skeleton(OPENPOSE_18)
    assert openpose.skeleton is OPENPOSE_18
    np.testing.assert_array_equal(openpose.xy[:, 4], result.xy[:, place(COCO_17, "right_wrist")])
    np.testing.assert_array_equal(openpose.sigma[:, 15], result.sigma[:, place(COCO_17, "left_eye")])
    np.testing.assert_allclose(openpose.xy[:, 1], (result.xy[:, 5] + result.xy[:, 6]) / 2)
    np.testing.assert_array_equal(openpose.raw_score[:, 1], np.minimum(result.raw_score[:, 5], result.raw_score[:, 6]))
    assert replace(result, raw_score=None, sigma=None).to_skeleton(OPENPOSE_18).raw_score is None


def test_sigma_of_a_middle_is_that_of_many_throws(result: PoseResult) -> None:
    rng = np.random.default_rng(1)
    throws = result.xy[0, [5, 6]] + result.sigma[0, [5, 6]] * rng.standard_normal((40_000, 2, 2))
    neck = result.to_skeleton(HALPE_26).sigma[0, place(HALPE_26, "neck")]
    np.testing.assert_allclose(neck, throws.mean(1).std(0), rtol=0.02)


def test_what_halpe_has_more_is_absent(result: PoseResult) -> None:
    halpe = result.to_skeleton(HALPE_26)
    np.testing.assert_array_equal(halpe.xy[:, :17], result.xy)
    np.testing.assert_allclose(halpe.xy[:, 19], (result.xy[:, 11] + result.xy[:, 12]) / 2)
    absent = [place(HALPE_26, "head"), *range(20, 26)]
    assert not halpe.xy[:, absent].any()
    assert not halpe.raw_score[:, absent].any()
    assert not halpe.sigma[:, absent].any()
    bare = replace(result, raw_score=None).to_skeleton(HALPE_26)
    assert bare.raw_score[:, :20].tolist() == [[1.0] * 17 + [0, 1, 1]] * 2


def test_no_neck_between_absent_shoulders(result: PoseResult) -> None:
    openpose = result.to_skeleton(OPENPOSE_18)
    for array in (openpose.xy, openpose.raw_score, openpose.sigma):
        array[0, 5] = 0  # OpenPose did not find the left shoulder
    halpe = openpose.to_skeleton(COCO_17).to_skeleton(HALPE_26)
    neck = place(HALPE_26, "neck")
    assert not halpe.xy[0, neck].any()
    assert halpe.raw_score[0, neck] == 0
    assert halpe.xy[1, neck].all()


def test_skeletons_with_nothing_in_common(result: PoseResult) -> None:
    with pytest.raises(ConfigError, match="hand has no keypoint that coco_17 has or gives"):
        result.to_skeleton(HAND)
    assert len(PoseResult.empty().to_skeleton(HALPE_26)) == 0
