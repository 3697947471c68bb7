"""Images of a report: bars by joint, curves over the unit square, and people, label beside prediction."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distilpose.evaluation.metrics.diagnosis import ERROR_KINDS
from distilpose.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


from collections.abc import Mapping
from pathlib import Path

import cv2

from distilpose.data.annotations import find_images
from distilpose.data.images import read_image
from distilpose.data.preprocess import crop_image
from distilpose.evaluation.comparison import ComparedPeople, Rows
from distilpose.evaluation.metrics.diagnosis import NOT_COUNTED, Diagnosis
from distilpose.geometry import CropTransform
from distilpose.inference.result import PoseResult
from distilpose.types import ImageArray, IntArray

# Kinds of error have the colors of Okabe and Ito, which the color-blind can tell apart.
KIND_COLORS = dict(zip(ERROR_KINDS, ("#009e73", "#56b4e9", "#e69f00", "#cc79a7", "#d55e00"), strict=True))
BLUE = "#3b7ddd"
_INK = "#7b8494"  # can be read on a light and on a dark page
_SETTINGS: Any = {
    "svg.fonttype": "none",  # letters of the page, small and searchable
    "svg.hashsalt": "distilpose",  # equal evaluations give equal pages
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _INK,
    "grid.alpha": 0.25,
}
MIN_LABELED_SHARE = 1 / 3  # of a person's keypoints: similarity to one or two labels says little about a pose
_CROP_HW = (240, 240)
_GAP = 4  # pixels between label and prediction
_JPEG_QUALITY = 80
_SHIFT = 4  # binary digits of a pixel that OpenCV draws to


class Curve(NamedTuple):
    """One line of a curve chart."""

    label: str
    color: str
    xy: FloatArray  # (M, 2) points in [0, 1] x [0, 1]
    sizes: FloatArray | None = None  # (M,) how much each point counts, shown as the area of a dot


def bar_chart(labels: Sequence[str], shares: FloatArray, colors: Sequence[str], values: Sequence[str]) -> str:
    """N horizontal bars of (N, parts) shares from 0 to 1, top to bottom, as a data address of an SVG image.

    ``colors`` are those of the parts; ``values`` stand at the end of each bar.
    """

    def draw(axes: Axes) -> None:
        left = np.zeros(len(shares))
        for part, color in zip(np.nan_to_num(shares).T, colors, strict=True):
            axes.barh(range(len(labels)), part, left=left, color=color, height=0.72)
            left = left + part
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6), xticks=np.linspace(0, 1, 5))
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
        axes.grid(axis="x")
        axes.tick_params(left=False)
        for row, value in enumerate(values):
            axes.text(1.02, row, value, va="center")

    return _chart((5.2, 0.9 + 0.22 * len(labels)), draw)


def curve_chart(curves: Sequence[Curve], x_label: str, y_label: str, *, diagonal: bool = False) -> str:
    """Curves over the unit square, with y = x to compare with if asked for, as a data address of an SVG image."""

    def draw(axes: Axes) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_INK, linestyle="--", linewidth=1)
        for curve in curves:
            x, y = curve.xy.T
            axes.plot(x, y, color=curve.color, label=curve.label, linewidth=1.8)
            if curve.sizes is not None and len(curve.sizes):
                axes.scatter(x, y, s=10 + 90 * curve.sizes / curve.sizes.max(), color=curve.color, alpha=0.7)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel=x_label, ylabel=y_label)
        axes.grid()
        axes.figure.legend(loc="outside lower center", ncols=1, frameon=False)

    return _chart((5.2, 4.2), draw)


def _chart(size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        content = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", metadata=nothing, transparent=True)
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"


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
