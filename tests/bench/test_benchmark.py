"""The benchmark: what it derives is right, and the command writes every figure."""

from __future__ import annotations

import json

import pytest

from distilpose import cli
from distilpose.bench.benchmark import Measurement, measure_peak


def test_share_of_peak_by_hand() -> None:
    # 10 per second of 2 GMACs are 40 GFLOP/s.
    assert Measurement("x", 10, 2, 160).share_of_peak == pytest.approx(0.25)
    assert Measurement("x", 10, 0, 160).share_of_peak is None


def test_peak_is_a_speed() -> None:
    assert measure_peak() > 0.1


@pytest.mark.slow
def test_the_command_prints_and_writes_every_figure(tmp_path, capsys) -> None:
    assert cli.main(["benchmark", "--json", str(tmp_path / "b.json")]) == 0
    figures = json.loads((tmp_path / "b.json").read_text())["figures"]
    out = capsys.readouterr().out
    assert len(figures) == 8
    for figure in figures:
        assert figure["per_second"] > 0
        assert figure["name"] in out
        assert figure["share_of_peak"] is None or 0 < figure["share_of_peak"] < 1.5
