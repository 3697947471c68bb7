"""Who is compared with what: every labeled person beside the prediction that is meant for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilpose.geometry.oks import oks
from distilpose.skeletons import Skeleton
from distilpose.types import FloatArray, IntArray

Rows = NDArray[np.intp]
NOBODY = -1


@dataclass(frozen=True, eq=False)
class ComparedPeople:
    """P labeled people as aligned arrays, and what was predicted for each."""

    skeleton: Skeleton  # names and order of the K keypoints
    image_id: IntArray  # (P,) of the annotation file
    file_name: NDArray[np.str_]  # (P,) names of the images in their folder; empty where the annotation file has none
    box_xyxy: FloatArray  # (P, 4) boxes as annotated, in image pixels
    area: FloatArray  # (P,) of the person in square pixels
    true_xy_img: FloatArray  # (P, K, 2) labels in image pixels
    labeled: NDArray[np.bool_]  # (P, K) True where the label counts
    head_box: FloatArray  # (P,) size of the head in pixels by ``head_box`` of the annotation; NaN where it has none
    # (P,) from the top of the head to the neck in pixels; NaN where the file does not label both
    head_segment: FloatArray
    xy_img: FloatArray  # (P, K, 2) prediction in image pixels; NaN for a person without one
    raw_score: FloatArray | None = None  # (P, K) of the prediction, likewise; None from a model without a score
    # (P, K, 2) along x and y in image pixels, likewise; None from a model without sigma
    sigma_img: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.image_id)

    def filter(self, rows: Any) -> ComparedPeople:
        """Choose people by (P,) mask or by row numbers."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return replace(self, **{name: array[rows] for name, array in arrays.items() if array is not None})

    def compared(
        self,
        rows: Rows,
        xy_img: FloatArray,
        raw_score: FloatArray | None = None,
        sigma_img: FloatArray | None = None,
    ) -> ComparedPeople:
        """The same people beside N predictions: ``rows`` (P,) says which each is compared with, or `NOBODY`.

        ``xy_img`` is (N, K, 2) in image pixels, ``raw_score`` (N, K), ``sigma_img`` (N, K, 2) in image pixels.
        """
        score = None if raw_score is None else _take(raw_score, rows)
        sigma = None if sigma_img is None else _take(sigma_img, rows)
        return replace(self, xy_img=_take(xy_img, rows), raw_score=score, sigma_img=sigma)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """(P,) True for a person with a prediction."""
        return np.asarray(np.isfinite(self.xy_img).all((1, 2)))

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(P, K) True where a label can be compared with a prediction."""
        return self.labeled & self.predicted[:, None]


def match_people(people: ComparedPeople, image_id: IntArray, xy_img: FloatArray) -> Rows:
    """Give each labeled person at most one prediction of the same image, the most similar pairs (by OKS) first.

    ``image_id`` (N,) and ``xy_img`` (N, K, 2) in image pixels are those of the predictions. Returns (P,) the row of
    each person's prediction, `NOBODY` for people left without one.
    """
    matched = np.full(len(people), NOBODY, dtype=np.intp)
    candidates_of = dict(rows_by_image(image_id))
    for image, rows in rows_by_image(people.image_id):
        candidates = candidates_of.get(image, np.zeros(0, dtype=np.intp))
        true_xy, labeled, area = people.true_xy_img[rows], people.labeled[rows], people.area[rows, None]
        similarity = oks(true_xy, xy_img[candidates], area, people.skeleton.oks_sigmas, labeled)
        for _ in range(min(similarity.shape)):
            person, candidate = np.unravel_index(similarity.argmax(), similarity.shape)
            matched[rows[person]] = candidates[candidate]
            similarity[person], similarity[:, candidate] = -1, -1
    return matched


def rows_by_image(image_id: IntArray) -> Iterator[tuple[int, Rows]]:
    """(N,) image ids -> each id with the rows that have it, in order."""
    order = np.argsort(image_id, kind="stable")
    ids, starts = np.unique(image_id[order], return_index=True)
    return zip(ids.tolist(), np.split(order, starts)[1:], strict=True)


def _take(values: FloatArray, rows: Rows) -> FloatArray:
    """(N, ...) values, (P,) rows -> (P, ...), NaN where the row is `NOBODY`."""
    taken = np.full((len(rows), *values.shape[1:]), np.nan)
    taken[rows != NOBODY] = values[rows[rows != NOBODY]]
    return taken
