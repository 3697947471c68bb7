"""COCO keypoint json -> person samples, checked once, at the door."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilpose.data.annotations import find_images
from distilpose.data.check import find_bad_images
from distilpose.data.files import read_flag
from distilpose.data.labels import Label, LabelFile, image_size_hw, is_unlabeled, read_label_file
from distilpose.errors import ConfigError, DatasetError
from distilpose.geometry import clip_boxes_xyxy, xywh_to_xyxy
from distilpose.skeletons import COCO_17, KeypointMapping, Skeleton, map_keypoints
from distilpose.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class PersonSample:
    """One labeled person of one image."""

    image_path: Path  # existing file
    image_id: int  # of the annotation file
    annotation_id: int  # likewise
    image_hw: tuple[int, int]  # (H, W) of the image in pixels, as the annotation file says
    box_xyxy: FloatArray  # (4,) person box in image pixels, clipped by `clip_boxes_xyxy`
    xy_img: FloatArray  # (K, 2) keypoints in image pixels, (0, 0) where ``visibility`` is 0
    visibility: IntArray  # (K,) 0 no label to learn from, 1 labeled but hidden, 2 labeled and visible
    # (K,) False where nothing is known, because the dataset does not label this keypoint: no loss may read its 0 as
    # "not in the image"
    annotated: NDArray[np.bool_]
    area: float  # of the person in square pixels, > 0


class LoadedSamples(NamedTuple):
    """What an annotation file gave."""

    samples: tuple[PersonSample, ...]  # people to train on, in file order, at least one
    problems: tuple[str, ...]  # one line per annotation left out with ``skip_invalid``; the caller reports them


def load_person_samples(
    annotations: Path,
    images: Path,
    *,
    skeleton: Skeleton = COCO_17,
    mapping: KeypointMapping | None = None,
    category: str | None = None,
    unannotated: Sequence[str] = (),
    zero_means_unknown: bool = False,
    keep_unlabeled: bool = False,
    check_images: bool = False,
    skip_invalid: bool = False,
) -> LoadedSamples:
    """Read the people of an annotation file, see `read_annotations` and `LabelFile`.

    Crowds are no training samples and are passed over. Labels outside the image are masked (visibility 0).

    Args:
        annotations: COCO keypoint json, Label Studio's json, or ``data.yaml`` of a YOLO-pose data set.
        images: folder that the file's ``file_name`` entries lie in, at any depth; YOLO's file names its own.
        skeleton: keypoints and order of the samples, and of the file without ``mapping``.
        mapping: of a file with other keypoints to ``skeleton``; what the file lacks is not annotated.
        category: name of the category to read, of a file with several.
        unannotated: names of keypoints of ``skeleton`` that this dataset never labels.
        zero_means_unknown: visibility 0 says "nobody looked" (machine-made labels), not "not in the image".
        keep_unlabeled: people without a labeled keypoint are samples too, for a teacher to label: visibility 0 and
            annotated False throughout.
        check_images: decode every image now, so that all broken ones are found before training.
        skip_invalid: leave invalid annotations and images out and return their problems instead of raising.

    Raises:
        DatasetError: the file is unusable, holds nobody, or, without ``skip_invalid``, has an invalid annotation.
        ConfigError: ``unannotated`` names a keypoint that the skeleton does not have.
    """
    if unknown := [name for name in unannotated if name not in skeleton.keypoint_names]:
        raise ConfigError(f"unannotated must name keypoints of {list(skeleton.keypoint_names)}, got {unknown}")
    labels = read_label_file(annotations, mapping or map_keypoints(skeleton, skeleton), category=category)
    if not images.is_dir():
        raise DatasetError(f"{annotations}: its image folder {images} does not exist: check the path")
    known = ~(labels.mapping.missing | np.isin(skeleton.keypoint_names, list(unannotated)))
    names = {key: image.get("file_name") for key, image in labels.images.items()}
    paths = find_images({key: name for key, name in names.items() if isinstance(name, str) and name}, images)
    samples: list[PersonSample] = []
    seen: set[int] = set()
    for where, entry in labels.entries():
        try:
            annotation_id = _annotation_id(entry, where, seen)
            if read_flag(entry.get("iscrowd")) or (is_unlabeled(entry) and not keep_unlabeled):
                continue
            label = labels.read(entry, where)
            sample = _sample(label, annotation_id, labels, paths, known, zero_means_unknown)
        except DatasetError as problem:
            labels.problems.append(str(problem))
            continue
        if keep_unlabeled or sample.visibility.any():
            samples.append(sample)
    if check_images:
        bad = find_bad_images({sample.image_path: sample.image_hw for sample in samples})
        labels.problems.extend(bad.values())
        samples = [sample for sample in samples if sample.image_path not in bad]
    if labels.problems and not skip_invalid:
        raise labels.refuse("Correct them, or pass --skip-invalid to report them and go on without them.")
    if not samples:
        raise labels.nobody(f"people with {'boxes' if keep_unlabeled else 'labeled keypoints'}")
    labels.log_filled_in()
    return LoadedSamples(tuple(samples), tuple(f"{annotations}: {problem}" for problem in labels.problems))


def _annotation_id(entry: Mapping[str, Any], where: str, seen: set[int]) -> int:
    number = entry.get("id")
    if not isinstance(number, int):
        raise DatasetError(f"{where}: expected an object with a whole-number id")
    if number in seen:
        raise DatasetError(f"{where}: its id appears more than once, expected unique ids")
    seen.add(number)
    return number


def _sample(
    label: Label,
    annotation_id: int,
    labels: LabelFile,
    paths: Mapping[int, Path],
    known: NDArray[np.bool_],
    zero_means_unknown: bool,
) -> PersonSample:
    """A checked annotation as a sample, its box and keypoints cut to the image."""
    path, where = paths.get(label.image_id), f"annotation {annotation_id}"
    if path is None:
        raise DatasetError(f"{where}: image {label.image_id} has no file_name")
    try:
        image_hw = image_size_hw(labels.images[label.image_id])
    except DatasetError as problem:
        raise DatasetError(f"{where}: {problem}") from problem
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise DatasetError(f"{where}: image {path} does not exist")
    box_xyxy = xywh_to_xyxy(label.box_xywh)
    clipped = clip_boxes_xyxy(box_xyxy, image_hw)[0]
    # Clipping shifts a box that ends left of or above the image into it, so the raw corner is looked at as well.
    if (box_xyxy[0, 2:] <= 0).any() or (clipped[2:] <= clipped[:2]).any():
        raise DatasetError(
            f"{label.where}: bbox {label.box_xywh.tolist()} (x, y, width, height) leaves no area inside the image of "
            f"{image_hw[1]} x {image_hw[0]} pixels"
        )
    xy_img, visibility = label.keypoints[:, :2].copy(), label.keypoints[:, 2].astype(np.int64)
    annotated = known & (visibility > 0) if zero_means_unknown else known
    inside = ((xy_img >= 0) & (xy_img < image_hw[::-1])).all(axis=1)
    visibility[~inside | ~annotated] = 0
    xy_img[visibility == 0] = 0
    annotated = annotated & visibility.any()  # of people without labels nothing is known
    return PersonSample(
        path, label.image_id, annotation_id, image_hw, clipped, xy_img, visibility, annotated, label.area
    )
