"""What the keypoints are: names, order, mirror pairs, limbs, body halves and OKS constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distilpose.errors import ConfigError

Side = Literal["left", "right", "centre"]


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one kind of body, in the order in which every array of the package holds them.

    Attributes:
        name: of the convention, such as ``"coco_17"``.
        keypoint_names: K unique names.
        flip_pairs: (left, right) index pairs that a mirror swaps.
        edges: index pairs joined by a limb when drawn.
        upper_body: indices of the upper half, for half-body augmentation.
        lower_body: indices of the lower half.
        oks_sigmas: K per-keypoint constants of object keypoint similarity, > 0.

    Raises:
        ConfigError: a name is doubled, an index is out of range or a length is wrong.
    """

    name: str
    keypoint_names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int], ...]
    upper_body: tuple[int, ...]
    lower_body: tuple[int, ...]
    oks_sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.keypoint_names)
        if len(set(self.keypoint_names)) != count or count == 0:
            raise ConfigError(f"keypoint_names must be unique and not empty, got {list(self.keypoint_names)}")
        if len(self.oks_sigmas) != count or any(sigma <= 0 for sigma in self.oks_sigmas):
            raise ConfigError(f"oks_sigmas must be {count} positive numbers, got {list(self.oks_sigmas)}")
        paired = [index for pair in self.flip_pairs for index in pair]
        if len(set(paired)) != len(paired):
            raise ConfigError(f"each keypoint may stand in one flip pair only, got {list(self.flip_pairs)}")
        used = [*paired, *(i for edge in self.edges for i in edge), *self.upper_body, *self.lower_body]
        if any(not 0 <= index < count for index in used):
            raise ConfigError(f"keypoint indices must lie in 0..{count - 1}, got {sorted(set(used))}")

    @property
    def num_keypoints(self) -> int:
        """How many keypoints one person has (K)."""
        return len(self.keypoint_names)

    @property
    def flip_index(self) -> NDArray[np.intp]:
        """(K,) index array: ``keypoints[..., flip_index, :]`` swaps left and right."""
        index = np.arange(self.num_keypoints)
        for left, right in self.flip_pairs:
            index[[left, right]] = right, left
        return index

    @property
    def sides(self) -> tuple[Side, ...]:
        """Body side of each keypoint: the first of a flip pair is left, the second right, the rest centre."""
        side: list[Side] = ["centre"] * self.num_keypoints
        for left, right in self.flip_pairs:
            side[left], side[right] = "left", "right"
        return tuple(side)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Skeleton:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: a field is missing or has the wrong form.
        """
        try:
            return cls(
                name=str(values["name"]),
                keypoint_names=tuple(str(name) for name in values["keypoint_names"]),
                flip_pairs=tuple((int(a), int(b)) for a, b in values["flip_pairs"]),
                edges=tuple((int(a), int(b)) for a, b in values["edges"]),
                upper_body=tuple(int(i) for i in values["upper_body"]),
                lower_body=tuple(int(i) for i in values["lower_body"]),
                oks_sigmas=tuple(float(s) for s in values["oks_sigmas"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"a skeleton needs all fields of Skeleton.to_dict(), got {dict(values)}") from error


# Order, limbs and OKS constants: COCO keypoint challenge, https://cocodataset.org/#keypoints-eval
COCO_17 = Skeleton(
    name="coco_17",
    keypoint_names=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    edges=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    upper_body=tuple(range(11)),
    lower_body=tuple(range(11, 17)),
    oks_sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089,
    ),
)  # fmt: skip

# Order: OpenPose's COCO output (POSE_COCO_BODY_PARTS). OKS constants: COCO's; the neck, the middle of the shoulders,
# has theirs, as COCO does not measure it.
OPENPOSE_18 = Skeleton(
    name="openpose_18",
    keypoint_names=(
        "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
        "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
        "right_ear", "left_ear",
    ),
    flip_pairs=((5, 2), (6, 3), (7, 4), (11, 8), (12, 9), (13, 10), (15, 14), (17, 16)),
    edges=(
        (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
        (0, 14), (14, 16), (0, 15), (15, 17),
    ),
    upper_body=(*range(8), *range(14, 18)),
    lower_body=tuple(range(8, 14)),
    oks_sigmas=(
        0.026, 0.079, 0.079, 0.072, 0.062, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089, 0.025, 0.025,
        0.035, 0.035,
    ),
)  # fmt: skip

# Order and OKS constants: https://github.com/Fang-Haoshu/Halpe-FullBody, the first 26 of 136 keypoints. "head" is the
# top of the head, "hip" the middle of the hips.
HALPE_26 = Skeleton(
    name="halpe_26",
    keypoint_names=(
        *COCO_17.keypoint_names, "head", "neck", "hip", "left_big_toe", "right_big_toe", "left_small_toe",
        "right_small_toe", "left_heel", "right_heel",
    ),
    flip_pairs=(*COCO_17.flip_pairs, (20, 21), (22, 23), (24, 25)),
    edges=(
        (15, 13), (13, 11), (11, 19), (16, 14), (14, 12), (12, 19), (17, 18), (18, 19), (18, 5), (5, 7), (7, 9),
        (18, 6), (6, 8), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (15, 20), (15, 22), (15, 24),
        (16, 21), (16, 23), (16, 25),
    ),
    upper_body=(*range(11), 17, 18),
    lower_body=(*range(11, 17), *range(19, 26)),
    oks_sigmas=(*COCO_17.oks_sigmas, 0.026, 0.026, 0.066, 0.079, 0.079, 0.079, 0.079, 0.079, 0.079),
)  # fmt: skip
