"""Single people of an evaluation as images: the label beside the prediction, wrong keypoints marked."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from distilpose.data.annotations import find_images
from distilpose.data.images import read_image
from distilpose.data.preprocess import crop_image
from distilpose.evaluation.comparison import ComparedPeople, Rows
from distilpose.evaluation.metrics.diagnosis import ERROR_KINDS, NOT_COUNTED, Diagnosis
from distilpose.evaluation.report.charts import KIND_COLORS
from distilpose.geometry import CropTransform
from distilpose.inference.result import PoseResult
from distilpose.types import FloatArray, ImageArray, IntArray

MIN_LABELED_SHARE = 1 / 3  # of a person's keypoints: similarity to one or two labels says little about a pose
_CROP_HW = (240, 240)
_GAP = 4  # pixels between label and prediction
_JPEG_QUALITY = 80
_SHIFT = 4  # binary digits of a pixel that OpenCV draws to


class PersonFigure(NamedTuple):
    """A person in a report: the label left and the prediction right in one image, as a data address."""

    address: str
    file_name: str
    oks: float
    labeled: int  # keypoints
    wrong: Mapping[str, str]  # names of the keypoints that are not good by kind of error


def best_and_worst(people: ComparedPeople, diagnosis: Diagnosis, count: int) -> tuple[Rows, Rows]:
    """Choose people with a prediction and with at least a third of their keypoints labeled, nobody twice.

    Returns:
        Rows of at most ``count`` people most similar to their label, best first, and of the least similar, worst first.
    """
    rows = np.flatnonzero((people.labeled.mean(1) >= MIN_LABELED_SHARE) & people.predicted)
    ranked = rows[np.argsort(-diagnosis.oks[rows], kind="stable")]
    num_best = min(count, (len(ranked) + 1) // 2)
    return ranked[:num_best], ranked[num_best:][::-1][:count]


def figures(people: ComparedPeople, diagnosis: Diagnosis, rows: Rows, images: Path) -> list[PersonFigure]:
    """Draw the people of some rows, who all have a prediction, from a folder of images.

    Raises:
        InputError: an image cannot be read.
    """
    paths = find_images({int(row): str(people.file_name[row]) for row in rows}, images)
    return [_figure(people, diagnosis, row, read_image(path)) for row, path in paths.items()]


def _figure(people: ComparedPeople, diagnosis: Diagnosis, row: int, image: ImageArray) -> PersonFigure:
    left, top, right, bottom = people.box_xyxy[row]
    transform = CropTransform.from_box(np.array([left, top, max(right, left + 1), max(bottom, top + 1)]), _CROP_HW)
    names = np.array([name.replace("_", " ") for name in people.skeleton.keypoint_names])
    wrong = {kind: names[diagnosis.kind[row] == number] for number, kind in enumerate(ERROR_KINDS) if kind != "good"}
    crop = _label_beside_prediction(people, diagnosis, row, crop_image(image, transform), transform)
    return PersonFigure(
        address=_data_address(crop),
        file_name=str(people.file_name[row]),
        oks=float(diagnosis.oks[row]),
        labeled=int(people.labeled[row].sum()),
        wrong={kind: ", ".join(which) for kind, which in wrong.items() if len(which)},
    )


def _label_beside_prediction(
    people: ComparedPeople, diagnosis: Diagnosis, row: int, crop: ImageArray, transform: CropTransform
) -> ImageArray:
    """(H, 2 W + gap, 3) uint8 RGB."""
    labeled, skeleton = people.labeled[row], people.skeleton
    label, found = transform.to_crop(people.true_xy_img[row]), transform.to_crop(people.xy_img[row])
    shown = label.copy()
    shown[~labeled] = label[labeled].mean(0)  # they do not show, and must not count as far away
    sigma = None if people.sigma_img is None else people.sigma_img[row][None] * transform.scale
    left = PoseResult.from_keypoints(shown[None], skeleton, labeled[None].astype(np.float64)).draw(crop)
    right = np.ascontiguousarray(PoseResult.from_keypoints(found[None], skeleton, sigma=sigma).draw(crop))
    _mark_wrong(right, found, label, diagnosis.kind[row])
    gap = np.zeros((len(crop), _GAP, 3), dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _mark_wrong(image: ImageArray, found: FloatArray, label: FloatArray, kinds: IntArray) -> None:
    """A ring on the label of each keypoint that is not good, and a line to it from where it was predicted."""
    scale, limit = 1 << _SHIFT, 1 << 14
    for k in np.flatnonzero((kinds != NOT_COUNTED) & (kinds != ERROR_KINDS.index("good"))):
        color = tuple(bytes.fromhex(KIND_COLORS[ERROR_KINDS[kinds[k]]][1:]))
        a, b = (np.rint(np.clip(xy[k], -limit, limit) * scale).astype(int).tolist() for xy in (found, label))
        cv2.line(image, a, b, color, 2, cv2.LINE_AA, _SHIFT)
        cv2.circle(image, b, 4 * scale, color, 2, cv2.LINE_AA, _SHIFT)


def _data_address(image: ImageArray) -> str:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
