"""Boxes and the one map between image pixels and crop pixels."""

from distilpose.geometry.boxes import (
    BOX_GROWTH,
    box_iou_xyxy,
    box_of_keypoints,
    check_boxes_xyxy,
    clip_boxes_xyxy,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from distilpose.geometry.crop import CROP_PADDING, CropTransform, crops_from_boxes

__all__ = [
    "BOX_GROWTH",
    "CROP_PADDING",
    "CropTransform",
    "box_iou_xyxy",
    "box_of_keypoints",
    "check_boxes_xyxy",
    "clip_boxes_xyxy",
    "crops_from_boxes",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]
