"""The command line: parse, call one function, exit code. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from distilpose import __version__
from distilpose.errors import ConfigError, DistilPoseError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

FLIP_TESTS = ("off", "aligned", "reference")
FLIP_TEST_HELP = "average with the mirrored crop: half as fast, a little more accurate ('reference': as published)"
DEFAULT_MODEL = "distilpose_s_demo"  # also in `loading`, which a --help need not import
SOURCE_HELP = "pictures, films, folders, patterns such as 'photos/**/*.jpg', file: addresses, webcam:0"
DETECTOR_HELP = (
    "where boxes come from without --boxes. hf:FOLDER or hf:ID: a detector of the transformers library; onnx:FILE; "
    "hog: OpenCV's, which finds whole upright people only; whole-image: one person fills the picture. Default: a small "
    "hf: model if it is there or can be downloaded, else hog"
)
DETECT_EVERY_HELP = (
    "films and cameras: run the detector in each n-th frame; in between, people are where their pose leads (default: 1)"
)
MODEL_HELP = (
    "checkpoint (.safetensors, released .pth), exported file (.onnx, .xml), folder of save_pretrained, hub id, or "
    f"{DEFAULT_MODEL}, which comes with the package (default)"
)


class Command(NamedTuple):
    """One subcommand."""

    summary: str
    examples: tuple[str, ...]
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``distilpose`` with these arguments and return its exit code.

    0: all went well. 1: bad input, or part of a batch failed. 2: wrong usage. 130: interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"distilpose {__version__}")
        return 0
    name = args[0]
    if name not in COMMANDS:
        print(f"error: {name!r} is no command of distilpose; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        return _run(name, args[1:])
    except DistilPoseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = "; --resume goes on from the last whole epoch" if name in ("train", "ablate") else ""
        print(f"interrupted: what was written stays{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has left, as in `distilpose models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: distilpose COMMAND ...",
        "",
        "Fast 2D human pose: distil heatmap teachers into regression students.",
        "",
    ]
    lines += ["commands:", *(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())]
    return "\n".join([*lines, "", "distilpose COMMAND --help explains a command. --version prints the version."])


def _run(name: str, args: list[str]) -> int:
    import argparse

    from jsonargparse import ArgumentParser

    command = COMMANDS[name]
    examples = "\n".join(["examples:", *(f"  distilpose {name} {example}".rstrip() for example in command.examples)])
    parser = ArgumentParser(
        prog=f"distilpose {name}",
        description=command.summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=True,
    )
    command.add_arguments(parser)
    if name in ("train", "ablate") and args and not args[0].startswith("-"):
        args = ["--config", *args]
    changes: dict[str, Any] = {}
    if name == "ablate":
        args, changes = _take_base_changes(args)
    parsed = parser.parse_args(args)
    if changes:
        parsed.base_changes = changes
    return command.run(parsed)


def _take_base_changes(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Split ``--base.a.b value`` off: of a plain mapping the parser would replace all of ``a``."""
    import yaml

    rest: list[str] = []
    changes: dict[str, Any] = {}
    words = iter(args)
    for word in words:
        if not word.startswith("--base."):
            rest.append(word)
            continue
        key, separator, value = word.removeprefix("--base.").partition("=")
        text = value if separator else next(words, None)
        if text is None:
            raise ConfigError(f"expected a value after {word}, got none")
        *parents, last = key.split(".")
        place = changes
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{word} changes a part of {parent!r}, which another --base option sets as a whole")
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"expected a YAML value after --base.{key}, got {text!r}") from error
    return rest, changes


