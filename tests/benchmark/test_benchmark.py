"""The benchmark: what it derives is right, and the command writes every figure."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.benchmark.benchmark import (
    DEFAULT_BACKENDS,
    VARIANTS,
    Measurement,
    measure,
    measurements_table,
    run_worker,
)
from distilpose.benchmark.measure import Complexity, _product, highest_peak, measure_complexity, measure_peak
from distilpose.benchmark.options import BenchmarkOptions
from distilpose.cli import main as cli
from distilpose.errors import ConfigError, DistilPoseError
from distilpose.evaluation.evaluate import evaluate_model
from distilpose.models import PoseModel, create_model
from synthetic_people import write_synthetic_dataset


@pytest.fixture(autouse=True, scope="module")
def smaller_products() -> Iterator[None]:
    """A side of 1024: an eighth of the work, and fast enough to be a speed of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilpose.benchmark.measure.PEAK_SIDE", 1024)
        yield
    _product.cache_clear()


def test_peak_is_a_speed() -> None:
    assert measure_peak() > 0.1
    assert highest_peak() > 0.5 * measure_peak(), "of all libraries, torch among them"


def test_speeds_by_hand() -> None:
    cost = Complexity(5_000_000, 2.4, 2.5)
    plain = Measurement("distilpose_s", "openvino", "float32", cost, 20, 300, {1: 0.05, 8: 0.32}, peak=200)
    assert plain.milliseconds_per_crop(8) == pytest.approx(40)
    # 5 GFLOP in 50 ms are 100 GFLOP/s, half of the peak.
    assert plain.share_of_peak(1) == pytest.approx(0.5)
    int8 = Measurement("distilpose_s", "openvino", "int8", cost, 6, None, {1: 0.05}, 200, {"AP": 0.5, "PCK@0.2": None})
    foreign = Measurement("other.onnx", "onnxruntime", "float32", None, 20, 300, {1: 0.05, 8: 0.32}, peak=200)
    assert int8.share_of_peak(1) is foreign.share_of_peak(1) is None
    assert plain.to_dict()["milliseconds_per_crop"] == {1: pytest.approx(50), 8: pytest.approx(40)}
    assert measurements_table([int8]).row_count == 2


def test_a_worker_answers_from_its_own_process(tmp_path: Path) -> None:
    model = create_model("distilpose_s", input_size_hw=(32, 24), depth=1)
    path = save_checkpoint(model, tmp_path / "small.safetensors")
    answer = run_worker(path, [1, 2], device="cpu", threads=1)
    assert re.fullmatch(r"torch \S+ on cpu, 1 threads, float32", answer["runtime"])
    assert set(answer["seconds"]) == {"1", "2"}
    assert min(answer["seconds"].values()) > 0
    assert answer["peak_megabytes"] is None or answer["peak_megabytes"] > 50
    with pytest.raises(DistilPoseError, match="is not a file"):
        run_worker(tmp_path / "missing.onnx", [1])


def test_rows_come_one_by_one_and_are_evaluated_like_the_model(
    small_model: PoseModel, small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"runtime": "one", "seconds": {"2": 0.1}, "peak_megabytes": 90}  # of a worker, which has its own test
    monkeypatch.setattr("distilpose.benchmark.benchmark.run_worker", lambda *_, **__: answer)
    checkpoint = save_checkpoint(small_model, tmp_path / "small.safetensors")
    people = write_synthetic_dataset(tmp_path / "people", 4)
    options = BenchmarkOptions(
        [checkpoint, small_onnx, "distilpose_t"],
        backends=["torch"],
        annotations=people,
        images=people.parent / "images",
        rounds=1,
        json=tmp_path / "b.json",
    )
    turns = list(measure(options, batches=[2]))
    assert [len(rows) for rows in turns] == [1, 2, 3, 3, 3]
    slow, fast, preset = turns[-1]
    assert (slow.backend, fast.backend, preset.backend) == ("torch", "onnxruntime", "torch")
    assert slow.complexity == fast.complexity == measure_complexity(small_model)
    assert fast.file_megabytes == pytest.approx(small_onnx.stat().st_size / 1e6)
    expected = evaluate_model(small_model, people, people.parent / "images")
    for row in (slow, fast):
        assert row.accuracy["AP"] == pytest.approx(expected.metrics["AP"], abs=1e-3)
        assert row.accuracy["PCK@0.2"] == pytest.approx(expected.per_joint["all"].pck, abs=0.02)
    assert preset.accuracy == {}, "a preset is not trained"
    written = json.loads((tmp_path / "b.json").read_text())
    assert [row["model"] for row in written] == [str(checkpoint), str(small_onnx), "distilpose_t"]


