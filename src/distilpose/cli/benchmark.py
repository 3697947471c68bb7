"""Speed and accuracy of models on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.cli.command import DEFAULT_MODEL, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _benchmark_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="presets to time (default: all)")
    parser.add_argument("--files", nargs="+", default=[], metavar="FILE", help="checkpoints and exported files to time")
    parser.add_argument("--runtimes", nargs="+", default=[], metavar="NAME", help="of --models (default: all)")
    parser.add_argument("--no-end-to-end", action="store_true", help="leave out files to predictions.json")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help="the model of all that follows")
    parser.add_argument("--annotations", metavar="FILE", help="COCO keypoint json: AP of --model exported every way")
    parser.add_argument("--images", metavar="DIR", help="images of --annotations")
    parser.add_argument("--calibration", metavar="FILE|DIR", help="other people, to calibrate int8 with")
    parser.add_argument("--detector", metavar="NAME", help="how many people of --annotations this detector finds")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("--plot", metavar="FILE", help="image of published accuracy against measured speed")


def _benchmark(args: Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from distilpose.benchmark.benchmark import BenchmarkOptions, benchmark

    options = BenchmarkOptions(
        models=args.models,
        files=[Path(file) for file in args.files],
        runtimes=args.runtimes,
        end_to_end=not args.no_end_to_end,
        model=args.model,
        annotations=None if args.annotations is None else Path(args.annotations),
        images=None if args.images is None else Path(args.images),
        calibration=None if args.calibration is None else Path(args.calibration),
        detector=args.detector,
    )
    console = Console()
    benchmark(options, show=console.print, json_file=args.json, plot=args.plot, progress=Console(stderr=True))
    return 0


BENCHMARK = Command(
    "measure speed on this machine, beside its matrix-product peak",
    (
        "--models distilpose_s",
        "--files student.safetensors student.onnx student.xml",
        "--models distilpose_s distilpose_m distilpose_t --runtimes onnxruntime --no-end-to-end",
        "--json speed.json --plot speed.png",
        "--annotations person_keypoints.json --images images --calibration other_people.json",
        "--annotations person_keypoints.json --images images --detector auto",
    ),
    _benchmark_arguments,
    _benchmark,
)
