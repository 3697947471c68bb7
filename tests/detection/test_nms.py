"""Non-maximum suppression against the definition, and its bounds on many boxes."""

import numpy as np
import pytest
from pycocotools import mask

from distilpose.detection import filtering
from distilpose.detection.filtering import non_maximum_suppression
from distilpose.geometry import xyxy_to_xywh


def random_boxes(count: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, spread, (count, 2)), rng.uniform(5, 60, (count, 2))
    return np.concatenate([corner, corner + size], 1), rng.integers(0, 50, count) / 50  # with equal scores


def naive(boxes: np.ndarray, score: np.ndarray, threshold: float) -> list[int]:
    """The definition, box by box, with the overlaps of pycocotools."""
    xywh, kept = xyxy_to_xywh(boxes), []
    overlap = mask.iou(xywh, xywh, [0] * len(xywh))
    for row in sorted(range(len(boxes)), key=lambda i: -score[i]):
        if (overlap[row, kept] <= threshold).all():
            kept.append(row)
    return kept


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of overlaps that each call computed."""
    numbers = []
    original = filtering.box_iou_xyxy

    def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        numbers.append(len(a) * len(b))
        return original(a, b)

    monkeypatch.setattr(filtering, "box_iou_xyxy", counted)
    return numbers


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize(("count", "spread"), [(1, 10), (200, 100), (255, 300), (256, 300), (257, 300), (900, 200)])
def test_same_as_the_definition(count: int, spread: float, threshold: float) -> None:
    boxes, score = random_boxes(count, spread)
    expected = naive(boxes, score, threshold)
    assert non_maximum_suppression(boxes, score, threshold, max_boxes=count).tolist() == expected
    assert non_maximum_suppression(boxes, score, threshold, max_boxes=20).tolist() == expected[:20]


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5.0]])  # IoU of one half
    assert non_maximum_suppression(boxes, np.array([1, 0.5]), 0.5).tolist() == [0, 1]
    assert non_maximum_suppression(boxes, np.array([1, 0.5]), 0.49).tolist() == [0]


@pytest.mark.parametrize("spread", [100, 100_000])
@pytest.mark.parametrize("count", [20_000, 1_000_000])
def test_many_boxes_cost_a_bounded_number_of_overlaps(count: int, spread: float, compared: list[int]) -> None:
    boxes, score = random_boxes(count, spread)
    kept = non_maximum_suppression(boxes, score, 0.5)
    assert sum(compared) <= filtering.MAX_CANDIDATES * (filtering.MAX_BOXES + 256)
    assert max(compared) <= 256 * (filtering.MAX_BOXES + 256)  # memory
    assert 0 < len(kept) <= filtering.MAX_BOXES
    best = np.argsort(-score, kind="stable")[:1500]  # 1500 are enough for the first 40 of either
    assert kept[:40].tolist() == best[naive(boxes[best], score[best], 0.5)[:40]].tolist()


def test_it_stops_when_enough_are_kept(compared: list[int]) -> None:
    boxes, score = random_boxes(100_000, 1e7)  # hardly any overlap
    assert len(non_maximum_suppression(boxes, score, 0.5, max_boxes=100)) == 100
    assert sum(compared) == 256 * 256


def test_the_weakest_boxes_are_not_looked_at() -> None:
    boxes, score = random_boxes(500, 100)
    best = np.argsort(-score, kind="stable")[:200]
    kept = non_maximum_suppression(boxes, score, 0.4, max_candidates=200)
    assert kept.tolist() == best[naive(boxes[best], score[best], 0.4)].tolist()
