"""Write an evaluation as one page: numbers, curves, kinds of error, calibration, the best and the worst people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distilpose.errors import require_package
from distilpose.evaluation.comparison import ComparedPeople
from distilpose.evaluation.metrics.coco_ap import COCO_METRICS, OKS_THRESHOLDS, RECALL_THRESHOLDS
from distilpose.evaluation.metrics.diagnosis import (
    ERROR_KINDS,
    GAUSSIAN_WITHIN,
    GOOD_SIMILARITY,
    NEAR_SIMILARITY,
    SCORE_BINS,
    Calibration,
    Diagnosis,
    calibrate,
    count_kinds,
    diagnose,
)
from distilpose.evaluation.metrics.pck import ALL_JOINTS
from distilpose.evaluation.report.charts import BLUE, KIND_COLORS, Curve, bar_chart, curve_chart
from distilpose.evaluation.report.people import best_and_worst, figures
from distilpose.evaluation.result import EvaluationResult, make_folder, write_text

REPORT_FILE = "report.html"
_SHOWN_PEOPLE = 8  # of the best and of the worst
_KINDS = {
    "good": f"similarity of at least {GOOD_SIMILARITY:g}",
    "jitter": f"at least {NEAR_SIMILARITY:g}",
    "inversion": "at its mirror joint of the same person",
    "swap": "at a joint of another person",
    "miss": "near no label",
}


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
    write_text(folder / REPORT_FILE, report_page(result, images), "--report")
    return folder / REPORT_FILE


def report_page(result: EvaluationResult, images: Path | None = None) -> str:
    """Fill the template ``report.html`` with an evaluation; see `write_report`.

    Args:
        result: of an evaluation.
        images: folder of the images, for the images.

    Raises:
        InputError: an image cannot be read.
    """
    for package in ("jinja2", "matplotlib"):
        require_package(package, "a report")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    people, diagnosis = result.people, diagnose(result.people)
    calibration = calibrate(people)
    return environment.get_template(REPORT_FILE).render(
        name=str(result.protocol.get("model", result.protocol.get("predictions", "a model"))),
        colors=KIND_COLORS,
        **_numbers(result),
        **_joints(result),
        **_errors(people, diagnosis),
        precision_chart=_precision_chart(result),
        **_score(people, calibration),
        **_sigma(people, calibration),
        **_images(people, diagnosis, images),
    )


def _numbers(result: EvaluationResult) -> dict[str, Any]:
    counts = {name: f"{count:,}" for name, count in result.counts.items()}
    shown = {metric: _percent(result.metrics[metric]) for metric in ("AP", "AP50", "AP75", "AR")}
    by_boxes = {str(result.protocol.get("boxes", "results")): result}
    if result.with_true_boxes is not None:
        by_boxes["true boxes"] = result.with_true_boxes
    without = f"{int((~result.people.predicted).sum()):,}"
    facts = {**counts, "people without a prediction": without, **result.protocol}
    return {
        "tiles": [*shown.items(), ("PCK@0.2", _percent(result.per_joint[ALL_JOINTS].pck)), *counts.items()],
        "metrics": [(name, _percent(result.metrics[name])) for name in COCO_METRICS],
        "sizes": [
            (size, *(_percent(result.metrics[f"{metric}{size[0].upper()}"]) for metric in ("AP", "AR")), f"{count:,}")
            for size, count in result.people_by_size.items()
        ],
        "found_header": ("boxes", *result.people_found, "of", "AP"),
        "found": [
            (boxes, *one.people_found.values(), len(one.people), _percent(one.metrics["AP"]))
            for boxes, one in by_boxes.items()
        ],
        "protocols": [
            (name if protocol.per_joint else f"{key} {name}", _percent(value))
            for key, protocol in result.protocols.items()
            for name, value in protocol.values.items()
        ],
        "facts": [(_words(name), str(value)) for name, value in facts.items()],
    }


def _joints(result: EvaluationResult) -> dict[str, Any]:
    rows = [
        (_words(name), _percent(result.per_joint[name].pck), f"{result.per_joint[name].labeled:,}")
        for name in (ALL_JOINTS, *result.people.skeleton.keypoint_names)
    ]
    shares = np.array(
        [[result.per_joint[name].pck or 0.0] for name in (ALL_JOINTS, *result.people.skeleton.keypoint_names)]
    )
    return {
        "joints": rows,
        "joint_chart": bar_chart([row[0] for row in rows], shares, [BLUE], [row[1] for row in rows]),
    }


def _errors(people: ComparedPeople, diagnosis: Diagnosis) -> dict[str, Any]:
    per_joint = count_kinds(diagnosis)
    counts = np.concatenate([per_joint.sum(0, keepdims=True), per_joint])
    total = counts.sum(1)
    shares = counts / np.maximum(1, total)[:, None]
    labels = [_words(name) for name in (ALL_JOINTS, *people.skeleton.keypoint_names)]
    texts = [[_percent(share) if n else "-" for share in row] for row, n in zip(shares.tolist(), total, strict=True)]
    return {
        "kinds": _KINDS.items(),
        "kind_chart": bar_chart(labels, shares, list(KIND_COLORS.values()), [row[0] for row in texts]),
        "kind_header": ("joint", *ERROR_KINDS, "keypoints"),
        "kind_rows": [(label, *row, f"{n:,}") for label, row, n in zip(labels, texts, total, strict=True)],
    }


def _precision_chart(result: EvaluationResult) -> str | None:
    if (result.precision < 0).any():
        return None
    chosen = {
        "OKS 0.50": (KIND_COLORS["good"], result.precision[OKS_THRESHOLDS.index(0.5)]),
        "OKS 0.75": (KIND_COLORS["inversion"], result.precision[OKS_THRESHOLDS.index(0.75)]),
        "mean over OKS 0.50 to 0.95": (BLUE, result.precision.mean(0)),
    }
    curves = [
        Curve(f"{name}: area {_percent(float(values.mean()))}", color, np.column_stack([RECALL_THRESHOLDS, values]))
        for name, (color, values) in chosen.items()
    ]
    return curve_chart(curves, "recall", "precision")


def _score(people: ComparedPeople, calibration: Calibration) -> dict[str, Any]:
    keypoints, persons = calibration.keypoint_score, calibration.person_score
    if keypoints is None or persons is None:
        return {"score_missing": "these predictions carry no keypoint scores"}
    if not people.counted.any():
        return {"score_missing": "no labeled keypoint has a prediction"}
    curves, summary, rows = [], [], []
    for name, color, score in (("keypoints", BLUE, keypoints), ("people", KIND_COLORS["inversion"], persons)):
        filled = np.flatnonzero(score.numbers)
        points = np.column_stack([score.mean_score[filled], score.mean_truth[filled]])
        curves.append(Curve(name, color, points, score.numbers[filled].astype(np.float64)))
        summary.append(
            (name, _number(score.expected_error), _number(score.rank_correlation), f"{score.numbers.sum():,}")
        )
        rows += [
            (
                f"{name} {b / SCORE_BINS:.1f} to {(b + 1) / SCORE_BINS:.1f}",
                f"{x:.3f}",
                f"{y:.3f}",
                f"{score.numbers[b]:,}",
            )
            for b, (x, y) in zip(filled.tolist(), points.tolist(), strict=True)
        ]
    return {
        "score_missing": "",
        "near": f"{NEAR_SIMILARITY:g}",
        "score_chart": curve_chart(curves, "mean score", "came true", diagonal=True),
        "score_summary": summary,
        "score_rows": rows,
    }


def _sigma(people: ComparedPeople, calibration: Calibration) -> dict[str, Any]:
    if calibration.sigma is None:
        return {"sigma_missing": "these predictions carry no sigma"}
    if not people.counted.any():
        return {"sigma_missing": "no labeled keypoint has a prediction"}
    return {
        "sigma_missing": "",
        "gaussian": ("a Gaussian", *map(_percent, GAUSSIAN_WITHIN), "1.00", ""),
        "sigma_header": ("errors", "1 sigma", "2 sigma", "factor", "number"),
        "sigma_rows": [
            (_words(name), _percent(one), _percent(two), _number(factor, 2), f"{errors:,}")
            for name, (one, two, factor, errors) in calibration.sigma.items()
        ],
        "sigma_rank": _number(calibration.sigma_rank_correlation),
    }


def _images(people: ComparedPeople, diagnosis: Diagnosis, images: Path | None) -> dict[str, Any]:
    if images is None:
        return {"images_missing": "the evaluation was run without --images"}
    best, worst = best_and_worst(people, diagnosis, _SHOWN_PEOPLE)
    if len(best) == 0:
        return {"images_missing": "nobody with enough labeled keypoints has a prediction"}
    best_figures, worst_figures = (figures(people, diagnosis, rows, images) for rows in (best, worst))
    return {"images_missing": "", "best": best_figures, "worst": worst_figures}


def _percent(share: float | None) -> str:
    """Times 100; "-" where it is undefined (None, or COCO's -1)."""
    return "-" if share is None or share < 0 else f"{100 * share:.1f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
