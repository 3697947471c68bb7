"""The scripts of ``benchmarks/`` start, and their options are those that they read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(Path(__file__).parents[2].joinpath("benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_start(script: Path) -> None:
    if "__main__" in script.read_text():
        done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
        assert "usage:" in done.stdout