def _predict_arguments(parser: ArgumentParser) -> None:
    from distilpose.draw import STYLES

    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help=SOURCE_HELP)
    add("--out", default="poses", metavar="DIR", help="folder of the results (default: poses)")
    add("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=MODEL_HELP)
    add("--boxes", metavar="FILE", help="person boxes: COCO detections or annotations (json)")
    add("--annotations", metavar="FILE", help="COCO json whose images tell which id each file has")
    add("--detector", metavar="NAME", help=DETECTOR_HELP)
    add("--detection-threshold", type=float, metavar="S", help="leave out boxes with a lower score")
    add("--max-people", type=int, metavar="N", help="of each picture, those with the best boxes")
    add("--flip-test", choices=FLIP_TESTS, default="off", help=FLIP_TEST_HELP)
    add("--batch-size", type=int, default=8, metavar="N", help="crops per run of the model (default: 8)")
    add("--every", type=int, default=1, metavar="N", help="films: take each n-th frame")
    add("--start", type=_seconds, default=0.0, metavar="TIME", help="films: first second, or [HOURS:]MINUTES:SECONDS")
    add("--end", type=_seconds, metavar="TIME", help="films and cameras: where to stop")
    add("--detect-every", type=int, default=1, metavar="N", help=DETECT_EVERY_HELP)
    add("--no-smoothing", action="store_true", help="films: write poses as the model gives them, frame by frame")
    add("--style", choices=tuple(STYLES), help="how people are drawn (default: sides on pictures, people on films)")
    add("--anonymise", action="store_true", help="blur faces in all that is drawn")
    add("--keypoint-threshold", type=float, default=0.0, metavar="S", help="do not draw keypoints of a lower score")
    add("--no-pictures", action="store_true", help="draw neither pictures nor films")
    add("--save-crops", action="store_true", help="write each person cut out of the picture, in crops/")
    add("--json-lines", action="store_true", help="write poses.jsonl: a line per picture or frame")
    add("--preview", type=int, metavar="PORT", help="cameras: show them on a page of this machine; 0: any free port")
    add("--parquet", action="store_true", help="write poses.parquet: a row per person")


def _seconds(text: str) -> float:
    parts = [float(part) for part in str(text).split(":")]
    if len(parts) > 3 or any(part < 0 for part in parts):
        raise ValueError(f"expected seconds or [HOURS:]MINUTES:SECONDS, got {text!r}")
    return float(sum(part * 60.0**power for power, part in enumerate(reversed(parts))))


def _predict(args: Namespace) -> int:
    from distilpose.inference.film import FilmOptions
    from distilpose.inference.predict import OutputOptions, predict_files

    report = predict_files(
        args.sources,
        args.out,
        model=args.model,
        boxes=args.boxes,
        annotations=args.annotations,
        detector=args.detector if args.boxes or args.detector else "auto",
        detection_threshold=args.detection_threshold,
        max_people=args.max_people,
        flip_test=args.flip_test,
        batch_size=args.batch_size,
        film=FilmOptions(args.every, args.start, args.end, args.detect_every, not args.no_smoothing),
        output=OutputOptions(
            pictures=not args.no_pictures,
            style=args.style,
            anonymise=args.anonymise,
            keypoint_threshold=args.keypoint_threshold,
            crops=args.save_crops,
            json_lines=args.json_lines,
            parquet=args.parquet,
            preview=args.preview,
        ),
        progress=True,
    )
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    done = [f"{report.num_images} images"] if report.num_images or not report.num_frames else []
    done += [f"{report.num_frames} frames"] if report.num_frames else []
    done += [f"{report.num_people} people", f"{len(report.failures)} failed"]
    print(f"{', '.join(done)} -> {args.out}")
    return 1 if report.failures else 0


def _train_arguments(parser: ArgumentParser) -> None:
    from distilpose.training.recipes import TrainConfig

    parser.usage = "distilpose train CONFIG [--resume] [--skip-invalid] [--key value ...]"
    parser.add_argument("--config", action="config", metavar="CONFIG", help="configuration file (first argument)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--skip-invalid", action="store_true", help="report invalid annotations and go on without them")
    parser.add_class_arguments(TrainConfig, as_group=False)


def _train(args: Namespace) -> int:
    from rich.console import Console

    from distilpose.training.train import train

    result = train(train_config(args), resume=args.resume, skip_invalid=args.skip_invalid, console=Console(stderr=True))
    print(f"last weights: {result.last}")
    if result.best_ap is not None:
        print(f"best weights: {result.best} (AP {result.best_ap * 100:.1f} at epoch {result.best_epoch})")
    return 0


def train_config(args: Namespace) -> Any:
    """The parsed ``train`` arguments as a `TrainConfig`."""
    from dataclasses import fields

    from distilpose.training.recipes import TrainConfig, train_config_from

    return train_config_from({f.name: args[f.name] for f in fields(TrainConfig)})


def _ablate_arguments(parser: ArgumentParser) -> None:
    from distilpose.training.ablation import AblationConfig

    parser.usage = "distilpose ablate CONFIG [--only NAME ...] [--key value ...]"
    parser.add_argument("--config", action="config", metavar="CONFIG", help="configuration file (first argument)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="train these rungs now, not all")
    parser.add_class_arguments(AblationConfig, as_group=False)


def _ablate(args: Namespace) -> int:
    from dataclasses import fields

    from rich.console import Console

    from distilpose.training.ablation import AblationConfig, Rung, ablate, ablation_table, merge_settings

    values = {f.name: args[f.name] for f in fields(AblationConfig)}
    values["base"] = merge_settings(args.base, args.get("base_changes", {}))
    values["rungs"] = [Rung(**vars(rung)) for rung in args.rungs]
    result = ablate(AblationConfig(**values), only=args.only, console=Console(stderr=True))
    for failure in result.failures:
        print(f"failed: {failure}", file=sys.stderr)
    Console().print(ablation_table(result.rows, result.reference))
    print("written:", *result.files)
    return 1 if result.failures else 0


def _evaluate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--annotations", required=True, metavar="FILE", help="COCO keypoint json: the ground truth")
    parser.add_argument("--images", metavar="DIR", help="folder of the images")
    parser.add_argument("--model", metavar="NAME|FILE", help=MODEL_HELP)
    parser.add_argument("--detections", metavar="FILE", help="COCO detections to use instead of ground-truth boxes")
    parser.add_argument("--predictions", metavar="FILE", help="evaluate this COCO results file; no model is run")
    parser.add_argument("--flip-test", choices=FLIP_TESTS, default="off", help=FLIP_TEST_HELP)
    parser.add_argument("--out", metavar="DIR", help="folder for metrics.json and the COCO submission file")
    parser.add_argument("--report", metavar="DIR", help="folder for report.html: curves, kinds of error, pictures")
    parser.add_argument("--quiet", action="store_true", help="do not print the table")


def _evaluate(args: Namespace) -> int:
    from rich.console import Console

    from distilpose.evaluation.evaluate import evaluate_files, metrics_table
    from distilpose.evaluation.report import REPORT_FILE

    result = evaluate_files(
        annotations=args.annotations,
        images=args.images,
        model=args.model,
        detections=args.detections,
        predictions=args.predictions,
        flip_test=args.flip_test,
        out=args.out,
        report=args.report,
        progress=not args.quiet,
    )
    if not args.quiet:
        Console().print(metrics_table(result))
    if args.report is not None:
        print(f"report: {os.path.join(args.report, REPORT_FILE)}")
    return 0


def _export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=MODEL_HELP)
    parser.add_argument("--format", required=True, choices=("onnx", "openvino"), help="of the file")
    parser.add_argument("--out", required=True, metavar="FILE", help="ending in .onnx, or .xml for openvino")
    parser.add_argument("--fp16", action="store_true", help="store weights in 16 bits: half the size, equally fast")
    parser.add_argument("--int8", action="store_true", help="compute in 8 bits: a quarter of the size, twice as fast")
    parser.add_argument(
        "--calibration",
        metavar="FILE|DIR",
        help="for --int8: COCO keypoint json of people like those to come, or a folder of pictures of one person each",
    )
    parser.add_argument("--images", metavar="DIR", help="images of a --calibration FILE (default: images/ beside it)")
    parser.add_argument("--uint8-input", action="store_true", help="read uint8 pixels and normalise inside the file")


def _export(args: Namespace) -> int:
    from distilpose.export.export import export_file

    report = export_file(
        args.model,
        args.out,
        format=args.format,
        fp16=args.fp16,
        int8=args.int8,
        calibration=args.calibration,
        images=args.images,
        uint8_input=args.uint8_input,
    )
    worst = report.largest_error
    print(f"{report.description.model} -> {' and '.join(map(str, report.files))} ({report.megabytes:.1f} MB)")
    print(
        f"largest error against torch at batches {', '.join(map(str, report.batches))}: {worst.largest:.1e} of the "
        f"largest {worst.output} (batch {worst.batch})"
    )
    return 0


def _models_arguments(parser: ArgumentParser) -> None:
    pass


def _models(_: Namespace) -> int:
    from rich.console import Console

    from distilpose.bench.complexity import models_table

    Console().print(models_table())
    return 0


def _convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="checkpoint in the paper authors' layout (.pth), or our own")
    parser.add_argument("out", metavar="OUT.safetensors", help="file to write")
    parser.add_argument("--half", action="store_true", help="write float16: half the size")


