"""What prediction returns: aligned arrays for the N people of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distilpose.draw import draw_poses
from distilpose.errors import DistilPoseError, InputError
from distilpose.skeleton import COCO_17, Skeleton

FloatArray = NDArray[np.float64]
PERSON_CATEGORY_ID = 1  # COCO's id of "person"
_OPTIONAL = ("raw_score", "sigma", "track_id")
_PER_PERSON = ("xy", "box", "box_score", "pose_score", *_OPTIONAL)


@dataclass(frozen=True, eq=False)
class PoseResult:
    """The poses found in one image; row n of every array belongs to person n.

    Attributes:
        xy: (N, K, 2) keypoints in image pixels, (x, y); they may lie outside the image.
        box: (N, 4) person boxes in image pixels as x1, y1, x2, y2.
        box_score: (N,) confidence of the detector; 1 for boxes given without one.
        pose_score: (N,) confidence of the whole pose, by which people are ranked.
        raw_score: (N, K) the model's own, unbounded confidence; None from a model without a score output.
        sigma: (N, K, 2) spread along x and y in image pixels; None from a model without a sigma output.
        track_id: (N,) whole numbers, the same for the same person in every frame of a film; None outside of films.
        skeleton: names and order of the K keypoints.

    Raises:
        InputError: the arrays do not fit together or hold numbers that are not finite.
    """

    xy: FloatArray
    box: FloatArray
    box_score: FloatArray
    pose_score: FloatArray
    raw_score: FloatArray | None = None
    sigma: FloatArray | None = None
    track_id: NDArray[np.int64] | None = None
    skeleton: Skeleton = COCO_17

    def __post_init__(self) -> None:
        for name in _PER_PERSON:
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                read = _whole_numbers if name == "track_id" else _numbers
                object.__setattr__(self, name, read(value, name))
        people, count = len(self.box_score) if self.box_score.ndim else 0, self.skeleton.num_keypoints
        inner = {"xy": (count, 2), "raw_score": (count,), "sigma": (count, 2), "box": (4,)}
        for name in _PER_PERSON:
            value, shape = getattr(self, name), (people, *inner.get(name, ()))
            if value is not None and value.size == 0 == people:  # nobody, perhaps read from a bare []
                object.__setattr__(self, name, np.zeros(shape, dtype=value.dtype))
            elif value is not None and value.shape != shape:
                raise InputError(f"{name} of {people} people must have shape {shape}, got {value.shape}")
        if self.sigma is not None and (self.sigma < 0).any():
            raise InputError(f"sigma must not be negative, got {self.sigma.min():g}")

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def score(self) -> FloatArray | None:
        """(N, K) confidence of each keypoint in [0, 1]: ``raw_score`` clipped; None from a model without a score."""
        return None if self.raw_score is None else np.clip(self.raw_score, 0, 1)

    @classmethod
    def empty(cls, skeleton: Skeleton = COCO_17) -> PoseResult:
        """Nobody: arrays of zero rows."""
        count = skeleton.num_keypoints
        return cls(
            xy=np.zeros((0, count, 2)),
            box=np.zeros((0, 4)),
            box_score=np.zeros(0),
            pose_score=np.zeros(0),
            raw_score=np.zeros((0, count)),
            sigma=np.zeros((0, count, 2)),
            skeleton=skeleton,
        )

    def filter(self, keep: NDArray[np.bool_] | NDArray[np.intp] | Sequence[int]) -> PoseResult:
        """Choose people.

        Args:
            keep: (N,) mask, or row indices in the wanted order.

        Returns:
            A new result with copies of the chosen rows.

        Example:
            >>> result = PoseResult.empty()
            >>> len(result.filter(result.pose_score > 0.3))
            0
        """
        index = np.asarray(keep)
        index = index.astype(np.intp) if index.size == 0 and index.dtype != np.bool_ else index
        rows = {name: getattr(self, name) for name in _PER_PERSON}
        return replace(self, **{name: value[index].copy() for name, value in rows.items() if value is not None})

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The people on a copy of their picture, (H, W, 3) uint8 RGB; see `draw_poses`."""
        return draw_poses(image, self.xy, self.skeleton, score=self.score, sigma=self.sigma)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description without loss; `from_dict` reads it back."""
        rows = {name: getattr(self, name) for name in _PER_PERSON}
        lists = {name: None if value is None else value.tolist() for name, value in rows.items()}
        return {**lists, "skeleton": self.skeleton.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PoseResult:
        """Read what `to_dict` wrote.

        Raises:
            InputError: a field is missing or broken.
        """
        try:
            skeleton = Skeleton.from_dict(values["skeleton"])
            rows = {name: values[name] for name in _PER_PERSON if name != "track_id"}
            rows["track_id"] = values.get("track_id")  # not in files of version 0.1.0
        except (KeyError, TypeError, DistilPoseError) as error:
            raise InputError(f"a pose result needs all fields of PoseResult.to_dict(): {error!r}") from error
        return cls(**rows, skeleton=skeleton)

    def to_coco(self, image_id: int | None) -> list[dict[str, Any]]:
        """One entry per person in COCO's keypoint results format.

        ``keypoints`` is x, y, score in [0, 1] for each keypoint, the score 1 from a model without one; ``score`` is
        the pose score.

        Args:
            image_id: of the image in its annotation file; None if it has none.
        """
        score = np.ones(self.xy.shape[:2]) if self.score is None else self.score
        keypoints = np.concatenate([self.xy, score[..., None]], axis=-1).reshape(len(self), 3 * score.shape[1])
        return [
            {"image_id": image_id, "category_id": PERSON_CATEGORY_ID, "keypoints": row.tolist(), "score": float(rank)}
            for row, rank in zip(keypoints, self.pose_score, strict=True)
        ]


def _numbers(value: ArrayLike, name: str) -> FloatArray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers, got {value!r}") from error
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def _whole_numbers(value: ArrayLike, name: str) -> NDArray[np.int64]:
    numbers = _numbers(value, name)
    if (numbers != np.rint(numbers)).any():
        raise InputError(f"{name} must be whole numbers, got {numbers[numbers != np.rint(numbers)][0]:g}")
    return numbers.astype(np.int64)
