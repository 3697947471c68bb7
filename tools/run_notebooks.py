"""Run the notebooks of a folder and keep their outputs in them.

python tools/run_notebooks.py examples [predict distil ...]
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

LARGEST = 300_000  # bytes of a committed notebook
_PROGRESS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_notebook(path: Path) -> float:
    """Execute a notebook where it lies, write its outputs, and return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    seconds = time.monotonic() - start
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this run
        kept = []
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":  # logs and progress
                continue
            if output.output_type == "stream":
                output["text"] = _PROGRESS.sub("", output["text"])
            kept.append(output)
        if cell.cell_type == "code":
            cell["outputs"] = kept
    nbformat.write(notebook, path)
    if path.stat().st_size > LARGEST:
        sys.exit(f"{path} has {path.stat().st_size} bytes with its outputs, at most {LARGEST} are allowed: show less")
    return seconds


def main() -> None:
    """Run those named, or all."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    shutil.rmtree(folder / "notebook_runs", ignore_errors=True)
    for path in sorted(folder.glob("*.ipynb")):
        if not names or path.stem in names:
            print(f"{path}: {run_notebook(path):.0f} s", flush=True)


if __name__ == "__main__":
    main()
