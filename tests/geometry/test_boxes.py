"""Overlap and non-maximum suppression: an oracle in plain Python, invariants, cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilpose.geometry import box_iou_xyxy, non_maximum_suppression

Box = tuple[float, float, float, float]

# Whole numbers from a small range: overlaps, equal boxes, boxes without area and equal scores all come often.
corner = st.integers(-4, 12).map(float)
side = st.integers(0, 8).map(float)
box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)
scored = st.lists(st.tuples(box, st.integers(0, 6).map(lambda tenths: tenths / 10)), max_size=12)
threshold = st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.7, 1.0])


def iou_by_counting(a: Box, b: Box) -> float:
    """Unit squares inside the boxes: right for corners at whole numbers."""

    def squares(box: Box) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = (int(value) for value in box)
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    either = squares(a) | squares(b)
    return len(squares(a) & squares(b)) / len(either) if either else 0.0


def suppress_by_marking(boxes: list[Box], score: list[float], iou_threshold: float) -> list[int]:
    """A box stays unless one that stays and comes before it overlaps it too much."""
    order = sorted(range(len(boxes)), key=lambda index: (-score[index], index))
    stays: list[int] = []
    for index in order:
        if all(iou_by_counting(boxes[index], boxes[other]) <= iou_threshold for other in stays):
            stays.append(index)
    return stays


@given(st.lists(box, max_size=5), st.lists(box, max_size=5))
def test_overlap_equals_counted_squares(first: list[Box], second: list[Box]) -> None:
    iou = box_iou_xyxy(first, second)
    assert iou.shape == (len(first), len(second))
    expected = np.array([[iou_by_counting(a, b) for b in second] for a in first]).reshape(iou.shape)
    assert np.allclose(iou, expected)


@given(box, box, st.floats(0.01, 100), st.floats(-1000, 1000))
def test_overlap_is_symmetric_and_keeps_under_scale_and_shift(a: Box, b: Box, scale: float, shift: float) -> None:
    iou = box_iou_xyxy(a, b)[0, 0]
    assert 0 <= iou <= 1
    assert box_iou_xyxy(b, a)[0, 0] == iou
    assert box_iou_xyxy(np.multiply(a, scale) + shift, np.multiply(b, scale) + shift)[0, 0] == pytest.approx(iou, 1e-6)


@given(scored, threshold)
def test_suppression_equals_the_oracle(people: list[tuple[Box, float]], iou_threshold: float) -> None:
    boxes, score = [entry[0] for entry in people], [entry[1] for entry in people]
    kept = non_maximum_suppression(boxes, score, iou_threshold)
    assert kept.tolist() == suppress_by_marking(boxes, score, iou_threshold)


@given(scored, threshold)
def test_what_suppression_promises(people: list[tuple[Box, float]], iou_threshold: float) -> None:
    boxes = np.array([entry[0] for entry in people]).reshape(-1, 4)
    score = np.array([entry[1] for entry in people])
    kept = non_maximum_suppression(boxes, score, iou_threshold)
    assert (np.diff(score[kept]) <= 0).all()
    iou = box_iou_xyxy(boxes[kept], boxes[kept])
    assert (iou[~np.eye(len(kept), dtype=bool)] <= iou_threshold).all()
    if len(boxes):
        assert kept[0] == score.argmax()
    again = non_maximum_suppression(boxes[kept], score[kept], iou_threshold)
    assert again.tolist() == list(range(len(kept)))  # nothing more to drop


def test_by_hand() -> None:
    assert box_iou_xyxy([0, 0, 10, 10], [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 2, 9]]).tolist() == [
        [1, 1 / 3, 0, 0]
    ]
    # The second box loses to the first; the third overlaps only the second, which is gone.
    boxes = [[0, 0, 10, 10], [3, 0, 13, 10], [9, 0, 19, 10]]
    assert non_maximum_suppression(boxes, [0.9, 0.8, 0.7], 0.25).tolist() == [0, 2]
    assert non_maximum_suppression(boxes, [0.7, 0.9, 0.8], 0.24).tolist() == [1]
    assert non_maximum_suppression([], [], 0.5).shape == (0,)
