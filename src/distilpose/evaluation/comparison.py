"""Who is compared with what: every labeled person beside the prediction that is meant for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilpose.evaluation.ground_truth import GroundTruth, LabeledPerson
from distilpose.geometry.oks import oks
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray, IntArray

Rows = NDArray[np.intp]
NOBODY = -1


@dataclass(frozen=True, eq=False)
class ComparedPeople:
    """P labeled people as aligned arrays, and what was predicted for each.

    Attributes:
        skeleton: names and order of the K keypoints.
        image_id: (P,) of the annotation file.
        file_name: P names of the images in their folder; empty where the annotation file has none.
        box_xyxy: (P, 4) boxes as annotated, in image pixels.
        area: (P,) of the person in square pixels.
        true_xy_img: (P, K, 2) labels in image pixels.
        labeled: (P, K) True where the label counts.
        xy_img: (P, K, 2) prediction in image pixels; NaN for a person without one.
        raw_score: (P, K) of the prediction, likewise; None from a model without a score.
        sigma_img: (P, K, 2) along x and y in image pixels, likewise; None from a model without sigma.
    """

    skeleton: Skeleton
    image_id: IntArray
    file_name: tuple[str, ...]
    box_xyxy: FloatArray
    area: FloatArray
    true_xy_img: FloatArray
    labeled: NDArray[np.bool_]
    xy_img: FloatArray
    raw_score: FloatArray | None = None
    sigma_img: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """(P,) True for a person with a prediction."""
        return np.asarray(np.isfinite(self.xy_img).all((1, 2)))

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(P, K) True where a label can be compared with a prediction."""
        return self.labeled & self.predicted[:, None]


def compare_people(
    ground_truth: GroundTruth,
    rows: Rows,
    skeleton: Skeleton,
    *,
    xy_img: FloatArray,
    raw_score: FloatArray | None = None,
    sigma_img: FloatArray | None = None,
) -> ComparedPeople:
    """Put the labeled people beside their predictions.

    Args:
        ground_truth: with P >= 1 labeled people.
        rows: (P,) which of N predictions each of them is compared with, or `NOBODY`.
        skeleton: of both.
        xy_img: (N, K, 2) predictions in image pixels.
        raw_score: (N, K), if there is one.
        sigma_img: (N, K, 2) in image pixels, if there is one.
    """
    people = ground_truth.people
    names = [ground_truth.images[person.image_id].get("file_name") for person in people]
    return ComparedPeople(
        skeleton=skeleton,
        image_id=np.array([person.image_id for person in people], dtype=np.int64),
        file_name=tuple(name if isinstance(name, str) else "" for name in names),
        box_xyxy=np.stack([person.box_xyxy for person in people]),
        area=np.array([person.area for person in people], dtype=np.float64),
        true_xy_img=np.stack([person.xy_img for person in people]),
        labeled=np.stack([person.labeled for person in people]),
        xy_img=_take(xy_img, rows),
        raw_score=None if raw_score is None else _take(raw_score, rows),
        sigma_img=None if sigma_img is None else _take(sigma_img, rows),
    )


def match_people(people: Sequence[LabeledPerson], image_id: IntArray, xy_img: FloatArray, skeleton: Skeleton) -> Rows:
    """Give each labeled person at most one prediction of the same image, the most similar pairs (by OKS) first.

    Args:
        people: P labeled people.
        image_id: (N,) of the predictions.
        xy_img: (N, K, 2) predictions in image pixels.
        skeleton: of both.

    Returns:
        (P,) row of each person's prediction, `NOBODY` for people left without one.
    """
    matched = np.full(len(people), NOBODY, dtype=np.intp)
    candidates_of = dict(rows_by_image(image_id))
    for image, rows in rows_by_image(np.array([person.image_id for person in people], dtype=np.int64)):
        candidates = candidates_of.get(image)
        if candidates is None:
            continue
        similarity = oks(
            np.stack([people[row].xy_img for row in rows]),
            xy_img[candidates],
            np.array([[people[row].area] for row in rows]),
            skeleton.oks_sigmas,
            np.stack([people[row].labeled for row in rows]),
        )
        for person, candidate in _greedy_pairs(similarity):
            matched[rows[person]] = candidates[candidate]
    return matched


def rows_by_image(image_id: IntArray) -> Iterator[tuple[int, Rows]]:
    """(N,) image ids -> each id with the rows that have it, in order."""
    order = np.argsort(image_id, kind="stable")
    ids, starts = np.unique(image_id[order], return_index=True)
    return zip(ids.tolist(), np.split(order, starts)[1:], strict=True)


def _greedy_pairs(similarity: FloatArray) -> list[tuple[int, int]]:
    """(N, M) similarity -> pairs (row, column), each row and column at most once, most similar first."""
    remaining = similarity.copy()
    pairs = []
    for _ in range(min(remaining.shape)):
        row, column = np.unravel_index(remaining.argmax(), remaining.shape)
        pairs.append((int(row), int(column)))
        remaining[row], remaining[:, column] = -1, -1
    return pairs


def _take(values: FloatArray, rows: Rows) -> FloatArray:
    """(N, ...) values, (P,) rows -> (P, ...), NaN where the row is `NOBODY`."""
    taken = np.full((len(rows), *values.shape[1:]), np.nan)
    taken[rows != NOBODY] = values[rows[rows != NOBODY]]
    return taken
