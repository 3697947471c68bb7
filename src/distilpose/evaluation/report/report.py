"""An evaluation as one page to look at: numbers, curves, kinds of error, calibration, the best and the worst people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distilpose.errors import InputError
from distilpose.evaluation.comparison import ComparedPeople
from distilpose.evaluation.metrics.coco_ap import COCO_METRICS, OKS_THRESHOLDS, RECALL_THRESHOLDS
from distilpose.evaluation.metrics.pck import ALL_JOINTS
from distilpose.evaluation.report.charts import Bar, Curve, bar_chart, curve_chart
from distilpose.evaluation.report.diagnosis import (
    ERROR_KINDS,
    GAUSSIAN_WITHIN,
    GOOD_SIMILARITY,
    NEAR_SIMILARITY,
    SCORE_BINS,
    Diagnosis,
    SigmaCoverage,
    count_kinds,
    diagnose,
    score_calibration,
    sigma_calibration,
)
from distilpose.evaluation.report.page import (
    columns,
    folded,
    heading,
    legend,
    page,
    pair,
    paragraph,
    section,
    table,
    tiles,
)
from distilpose.evaluation.report.people import best_and_worst, figures
from distilpose.evaluation.result import EvaluationResult, make_folder

REPORT_FILE = "report.html"
_SHOWN_PEOPLE = 8  # of the best and of the worst


def write_report(result: EvaluationResult, folder: Path, images: Path | None = None) -> Path:
    """Write ``report.html``, which loads nothing from elsewhere and so can be kept or sent as it is.

    Args:
        result: of an evaluation.
        folder: made if needed; the report of an earlier evaluation is replaced.
        images: folder of the images the people stand in; without it the report has no images.

    Returns:
        The file.

    Raises:
        InputError: the folder cannot be made or written to, or an image cannot be read.
    """
    make_folder(folder, "--report")
    text = report_page(result, images)
    file = folder / REPORT_FILE
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: expected a file to write to ({error}): choose another --report") from error
    return file


def report_page(result: EvaluationResult, images: Path | None = None) -> str:
    """The markup that `write_report` writes.

    Args:
        result: of an evaluation.
        images: folder of the images, for the images.

    Raises:
        InputError: an image cannot be read.
    """
    people, diagnosis = result.people, diagnose(result.people)
    name = str(result.protocol.get("model", result.protocol.get("predictions", "a model")))
    return page(
        f"Evaluation of {name}",
        _overview(result),
        _numbers(result),
        pair(_joints(result), _errors(people, diagnosis)),
        pair(_curves(result), _score(people, diagnosis)),
        _sigma(people),
        _images(people, diagnosis, images),
    )


def _overview(result: EvaluationResult) -> str:
    shown = [(metric, _percent(result.metrics[metric])) for metric in ("AP", "AP50", "AP75", "AR")]
    counts = [(name, f"{count:,}") for name, count in result.counts.items()]
    return tiles([*shown, ("PCK@0.2", _percent(result.per_joint[ALL_JOINTS].pck)), *counts])


def _numbers(result: EvaluationResult) -> str:
    metrics = [(name, _percent(result.metrics[name])) for name in COCO_METRICS]
    sizes = [
        (
            size,
            _percent(result.metrics[f"AP{size[0].upper()}"]),
            _percent(result.metrics[f"AR{size[0].upper()}"]),
            f"{count:,}",
        )
        for size, count in result.people_by_size.items()
    ]
    without = int((~result.people.predicted).sum())
    facts = [
        *((_words(name), f"{count:,}") for name, count in result.counts.items()),
        ("people without a prediction", f"{without:,}"),
        *((_words(name), str(value)) for name, value in result.protocol.items()),
    ]
    return section(
        "COCO numbers",
        paragraph('All numbers x 100. "-" means that nobody of that kind is labeled.'),
        columns(
            table(("metric", "x 100"), metrics),
            heading("By size of the person")
            + table(("size", "AP", "AR", "people"), sizes)
            + _protocols(result)
            + heading("How it was measured")
            + table(("what", "value"), facts, kind="facts"),
        ),
    )


def _protocols(result: EvaluationResult) -> str:
    rows = [
        (name if protocol.per_joint else f"{key} {name}", _percent(value))
        for key, protocol in result.protocols.items()
        for name, value in protocol.values.items()
    ]
    return heading("Measures of other data sets") + table(("measure", "x 100"), rows) if rows else ""


def _joints(result: EvaluationResult) -> str:
    bars = []
    for name in (ALL_JOINTS, *result.people.skeleton.keypoint_names):
        joint = result.per_joint[name]
        value = _percent(joint.pck)
        part = ("blue", joint.pck or 0.0, f"{_words(name)}: {value} of {joint.labeled:,} labeled")
        bars.append(Bar(_words(name), [part], value))
    return section(
        "Joints: PCK@0.2",
        paragraph(
            "How many of 100 labeled keypoints were predicted within 0.2 of the longer side of the person's box. "
            "Keypoints of people without a prediction count as missed."
        ),
        bar_chart("PCK@0.2 by joint", bars),
    )


def _curves(result: EvaluationResult) -> str:
    intro = paragraph(
        "How many of the results are right, going down the list from the best score until a share of the labeled "
        "people is found. AP is the area under the mean curve."
    )
    if (result.precision < 0).any():
        return section("Precision and recall", intro, paragraph("No curve: nobody is labeled."))
    chosen = [
        ("good", "OKS 0.50", result.precision[OKS_THRESHOLDS.index(0.5)]),
        ("inversion", "OKS 0.75", result.precision[OKS_THRESHOLDS.index(0.75)]),
        ("blue", "mean over OKS 0.50 to 0.95", result.precision.mean(0)),
    ]
    curves = [Curve(color, np.column_stack([RECALL_THRESHOLDS, values])) for color, _, values in chosen]
    areas = [(color, f"{name}: area {_percent(float(values.mean()))}") for color, name, values in chosen]
    return section(
        "Precision and recall",
        intro,
        curve_chart("Precision by recall", curves, "recall", "precision"),
        legend(areas),
    )


def _errors(people: ComparedPeople, diagnosis: Diagnosis) -> str:
    per_joint = count_kinds(diagnosis)
    names = [ALL_JOINTS, *people.skeleton.keypoint_names]
    counts = np.concatenate([per_joint.sum(0, keepdims=True), per_joint])
    bars, rows = [], []
    for name, row in zip(names, counts, strict=True):
        total = int(row.sum())
        shares = row / max(1, total)
        parts = [
            (kind, float(share), f"{_words(name)}: {kind} {_percent(float(share))}")
            for kind, share in zip(ERROR_KINDS, shares, strict=True)
        ]
        bars.append(Bar(_words(name), parts, _percent(float(shares[0])) if total else "-"))
        rows.append((_words(name), *(_percent(float(share)) if total else "-" for share in shares), f"{total:,}"))
    return section(
        "Kinds of error",
        paragraph(
            "What became of each labeled keypoint of the people with a prediction (after Ruggero Ronchi and Perona, "
            "ICCV 2017). Similarity is COCO's, of one keypoint, from 0 to 1. The number is the share of good ones."
        ),
        legend(
            [
                ("good", f"good: similarity of at least {GOOD_SIMILARITY:g}"),
                ("jitter", f"jitter: at least {NEAR_SIMILARITY:g}"),
                ("inversion", "inversion: at its mirror joint of the same person"),
                ("swap", "swap: at a joint of another person"),
                ("miss", "miss: near no label"),
            ]
        ),
        bar_chart("Kinds of error by joint; the number is the share of good ones", bars),
        folded(
            "The same in numbers (percent of the keypoints)",
            table(("joint", *ERROR_KINDS, "keypoints"), rows),
        ),
    )


def _score(people: ComparedPeople, diagnosis: Diagnosis) -> str:
    title = "Calibration of the score"
    calibration = score_calibration(people, diagnosis)
    if calibration is None:
        return section(title, paragraph("There is nothing to check: these predictions carry no keypoint scores."))
    if calibration.expected_error is None:
        return section(title, paragraph("There is nothing to check: no labeled keypoint has a prediction."))
    filled = np.flatnonzero(calibration.keypoints)
    points = np.column_stack([calibration.mean_score[filled], calibration.share_near[filled]])
    rows = [
        (f"{b / SCORE_BINS:.1f} to {(b + 1) / SCORE_BINS:.1f}", f"{x:.3f}", f"{y:.3f}", f"{calibration.keypoints[b]:,}")
        for b, (x, y) in zip(filled.tolist(), points.tolist(), strict=True)
    ]
    dots = [f"score {bin_}: mean {x}, near {y}, {count} keypoints" for bin_, x, y, count in rows]
    return section(
        title,
        paragraph(
            f"Labeled keypoints by their score (clipped to 0 to 1), and how many of them have a similarity of at "
            f"least {NEAR_SIMILARITY:g}. On the dashed line a score says how often it is right; below it, it promises "
            f"too much. Mean distance from the line: {calibration.expected_error:.3f}."
        ),
        curve_chart(
            "Share of keypoints that are near, by score",
            [Curve("blue", points, dots)],
            "mean score",
            "share near",
            diagonal=True,
        ),
        folded("The same in numbers", table(("score", "mean score", "share near", "keypoints"), rows)),
    )


def _sigma(people: ComparedPeople) -> str:
    title = "Calibration of sigma"
    calibration = sigma_calibration(people)
    if calibration is None:
        return section(title, paragraph("There is nothing to check: these predictions carry no sigma."))
    if calibration.overall.errors == 0:
        return section(title, paragraph("There is nothing to check: no labeled keypoint has a prediction."))
    totals = {"all": calibration.overall, "along x": calibration.along_x, "along y": calibration.along_y}
    one, two = (_percent(share) for share in GAUSSIAN_WITHIN)
    gaussian = ("a Gaussian", one, two, "1.00", "")
    header = ("errors", "1 sigma", "2 sigma", "factor", "number")
    return section(
        title,
        paragraph(
            f"How many of the errors, along x and along y, stay within one and two sigma. A Gaussian would have {one} "
            f"and {two} of 100 there. Sigma times the factor would hold {one}: above 1 the model is too sure, below 1 "
            "not sure enough."
        ),
        table(header, [gaussian, *(_coverage_row(name, coverage) for name, coverage in totals.items())]),
        folded("By joint", table(header, [_coverage_row(*item) for item in calibration.per_joint.items()])),
    )


def _images(people: ComparedPeople, diagnosis: Diagnosis, images: Path | None) -> str:
    title = "The best and the worst"
    if images is None:
        return section(title, paragraph("No images: the evaluation was run without --images."))
    best, worst = best_and_worst(people, diagnosis, _SHOWN_PEOPLE)
    if len(best) == 0:
        return section(title, paragraph("No images: nobody with enough labeled keypoints has a prediction."))
    return section(
        title,
        paragraph(
            "Left the label, right the prediction, of people with at least a third of their keypoints labeled. A line "
            "leads from each keypoint that is not good to the ring where it belongs, in the color of its kind of "
            "error; an ellipse is a large sigma."
        ),
        heading("Most similar to their label"),
        figures(people, diagnosis, best, images),
        *_worst(people, diagnosis, worst, images),
    )


def _worst(people: ComparedPeople, diagnosis: Diagnosis, rows: NDArray[np.intp], images: Path) -> Sequence[str]:
    return [heading("Least similar"), figures(people, diagnosis, rows, images)] if len(rows) else []


def _coverage_row(name: str, coverage: SigmaCoverage) -> tuple[str, ...]:
    factor = "-" if coverage.factor is None else f"{coverage.factor:.2f}"
    return _words(name), _percent(coverage.within_one), _percent(coverage.within_two), factor, f"{coverage.errors:,}"


def _percent(share: float | None) -> str:
    """Times 100; "-" where it is undefined (None, or COCO's -1)."""
    return "-" if share is None or share < 0 else f"{100 * share:.1f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
