"""The commands that take one options class each: one call, what it did in a line, the exit code."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distilpose.cli.command import Command, NoOptions, table_console
from distilpose.errors import ConfigError, printable, require_package
from distilpose.options import option

if TYPE_CHECKING:
    from distilpose.benchmark.options import BenchmarkOptions
    from distilpose.bulk.options import BulkOptions
    from distilpose.evaluation.options import EvaluateOptions
    from distilpose.export.options import ExportOptions
    from distilpose.inference.options import PredictOptions
    from distilpose.inference.run import PredictReport
    from distilpose.serving.options import ServeOptions
    from distilpose.serving.web import WebOptions
    from distilpose.training.labeling import LabelOptions
LISTED = 20  # images whose people are told one by one
FEW_TRUSTED = 0.2  # share of keypoints that a teacher trusts, below which advice is given


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert.

    Attributes:
        source: checkpoint in the paper authors' layout (.pth), or our own
        out: file to write, ending in .safetensors
        half: write float16: half the size
    """

    source: str = option(metavar="SOURCE", positional=True)
    out: str = option(metavar="OUT.safetensors", positional=True)
    half: bool = False


def _predict(options: PredictOptions) -> int:
    from distilpose.inference.predict import PredictInterruptedError, predict_files

    try:
        report = predict_files(options, progress=True)
    except PredictInterruptedError as stop:
        _tell(stop.report, options)
        raise
    _tell(report, options)
    return 1 if report.failures else 0


def _tell(report: PredictReport, options: PredictOptions) -> None:
    for failure in report.failures:
        print(printable(f"failed: {failure}"), file=sys.stderr)
    for path, count in report.counts.items():
        if count.frames is not None:
            print(printable(f"{path}: {_number(count.frames, 'frame')}, {_number(count.people, 'person')} followed"))
        elif report.num_images <= LISTED:
            unsure = f", {count.undrawn} too unsure to be drawn" if count.undrawn and options.output.images else ""
            print(printable(f"{path}: {_number(count.people, 'person')}{unsure}"))
    done = []
    if report.num_images or not report.num_frames:
        done.append(f"{_number(report.num_images, 'image')} with {_number(report.num_people, 'person')}")
    if report.num_frames:
        done.append(f"{_number(report.num_frames, 'frame')} with {_number(report.num_tracks, 'track')}")
    done.append(f"{len(report.failures)} failed")
    print(printable(f"{', '.join(done)} -> {report.predictions}"))
    _hint(report, options)


def _hint(report: PredictReport, options: PredictOptions) -> None:
    """What a user may want to know or to try."""
    if report.num_empty:
        where = f"{report.num_empty} of {_number(report.num_images, 'image')}"
        if options.boxes is None:
            print(
                f"nobody was found in {where}: try --detection-threshold 0.2, --tile 640 for small people, --detector "
                "whole-image where one person fills the image, or --boxes X1,Y1,X2,Y2",
                file=sys.stderr,
            )
        else:
            told = f"{options.boxes} has no box for {where}: if it should, check the names and ids of the images in it"
            print(printable(told), file=sys.stderr)
    if report.num_undrawn and options.output.images and (report.num_images > LISTED or report.num_frames):
        print(f"too unsure to be drawn: {_number(report.num_undrawn, 'pose')}", file=sys.stderr)
    if report.num_others:
        print(f"left out, as neither images nor videos: {_number(report.num_others, 'file')}", file=sys.stderr)
    if options.output.anonymize != "none" and options.output.images:
        from distilpose.visualization.anonymize import anonymized_note

        print(anonymized_note(options.output.anonymize, report.num_people + report.num_tracks), file=sys.stderr)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {'people' if noun == 'person' else noun + 's'}"


def _predict_bulk(options: BulkOptions) -> int:
    from distilpose.bulk.predict import predict_bulk

    report = predict_bulk(options, progress=True)
    for failure in report.failures:
        print(printable(f"failed: {failure}"), file=sys.stderr)
    if report.num_failed > len(report.failures):
        more = report.num_failed - len(report.failures)
        print(f"failed: {more} more, see the column error in {report.images}", file=sys.stderr)
    again = f" ({report.num_resumed} of {report.num_shards} shards were there)" if report.num_resumed else ""
    done = f"{report.num_images} images, {report.num_people} people, {report.num_failed} failed"
    print(printable(f"{done}{again} -> {report.poses} and {report.images}"))
    return 1 if report.num_failed else 0


