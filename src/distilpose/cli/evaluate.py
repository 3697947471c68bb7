"""How good a model, or a results file, is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from distilpose.cli.command import FLIP_TEST_HELP, FLIP_TESTS, MODEL_HELP, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from distilpose.backends.base import InferenceBackend


METRICS = ("coco", "pckh", "pck_torso", "crowdpose")  # also in `evaluation.protocols`, which a --help need not import
METRICS_HELP = (
    "coco (AP, PCK by the box), pckh (MPII), pck_torso (LSP), crowdpose, one or several (default: coco and what is "
    "usual for the model's keypoints)"
)
SKELETON_HELP = (
    "keypoints of --annotations where they are not the model's, a built-in name or a YAML file: labels are mapped by "
    "name"
)


def _evaluate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--annotations", required=True, metavar="FILE", help="COCO keypoint json: the ground truth")
    parser.add_argument("--images", metavar="DIR", help="folder of the images")
    parser.add_argument("--model", metavar="NAME|FILE", help=MODEL_HELP)
    parser.add_argument(
        "--teacher",
        metavar="FILE",
        help="evaluate a teacher instead of a model: that of this training configuration, a checkpoint, an ONNX file",
    )
    parser.add_argument("--detections", metavar="FILE", help="COCO detections to use instead of ground-truth boxes")
    parser.add_argument("--predictions", metavar="FILE", help="evaluate this COCO results file; no model is run")
    parser.add_argument("--flip-test", choices=FLIP_TESTS, default="off", help=FLIP_TEST_HELP)
    parser.add_argument("--metrics", nargs="+", choices=METRICS, metavar="NAME", help=METRICS_HELP)
    parser.add_argument("--skeleton", metavar="NAME|FILE", help=SKELETON_HELP)
    parser.add_argument("--out", metavar="DIR", help="folder for metrics.json and the COCO submission file")
    parser.add_argument("--report", metavar="DIR", help="folder for report.html: curves, kinds of error, images")
    parser.add_argument("--quiet", action="store_true", help="do not print the table")


def _evaluate(args: Namespace) -> int:
    from rich.console import Console

    from distilpose.evaluation.evaluate import evaluate_files, metrics_table
    from distilpose.evaluation.report.report import REPORT_FILE

    result = evaluate_files(
        annotations=args.annotations,
        images=args.images,
        model=args.model if args.teacher is None else _teacher(args),
        detections=args.detections,
        predictions=args.predictions,
        flip_test=args.flip_test,
        metrics=args.metrics,
        skeleton=args.skeleton,
        out=args.out,
        report=args.report,
        progress=not args.quiet,
    )
    if not args.quiet:
        Console().print(metrics_table(result))
    if args.report is not None:
        print(f"report: {os.path.join(args.report, REPORT_FILE)}")
    return 0


def _teacher(args: Namespace) -> InferenceBackend:
    from distilpose.errors import ConfigError
    from distilpose.teachers.build import TeacherBackend
    from distilpose.teachers.config import read_teacher_file

    if args.model is not None:
        raise ConfigError("--teacher and --model are two things to evaluate: pass one of them")
    values, flip = read_teacher_file(args.teacher)
    return TeacherBackend(values, flip=flip)


EVALUATE = Command(
    "COCO AP and PCK of a model, or of a results file",
    (
        "--model student.safetensors --annotations person_keypoints_val2017.json --images val2017 --out out",
        "--model student.safetensors --annotations person_keypoints.json --images val2017 --report report",
        "--teacher student.yaml --annotations person_keypoints_val2017.json --images val2017",
        "--model mpii.safetensors --annotations mpii_valid.json --images images --metrics coco pckh",
        "--predictions out/results_keypoints.json --annotations person_keypoints_val2017.json",
    ),
    _evaluate_arguments,
    _evaluate,
)
