"""Results of any model in COCO's layout, read from a file and checked against the ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distilpose.data.files import finite_numbers, read_json, shortened
from distilpose.errors import DatasetError
from distilpose.evaluation.ground_truth import GroundTruth
from distilpose.evaluation.metrics.coco_ap import RESULT_FIELDS
from distilpose.inference.result import PERSON_CATEGORY_ID
from distilpose.skeletons import Skeleton


def load_results(file: Path, ground_truth: GroundTruth, skeleton: Skeleton) -> list[dict[str, Any]]:
    """Read a COCO keypoint results file, such as `write_evaluation` and ``distilpose predict`` write.

    Args:
        file: json list of people with ``image_id``, ``category_id`` (1, or that of a category with keypoints of the
            ground truth), ``keypoints`` and ``score``. May be empty.
        ground_truth: what the results will be compared with.
        skeleton: keypoints and order of the results.

    Returns:
        The people, other fields dropped.

    Raises:
        DatasetError: the file is unusable or belongs to other images.
    """
    people = read_json(file, "a COCO results file")
    if not isinstance(people, list):
        raise DatasetError(
            f"{file}: expected a COCO results file, a list of people, got {type(people).__name__}: pass results "
            "here, the ground truth goes to --annotations"
        )
    return [_check_person(person, row, file, ground_truth, skeleton) for row, person in enumerate(people)]


def _check_person(person: Any, row: int, file: Path, ground_truth: GroundTruth, skeleton: Skeleton) -> dict[str, Any]:
    where = f"{file}: result {row}"
    missing = [name for name in RESULT_FIELDS if not isinstance(person, dict) or name not in person]
    if missing:
        raise DatasetError(f"{where} has no {', '.join(missing)}: every result needs them, write the file again")
    image_id = person["image_id"]
    if not isinstance(image_id, int) or image_id not in ground_truth.images:
        raise DatasetError(
            f"{where}: image_id {image_id!r} is not among the images of {ground_truth.file}: evaluate against the "
            "annotation file of these images, and predict with --annotations so that results carry its ids"
        )
    known = sorted({PERSON_CATEGORY_ID, *ground_truth.category_ids})
    if person["category_id"] not in known:
        raise DatasetError(
            f"{where}: expected category_id {' or '.join(map(str, known))} (person, or a category with keypoints of "
            f"{ground_truth.file.name}), got {person['category_id']!r}: leave other categories out"
        )
    count = skeleton.num_keypoints
    keypoints = finite_numbers(person["keypoints"], 3 * count)
    if keypoints is None:
        raise DatasetError(
            f"{where}: expected {count} times x, y, score as finite numbers in keypoints, got "
            f"{shortened(person['keypoints'])}: predict again"
        )
    score = finite_numbers([person["score"]], 1)
    if score is None:
        raise DatasetError(f"{where}: expected a finite score, got {person['score']!r}: predict again")
    return {
        "image_id": image_id,
        "category_id": PERSON_CATEGORY_ID,
        "keypoints": keypoints.tolist(),
        "score": float(score[0]),
    }
