"""Install the built wheel into an empty environment, predict a photograph with it, and say what it costs.

python tools/check_dist.py dist
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "docs" / "images" / "photos" / "000000085772.jpg"


def main() -> None:
    """Check the one wheel of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("dist"))
    folder: Path = parser.parse_args().folder
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"expected one wheel in {folder}, found {len(wheels)}: remove the old ones")
    (wheel,) = wheels
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as place:
        empty = Path(place) / "environment"
        venv.create(empty, with_pip=True)
        python = empty / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        before, start = size(empty), time.monotonic()
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        run(
            python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, str(wheel.resolve())
        )
        seconds = time.monotonic() - start
        listed = json.loads(run(python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
        packages = [item["name"] for item in listed if item["name"] != "pip"]
        print(f"installed in {seconds:.0f} s: {len(packages)} packages, {(size(empty) - before) / 1e6:.0f} MB")
        start = time.monotonic()
        run(python, "-m", "distilpose", "predict", str(PHOTO), "--out", str(Path(place) / "poses"), cwd=place)
        print(f"first prediction, from the shell: {time.monotonic() - start:.1f} s")
        people = json.loads((Path(place) / "poses" / "predictions.json").read_text(encoding="utf-8"))
        if not people:
            sys.exit(f"the installed wheel found nobody in {PHOTO}")
        print(f"people found: {len(people)}")


def run(*command: object, cwd: str | None = None) -> str:
    """Run a command and return its output; end the check with what it said when it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


if __name__ == "__main__":
    main()
