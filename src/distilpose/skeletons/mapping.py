"""Labels of one set of keypoints read as labels of another, for training on data sets that label different points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilpose.errors import ConfigError
from distilpose.skeletons.definition import Skeleton
from distilpose.skeletons.names import index_of, name_key
from distilpose.skeletons.people import OPENPOSE_18
from distilpose.types import FloatArray


@dataclass(frozen=True, eq=False)
class KeypointMapping:
    """Where each keypoint of a target skeleton stands in a source skeleton. Build one with `map_keypoints`.

    Attributes:
        source: of the labels.
        target: of the model.
        index: (K,) index into the source for each of the target's K keypoints; -1 where the source has none.
    """

    source: Skeleton
    target: Skeleton
    index: NDArray[np.intp]

    @property
    def missing_names(self) -> list[str]:
        """The keypoints of the target that the source never labels."""
        return [name for name, gone in zip(self.target.keypoint_names, self.missing, strict=True) if gone]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(K,) True where the source never labels a keypoint of the target."""
        return np.asarray(self.index < 0)

    def apply(self, values: FloatArray) -> FloatArray:
        """(..., K of the source, C) -> (..., K of the target, C), with 0 for what the source does not have."""
        taken = values[..., np.maximum(self.index, 0), :].copy()
        taken[..., self.missing, :] = 0
        return taken


def map_keypoints(source: Skeleton, target: Skeleton, given: Mapping[str, str] | None = None) -> KeypointMapping:
    """Find each keypoint of ``target`` in ``source``.

    Keypoints are paired by what their names say (`name_key`): ``left_eye`` and ``LEye`` are one, MPII's ``head_top``
    and CrowdPose's ``head`` too. The annotated necks of LSP, CrowdPose and Halpe-26 are one. MPII's ``upper_neck`` and
    OpenPose-18's ``neck``, the middle of the shoulders, are paired with none of them.

    Args:
        source: of the labels.
        target: of the model.
        given: target name -> source name, before all names; ``""`` leaves a keypoint of the target without a source.

    Raises:
        ConfigError: ``given`` names a keypoint that is not there, or the skeletons share none.
    """
    exact = {name: place for place, name in enumerate(source.keypoint_names)}
    alike = {name_key(name): place for name, place in exact.items()}
    index = np.array([exact.get(name, alike.get(name_key(name), -1)) for name in target.keypoint_names], dtype=np.intp)
    computed = [skeleton.has_keypoints(OPENPOSE_18.keypoint_names) for skeleton in (source, target)]
    if computed[0] != computed[1] and "neck" in target.keypoint_names:
        index[target.keypoint_names.index("neck")] = -1
    for name, origin in (given or {}).items():
        place = index_of(name, target.keypoint_names, f"mapping, which turns {source.name} into {target.name},")
        index[place] = -1 if origin == "" else index_of(origin, source.keypoint_names, f"mapping of {name}")
    if (index < 0).all():
        raise ConfigError(
            f"no keypoint of {source.name} ({', '.join(source.keypoint_names)}) has the name of one of {target.name} "
            f"({', '.join(target.keypoint_names)}): pair them with mapping: {{NAME IN {target.name}: NAME IN "
            f"{source.name}}}"
        )
    return KeypointMapping(source, target, index)