def _label(options: LabelOptions) -> int:
    from distilpose.training.labeling import label_people

    report = label_people(options, progress=True)
    for failure in report.failures:
        print(printable(f"failed: {failure}"), file=sys.stderr)
    if report.num_people and report.trusted < FEW_TRUSTED:
        print(
            f"few keypoints are trusted: this teacher's peaks may be lower than --min-score {options.min_score:g}; the "
            "field keypoint_scores has them: choose a lower one, and another --out",
            file=sys.stderr,
        )
    done = f"{report.num_images} images, {report.num_people} people, {report.trusted:.0%} of their keypoints trusted, "
    print(printable(f"{done}{len(report.failures)} failed -> {report.file} (images: {report.images})"))
    return 1 if report.failures else 0


def _evaluate(options: EvaluateOptions) -> int:
    from distilpose.evaluation.evaluate import evaluate_files, metrics_table
    from distilpose.evaluation.report.report import REPORT_FILE

    result = evaluate_files(options, progress=not options.quiet)
    if not options.quiet:
        table_console().print(metrics_table(result))
    if options.report is not None:
        print(f"report: {os.path.join(options.report, REPORT_FILE)}")
    return 0


def _export(options: ExportOptions) -> int:
    from distilpose.export.export import export_file

    report = export_file(options)
    print(f"{report.description.model} -> {' and '.join(map(str, report.files))} ({report.megabytes:.1f} MB)")
    if not report.errors:
        print("not compared with torch: Core ML files run on macOS alone")
        return 0
    worst = report.largest_error
    print(
        f"compared with torch at batches {', '.join(map(str, report.batches))}: output {worst.output} differs most, by "
        f"{worst.largest:.1e} of its largest value (batch {worst.batch})"
    )
    return 0


def _serve(options: ServeOptions) -> int:
    from distilpose.serving.server import serve

    serve(options, lambda text: print(text, flush=True))
    return 0


def _web(options: WebOptions) -> int:
    from distilpose.serving.web import build_page

    report = build_page(options)
    print(f"{', '.join(path.stem for path in report.models)} -> {report.folder} ({report.megabytes:.1f} MB)")
    return 0


