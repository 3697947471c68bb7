"""Accuracy against speed: the front by hand, a finished ladder read and timed, a picture of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilpose import cli
from distilpose.bench.inference_speed import Speed, measure_speeds, speed_ratios
from distilpose.bench.ladder import LadderStep, ladder_table, measure_ladder, pareto_front, plot_ladder
from distilpose.bench.measure import Peaks
from distilpose.checkpoint import save_checkpoint
from distilpose.errors import ConfigError
from distilpose.images import read_image
from distilpose.models import create_model

PEAKS = Peaks(torch=100, onnxruntime=200, openvino=190)


def step(name: str, ap: float, milliseconds: float) -> LadderStep:
    speed = Speed(name, "onnxruntime", "float32", 5_000_000, 1, 20, 300, {1: milliseconds / 1000}, PEAKS)
    return LadderStep(name, ap, 2 * ap, speed)


def test_front_by_hand() -> None:
    steps = [step("slow and worse", 0.2, 9), step("best", 0.4, 8), step("tie", 0.3, 5), step("middle", 0.3, 4)]
    steps.append(step("fast", 0.1, 1))
    assert [s.name for s in pareto_front(steps)] == ["fast", "middle", "best"]
    columns = {str(column.header): list(column.cells) for column in ladder_table(steps).columns}
    assert columns["student"] == ["fast", "middle", "tie", "best", "slow and worse"]
    assert columns["front"] == ["yes", "yes", "no", "yes", "no"]
    assert columns["ms"][0] == "1.00"


def test_picture(tmp_path: Path) -> None:
    plot_ladder([step("a", 0.1, 2), step("b", 0.3, 5)], tmp_path / "ladder.png")
    assert read_image(tmp_path / "ladder.png").std() > 5


def test_a_finished_ladder_is_read_and_timed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out folder of a 'distilpose ablate'"):
        measure_ladder(tmp_path)
    table = tmp_path / "ablation.csv"
    table.write_text("rung,seeds,AP,PCK@0.2\nTiny & light,1,0.25,0.5\nteacher,1,0.5,0.75\n")
    with pytest.raises(ConfigError, match="no trained rung"):
        measure_ladder(tmp_path)
    model = create_model("distilpose_t", input_size_hw=(32, 24), depth=1)
    save_checkpoint(model.eval(), tmp_path / "tiny_light" / "seed0" / "last.safetensors")
    (found,) = measure_ladder(tmp_path, rounds=1)
    assert (found.name, found.ap, found.pck) == ("Tiny & light", 0.25, 0.5)
    assert found.speed.runtime == "onnxruntime"
    assert 0 < found.milliseconds < 1000


def test_light_students_are_held_against_the_published_graph() -> None:
    def speed(model: str, variant: str, seconds: float) -> Speed:
        return Speed(model, "onnxruntime", variant, 1, 1, 1, 1, {1: seconds}, PEAKS)

    speeds = [speed("distilpose_s", "float32", 0.06), speed("distilpose_s", "not rewritten", 0.08)]
    ratios = {r.what: r.by_batch[1] for r in speed_ratios([*speeds, speed("distilpose_t", "float32", 0.01)])}
    assert ratios["distilpose_t against distilpose_s, onnxruntime, float32"] == pytest.approx(6)
    assert ratios["distilpose_t against distilpose_s not rewritten, onnxruntime, float32"] == pytest.approx(8)


def test_only_the_named_runtimes_are_run(capsys: pytest.CaptureFixture[str]) -> None:
    ways = [
        (speed.model, speed.runtime, speed.variant)
        for speed in measure_speeds(["distilpose_t"], runtimes=["torch"], batches=[1], rounds=1)
    ]
    assert ways == [("distilpose_t", "torch", "float32")]
    assert cli.main(["benchmark", "--models", "distilpose_t", "--runtimes", "abacus"]) == 1
    assert "runtimes must be among onnxruntime, openvino, torch" in capsys.readouterr().err