def _convert(args: Namespace) -> int:
    from distilpose.checkpoint import describe, load_checkpoint, save_checkpoint

    if not args.out.endswith(".safetensors"):
        raise ConfigError(f"the output must end in .safetensors, got {args.out}")
    model = load_checkpoint(args.source)
    training = describe(model).training or {"converted_from": args.source}
    print(f"{model.preset} -> {save_checkpoint(model, args.out, training=training, half=args.half)}")
    return 0


def _benchmark_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="presets to time (default: all)")
    parser.add_argument("--files", nargs="+", default=[], metavar="FILE", help="checkpoints and exported files to time")
    parser.add_argument("--no-end-to-end", action="store_true", help="leave out files to predictions.json")
    parser.add_argument("--profile", action="store_true", help="also operations inside OpenVINO and ONNX Runtime")
    parser.add_argument("--training", action="store_true", help="also distillation steps and data loading")
    parser.add_argument("--annotations", metavar="FILE", help="COCO keypoint json: AP of --model exported every way")
    parser.add_argument("--images", metavar="DIR", help="images of --annotations")
    parser.add_argument("--calibration", metavar="FILE|DIR", help="other people, to calibrate int8 with")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help="the model of --annotations")
    parser.add_argument("--films", nargs="+", default=[], metavar="FILE", help="from film to drawn film, by --model")
    parser.add_argument(
        "--detector", metavar="NAME", help="of people in --films (default: hog), and how many of --annotations it finds"
    )
    parser.add_argument("--over-time", action="store_true", help="tracking and smoothing on generated scenes")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("--plot", metavar="FILE", help="picture of published accuracy against measured speed")


