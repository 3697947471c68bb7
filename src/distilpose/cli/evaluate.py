"""Evaluate a model, a teacher or a results file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from distilpose.evaluation.options import EvaluateOptions


def _evaluate(options: EvaluateOptions) -> int:
    from rich.console import Console

    from distilpose.evaluation.evaluate import evaluate_files, metrics_table
    from distilpose.evaluation.report.report import REPORT_FILE

    result = evaluate_files(options, progress=not options.quiet)
    if not options.quiet:
        Console().print(metrics_table(result))
    if options.report is not None:
        print(f"report: {os.path.join(options.report, REPORT_FILE)}")
    return 0


EVALUATE = Command(
    "COCO AP and PCK of a model, or of a results file",
    (
        "--model student.safetensors --annotations person_keypoints_val2017.json --images val2017 --out out",
        "--model student.safetensors --annotations person_keypoints.json --images val2017 --report report",
        "--detector auto --annotations person_keypoints.json --images val2017 --report report",
        "--teacher student.yaml --annotations person_keypoints_val2017.json --images val2017",
        "--model mpii.safetensors --annotations mpii_valid.json --images images --metrics coco pckh",
        "--predictions out/results_keypoints.json --annotations person_keypoints_val2017.json",
    ),
    "distilpose.evaluation.options:EvaluateOptions",
    _evaluate,
)
