"""The scripts of ``benchmarks/`` start, and their options are those that they read."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from distilpose.backends.loading import DEFAULT_MODEL

SCRIPTS = sorted(Path(__file__).parents[2].joinpath("benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_start(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if "__main__" in script.read_text():
        monkeypatch.setattr(sys, "argv", [str(script), "--help"])
        monkeypatch.syspath_prepend(script.parent)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(script), run_name="__main__")
        assert not stop.value.code
        assert "usage:" in capsys.readouterr().out


@pytest.mark.slow
def test_short_runs_print_their_tables(tmp_path: Path) -> None:
    """Those that need neither a video nor labeled photographs."""

    def run(name: str, *arguments: str) -> str:
        command = [sys.executable, SCRIPTS[0].parent / f"{name}.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "crossings" in run("tracking_and_smoothing", "--seeds", "1", "--seconds", "2")
    training = run("training_speed", "--steps", "1", "--variants", "plain loop", "--sizes", "128x96")
    assert "plain loop" in training
    assert "requests/s" in run("server_load", DEFAULT_MODEL, "--rounds", "1", "--requests", "8", "--clients", "2")
