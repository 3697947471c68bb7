"""Overlap of boxes: pycocotools, invariants, cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask

from distilpose.geometry import box_iou_xyxy, xyxy_to_xywh

Box = tuple[float, float, float, float]

# Whole numbers from a small range: overlaps, equal boxes and boxes without area all come often.
corner = st.integers(-4, 12).map(float)
side = st.integers(0, 8).map(float)
box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)


@given(st.lists(box, min_size=1, max_size=5), st.lists(box, min_size=1, max_size=5))
def test_overlap_equals_that_of_pycocotools(first: list[Box], second: list[Box]) -> None:
    expected = mask.iou(xyxy_to_xywh(first), xyxy_to_xywh(second), [0] * len(second))
    np.testing.assert_allclose(box_iou_xyxy(first, second), expected, atol=1e-12)
    assert box_iou_xyxy(first, []).shape == (len(first), 0)


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
