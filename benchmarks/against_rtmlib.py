"""From JPEG files to poses: this package's defaults beside rtmlib's ``Body`` in its lightweight mode, in one run.

    pip install --no-deps rtmlib   # in an environment of its own: its dependencies bring a second OpenCV
    python benchmarks/against_rtmlib.py ../shared/data/coco_val_dev/images

rtmlib's networks (YOLOX-tiny at 416 x 416, RTMPose-s at 256 x 192) are stood in for by networks of the same number of
multiply-accumulates with random weights: plain 3 x 3 convolutions, which run faster for their number than the
originals' depthwise ones. The detector's answer is constant: three people. The photographs are those in which the
built-in detector finds three people too. Both sides run on ONNX Runtime with the same number of threads and take turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from distilpose import PoseEstimator
from distilpose.data.images import read_image

PEOPLE = 3
MAX_SIDE = 640  # of the photographs
WARM_UP = 2
PAUSE = 0.1  # seconds; the threads of the side before spin for a while after their run
DETECTOR_SIDE, DETECTOR_GMACS = 416, 3.2  # YOLOX-tiny: 6.45 GFLOPs (arXiv:2107.08430)
POSE_HW, POSE_GMACS = (256, 192), 0.68  # RTMPose-s (arXiv:2303.07399)


class Convolutions(nn.Module):
    """3 x 3 convolutions at strides 4 to 32 that cost ``gmacs``, then their mean: (1, 3, H, W) -> (1,)."""

    def __init__(self, size_hw: tuple[int, int], gmacs: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=4, padding=3)
        self.stages = nn.ModuleList()
        cells, channels = size_hw[0] * size_hw[1] / 16, 32
        for _ in range(4):
            cost = cells * 9 * channels**2 / 1e9
            blocks = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(round(gmacs / 4 / cost))]
            self.stages.append(nn.Sequential(*[part for block in blocks for part in (block, nn.ReLU())]))
            self.stages.append(nn.Conv2d(channels, channels * 2, 2, stride=2))
            cells, channels = cells / 4, channels * 2

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x.mean((1, 2, 3))


class ThreePeople(nn.Module):
    """Detections (1, 3, 5) as (x1, y1, x2, y2, score) in pixels of the network's input."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Convolutions((DETECTOR_SIDE, DETECTOR_SIDE), DETECTOR_GMACS)
        rows = [[20.0 + 120 * place, 40.0, 130.0 + 120 * place, 290.0, 0.9] for place in range(PEOPLE)]
        self.register_buffer("people", torch.tensor([rows]))

    def forward(self, images: Tensor) -> Tensor:
        """Run the network; its output does not depend on the image."""
        return self.people + 0 * self.network(images)[:, None, None]


class SimCC(nn.Module):
    """Scores of the columns (1, 17, 384) and rows (1, 17, 512) of 17 keypoints."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Convolutions(POSE_HW, POSE_GMACS)
        self.columns, self.rows = nn.Parameter(torch.randn(1, 17, 384)), nn.Parameter(torch.randn(1, 17, 512))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network."""
        rest = self.network(images)[:, None, None]
        return self.columns + rest, self.rows + rest


def rtmlib_body(folder: Path) -> Any:
    """Build `Body` of rtmlib on the networks that stand in for its own."""
    from rtmlib import Body

    sizes = {"detector": (DETECTOR_SIDE, DETECTOR_SIDE), "pose": POSE_HW}
    for (name, size_hw), network in zip(sizes.items(), (ThreePeople(), SimCC()), strict=True):
        outputs = [f"{name}_{place}" for place in range(2 if name == "pose" else 1)]
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 3, *size_hw),), folder / f"{name}.onnx", dynamo=True, verbose=False,
            input_names=["input"], output_names=outputs,
        )  # fmt: skip
    return Body(
        det=str(folder / "detector.onnx"), det_input_size=(DETECTOR_SIDE, DETECTOR_SIDE),
        pose=str(folder / "pose.onnx"), pose_input_size=(POSE_HW[1], POSE_HW[0]), backend="onnxruntime", device="cpu",
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))  # what ONNX Runtime takes where nobody asks, as rtmlib does not
    estimator = PoseEstimator(threads=threads)
    files = []
    for file in sorted(options.images.glob("*.jpg")):
        image = read_image(file)
        if max(image.shape) <= MAX_SIDE and len(estimator(image).xy) == PEOPLE:
            files.append(file)
    with tempfile.TemporaryDirectory() as folder:
        body = rtmlib_body(Path(folder))
        images = {file: read_image(file) for file in files}
        boxes = {file: estimator.detector([image])[0].boxes_xyxy for file, image in images.items()}

        def bare(file: Path) -> None:
            estimator.detector([images[file]])
            estimator.predictor(images[file], boxes[file])

        ways: dict[str, Callable[[Path], object]] = {
            "this package": estimator,
            "its detector and pose network alone": bare,
            "rtmlib, networks of the same cost": lambda file: body(cv2.imread(str(file))),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.rounds + WARM_UP):
            for file in files:
                for name, run in ways.items():
                    time.sleep(PAUSE)
                    start = time.perf_counter()
                    run(file)
                    if turn >= WARM_UP:
                        times[name].append(time.perf_counter() - start)
    middle = {name: median(values) for name, values in times.items()}
    table = Table("from JPEG to poses", "ms an image", "images/s", "against rtmlib", title=f"{len(files)} photographs")
    slowest = middle["rtmlib, networks of the same cost"]
    for name, seconds in middle.items():
        table.add_row(name, f"{1000 * seconds:.1f}", f"{1 / seconds:.1f}", f"{slowest / seconds:.2f} x")
    Console().print(table)


if __name__ == "__main__":
    main()
