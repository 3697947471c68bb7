"""What is compared: the labels and results of COCO files, and every labeled person beside its prediction."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilpose.data.annotations import find_images
from distilpose.data.files import finite_numbers, read_json, shortened
from distilpose.data.labels import Label, LabelFile, image_size_hw, is_unlabeled, read_label_file
from distilpose.errors import DatasetError
from distilpose.evaluation.metrics.coco_ap import RESULT_FIELDS
from distilpose.geometry import xywh_to_xyxy
from distilpose.geometry.oks import oks
from distilpose.inference.result import PERSON_CATEGORY_ID
from distilpose.skeletons import KeypointMapping, Skeleton, map_keypoints
from distilpose.types import FloatArray, IntArray

logger = logging.getLogger(__name__)

Rows = NDArray[np.intp]
NOBODY = -1
# Head size is this share of the head box's diagonal: MPII's evaluation, http://human-pose.mpi-inf.mpg.de
HEAD_SHARE_OF_DIAGONAL = 0.6


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
        self, rows: Rows, xy_img: FloatArray, raw_score: FloatArray | None = None, sigma_img: FloatArray | None = None
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


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A COCO keypoint file."""

    file: Path  # where it came from
    images: Mapping[int, Mapping[str, Any]]  # entry of each image by id; only the id itself has been checked
    # everybody with a labeled keypoint who is not part of a crowd, in file order, without predictions
    people: ComparedPeople
    # the same in COCO's layout, crowds and people without keypoints included, with the fields that COCO's evaluation
    # reads filled in
    coco: Mapping[str, Any]
    category_ids: frozenset[int] = frozenset()  # of the file's categories with keypoints; empty where it names none

    def paths(self, folder: Path) -> dict[int, Path]:
        """File of each image by id, in the order of the annotation file; a file need not exist."""
        names = {image_id: entry.get("file_name") for image_id, entry in self.images.items()}
        for image_id, name in names.items():
            if not isinstance(name, str) or not name:
                raise DatasetError(f"{self.file}: image {image_id} has no file_name: add it")
        return find_images({image_id: str(name) for image_id, name in names.items()}, folder)

    def without_images(self, image_ids: Collection[int]) -> GroundTruth:
        """The same without some images and their people."""
        kept = {
            key: [entry for entry in self.coco[key] if entry[field] not in image_ids]
            for key, field in (("images", "id"), ("annotations", "image_id"))
        }
        return replace(
            self,
            images={image_id: entry for image_id, entry in self.images.items() if image_id not in image_ids},
            people=self.people.filter(~np.isin(self.people.image_id, list(image_ids))),
            coco={**self.coco, **kept},
        )

    def image_hw(self, image_id: int) -> tuple[int, int]:
        """(H, W) of an image in pixels, as the annotation file says."""
        try:
            return image_size_hw(self.images[image_id])
        except DatasetError as error:
            raise DatasetError(f"{self.file}: {error}: add them") from error


def load_ground_truth(
    file: Path,
    skeleton: Skeleton,
    mapping: KeypointMapping | None = None,
    *,
    category: str | None = None,
    skip_invalid: bool = False,
) -> GroundTruth:
    """Read and check the labels to evaluate against, of ``skeleton``; see `read_label_file`.

    Unlike training (`load_person_samples`), an evaluation keeps images without people, crowds and people without
    keypoints, which COCO neither rewards nor punishes, and labels a little outside the image. People with neither
    labels nor a box are left out. With ``skip_invalid`` so are, with a warning, invalid annotations and images without
    a name or size. ``head_box`` (x, y, width, height) is read where it is given. With the ``mapping`` of a file with
    other keypoints to ``skeleton``, what the file lacks is not labeled. ``category`` is the name of the one to read of
    a file with several.

    Raises:
        DatasetError: the file is unusable, an annotation is invalid, or nobody is labeled.
    """
    labels = read_label_file(file, mapping or map_keypoints(skeleton, skeleton), split="val", category=category)
    left_out = _drop_unusable_images(labels) if skip_invalid else set()
    people: list[Label] = []
    heads: list[tuple[float, float]] = []
    annotations: list[dict[str, Any]] = []
    for where, entry in labels.entries():
        if "bbox" not in entry and is_unlabeled(entry):
            continue
        if isinstance(entry.get("image_id"), int) and entry["image_id"] in left_out:
            continue
        try:
            label = labels.read(entry, where)
            head = head_sizes(label.source_keypoints, labels.mapping.source, entry.get("head_box"), where)
        except DatasetError as problem:
            labels.problems.append(str(problem))
            continue
        count = int((label.keypoints[:, 2] > 0).sum())
        annotations.append(_annotation(label, len(annotations) + 1, count))
        if count and not label.crowd:
            people.append(label)
            heads.append(head)
    if labels.problems and not skip_invalid:
        raise labels.refuse("Correct them.")
    for text in labels.problems:
        logger.warning("skipped: %s: %s", file, text)
    if not people:
        raise labels.nobody("at least one person with labeled keypoints")
    labels.log_filled_in()
    names = [labels.images[label.image_id].get("file_name") for label in people]
    keypoints = np.stack([label.keypoints for label in people])
    everybody = ComparedPeople(
        skeleton=skeleton,
        image_id=np.array([label.image_id for label in people], dtype=np.int64),
        file_name=np.array([name if isinstance(name, str) else "" for name in names]),
        box_xyxy=xywh_to_xyxy([label.box_xywh for label in people]),
        area=np.array([label.area for label in people]),
        true_xy_img=keypoints[..., :2],
        labeled=keypoints[..., 2] > 0,
        head_box=np.array([by_box for by_box, _ in heads]),
        head_segment=np.array([by_segment for _, by_segment in heads]),
        xy_img=np.full(keypoints[..., :2].shape, np.nan),
    )
    person = {"id": PERSON_CATEGORY_ID, "name": "person", "keypoints": list(skeleton.keypoint_names), "skeleton": []}
    images = [{"id": image_id} for image_id in labels.images]
    coco = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": [person]}
    return GroundTruth(file, labels.images, everybody, coco, labels.categories)


