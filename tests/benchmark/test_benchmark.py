"""The benchmark: what it derives is right, and the command writes every figure."""

from __future__ import annotations

import json

import pytest

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.benchmark import accuracy as exported
from distilpose.benchmark.complexity import measure_complexity
from distilpose.benchmark.inference_speed import WAYS, Speed, Way, measure_files, run_worker
from distilpose.benchmark.measure import Peaks, measure_peak, measure_peaks
from distilpose.benchmark.plot import plot_accuracy_against_speed
from distilpose.cli import main as cli
from distilpose.data.images import read_image
from distilpose.data.synthetic import write_synthetic_dataset
from distilpose.errors import ConfigError, DistilPoseError
from distilpose.export.export import export_model
from distilpose.models import create_model


def test_peak_is_a_speed() -> None:
    assert measure_peak() > 0.1
    peaks = measure_peaks()
    assert min(peaks) > 0.1
    assert peaks.highest == max(peaks)


PEAKS = Peaks(torch=100, onnxruntime=200, openvino=190)


def speed(model: str, runtime: str, variant: str, batch_1: float, batch_8: float) -> Speed:
    return Speed(model, runtime, variant, 5_000_000, 2.5, 20, 300, {1: batch_1, 8: batch_8}, PEAKS)


def test_speeds_by_hand() -> None:
    plain = speed("distilpose_s", "openvino", "float32", 0.05, 0.32)
    assert plain.milliseconds_per_crop(8) == pytest.approx(40)
    # 5 GFLOP in 50 ms are 100 GFLOP/s, half of what ONNX Runtime's product reaches.
    assert plain.share_of_peak(1) == pytest.approx(0.5)
    assert speed("distilpose_s", "openvino", "int8", 0.05, 0.32).share_of_peak(1) is None
    assert plain.to_dict()["crops_per_second"] == {1: pytest.approx(20), 8: pytest.approx(25)}


def test_a_worker_answers_from_its_own_process(tmp_path) -> None:
    model = create_model("distilpose_s", input_size_hw=(32, 24), depth=1)
    path = save_checkpoint(model, tmp_path / "small.safetensors")
    answer = run_worker(path, Way("torch", "float32"), [1, 2])
    assert set(answer["seconds"]) == {"1", "2"}
    assert min(answer["seconds"].values()) > 0
    assert answer["peak_megabytes"] is None or answer["peak_megabytes"] > 50
    with pytest.raises(DistilPoseError, match="is not a file"):
        run_worker(tmp_path / "missing.onnx", Way("onnxruntime", "float32"), [1])


def test_files_are_timed_in_the_runtime_of_their_suffix(tmp_path, capsys) -> None:
    model = create_model("distilpose_s", input_size_hw=(32, 24), depth=1).eval()
    checkpoint = save_checkpoint(model, tmp_path / "small.safetensors")
    exported = export_model(model, tmp_path / "small.onnx", format="onnx").files[0]
    slow, fast = measure_files([checkpoint, exported], batches=[2], rounds=1)
    assert (slow.runtime, fast.runtime) == ("torch", "onnxruntime")
    assert slow.gmacs == fast.gmacs == pytest.approx(measure_complexity(model).gmacs)
    assert fast.file_megabytes == pytest.approx(exported.stat().st_size / 1e6)
    assert cli.main(["benchmark", "--files", str(tmp_path / "missing.onnx")]) == 1
    assert "is not a file" in capsys.readouterr().err


def test_the_plot_is_an_image(tmp_path) -> None:
    speeds = [speed("distilpose_s", "openvino", "float32", 0.05, 0.3), speed("tokenpose_s", "torch", "int8", 0.1, 0.7)]
    plot_accuracy_against_speed(speeds, tmp_path / "speed.png")
    assert read_image(tmp_path / "speed.png").std() > 5
    with pytest.raises(ConfigError, match="which have a published AP: add it"):
        plot_accuracy_against_speed([speed("distilpose_m", "torch", "float32", 1, 1)], tmp_path / "none.png")


def test_wrong_options_are_refused_before_anything_is_measured(capsys) -> None:
    assert cli.main(["benchmark", "--models", "resnet"]) == 1
    assert "models must be among deeppose_r18" in capsys.readouterr().err
    assert cli.main(["benchmark", "--annotations", "people.json"]) == 1
    assert "--annotations and --images together" in capsys.readouterr().err
    assert cli.main(["benchmark", "--annotations", "people.json", "--images", "images"]) == 1
    assert "name --calibration" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_prints_and_writes_every_figure(tmp_path, capsys) -> None:
    people = write_synthetic_dataset(tmp_path / "people", 24)
    with_accuracy = [
        "--annotations",
        str(people),
        "--images",
        str(people.parent / "images"),
        "--calibration",
        str(people),
    ]
    files = ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]
    assert cli.main(["benchmark", "--models", "distilpose_s", *with_accuracy, *files]) == 0
    content = json.loads((tmp_path / "b.json").read_text())
    capsys.readouterr()
    assert len(content["inference"]) == len(WAYS)
    assert len(content["accuracy"]) == len(exported.WAYS)
    assert {row["runtime"] for row in content["end_to_end"]} == {"torch", "onnxruntime", "openvino"}
    assert all(0.3 < row["share_of_bare"] < 1.3 for row in content["end_to_end"])
    for row in content["inference"]:
        assert min(row["seconds"].values()) > 0
        assert row["share_of_peak"]["1"] is None or 0 < row["share_of_peak"]["1"] < 1.2
    assert (tmp_path / "b.png").exists()
