"""PCK by the box, and the measures of other data sets: MPII's PCKh, PCK by the torso as on LSP, and CrowdPose AP."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from distilpose.data.labels import AREA_SHARE_OF_BOX
from distilpose.errors import ConfigError
from distilpose.evaluation.comparison import HEAD_SHARE_OF_DIAGONAL, ComparedPeople, GroundTruth, head_ends
from distilpose.evaluation.metrics.coco_ap import coco_keypoint_ap
from distilpose.skeletons import CROWDPOSE_14, LSP_14, MPII_16, Skeleton, name_key
from distilpose.types import FloatArray

logger = logging.getLogger(__name__)

PCK_THRESHOLD = 0.2
ALL_JOINTS = "all"
Metric = Literal["coco", "pckh", "pck_torso", "crowdpose"]
METRICS: tuple[Metric, ...] = get_args(Metric)
PCKH_SHARE, TORSO_SHARE = 0.5, 0.2
_TORSOS = (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"))
_NOT_IN_MEAN = ("pelvis", "thorax")  # of MPII
# Crowd index from which on an image is no longer easy, and from which on it is hard: the evaluation code of CrowdPose
# (https://github.com/Jeff-sjtu/CrowdPose). The text of the paper (arXiv:1812.00324) has 0.1 in place of 0.2.
CROWD_LEVELS = (("AP_easy", -np.inf, 0.2), ("AP_medium", 0.2, 0.8), ("AP_hard", 0.8, np.inf))
_CROWDPOSE_NUMBERS = ("AP", "AP50", "AP75", "AR", "AR50", "AR75")


class JointAccuracy(NamedTuple):
    """How well one keypoint, or all of them, was found."""

    pck: float | None  # share of the labeled keypoints within the threshold; None when nothing is labeled
    labeled: int  # how many there are


def pck(people: ComparedPeople) -> dict[str, JointAccuracy]:
    """PCK@0.2: a keypoint is found when it lies within 0.2 x the longer side of the annotated person box."""
    return share_within(people, PCK_THRESHOLD * (people.box_xyxy[:, 2:] - people.box_xyxy[:, :2]).max(-1))


def share_within(
    people: ComparedPeople, reach: FloatArray, *, not_in_all: Sequence[str] = ()
) -> dict[str, JointAccuracy]:
    """How many labeled keypoints lie within each person's reach, (P,) in image pixels; without a prediction, none do.

    Accuracy by keypoint name, in skeleton order, and last `ALL_JOINTS` over all labeled keypoints together but those
    that ``not_in_all`` names.
    """
    labeled, names = people.labeled, people.skeleton.keypoint_names
    found = labeled & (np.linalg.norm(people.xy_img - people.true_xy_img, axis=-1) <= reach[:, None])
    accuracy = {name: _share(found[:, k], labeled[:, k]) for k, name in enumerate(names)}
    counted = ~np.isin(names, list(not_in_all))
    return {**accuracy, ALL_JOINTS: _share(found[:, counted], labeled[:, counted])}


def _share(found: NDArray[np.bool_], labeled: NDArray[np.bool_]) -> JointAccuracy:
    count = int(labeled.sum())
    return JointAccuracy(float(found.sum() / count) if count else None, count)


class ProtocolResult(NamedTuple):
    """What one measure found."""

    # fractions by the names under which the measure is known; None where it is undefined
    values: Mapping[str, float | None]
    per_joint: Mapping[str, JointAccuracy]  # accuracy by keypoint name; empty for a measure of whole poses
    facts: Mapping[str, Any]  # how it was measured; JSON values

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        joints = {name: {"share": joint.pck, "labeled": joint.labeled} for name, joint in self.per_joint.items()}
        return {**self.values, **({"per_joint": joints} if joints else {}), "protocol": dict(self.facts)}


def default_metrics(skeleton: Skeleton) -> tuple[Metric, ...]:
    """What is usual for these keypoints: COCO AP, and the measure of the data set they come from."""
    usual: list[tuple[Skeleton, Metric]] = [(MPII_16, "pckh"), (LSP_14, "pck_torso"), (CROWDPOSE_14, "crowdpose")]
    return ("coco", *(metric for known, metric in usual if known.has_keypoints(skeleton.keypoint_names)))


def measure_protocols(
    metrics: Sequence[str], ground_truth: GroundTruth, results: Sequence[Mapping[str, Any]], people: ComparedPeople
) -> dict[str, ProtocolResult]:
    """Measure what ``metrics`` names beside ``"coco"``; refuses what `check_measurable` does."""
    check_measurable(metrics, people)
    measures = {
        "pckh": lambda: pckh(people),
        "pck_torso": lambda: pck_torso(people),
        "crowdpose": lambda: crowdpose_ap(ground_truth, results),
    }
    return {name: measures[name]() for name in metrics if name != "coco"}


def check_measurable(metrics: Sequence[str], people: ComparedPeople) -> None:
    """Refuse measures that labels or keypoints rule out, before a model is run.

    Raises:
        ConfigError: a name is not one of `METRICS`, or a measure needs keypoints that are not there.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ConfigError(f"metrics must be among {', '.join(METRICS)}, got {', '.join(unknown)}")
    if "pckh" in metrics:
        _head_sizes(people)
    if "pck_torso" in metrics:
        _torsos(people.skeleton)


