"""Write an evaluation as one page: numbers, curves, kinds of error, calibration, the best and the worst people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distilpose.errors import require_package
from distilpose.evaluation.comparison import ComparedPeople
from distilpose.evaluation.metrics import diagnosis as measures
from distilpose.evaluation.metrics.coco_ap import COCO_METRICS, OKS_THRESHOLDS, RECALL_THRESHOLDS
from distilpose.evaluation.metrics.pck import ALL_JOINTS
from distilpose.evaluation.report.charts import (
    BLUE,
    KIND_COLORS,
    Curve,
    bar_chart,
    best_and_worst,
    curve_chart,
    figures,
)
from distilpose.evaluation.result import EvaluationResult, write_text
from distilpose.types import FloatArray

REPORT_FILE = "report.html"
_SHOWN_PEOPLE = 8  # of the best and of the worst
_NO_PREDICTION = "no labeled keypoint has a prediction"
_KINDS = {
    "good": f"similarity of at least {measures.GOOD_SIMILARITY:g}",
    "jitter": f"at least {measures.NEAR_SIMILARITY:g}",
    "inversion": "at its mirror joint of the same person",
    "swap": "at a joint of another person",
    "miss": "near no label",
}


def write_report(result: EvaluationResult, folder: Path, images: Path | None = None) -> Path:
    """Write ``report.html``, which loads nothing from elsewhere and so can be kept or sent as it is; gives its path.

    ``folder`` is made if needed; without the folder of ``images`` the report has none.

    Raises:
        InputError: the folder cannot be made or written to, or an image cannot be read.
    """
    write_text(folder / REPORT_FILE, report_page(result, images))
    return folder / REPORT_FILE


def report_page(result: EvaluationResult, images: Path | None = None) -> str:
    """Fill the template ``report.html``; see `write_report`."""
    for package in ("jinja2", "matplotlib"):
        require_package(package, "a report")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"percent": _percent, "number": _number, "words": _words}
    people, diagnosis = result.people, measures.diagnose(result.people)
    calibration = measures.calibrate(people)
    return environment.get_template(REPORT_FILE).render(
        name=str(result.protocol.get("model", result.protocol.get("predictions", "a model"))),
        result=result,
        joint_chart=_joint_chart(result),
        kinds=_KINDS,
        colors=KIND_COLORS,
        **_kinds(people, diagnosis),
        metrics=COCO_METRICS,
        by_boxes={str(result.protocol.get("boxes", "results")): result, "true boxes": result.with_true_boxes},
        precision_chart=_precision_chart(result.precision),
        near=measures.NEAR_SIMILARITY,
        **_score(people, calibration.keypoint_score, calibration.person_score),
        sigma_missing=_missing(calibration.sigma, people, "these predictions carry no sigma"),
        sigma={"a Gaussian": measures.SigmaCoverage(*measures.GAUSSIAN_WITHIN, 1.0, 0), **(calibration.sigma or {})},
        sigma_rank=calibration.sigma_rank_correlation,
        **_images(people, diagnosis, images),
    )


def _missing(found: Any, people: ComparedPeople, reason: str) -> str:
    """Why there is nothing to check; empty where there is."""
    return reason if found is None else "" if people.counted.any() else _NO_PREDICTION


def _joint_chart(result: EvaluationResult) -> str:
    names = (ALL_JOINTS, *result.people.skeleton.keypoint_names)
    shares = [result.per_joint[name].pck for name in names]
    bars = np.array([[share or 0.0] for share in shares])
    return bar_chart(list(map(_words, names)), bars, [BLUE], list(map(_percent, shares)))


def _kinds(people: ComparedPeople, diagnosis: measures.Diagnosis) -> dict[str, Any]:
    per_joint = measures.count_kinds(diagnosis)
    counts = np.concatenate([per_joint.sum(0, keepdims=True), per_joint])
    total = counts.sum(1)
    shares = counts / np.maximum(1, total)[:, None]
    labels = [_words(name) for name in (ALL_JOINTS, *people.skeleton.keypoint_names)]
    texts = [[_percent(share) if n else "-" for share in row] for row, n in zip(shares.tolist(), total, strict=True)]
    return {
        "kind_chart": bar_chart(labels, shares, list(KIND_COLORS.values()), [row[0] for row in texts]),
        "kind_header": ("joint", *measures.ERROR_KINDS, "keypoints"),
        "kind_rows": [(label, *row, f"{n:,}") for label, row, n in zip(labels, texts, total, strict=True)],
    }


def _precision_chart(precision: FloatArray) -> str | None:
    if (precision < 0).any():
        return None
    chosen = {
        "OKS 0.50": (KIND_COLORS["good"], precision[OKS_THRESHOLDS.index(0.5)]),
        "OKS 0.75": (KIND_COLORS["inversion"], precision[OKS_THRESHOLDS.index(0.75)]),
        "mean over OKS 0.50 to 0.95": (BLUE, precision.mean(0)),
    }
    curves = [
        Curve(f"{name}: area {_percent(float(values.mean()))}", color, np.column_stack([RECALL_THRESHOLDS, values]))
        for name, (color, values) in chosen.items()
    ]
    return curve_chart(curves, "recall", "precision")


def _score(
    people: ComparedPeople, keypoints: measures.ScoreCalibration | None, persons: measures.ScoreCalibration | None
) -> dict[str, Any]:
    missing = _missing(keypoints, people, "these predictions carry no keypoint scores")
    if missing or keypoints is None or persons is None:
        return {"score_missing": missing}
    curves, rows = [], []
    for name, color, score in (("keypoints", BLUE, keypoints), ("people", KIND_COLORS["inversion"], persons)):
        filled = np.flatnonzero(score.numbers)
        points = np.column_stack([score.mean_score[filled], score.mean_truth[filled]])
        curves.append(Curve(name, color, points, score.numbers[filled].astype(np.float64)))
        for b, (x, y) in zip(filled.tolist(), points.tolist(), strict=True):
            title = f"{name} {b / measures.SCORE_BINS:.1f} to {(b + 1) / measures.SCORE_BINS:.1f}"
            rows.append((title, _number(x), _number(y), f"{score.numbers[b]:,}"))
    return {
        "score_missing": "",
        "score_chart": curve_chart(curves, "mean score", "came true", diagonal=True),
        "scores": {"keypoints": keypoints, "people": persons},
        "score_rows": rows,
    }


def _images(people: ComparedPeople, diagnosis: measures.Diagnosis, images: Path | None) -> dict[str, Any]:
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
