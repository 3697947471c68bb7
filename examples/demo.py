"""Predict people on photographs, then distil a small student on drawn people and compare it with its teacher.

Needs no downloads: the photographs are those of the docs, people are drawn, and the teacher of drawn people lies beside
this file (made by configs/quickstart/teacher.yaml).

    python examples/demo.py --out demo
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distilpose.cli import main as cli
from synthetic_people import write_synthetic_dataset

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "quickstart"
PHOTOGRAPHS = ROOT / "docs" / "images" / "photos"
TEACHER = Path(__file__).parent / "drawn_people_teacher.safetensors"
STUDENTS = {"student_alone": "student, labels alone", "student": "student, distilled"}
SHOWN = ("AP", "AP50", "AR", "PCK@0.2")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for data, runs and images")
    out: Path = parser.parse_args().out
    console = Console()
    start = time.monotonic()
    console.rule("photographs, by the shipped detector and student")
    run("predict", str(PHOTOGRAPHS), "--out", str(out / "photographs"))

    data = out / "data"
    console.print("drawing people ...")
    write_synthetic_dataset(data / "train", 1200, seed=1, max_people=1, uniform=True)
    validation = write_synthetic_dataset(data / "validation", 100, seed=2, max_people=1, uniform=True)

    for name, title in STUDENTS.items():
        console.rule(f"training on drawn people: {title}")
        resume = ["--resume"] if (out / name).exists() else []
        run("train", str(CONFIGS / f"{name}.yaml"), f"--out={out / name}", f"--data.root={data}", *resume)

    console.rule("on 100 drawn images that no model has seen")
    console.print(compare(out, validation))
    console.rule("images of drawn people")
    student = str(out / "student" / "last.safetensors")
    images = sorted((data / "validation" / "images").iterdir())[:8]
    boxes = ["--boxes", str(validation), "--annotations", str(validation)]
    run("predict", *map(str, images), "--model", student, *boxes, "--out", str(out / "drawn_people"))
    console.print(f"done in {time.monotonic() - start:.0f} s; look at {out / 'photographs'} and {out / 'drawn_people'}")


def run(*arguments: str) -> None:
    """Run a ``distilpose`` command as a user would, and stop when it fails."""
    code = cli.main(arguments)
    if code != 0:
        raise SystemExit(code)


def compare(out: Path, validation: Path) -> Table:
    """Evaluate students and teacher alike."""
    table = Table("model", *(f"{name} x 100" for name in SHOWN))
    models = {title: out / name / "last.safetensors" for name, title in STUDENTS.items()} | {"teacher": TEACHER}
    for title, model in models.items():
        folder = out / "evaluation" / model.parent.name
        run("evaluate", "--model", str(model), "--annotations", str(validation), "--images",
            str(validation.parent / "images"), "--out", str(folder), "--quiet")  # fmt: skip
        metrics = json.loads((folder / "metrics.json").read_text())
        table.add_row(title, *(f"{100 * metrics[key]:.1f}" for key in SHOWN))
    return table


if __name__ == "__main__":
    main()
