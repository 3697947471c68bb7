"""Checkpoints rewritten in the package's own layout."""

from __future__ import annotations

from dataclasses import dataclass

from distilpose.cli.command import Command
from distilpose.errors import ConfigError, require_package
from distilpose.options import option


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


def _convert(options: ConvertOptions) -> int:
    if not options.out.endswith(".safetensors"):
        raise ConfigError(f"the output must end in .safetensors, got {options.out}")
    require_package("torch", "convert")
    from distilpose.backends.checkpoint import describe, load_checkpoint, save_checkpoint

    model = load_checkpoint(options.source)
    training = describe(model).training or {"converted_from": options.source}
    print(f"{model.preset} -> {save_checkpoint(model, options.out, training=training, half=options.half)}")
    return 0


CONVERT = Command(
    "rewrite a checkpoint, such as a released one, as self-describing safetensors",
    (
        "released/DistilPose_S.pth distilpose_s.safetensors",
        "runs/student/last.safetensors small.safetensors --half",
    ),
    "distilpose.cli.convert:ConvertOptions",
    _convert,
)