def _benchmark(args: Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from distilpose.bench.benchmark import BenchmarkOptions, benchmark

    options = BenchmarkOptions(
        models=args.models,
        files=[Path(file) for file in args.files],
        end_to_end=not args.no_end_to_end,
        profile=args.profile,
        training=args.training,
        model=args.model,
        annotations=None if args.annotations is None else Path(args.annotations),
        images=None if args.images is None else Path(args.images),
        calibration=None if args.calibration is None else Path(args.calibration),
        films=[Path(film) for film in args.films],
        detector=args.detector,
        over_time=args.over_time,
    )
    console = Console()
    benchmark(options, show=console.print, json_file=args.json, plot=args.plot, progress=Console(stderr=True))
    return 0


COMMANDS: dict[str, Command] = {
    "predict": Command(
        "find poses in pictures, films and what a camera sees; writes predictions.json, drawn pictures and films",
        (
            "photo.jpg",
            "film.mp4 --detect-every 5 --start 1:30 --end 2:00",
            "webcam:0 --detect-every 10 --end 60",
            "photos clips --detector onnx:detector.onnx --style labels --json-lines",
            "val2017 --boxes detections.json --annotations val2017.json --out out",
        ),
        _predict_arguments,
        _predict,
    ),
    "train": Command(
        "train a teacher, a student, or a student from a frozen teacher",
        (
            "configs/quickstart/student.yaml",
            "configs/quickstart/student.yaml --resume",
            "configs/paper/distilpose_s.yaml --data.root /datasets/coco --teacher runs/tokenpose_s/best.safetensors",
        ),
        _train_arguments,
        _train,
    ),
    "ablate": Command(
        "train and compare runs that differ in one thing each; goes on where it stopped",
        (
            "configs/ablation/ladder.yaml --base.data.root data",
            "configs/ablation/ladder.yaml --only 'student alone' 'all four'",
        ),
        _ablate_arguments,
        _ablate,
    ),
    "evaluate": Command(
        "COCO AP and PCK of a model, or of a results file",
        (
            "--model student.safetensors --annotations person_keypoints_val2017.json --images val2017 --out out",
            "--model student.safetensors --annotations person_keypoints.json --images val2017 --report report",
            "--predictions out/results_keypoints.json --annotations person_keypoints_val2017.json",
        ),
        _evaluate_arguments,
        _evaluate,
    ),
    "export": Command(
        "write an ONNX or OpenVINO file that runs without torch, compared with torch",
        (
            "--model student.safetensors --format onnx --out student.onnx",
            "--format openvino --int8 --calibration data/person_keypoints.json --out student.xml",
            "--format onnx --fp16 --uint8-input --out web/student.onnx",
        ),
        _export_arguments,
        _export,
    ),
    "models": Command("list the presets with size, cost and published AP", ("",), _models_arguments, _models),
    "convert": Command(
        "rewrite a checkpoint, such as a released one, as self-describing safetensors",
        (
            "released/DistilPose_S.pth distilpose_s.safetensors",
            "runs/student/last.safetensors small.safetensors --half",
        ),
        _convert_arguments,
        _convert,
    ),
    "benchmark": Command(
        "measure speed on this machine, beside its matrix-product peak",
        (
            "--models distilpose_s",
            "--files student.safetensors student.onnx student.xml",
            "--json speed.json --plot speed.png --profile --training",
            "--annotations person_keypoints.json --images images --calibration other_people.json",
            "--films film.mp4 --over-time",
            "--annotations person_keypoints.json --images images --detector hog",
        ),
        _benchmark_arguments,
        _benchmark,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