def pckh(people: ComparedPeople) -> ProtocolResult:
    """PCKh@0.5: a keypoint is found when it lies within half the size of the person's head.

    Head size is 0.6 x the diagonal of the head box where the annotation has one (``head_box``), as MPII measures it;
    else the length of the head segment, from the top of the head to the neck, by the keypoints of the annotation file.
    People with neither are left out. The mean is over all labeled keypoints but pelvis and thorax, as on MPII.

    Raises:
        ConfigError: there is no head box, and neither the skeleton nor the file has top of the head and neck.

    Source:
        Andriluka et al., CVPR 2014, and MPII's evaluation, http://human-pose.mpi-inf.mpg.de.
    """
    size, names = _head_sizes(people), people.skeleton.keypoint_names
    boxed = int(np.isfinite(people.head_box).sum())
    left_out = [name for name in names if name_key(name) in map(name_key, _NOT_IN_MEAN)]
    facts = {
        "head_size": f"{HEAD_SHARE_OF_DIAGONAL} x diagonal of head_box; else from the top of the head to the neck",
        "people_by_head_box": boxed,
        "people_by_head_segment": int(np.isfinite(size).sum()) - boxed,
        "not_in_mean": left_out,
    }
    return _pck_result("PCKh@0.5", PCKH_SHARE * size, people, facts, left_out)


def _head_sizes(people: ComparedPeople) -> FloatArray:
    size = np.where(np.isfinite(people.head_box), people.head_box, people.head_segment)
    if head_ends(people.skeleton) is None and not np.isfinite(size).any():
        raise ConfigError(
            "PCKh needs the size of heads: annotations with head_box (x, y, width, height), or the keypoints head_top "
            f"and upper_neck or neck, which {people.skeleton.name} does not have: add head_box, or leave pckh out of "
            "metrics"
        )
    return size


def pck_torso(people: ComparedPeople) -> ProtocolResult:
    """PCK@0.2 by the torso, as on LSP: a keypoint is found within 0.2 x the distance of left shoulder and right hip.

    Where one of the two is not labeled, right shoulder and left hip are taken; people with neither are left out. The
    mean is over all labeled keypoints.

    Raises:
        ConfigError: the skeleton has no shoulders and hips.
    """
    size = np.full(len(people), np.nan)
    for a, b in reversed(_torsos(people.skeleton)):
        length = np.linalg.norm(people.true_xy_img[:, a] - people.true_xy_img[:, b], axis=-1)
        size = np.where(people.labeled[:, a] & people.labeled[:, b], length, size)
    facts = {"torso": "from left shoulder to right hip; else from right shoulder to left hip"}
    return _pck_result("PCK@0.2 torso", TORSO_SHARE * size, people, facts)


