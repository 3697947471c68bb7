"""What the commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

FLIP_TESTS = ("off", "aligned", "reference")
FLIP_TEST_HELP = "average with the mirrored crop: half as fast, a little more accurate ('reference': as published)"
DEFAULT_MODEL = "distilpose_s_demo"  # also in `loading`, which a --help need not import
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
