"""One training run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from distilpose.cli.command import Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _train_arguments(parser: ArgumentParser) -> None:
    from distilpose.training.config import TrainConfig

    parser.usage = "distilpose train CONFIG [--resume] [--skip-invalid] [--key value ...]"
    parser.add_argument("--config", action="config", metavar="CONFIG", help="configuration file (first argument)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--skip-invalid", action="store_true", help="report invalid annotations and go on without them")
    parser.add_class_arguments(TrainConfig, as_group=False)


def _train(args: Namespace) -> int:
    from rich.console import Console

    from distilpose.training.prerequisites import check_files, files_of
    from distilpose.training.processes import LAUNCHED
    from distilpose.training.train import train

    config = train_config(args)
    check_files({"run": files_of(config)})
    result = train(config, resume=args.resume, skip_invalid=args.skip_invalid, console=Console(stderr=True))
    if os.environ.get("RANK", "0") != "0" or LAUNCHED in os.environ:
        return 0  # one process of the run says it
    print(f"last weights: {result.last}")
    if result.best_ap is not None:
        print(f"best weights: {result.best} (AP {result.best_ap * 100:.1f} at epoch {result.best_epoch})")
    return 0


def train_config(args: Namespace) -> Any:
    """The parsed ``train`` arguments as a `TrainConfig`."""
    from dataclasses import fields

    from distilpose.training.config import TrainConfig, train_config_from

    return train_config_from({f.name: args[f.name] for f in fields(TrainConfig)})


TRAIN = Command(
    "train a teacher, a student, or a student from a frozen teacher",
    (
        "configs/quickstart/student.yaml",
        "configs/quickstart/student.yaml --resume",
        "configs/paper/distilpose_s.yaml --data.root /datasets/coco --teacher runs/tokenpose_s/best.safetensors",
    ),
    _train_arguments,
    _train,
)