def _drop_unusable_images(labels: LabelFile) -> set[int]:
    """Take images without a name or size out of a file and note them as problems; their ids."""
    dropped = set()
    for image_id, entry in list(labels.images.items()):
        name, problem = entry.get("file_name"), None
        if not isinstance(name, str) or not name:
            problem = f"image {image_id} has no file_name"
        else:
            try:
                image_size_hw(entry)
            except DatasetError as error:
                problem = str(error)
        if problem is not None:
            labels.problems.append(problem)
            dropped.add(image_id)
            del labels.images[image_id]
    return dropped


def _annotation(label: Label, number: int, count: int) -> dict[str, Any]:
    """Exactly the fields COCO's evaluation reads, numbered from 1: COCO's matching takes an id of 0 for "no match"."""
    return {
        "id": number,
        "image_id": label.image_id,
        "category_id": PERSON_CATEGORY_ID,
        "bbox": label.box_xywh.tolist(),
        "area": label.area,
        "iscrowd": int(label.crowd),
        "num_keypoints": count,
        "keypoints": label.keypoints.ravel().tolist(),
    }


def head_ends(skeleton: Skeleton) -> tuple[int, int] | None:
    """Indices of the top of the head and of the neck, MPII's upper one if there is one."""
    top, neck = skeleton.find("head_top"), skeleton.find("upper_neck", "neck")
    return None if top is None or neck is None else (top, neck)


def head_sizes(keypoints: FloatArray, skeleton: Skeleton, head_box: Any = None, where: str = "") -> tuple[float, float]:
    """Size of a head in pixels by its box and by the segment from its top to the neck, NaN where one is not known.

    ``keypoints`` are (K, 3) x, y and visibility, ``head_box`` is x, y, width, height, unchecked, all in image pixels.

    Raises:
        DatasetError: the box is broken.
    """
    by_box = by_segment = math.nan
    if head_box is not None:
        box_xywh = finite_numbers(head_box, 4)
        if box_xywh is None or (box_xywh[2:] <= 0).any():
            raise DatasetError(
                f"{where}: expected head_box as x, y, width, height, both > 0, got {shortened(head_box)}: correct or "
                "remove it"
            )
        by_box = HEAD_SHARE_OF_DIAGONAL * math.hypot(*box_xywh[2:])
    ends = head_ends(skeleton)
    if ends is not None and (keypoints[list(ends), 2] > 0).all():
        by_segment = math.dist(*keypoints[list(ends), :2])
    return by_box, by_segment


def load_results(file: Path, ground_truth: GroundTruth) -> list[dict[str, Any]]:
    """Read a COCO keypoint results file, such as `write_evaluation` and ``distilpose predict`` write.

    It is a json list of people with ``image_id``, ``category_id`` (1, or that of a category with keypoints of the
    ground truth), ``keypoints`` and ``score``; other fields are dropped.

    Raises:
        DatasetError: the file is unusable or belongs to other images.
    """
    people = read_json(file, "a COCO results file")
    if not isinstance(people, list):
        raise DatasetError(
            f"{file}: expected a COCO results file, a list of people, got {type(people).__name__}: pass results "
            "here, the ground truth goes to --annotations"
        )
    categories = sorted({PERSON_CATEGORY_ID, *ground_truth.category_ids})
    return [_result(person, f"{file}: result {row}", ground_truth, categories) for row, person in enumerate(people)]


def _result(person: Any, where: str, ground_truth: GroundTruth, categories: list[int]) -> dict[str, Any]:
    missing = [name for name in RESULT_FIELDS if not isinstance(person, dict) or name not in person]
    if missing:
        raise DatasetError(f"{where} has no {', '.join(missing)}: every result needs them, write the file again")
    image_id, count = person["image_id"], ground_truth.people.skeleton.num_keypoints
    if not isinstance(image_id, int) or image_id not in ground_truth.images:
        raise DatasetError(
            f"{where}: image_id {image_id!r} is not among the images of {ground_truth.file}: evaluate against the "
            "annotation file of these images, and predict with --annotations so that results carry its ids"
        )
    named = [
        str(name or "").replace("\\", "/")
        for name in (person.get("image"), ground_truth.images[image_id].get("file_name"))
    ]
    if all(named) and person.get("frame") is None and PurePosixPath(named[0]).name != PurePosixPath(named[1]).name:
        raise DatasetError(
            f"{where}: its image {named[0]} is not {named[1]}, which has image_id {image_id} in {ground_truth.file}: "
            "predict with --annotations so that results carry its ids"
        )
    if person["category_id"] not in categories:
        raise DatasetError(
            f"{where}: expected category_id {' or '.join(map(str, categories))} (person, or a category with keypoints "
            f"of {ground_truth.file.name}), got {person['category_id']!r}: leave other categories out"
        )
    keypoints, score = finite_numbers(person["keypoints"], 3 * count), finite_numbers([person["score"]], 1)
    if keypoints is None:
        raise DatasetError(
            f"{where}: expected {count} times x, y, score as finite numbers in keypoints, got "
            f"{shortened(person['keypoints'])}: predict again"
        )
    if score is None:
        raise DatasetError(f"{where}: expected a finite score, got {person['score']!r}: predict again")
    values = (image_id, PERSON_CATEGORY_ID, keypoints.tolist(), float(score[0]))
    return dict(zip(RESULT_FIELDS, values, strict=True))
