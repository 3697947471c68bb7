"""Overlap of boxes: an oracle in plain Python, invariants, cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilpose.geometry import box_iou_xyxy

Box = tuple[float, float, float, float]

# Whole numbers from a small range: overlaps, equal boxes and boxes without area all come often.
corner = st.integers(-4, 12).map(float)
side = st.integers(0, 8).map(float)
box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)


def iou_by_counting(a: Box, b: Box) -> float:
    """Unit squares inside the boxes: right for corners at whole numbers."""

    def squares(box: Box) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = (int(value) for value in box)
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    either = squares(a) | squares(b)
    return len(squares(a) & squares(b)) / len(either) if either else 0.0


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


def test_by_hand() -> None:
    assert box_iou_xyxy([0, 0, 10, 10], [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 2, 9]]).tolist() == [
        [1, 1 / 3, 0, 0]
    ]
