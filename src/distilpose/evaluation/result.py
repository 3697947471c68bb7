"""What an evaluation found: in memory, as files, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from distilpose.evaluation.comparison import ComparedPeople
from distilpose.evaluation.metrics.coco_ap import COCO_METRICS
from distilpose.evaluation.metrics.diagnosis import calibrate
from distilpose.evaluation.metrics.pck import ALL_JOINTS, JointAccuracy, ProtocolResult
from distilpose.files import utf8_text, write_file_atomically
from distilpose.types import FloatArray

METRICS_FILE = "metrics.json"
RESULTS_FILE = "results_keypoints.json"
# Square pixels, both ends included. COCO has no small class for keypoints; smaller people count in AP and AR alone.
SIZE_CLASSES = {"medium": (32**2, 96**2), "large": (96**2, 1e5**2)}

_FOUND_AT = {"AR50": 0.5, "AR75": 0.75}  # recall among all labeled people, so a count


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What an evaluation found."""

    metrics: Mapping[str, float]  # the ten COCO numbers as fractions (`coco_keypoint_ap`)
    per_joint: Mapping[str, JointAccuracy]  # PCK@0.2 by keypoint name, and ``"all"`` (`pck`)
    people_by_size: Mapping[str, int]  # labeled people in each of `SIZE_CLASSES`
    counts: Mapping[str, int]  # images, labeled people and results (people found, after suppression)
    protocol: Mapping[str, Any]  # how the results came about; JSON values
    results: tuple[Mapping[str, Any], ...]  # people found, in COCO's results layout
    precision: FloatArray  # (10, 101) precision by OKS threshold and recall (`KeypointAP`)
    people: ComparedPeople  # every labeled person beside the prediction it is compared with
    # measures of other data sets by name (`pck.METRICS`), those that were asked for
    protocols: Mapping[str, ProtocolResult] = field(default_factory=dict)
    with_coco: bool = True  # whether COCO's numbers were asked for; they are always there
    # the same model in the boxes of the ground truth, where a detector gave those of this result
    with_true_boxes: EvaluationResult | None = None

    @property
    def people_found(self) -> dict[str, int]:
        """How many labeled people COCO's matching gives a result with an OKS of at least 0.5, and of at least 0.75."""
        return {f"OKS >= {at}": round(max(0.0, self.metrics[ar]) * len(self.people)) for ar, at in _FOUND_AT.items()}

    def to_dict(self) -> dict[str, Any]:
        """The numbers, JSON-ready: the content of ``metrics.json``."""
        joints = {name: {"PCK@0.2": joint.pck, "labeled": joint.labeled} for name, joint in self.per_joint.items()}
        return {
            **self.metrics,
            "PCK@0.2": joints.pop(ALL_JOINTS)["PCK@0.2"],
            "per_joint": joints,
            "by_size": {
                size: {name: self.metrics[f"{name}{size[0].upper()}"] for name in ("AP", "AR")} | {"people": n}
                for size, n in self.people_by_size.items()
            },
            "people_found": self.people_found,
            "calibration": calibrate(self.people).to_dict(),
            **({} if self.with_true_boxes is None else {"with_true_boxes": self.with_true_boxes.to_dict()}),
            **{name: protocol.to_dict() for name, protocol in self.protocols.items()},
            "counts": dict(self.counts),
            "protocol": dict(self.protocol),
        }


def write_evaluation(result: EvaluationResult, out: Path) -> None:
    """Write ``metrics.json`` and ``results_keypoints.json``, which can be submitted to COCO as it is.

    The folder is made if needed; files of an earlier evaluation are replaced.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    write_text(out / METRICS_FILE, json.dumps(result.to_dict(), indent=2) + "\n")
    write_text(out / RESULTS_FILE, json.dumps(list(result.results)))


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all; see `write_file_atomically`."""
    with write_file_atomically(file) as part:
        part.write_bytes(utf8_text(text).encode())


def metrics_table(result: EvaluationResult) -> Table:
    """The numbers x 100 that were asked for, for reading; "-" where nobody of that kind is labeled."""
    table = Table("metric", "x 100")
    if result.with_coco:
        for name in COCO_METRICS:
            value = result.metrics[name]
            table.add_row(name, f"{100 * value:.1f}" if value >= 0 else "-", end_section=name == COCO_METRICS[-1])
        for boxes, one in (("", result), (", true boxes", result.with_true_boxes)):
            if one is None:
                continue
            for threshold, count in one.people_found.items():
                table.add_row(f"people, {threshold}{boxes}", f"{count} of {len(one.people)}")
        table.add_section()
        _add_joints(table, "PCK@0.2", result.per_joint)
    for key, protocol in result.protocols.items():
        for name, share in protocol.values.items():
            title = name if protocol.per_joint else f"{key} {name}"
            table.add_row(title, "-" if share is None else f"{100 * share:.1f}")
            _add_joints(table, name, protocol.per_joint)
    return table


def _add_joints(table: Table, measure: str, joints: Mapping[str, JointAccuracy]) -> None:
    names = list(joints)
    for name, joint in joints.items():
        value = "-" if joint.pck is None else f"{100 * joint.pck:.1f}"
        table.add_row(f"{measure} {name}", value, end_section=name == names[-1])
