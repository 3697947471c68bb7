"""Images without labels -> pseudo-labels and heatmaps of a teacher: training data for a student."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from distilpose.data.coco import PersonSample, load_person_samples
from distilpose.data.images import list_images, read_image
from distilpose.data.labels import AREA_SHARE_OF_BOX, skeleton_of_file
from distilpose.data.prefetch import map_in_threads
from distilpose.data.preprocess import preprocess
from distilpose.detection.detectors import create_detector
from distilpose.errors import ConfigError
from distilpose.files import OutputLock, disk_errors, write_file_atomically
from distilpose.formats.boxes import match_boxes
from distilpose.geometry import CropTransform
from distilpose.inference.decoding import decode
from distilpose.inference.people import checked_people
from distilpose.models.outputs import HeatmapOutput
from distilpose.options import ClosedUnitInterval, PositiveFloat, PositiveInt, check_options, option
from distilpose.skeletons import COCO_17
from distilpose.teachers.adapter import unmirror_heatmaps
from distilpose.teachers.build import TeacherBackend
from distilpose.teachers.config import read_teacher_file
from distilpose.teachers.stored_heatmaps import write_heatmaps, write_manifest
from distilpose.training.label_records import (
    PEOPLE_PER_IMAGE,
    LabelTask,
    box_as_labeled,
    match_records,
    name_in_folder,
    people_ids,
    read_records,
)
from distilpose.types import Float32Array, FloatArray, ImageArray

LABEL_FILE = "person_keypoints.json"
_PART_FILE = "labels.part.jsonl"
_AHEAD = 4  # images read before they are needed


@dataclass(frozen=True)
class LabelOptions:
    """What `label_people` does.

    Attributes:
        sources: images and folders of images, or one annotation file, whose people are labeled anew
        teacher: heatmap model: a checkpoint, an ONNX file, or a YAML file with 'teacher' or 'kind' (docs/teachers.md)
        out: folder for person_keypoints.json
        images: folder of the images of an annotation file
        boxes: file of person boxes in the images
        detector: finds people in images without --boxes, as in predict
        heatmaps: folder for the heatmaps too, a teacher of kind 'heatmaps'
        min_score: least height of a trusted keypoint's peaks
        max_distance: farthest that the mirror image may put a trusted keypoint, in longer sides of the box
        batch_size: crops per run of the teacher
        device: where the teacher runs: auto, cpu, cuda, cuda:1, mps
        threads: of one run on the CPU; a thread per physical core, at most four, by default

    Raises:
        ConfigError: a number is out of range, or options contradict each other.
    """

    sources: list[str] = option([], metavar="IMAGES|ANNOTATIONS", positional=True)
    teacher: str = option("", metavar="FILE")
    out: str = option("labels", metavar="DIR")
    images: str | None = option(metavar="DIR")
    boxes: str | None = option(metavar="FILE")
    detector: str = option("auto", metavar="NAME")
    heatmaps: str | None = option(metavar="DIR")
    min_score: ClosedUnitInterval = 0.35
    max_distance: PositiveFloat = 0.06
    batch_size: PositiveInt = 16
    device: str = "auto"
    threads: PositiveInt | None = None

    def __post_init__(self) -> None:
        check_options(self)
        if not self.teacher:
            raise ConfigError("label needs a teacher: pass --teacher FILE")
        if self.annotations is not None and self.images is None:
            raise ConfigError(f"{self.annotations} is an annotation file: pass the folder of its images as --images")
        if self.annotations is None and self.images is not None:
            raise ConfigError("--images belongs to an annotation file (.json, .yaml) as the only source")

    @property
    def annotations(self) -> Path | None:
        """The annotation file, if that is the source."""
        only = Path(self.sources[0]) if len(self.sources) == 1 else Path()
        return only if ".json" in only.suffix or ".y" in only.suffix else None


class LabelReport(NamedTuple):
    """What `label_people` did."""

    file: Path  # the labels, COCO keypoint json
    images: Path  # folder that its ``file_name`` entries lie in
    num_images: int  # with people or without, failed ones left out
    num_people: int  # labeled
    trusted: float  # share of their keypoints that are trusted (visibility 2)
    failures: tuple[str, ...]  # what went wrong, a line for each image


def label_people(options: LabelOptions, *, progress: bool = False) -> LabelReport:
    """Label the people of images with a teacher, as training data; ``progress`` shows a bar on the error stream.

    Each person's crop and its mirror image are shown to the teacher. A keypoint is trusted (visibility 2) where both
    peaks are higher than ``min_score`` and not farther apart than ``max_distance``; else its visibility is 0, which
    means "unknown" (``zero_means_unknown: true`` in training). ``keypoint_scores`` holds the heights of all peaks.
    An interrupted run goes on where it was when it is called again.

    Raises:
        ConfigError: the teacher is no network, or a folder holds the labels or heatmaps of another run.
        DatasetError: the annotation file is unusable.
        InputError: there are no images, or a file cannot be written.
    """
    _check_heatmap_folder(options)
    values, _ = read_teacher_file(options.teacher)
    teacher = TeacherBackend(values, device=options.device, threads=options.threads)
    with OutputLock(options.out, "distilpose label"), disk_errors(Path(options.out) / _PART_FILE):
        return _label(options, teacher, progress)


def _label(options: LabelOptions, teacher: TeacherBackend, progress: bool) -> LabelReport:
    part = Path(options.out) / _PART_FILE
    asked = {key: value for key, value in asdict(options).items() if key != "batch_size"}
    records = read_records(part, asked, teacher.teacher_description)
    folder, tasks, failures = _find_tasks(options)
    tasks, done = match_records(tasks, records, folder, from_annotations=options.annotations is not None)
    find = (
        create_detector(options.detector, threads=options.threads)
        if any(task.boxes_xyxy is None for task in tasks)
        else None
    )
    waiting = [task for task in tasks if task.image_id not in done]
    images = map_in_threads(_read, (task.path for task in waiting), threads=2, ahead=_AHEAD)
    with part.open("a", encoding="utf-8") as file:
        shown = track(waiting, description="labeling", console=Console(stderr=True), disable=not progress)
        for task, image in zip(shown, images, strict=True):
            try:
                if isinstance(image, Exception):
                    raise image
                if task.boxes_xyxy is None and find is not None:
                    boxes = checked_people(find([image]), 1)[0].boxes_xyxy[: PEOPLE_PER_IMAGE - 1]
                    task = task._replace(boxes_xyxy=boxes, annotation_ids=people_ids(task.image_id, len(boxes)))
                record = _label_image(task, image, folder, teacher, options)
            except Exception as error:  # one image never ends a run
                failures.append(f"{task.path}: {str(error)[:300] or type(error).__name__}")
                continue
            file.write(json.dumps(record) + "\n")
            file.flush()
            done[task.image_id] = record
    return _finish([done[task.image_id] for task in tasks if task.image_id in done], folder, teacher, options, failures)


def _check_heatmap_folder(options: LabelOptions) -> None:
    """Refuse a folder with the heatmaps of another run: its annotation ids may be those of other people."""
    if options.heatmaps is None or (Path(options.out) / _PART_FILE).exists():
        return
    if next(Path(options.heatmaps).glob("*.npy"), None) is not None:
        raise ConfigError(
            f"--heatmaps: expected a new folder, got {options.heatmaps}, which holds heatmaps of an earlier run: give "
            "each set a folder of its own, or delete it"
        )


def _find_tasks(options: LabelOptions) -> tuple[Path, list[LabelTask], list[str]]:
    """The folder of the images, each image with its people, and what is wrong with an annotation file."""
    if options.annotations is not None and options.images is not None:
        folder = Path(options.images)
        skeleton = skeleton_of_file(options.annotations) or COCO_17
        loaded = load_person_samples(
            options.annotations, folder, skeleton=skeleton, keep_unlabeled=True, skip_invalid=True
        )
        by_image: dict[int, list[PersonSample]] = {}
        for sample in loaded.samples:
            by_image.setdefault(sample.image_id, []).append(sample)
        tasks = []
        for image_id, people in by_image.items():
            boxes = np.stack([sample.box_xyxy for sample in people])
            tasks.append(LabelTask(image_id, people[0].image_path, boxes, [sample.annotation_id for sample in people]))
        return folder, tasks, list(loaded.problems)
    paths = [path.absolute() for path in list_images(options.sources)]
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    matched = None if options.boxes is None else match_boxes(Path(options.boxes), paths).people
    tasks = []
    for number, path in enumerate(paths, start=1):
        found = None if matched is None else matched[path].boxes_xyxy[: PEOPLE_PER_IMAGE - 1]
        tasks.append(LabelTask(number, path, found, people_ids(number, 0 if found is None else len(found))))
    return folder, tasks, []


def _read(path: Path) -> ImageArray | Exception:
    try:
        return read_image(path)
    except Exception as error:
        return error


def _label_image(
    task: LabelTask, image: ImageArray, folder: Path, teacher: TeacherBackend, options: LabelOptions
) -> dict[str, Any]:
    """The entries of one image and its people; writes their heatmaps."""
    assert task.boxes_xyxy is not None
    name = name_in_folder(task.path, folder)
    entry = {"id": task.image_id, "file_name": name, "height": image.shape[0], "width": image.shape[1]}
    annotations, covered = [], {}
    ids = iter(task.annotation_ids)
    for start in range(0, len(task.boxes_xyxy), options.batch_size):
        boxes = task.boxes_xyxy[start : start + options.batch_size]
        answers = zip(boxes, *_ask(teacher, image, boxes, options), strict=True)
        for box_xyxy, xy_img, score, trusted, heatmaps, crop_xyxy in answers:
            annotation_id = next(ids)
            if options.heatmaps is not None:
                write_heatmaps(Path(options.heatmaps), annotation_id, heatmaps)
            covered[annotation_id] = crop_xyxy.tolist()
            person = _to_coco(box_xyxy, xy_img, score, trusted, from_annotations=options.annotations is not None)
            annotations.append({"id": annotation_id, "image_id": task.image_id, **person})
    return {"image": entry, "annotations": annotations, "covered": covered}


def _ask(
    teacher: TeacherBackend, image: ImageArray, boxes_xyxy: FloatArray, options: LabelOptions
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_], Float32Array, FloatArray]:
    """(N, K, 2) keypoints, (N, K) scores, (N, K) trusted or not, (N, K, h, w) mean heatmaps, (N, 4) what they cover."""
    description = teacher.description
    transforms = description.crops(boxes_xyxy)
    crops = preprocess(image, transforms, description.normalization)
    plain = teacher(crops).heatmaps
    mirrored = torch.from_numpy(teacher(crops[..., ::-1].copy()).heatmaps)
    flip_index = torch.from_numpy(description.skeleton.flip_index)
    back = unmirror_heatmaps(mirrored, flip_index, description.input_size_hw[1]).numpy()
    mean = np.asarray((plain + back) / 2, dtype=np.float32)
    (xy_img, score), (once_img, once), (again_img, again) = (_peaks(maps, transforms) for maps in (mean, plain, back))
    longer = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(axis=1)
    near = np.linalg.norm(once_img - again_img, axis=-1) <= options.max_distance * longer[:, None]
    inside = ((xy_img >= 0) & (xy_img < image.shape[1::-1])).all(axis=-1)
    trusted = near & inside & (np.minimum(once, again) > options.min_score)
    covered = np.stack([crop.norm_to_img([[0, 0], [1, 1]]).ravel() for crop in transforms])
    return xy_img, score, trusted, mean, covered


def _peaks(heatmaps: Float32Array, transforms: Sequence[CropTransform]) -> tuple[FloatArray, FloatArray]:
    """(N, K, 2) places in the image and (N, K) heights."""
    decoded = decode(HeatmapOutput(heatmaps))
    assert decoded.raw_score is not None
    places = [crop.norm_to_img(xy) for crop, xy in zip(transforms, decoded.xy_norm, strict=True)]
    return np.stack(places), decoded.raw_score


def _to_coco(
    box_xyxy: FloatArray, xy_img: FloatArray, score: FloatArray, trusted: NDArray[np.bool_], *, from_annotations: bool
) -> dict[str, Any]:
    known = trusted[:, None]
    keypoints = np.concatenate([np.where(known, xy_img, 0).round(2), 2 * known], axis=1)
    box_xywh = box_as_labeled(box_xyxy, from_annotations)
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box_xywh,
        "area": round(AREA_SHARE_OF_BOX * box_xywh[2] * box_xywh[3], 2),
        "num_keypoints": int(trusted.sum()),
        "keypoints": keypoints.ravel().tolist(),
        "keypoint_scores": score.round(4).tolist(),
    }


def _finish(
    records: Sequence[Mapping[str, Any]], folder: Path, teacher: TeacherBackend, options: LabelOptions,
    failures: Sequence[str],
) -> LabelReport:  # fmt: skip
    skeleton = teacher.description.skeleton
    names = list(skeleton.keypoint_names)
    edges = [[a + 1, b + 1] for a, b in skeleton.edges]
    annotations = [entry for record in records for entry in record["annotations"]]
    document = {
        "info": {
            "description": "Pseudo-labels: visibility 2 is trusted, 0 is unknown",
            "teacher": teacher.teacher_description,
            "min_score": options.min_score,
            "max_distance": options.max_distance,
        },
        "images": [record["image"] for record in records],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": names, "skeleton": edges}],
    }
    file = Path(options.out) / LABEL_FILE
    with write_file_atomically(file) as part:
        part.write_text(json.dumps(document), encoding="utf-8")
    if options.heatmaps is not None:
        covered = {int(key): box for record in records for key, box in record["covered"].items()}
        write_manifest(Path(options.heatmaps), names, covered)
    if not failures:
        (file.parent / _PART_FILE).unlink()
    trusted = sum(entry["num_keypoints"] for entry in annotations)
    share = trusted / max(1, len(names) * len(annotations))
    return LabelReport(file, folder, len(records), len(annotations), share, tuple(failures))
