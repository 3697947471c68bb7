"""What models cost: the list of presets, and speed on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.commands.base import DEFAULT_MODEL, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _models_arguments(parser: ArgumentParser) -> None:
    pass


def _models(_: Namespace) -> int:
    from rich.console import Console

    from distilpose.bench.complexity import models_table

    Console().print(models_table())
    return 0


def _benchmark_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="presets to time (default: all)")
    parser.add_argument("--files", nargs="+", default=[], metavar="FILE", help="checkpoints and exported files to time")
    parser.add_argument("--runtimes", nargs="+", default=[], metavar="NAME", help="of --models (default: all)")
    parser.add_argument("--ladder", metavar="DIR", help="finished ablation of students: accuracy against speed here")
    parser.add_argument("--no-end-to-end", action="store_true", help="leave out files to predictions.json")
    parser.add_argument("--profile", action="store_true", help="also operations inside OpenVINO and ONNX Runtime")
    parser.add_argument("--training", action="store_true", help="also distillation steps and data loading")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help="the model of all that follows")
    parser.add_argument("--annotations", metavar="FILE", help="COCO keypoint json: AP of --model exported every way")
    parser.add_argument("--images", metavar="DIR", help="images of --annotations")
    parser.add_argument("--calibration", metavar="FILE|DIR", help="other people, to calibrate int8 with")
    parser.add_argument("--films", nargs="+", default=[], metavar="FILE", help="from film to drawn film, by --model")
    parser.add_argument(
        "--detector", metavar="NAME", help="of people in --films (default: hog), and how many of --annotations it finds"
    )
    parser.add_argument("--over-time", action="store_true", help="tracking and smoothing on generated scenes")
    parser.add_argument("--serving", action="store_true", help="distilpose serve under load")
    parser.add_argument("--bulk", action="store_true", help="distilpose predict-bulk on 5,000 pictures")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument(
        "--plot", metavar="FILE", help="picture of accuracy (of --ladder, else published) against speed"
    )


def _benchmark(args: Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from distilpose.bench.benchmark import BenchmarkOptions, benchmark

    options = BenchmarkOptions(
        models=args.models,
        files=[Path(file) for file in args.files],
        runtimes=args.runtimes,
        ladder=None if args.ladder is None else Path(args.ladder),
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
        serving=args.serving,
        bulk=args.bulk,
    )
    console = Console()
    benchmark(options, show=console.print, json_file=args.json, plot=args.plot, progress=Console(stderr=True))
    return 0


MODELS = Command("list the presets with size, cost and published AP", ("",), _models_arguments, _models)

BENCHMARK = Command(
    "measure speed on this machine, beside its matrix-product peak",
    (
        "--models distilpose_s",
        "--files student.safetensors student.onnx student.xml",
        "--models distilpose_s distilpose_m distilpose_t --runtimes onnxruntime --no-end-to-end",
        "--ladder runs/light --plot light.png",
        "--json speed.json --plot speed.png --profile --training",
        "--annotations person_keypoints.json --images images --calibration other_people.json",
        "--films film.mp4 --over-time",
        "--serving --bulk --model student.safetensors",
        "--annotations person_keypoints.json --images images --detector hog",
    ),
    _benchmark_arguments,
    _benchmark,
)
