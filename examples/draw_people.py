"""Draw the people that the teacher of the demo was trained on.

python examples/draw_people.py --out demo/teacher_data
"""

from __future__ import annotations

import argparse
from pathlib import Path

from synthetic_people import write_synthetic_dataset


def main() -> None:
    """Write 6,000 images to train on and the 100 of the demo to measure on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/teacher_data"), help="folder, made if missing")
    out: Path = parser.parse_args().out
    write_synthetic_dataset(out / "train", 6000, seed=11, max_people=1, uniform=True)
    write_synthetic_dataset(out / "validation", 100, seed=2, max_people=1, uniform=True)


if __name__ == "__main__":
    main()
