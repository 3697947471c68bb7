"""Checkpoints rewritten in the package's own layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilpose.cli.command import Command
from distilpose.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="checkpoint in the paper authors' layout (.pth), or our own")
    parser.add_argument("out", metavar="OUT.safetensors", help="file to write")
    parser.add_argument("--half", action="store_true", help="write float16: half the size")


def _convert(args: Namespace) -> int:
    from distilpose.backends.checkpoint import describe, load_checkpoint, save_checkpoint

    if not args.out.endswith(".safetensors"):
        raise ConfigError(f"the output must end in .safetensors, got {args.out}")
    model = load_checkpoint(args.source)
    training = describe(model).training or {"converted_from": args.source}
    print(f"{model.preset} -> {save_checkpoint(model, args.out, training=training, half=args.half)}")
    return 0


CONVERT = Command(
    "rewrite a checkpoint, such as a released one, as self-describing safetensors",
    (
        "released/DistilPose_S.pth distilpose_s.safetensors",
        "runs/student/last.safetensors small.safetensors --half",
    ),
    _convert_arguments,
    _convert,
)
