"""Options of ``distilpose evaluate`` and of `evaluate_files`, which takes the same."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from distilpose.errors import ConfigError
from distilpose.evaluation.metrics.pck import Metric
from distilpose.inference.decoding import FlipTest
from distilpose.inference.options import DetectorSource, ModelSource
from distilpose.options import PositiveInt, check_options, option


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate, on what, and what to write.

    Attributes:
        annotations: COCO keypoint json: the ground truth
        images: folder of the images; needed with a model, and for the images of a report
        model: checkpoint (.safetensors, released .pth), exported file (.onnx, .xml, .tflite), folder of
            save_pretrained, hub id, or the name of one that comes with the package, which is the default
        teacher: evaluate a teacher instead of a model: that of this training configuration, a checkpoint, an ONNX file
        detections: COCO detections to use instead of ground-truth boxes
        detector: evaluate with the boxes that this detector finds (names as in predict), and with ground-truth boxes
            beside
        predictions: evaluate this COCO results file; no model is run
        flip_test: average with the mirrored crop: half as fast, a little more accurate ('reference': as published)
        metrics: coco (AP, PCK by the box), pckh (MPII), pck_torso (LSP), crowdpose, one or several. Default: coco and
            what is usual for the model's keypoints. COCO's numbers are always in metrics.json
        skeleton: keypoints of the annotations where they are not the model's, a built-in name or a YAML file: labels
            are mapped by name
        out: folder for metrics.json and the COCO submission file
        report: folder for report.html: curves, kinds of error, calibration, images
        batch_size: crops per run of the model
        device: auto, cpu, cuda, cuda:1, mps, openvino:GPU, ...; auto by default: a GPU that can be used, else the CPU
        threads: of one run on the CPU; a thread per physical core, at most four, by default
        quiet: print neither the table nor the progress

    Raises:
        ConfigError: a value is out of range, or options do not fit together.
    """

    annotations: str | Path = option(MISSING, metavar="FILE")
    images: str | Path | None = option(metavar="DIR")
    model: ModelSource | None = option(metavar="NAME|FILE")
    teacher: str | Path | None = option(metavar="FILE")
    detections: str | Path | None = option(metavar="FILE")
    detector: DetectorSource | None = option(metavar="NAME")
    predictions: str | Path | None = option(metavar="FILE")
    flip_test: FlipTest = "off"
    metrics: list[Metric] | None = None
    skeleton: str | None = option(metavar="NAME|FILE")
    out: str | Path | None = option(metavar="DIR")
    report: str | Path | None = option(metavar="DIR")
    batch_size: PositiveInt = 32
    device: str | None = None
    threads: PositiveInt | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.predictions is not None:
            names = ["model", "teacher", "detections", "detector", *(["images"] if self.report is None else [])]
            given = [name for name in names if getattr(self, name) is not None]
            given += [] if self.flip_test == "off" else ["flip-test"]
            if given:
                raise ConfigError(
                    f"--predictions is evaluated alone, got --{', --'.join(given)} as well: leave one or the other out"
                )
        elif self.images is None:
            raise ConfigError("expected --images, or --predictions alone, to evaluate: pass one or the other")
        for one, other in (("teacher", "model"), ("detector", "detections")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ConfigError(f"--{one} and --{other} stand for the same thing: pass one of them")
