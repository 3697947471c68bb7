"""Draw people to train on, with their annotations, and 100 others to measure on.

python examples/draw_people.py --out demo/teacher_data                           # those of the demo's teacher
python examples/draw_people.py --out demo/data --images 1200 --seed 1            # those of the demo's students
"""

from __future__ import annotations

import argparse
from pathlib import Path

from synthetic_people import write_synthetic_dataset


def main() -> None:
    """Write both sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/teacher_data"), help="folder, made if missing")
    parser.add_argument("--images", type=int, default=6000, help="number of images to train on")
    parser.add_argument("--seed", type=int, default=11, help="of the images to train on")
    args = parser.parse_args()
    out: Path = args.out
    write_synthetic_dataset(out / "train", args.images, seed=args.seed, max_people=1, uniform=True)
    write_synthetic_dataset(out / "validation", 100, seed=2, max_people=1, uniform=True)


if __name__ == "__main__":
    main()
