"""What the keypoints are: one class, the skeletons that are built in, and how others are read and mapped."""

from distilpose.skeletons.definition import Side, Skeleton
from distilpose.skeletons.mapping import KeypointMapping, map_keypoints
from distilpose.skeletons.names import name_key
from distilpose.skeletons.people import (
    COCO_17,
    COCO_WHOLEBODY_133,
    CROWDPOSE_14,
    HALPE_26,
    LSP_14,
    MPII_16,
    OPENPOSE_18,
    SKELETONS,
)
from distilpose.skeletons.reading import (
    DEFAULT_OKS_SIGMA,
    find_skeleton,
    skeleton_from_category,
    skeleton_from_file,
)

__all__ = [
    "COCO_17",
    "COCO_WHOLEBODY_133",
    "CROWDPOSE_14",
    "DEFAULT_OKS_SIGMA",
    "HALPE_26",
    "LSP_14",
    "MPII_16",
    "OPENPOSE_18",
    "SKELETONS",
    "KeypointMapping",
    "Side",
    "Skeleton",
    "find_skeleton",
    "map_keypoints",
    "name_key",
    "skeleton_from_category",
    "skeleton_from_file",
]