def test_wrong_options_are_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--annotations and --images together"):
        BenchmarkOptions(annotations="people.json")
    assert cli.main(["benchmark", "--models", "missing.onnx"]) == 1
    assert "is not a file" in capsys.readouterr().err
    assert cli.main(["benchmark", "--models", "resnet.pth"]) == 1
    assert "resnet.pth" in capsys.readouterr().err


def test_a_missing_package_is_told_before_anything_is_measured(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"litert_torch.*pip install"):
        next(
            measure(
                BenchmarkOptions(models=["distilpose_mobilenet"], backends=["onnxruntime", "litert"]), say=said.append
            )
        )
    assert said == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_prints_and_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = write_synthetic_dataset(tmp_path / "people", 24)
    files = ["--annotations", str(people), "--images", str(people.parent / "images"), "--calibration", str(people)]
    assert cli.main(["benchmark", "--rounds", "1", *files, "--json", str(tmp_path / "b.json")]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())
    said = capsys.readouterr()
    assert "openvino, bfloat16" in said.out
    rows_as_they_come = [line for line in said.err.splitlines() if "ms a crop in batches of 8" in line]
    expected = [(backend, numbers) for backend, numbers in VARIANTS if backend in DEFAULT_BACKENDS]
    assert len(rows_as_they_come) == len(expected)
    assert [(row["backend"], row["numbers"]) for row in rows] == expected
    for row in rows:
        assert min(row["seconds"].values()) > 0
        assert row["share_of_peak"]["1"] is None or 0 < row["share_of_peak"]["1"] < 1.2
        assert row["accuracy"]["AP"] == pytest.approx(rows[0]["accuracy"]["AP"], abs=0.05)


def test_without_a_terminal_each_figure_is_told_when_it_is_there(monkeypatch, capsys) -> None:
    first = Measurement("a.onnx", "onnxruntime", "float32", None, 20, 300, {1: 0.05, 8: 0.32}, peak=200)
    second = Measurement("b.onnx", "onnxruntime", "float32", None, 20, 300, {1: 0.02, 8: 0.08}, peak=200)
    told: list[str] = []

    def fake(options: BenchmarkOptions, *, say):
        say("a.onnx")
        yield [first]
        told.append(capsys.readouterr().err)
        yield [first, second]
        told.append(capsys.readouterr().err)
        yield [replace(first, accuracy={"AP": 0.5, "AR": 0.547, "PCK@0.2": None}), second]
        told.append(capsys.readouterr().err)

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("distilpose.benchmark.benchmark.measure", fake)
    assert cli.main(["benchmark", "--models", "a.onnx", "b.onnx"]) == 0
    assert told[0].splitlines() == [
        "measuring a.onnx ...",
        "a.onnx, onnxruntime, float32: 50.0 ms a crop in batches of 1, 40.0 ms a crop in batches of 8",
    ]
    assert told[1].splitlines() == [
        "b.onnx, onnxruntime, float32: 20.0 ms a crop in batches of 1, 10.0 ms a crop in batches of 8"
    ]
    assert told[2].splitlines() == ["a.onnx, onnxruntime, float32: AP 50.0, AR 54.7"]
    assert "…" not in capsys.readouterr().out, "the table of a pipe is not cut to 80 columns"
