"""Predict with the shipped student, then distil a small student on drawn people and compare it with its teacher.

Needs no downloads: people are drawn, and the photograph is the sample that matplotlib installs.

    python examples/demo.py --out demo
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table

from distilpose.cli import main as cli
from synthetic_people import write_synthetic_dataset

CONFIGS = Path(__file__).parent.parent / "configs" / "quickstart"
RUNS = {"student_alone": "student alone", "teacher": "teacher (heatmaps)", "student": "student distilled"}
NEEDS = {
    "teacher": {"--init": "student_alone"},
    "student": {"--teacher": "teacher", "--init": "teacher"},
}
SHOWN = ("AP", "AP50", "AR", "PCK@0.2")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for data, runs and images")
    out: Path = parser.parse_args().out
    console = Console()
    start = time.monotonic()
    console.rule("a photograph, by the shipped student")
    photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    run("predict", str(photograph), "--detector", "whole-image", "--out", str(out / "photograph"))

    data = out / "data"
    console.print("drawing people ...")
    write_synthetic_dataset(data / "train", 1200, seed=1, max_people=1, uniform=True)
    validation = write_synthetic_dataset(data / "validation", 100, seed=2, max_people=1, uniform=True)

    for name in RUNS:
        console.rule(RUNS[name])
        arguments = [f"--out={out / name}", f"--data.root={data}"]
        arguments += [f"{option}={out / other / 'last.safetensors'}" for option, other in NEEDS.get(name, {}).items()]
        run("train", str(CONFIGS / f"{name}.yaml"), *arguments, *(["--resume"] if (out / name).exists() else []))

    console.rule("on 100 drawn images that no model has seen")
    console.print(compare(out, validation))
    console.rule("images of drawn people")
    student = str(out / "student" / "last.safetensors")
    images = sorted((data / "validation" / "images").iterdir())[:8]
    boxes = ["--boxes", str(validation), "--annotations", str(validation)]
    run("predict", *map(str, images), "--model", student, *boxes, "--out", str(out / "drawn_people"))
    console.print(f"done in {time.monotonic() - start:.0f} s; look at {out / 'photograph'} and {out / 'drawn_people'}")


def run(*arguments: str) -> None:
    """Run a ``distilpose`` command as a user would, and stop when it fails."""
    code = cli.main(arguments)
    if code != 0:
        raise SystemExit(code)


def compare(out: Path, validation: Path) -> Table:
    """Evaluate the three models alike."""
    table = Table("model", *(f"{name} x 100" for name in SHOWN))
    for name, title in RUNS.items():
        folder = out / name / "evaluation"
        model = str(out / name / "last.safetensors")
        run("evaluate", "--model", model, "--annotations", str(validation), "--images",
            str(validation.parent / "images"), "--out", str(folder), "--quiet")  # fmt: skip
        metrics = json.loads((folder / "metrics.json").read_text())
        table.add_row(title, *(f"{100 * metrics[key]:.1f}" for key in SHOWN))
    return table


if __name__ == "__main__":
    main()