def _torsos(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Index pairs to measure a torso by, the better one first."""
    ends = [(skeleton.find(shoulder), skeleton.find(hip)) for shoulder, hip in _TORSOS]
    pairs = [(a, b) for a, b in ends if a is not None and b is not None]
    if not pairs:
        raise ConfigError(f"PCK by the torso needs shoulders and hips, {skeleton.name} has none: leave pck_torso out")
    return pairs


def crowdpose_ap(ground_truth: GroundTruth, results: Sequence[Mapping[str, Any]]) -> ProtocolResult:
    """CrowdPose's numbers: COCO's AP with 0.53 x the box as area, and AP by how crowded the image is.

    Easy, medium and hard images (`CROWD_LEVELS`) are told by the field ``crowdIndex`` of the annotation file's images;
    None for a level without people. ``results`` are in COCO's results layout.

    Source:
        CrowdPose (arXiv:1812.00324) and its evaluation code; equal to ``keypoints_crowd`` of faster-coco-eval.
    """
    coco, skeleton = dict(ground_truth.coco), ground_truth.people.skeleton
    coco["annotations"] = [
        {**person, "area": AREA_SHARE_OF_BOX * person["bbox"][2] * person["bbox"][3]} for person in coco["annotations"]
    ]
    overall = coco_keypoint_ap(coco, results, skeleton)
    values: dict[str, float | None] = {name: _defined(overall[name]) for name in _CROWDPOSE_NUMBERS}
    crowding = {number: image.get("crowdIndex") for number, image in ground_truth.images.items()}
    known = {number: float(index) for number, index in crowding.items() if isinstance(index, int | float)}
    if len(known) < len(crowding):
        logger.warning(
            "%s: %d of %d images have no crowdIndex: they count in AP, not in easy, medium and hard",
            ground_truth.file, len(crowding) - len(known), len(crowding),
        )  # fmt: skip
    counts = {}
    for name, low, high in CROWD_LEVELS:
        chosen = {number for number, index in known.items() if low <= index < high}
        counts[name.removeprefix("AP_")] = len(chosen)
        part, found = _part(coco, results, chosen)
        values[name] = _defined(coco_keypoint_ap(part, found, skeleton)["AP"]) if part["annotations"] else None
    return ProtocolResult(values, {}, {"area": f"{AREA_SHARE_OF_BOX} x the box", "images": counts})


def _part(
    coco: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: set[int]
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Ground truth and results of some images."""
    part = {
        **coco,
        "images": [image for image in coco["images"] if image["id"] in image_ids],
        "annotations": [person for person in coco["annotations"] if person["image_id"] in image_ids],
    }
    return part, [result for result in results if result["image_id"] in image_ids]


def _pck_result(
    name: str, reach: FloatArray, people: ComparedPeople, facts: Mapping[str, Any], not_in_all: Sequence[str] = ()
) -> ProtocolResult:
    """Accuracy within (P,) pixels, NaN for people whose size is not known."""
    measured = np.isfinite(reach) & (reach > 0)
    left_out = int((~measured).sum())
    if left_out:
        logger.warning("%s: %d of %d people are left out, whose size is not labeled", name, left_out, len(people))
    joints = share_within(people.filter(measured), reach[measured], not_in_all=not_in_all)
    overall = joints.pop(ALL_JOINTS)
    counts = {"people": len(people) - left_out, "people_left_out": left_out}
    return ProtocolResult({name: overall.pck}, joints, {**facts, **counts})


def _defined(value: float) -> float | None:
    """COCO writes -1 for a number that is not defined."""
    return None if value < 0 else value