def _models(_: NoOptions) -> int:
    from rich.table import Table

    from distilpose.backends.loading import SHIPPED_MODELS
    from distilpose.models import MODEL_CARDS, MODELS, list_models

    table = Table(title="presets")
    table.add_column("model", no_wrap=True)
    for heading in ("parameters", "GMACs as\nthe paper", "GMACs,\nall", "input\n(H x W)", "AP [1]"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in list_models():
        card, (height, width) = MODEL_CARDS[name], MODELS[name].input_size_hw
        costs = (f"{card.parameters:,}", f"{card.gmacs_published:.2f}", f"{card.gmacs:.3f}", f"{height} x {width}")
        table.add_row(name, *costs, "-" if card.published_ap is None else f"{card.published_ap:.1f}")
    table.caption = "[1] COCO val2017, detector boxes of 56.4 AP, flip test, as published: " + "; ".join(
        f"{name}: {card.source}" for name, card in sorted(MODEL_CARDS.items()) if card.published_ap is not None
    )
    table.caption += f"\nshipped weights, for --model: {', '.join(SHIPPED_MODELS)}"
    table_console().print(table)
    return 0


def _convert(options: ConvertOptions) -> int:
    if not options.out.endswith(".safetensors"):
        raise ConfigError(f"the output must end in .safetensors, got {options.out}")
    require_package("torch", "convert")
    from distilpose.backends.checkpoint import describe, load_checkpoint, save_checkpoint

    model = load_checkpoint(options.source)
    training = describe(model).training or {"converted_from": options.source}
    print(f"{model.preset} -> {save_checkpoint(model, options.out, training=training, half=options.half)}")
    return 0


def _benchmark(options: BenchmarkOptions) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table

    from distilpose.benchmark.benchmark import Measurement, measure, measurements_table

    console, shown = table_console(), list[Table]()
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:

        def say(what: str) -> None:
            if console.is_terminal:
                live.update(Group(*shown, f"[dim]measuring {what} ...[/dim]"), refresh=True)
            else:
                print(f"measuring {what} ...", file=sys.stderr, flush=True)

        before: list[Measurement] = []
        for rows in measure(options, say=say):
            shown[:] = [measurements_table(rows)]
            live.update(shown[0], refresh=True)
            if not console.is_terminal:  # the table comes at the end
                for row in (row for row in rows if row not in before):
                    times = ", ".join(
                        f"{row.milliseconds_per_crop(b):.1f} ms a crop in batches of {b}" for b in row.seconds
                    )
                    figures = ", ".join(
                        f"{name} {100 * value:.1f}" for name, value in row.accuracy.items() if value is not None
                    )
                    print(f"{row.model}, {row.backend}, {row.numbers}: {figures or times}", file=sys.stderr, flush=True)
            before = rows
    return 0


PREDICT = Command(
    "find poses in images, videos and what a camera sees; writes predictions.json, drawn images and videos",
    (
        "photo.jpg",
        "video.mp4 --detect-every 5 --start 1:30 --end 2:00",
        "webcam:0 --detect-every 10 --end 60",
        "photos clips --detector onnx:detector.onnx --style labels --format jsonl csv",
        "val2017 --boxes detections.json --annotations val2017.json --out out",
    ),
    "distilpose.inference.options:PredictOptions",
    _predict,
)
PREDICT_BULK = Command(
    "find poses in very many images, by many processes or machines; writes Parquet, goes on where it was stopped",
    (
        "photos --out poses",
        "'shards/*.tar' --out poses --detector whole-image --model student.onnx",
        "list.parquet --out poses --boxes boxes --ids id --model student.xml --workers 8",
        "/nfs/list.parquet --out /nfs/poses --boxes boxes --model /nfs/student.onnx --address auto",
    ),
    "distilpose.bulk.options:BulkOptions",
    _predict_bulk,
)
LABEL = Command(
    "label people with a teacher, as training data: COCO keypoint json, and heatmaps if wanted",
    (
        "photos --teacher teacher.safetensors --out labels",
        "boxes.json --images photos --teacher teacher.yaml --out labels --heatmaps labels/heatmaps",
        "photos --boxes detections.json --teacher vitpose.yaml --out labels --min-score 0.5",
    ),
    "distilpose.training.labeling:LabelOptions",
    _label,
)
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
EXPORT = Command(
    "write an ONNX, OpenVINO, LiteRT or Core ML file that runs without torch, compared with torch",
    (
        "--model student.safetensors --out student.onnx",
        "--int8 --calibration data/person_keypoints.json --out student.xml",
        "--fp16 --uint8-input --out web/student.onnx",
    ),
    "distilpose.export.options:ExportOptions",
    _export,
)
SERVE = Command(
    "answer images over HTTP with their poses; POST /v1/predict, described at /openapi.json",
    (
        "",
        "--model student.onnx --port 9000",
        "--model student.xml --detector onnx:detector.onnx --host 0.0.0.0 --api-key-file key.txt",
    ),
    "distilpose.serving.options:ServeOptions",
    _serve,
)
WEB = Command(
    "write the page that finds poses in the browser, with its models and runtime",
    ("--out site", "--out site --models student.safetensors student8.onnx"),
    "distilpose.serving.web:WebOptions",
    _web,
)
MODELS = Command(
    "list the presets with size, cost and published AP", ("",), "distilpose.cli.command:NoOptions", _models
)
CONVERT = Command(
    "rewrite a checkpoint, such as a released one, as self-describing safetensors",
    (
        "released/DistilPose_S.pth distilpose_s.safetensors",
        "runs/student/last.safetensors small.safetensors --half",
    ),
    "distilpose.cli.commands:ConvertOptions",
    _convert,
)
BENCHMARK = Command(
    "measure speed and accuracy of models on this machine, in every backend and precision",
    (
        "",
        "--models student.safetensors student_int8.onnx --rounds 1",
        "--models distilpose_s distilpose_m distilpose_t --backends onnxruntime --json speed.json",
        "--models student.safetensors --annotations person_keypoints.json --images images --calibration other.json",
    ),
    "distilpose.benchmark.options:BenchmarkOptions",
    _benchmark,
)
