"""Single people of an evaluation as images: the label beside the prediction, wrong keypoints marked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from distilpose.data.images import read_image
from distilpose.data.preprocess import crop_image
from distilpose.evaluation.comparison import ComparedPeople, Rows
from distilpose.evaluation.report.diagnosis import ERROR_KINDS, NOT_COUNTED, Diagnosis
from distilpose.evaluation.report.page import escape
from distilpose.geometry import CropTransform
from distilpose.types import FloatArray, ImageArray
from distilpose.visualization.draw import draw_poses

MIN_LABELED_SHARE = 1 / 3  # of a person's keypoints: similarity to one or two labels says little about a pose
_CROP_HW = (240, 240)
_GAP = 4  # pixels between label and prediction
_JPEG_QUALITY = 80


def best_and_worst(people: ComparedPeople, diagnosis: Diagnosis, count: int) -> tuple[Rows, Rows]:
    """Choose people with a prediction and with at least a third of their keypoints labeled.

    Args:
        people: as diagnosed.
        diagnosis: of these people.
        count: how many at most of each; nobody is chosen twice.

    Returns:
        Rows of the people most similar to their label, best first, and of the least similar, worst first.
    """
    enough = people.labeled.mean(1) >= MIN_LABELED_SHARE
    rows = np.flatnonzero(enough & people.predicted)
    ranked = rows[np.argsort(-diagnosis.oks[rows], kind="stable")]
    num_best = min(count, (len(ranked) + 1) // 2)
    return ranked[:num_best], ranked[num_best:][::-1][:count]


def figures(people: ComparedPeople, diagnosis: Diagnosis, rows: Rows, images: Path) -> str:
    """The chosen people as markup, the images in it.

    Args:
        people: as diagnosed; everybody chosen has a prediction.
        diagnosis: of these people.
        rows: whom to show, in order.
        images: folder of the images.

    Raises:
        InputError: an image cannot be read.
    """
    parts = [_figure(people, diagnosis, int(row), read_image(images / people.file_name[row])) for row in rows]
    return "\n".join(['<div class="people">', *parts, "</div>"])


def _figure(people: ComparedPeople, diagnosis: Diagnosis, row: int, image: ImageArray) -> str:
    transform = _crop_around(people.box_xyxy[row])
    drawn = _label_beside_prediction(people, row, transform, image)
    size = f'width="{drawn.shape[1]}" height="{drawn.shape[0]}"'
    name = escape(people.file_name[row])
    return "\n".join(
        [
            f'<figure><svg viewBox="0 0 {drawn.shape[1]} {drawn.shape[0]}" role="img" aria-label="{name}">',
            f'<image href="{_data_uri(drawn)}" {size}/>',
            *_marks(people, diagnosis, row, transform),
            "</svg>",
            f"<figcaption><b>OKS {diagnosis.oks[row]:.3f}</b> · {people.labeled[row].sum()} labeled · {name}",
            "</figcaption></figure>",
        ]
    )


def _crop_around(box_xyxy: FloatArray) -> CropTransform:
    least = np.concatenate([box_xyxy[:2], np.maximum(box_xyxy[2:], box_xyxy[:2] + 1)])
    return CropTransform.from_box(least, _CROP_HW)


def _label_beside_prediction(
    people: ComparedPeople, row: int, transform: CropTransform, image: ImageArray
) -> ImageArray:
    """(H, 2 W + gap, 3) uint8 RGB."""
    crop = crop_image(image, transform)
    labeled, skeleton = people.labeled[row], people.skeleton
    label = transform.to_crop(people.true_xy_img[row])
    label[~labeled] = label[labeled].mean(0)  # they do not show, and must not count as far away
    sigma = None if people.sigma_img is None else people.sigma_img[row][None] * transform.scale
    left = draw_poses(crop, label[None], skeleton, score=labeled[None].astype(np.float64))
    right = draw_poses(crop, transform.to_crop(people.xy_img[row])[None], skeleton, sigma=sigma)
    gap = np.zeros((len(crop), _GAP, 3), dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _marks(people: ComparedPeople, diagnosis: Diagnosis, row: int, transform: CropTransform) -> Sequence[str]:
    """A ring on the label of each keypoint that is not good, and a line to it from where it was predicted."""
    height, width = transform.size_hw
    found, true = (transform.to_crop(xy_img[row]) for xy_img in (people.xy_img, people.true_xy_img))
    marks = []
    for k, name in enumerate(people.skeleton.keypoint_names):
        kind = diagnosis.kind[row, k]
        if kind == NOT_COUNTED or ERROR_KINDS[kind] == "good":
            continue
        (x1, y1), (x2, y2) = found[k], true[k]
        explanation = f"{name.replace('_', ' ')}: {ERROR_KINDS[kind]}, similarity {diagnosis.similarity[row, k]:.2f}"
        marks.append(
            f'<g class="{ERROR_KINDS[kind]}"><title>{escape(explanation)}</title>'
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
            f'<circle cx="{x2:.1f}" cy="{y2:.1f}" r="4"/></g>'
        )
    return [f'<svg x="{width + _GAP}" width="{width}" height="{height}">', *marks, "</svg>"]  # cut at its edge


def _data_uri(image: ImageArray) -> str:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
