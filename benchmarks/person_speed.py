"""Milliseconds from a photograph in memory and a box to the pose of one person, model beside model.

    python benchmarks/person_speed.py distilpose_mobilenet int8.onnx movenet_lightning_heatmaps.onnx

Cutting the crop, the network and its decoding are measured. The models take turns, so that what else runs on the
machine slows all of them. Ratios are to the last model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distilpose import PosePredictor
from distilpose.data.images import read_image
from distilpose.detection.detectors import create_detector

PHOTO = Path(__file__).parents[1] / "docs" / "images" / "photos" / "000000173830.jpg"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names or files, as distilpose predict takes them")
    parser.add_argument("--image", type=Path, default=PHOTO, help="of at least one person")
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--threads", type=int, help="of ONNX Runtime")
    options = parser.parse_args()
    image = read_image(options.image)
    box = create_detector("auto")([image])[0].boxes_xyxy[:1]
    predictors = {name: PosePredictor(name, threads=options.threads) for name in options.models}
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for turn in range(options.turns + 10):
        for name, predictor in predictors.items():
            start = time.perf_counter()
            predictor(image, box)
            if turn >= 10:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    last = medians[options.models[-1]]
    table = Table("model", "ms, median", f"ratio to {Path(options.models[-1]).name}")
    for name, value in medians.items():
        table.add_row(Path(name).name, f"{value:.1f}", f"{value / last:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
