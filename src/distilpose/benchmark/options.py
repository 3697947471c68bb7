"""Options of ``distilpose benchmark`` and of `measure`, which takes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distilpose.backends.loading import DEFAULT_MODEL
from distilpose.errors import ConfigError
from distilpose.options import PositiveInt, check_options, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    Models = Sequence[str | Path]
else:  # what a command line can say
    Models = list[str]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        models: checkpoints, names of models that come with the package, and presets (untrained), exported every way;
            exported files, as they are
        backends: where to run what is exported here; by default all but litert
        annotations: COCO keypoint json: also evaluate each of the trained models (AP, AR, PCK@0.2)
        images: folder of the images of the annotations
        calibration: images or COCO json of other people, to calibrate int8 with; noise by default, which is
            enough for its speed: without calibration, the accuracy of int8 is not evaluated
        device: where the models run: auto, cpu, cuda, cuda:1, mps; name --backends that have it
        threads: of one run on the CPU; a thread per physical core, at most four, by default
        rounds: how often each model gets its turn; the times are medians
        json: also write the numbers here

    Raises:
        ConfigError: a value is out of range, or options do not fit together.
    """

    models: Models = option([DEFAULT_MODEL], metavar="NAME|FILE")
    backends: list[Literal["torch", "onnxruntime", "openvino", "litert"]] | None = None
    annotations: str | Path | None = option(metavar="FILE")
    images: str | Path | None = option(metavar="DIR")
    calibration: str | Path | None = option(metavar="FILE|DIR")
    device: str = "auto"
    threads: PositiveInt | None = None
    rounds: PositiveInt = 3
    json: str | Path | None = option(metavar="FILE")

    def __post_init__(self) -> None:
        check_options(self)
        if (self.annotations is None) != (self.images is None):
            raise ConfigError("accuracy needs --annotations and --images together: name both or none")
