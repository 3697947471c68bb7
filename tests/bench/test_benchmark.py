"""The benchmark: what it derives is right, and the command writes every figure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from distilpose import cli
from distilpose.bench import training_speed
from distilpose.bench.measure import Measurement, measure_peak
from distilpose.bench.training_speed import PARTS, TOGETHER, VARIANTS, StepOptions, measure_step


def test_share_of_peak_by_hand() -> None:
    # 10 per second of 2 GMACs are 40 GFLOP/s.
    assert Measurement("x", 10, 2, 160).share_of_peak == pytest.approx(0.25)
    assert Measurement("x", 10, 0, 160).share_of_peak is None


def test_peak_is_a_speed() -> None:
    assert measure_peak() > 0.1


def test_parts_of_a_step_add_up_and_a_stored_teacher_is_not_counted() -> None:
    plain = measure_step("plain", (32, 24), StepOptions(), steps=2)
    stored = measure_step("stored", (32, 24), StepOptions(stored_teacher=True), steps=2)
    assert len(plain.seconds) == len(PARTS)
    assert 16 / plain.speed.per_second == pytest.approx(sum(plain.seconds), rel=0.5)
    assert stored.seconds[0] < plain.seconds[0]
    assert stored.speed.gmacs == pytest.approx(plain.speed.gmacs * 3 / 4, rel=0.05)


def test_every_way_of_stepping_computes_the_same() -> None:
    # After equal steps from equal weights, the float32 ways agree.
    def weights_after(options: StepOptions) -> torch.Tensor:
        torch.manual_seed(0)
        step = training_speed._Step((32, 24), options)
        with training_speed._attention(options.fused_attention):
            step.run()
        return torch.cat([p.detach().flatten() for p in step._student.parameters()])

    plain = weights_after(StepOptions())
    for options in (TOGETHER, replace(TOGETHER, stored_teacher=True)):
        # Adam's first step is the sign of the gradient: tiny differences may flip a few near zero.
        assert ((weights_after(options) - plain).abs() > 1e-4).float().mean() < 0.01


@pytest.mark.slow
def test_the_command_prints_and_writes_every_figure(tmp_path, capsys) -> None:
    assert cli.main(["benchmark", "--json", str(tmp_path / "b.json")]) == 0
    figures = json.loads((tmp_path / "b.json").read_text())["figures"]
    out = capsys.readouterr().out
    assert len(figures) == 8 + 2 * len(VARIANTS)
    for figure in figures:
        assert figure["per_second"] > 0
        assert figure["name"] in out
        assert figure["share_of_peak"] is None or 0 < figure["share_of_peak"] < 1.5
