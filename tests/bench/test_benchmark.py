"""The benchmark: what it derives is right, and the command writes every figure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from distilpose import cli
from distilpose.bench import accuracy as exported
from distilpose.bench import training_speed
from distilpose.bench.complexity import measure_complexity
from distilpose.bench.inference_speed import BEFORE, WAYS, Speed, Way, measure_files, run_worker, speed_ratios
from distilpose.bench.measure import Measurement, Peaks, measure_peak, measure_peaks
from distilpose.bench.plot import plot_accuracy_against_speed
from distilpose.bench.training_speed import PARTS, TOGETHER, VARIANTS, StepOptions, measure_step, textbook_encoder
from distilpose.checkpoint import save_checkpoint
from distilpose.data.synthetic import write_synthetic_dataset
from distilpose.errors import ConfigError, DistilPoseError
from distilpose.export.export import export_model
from distilpose.images import read_image
from distilpose.models import create_model


def test_share_of_peak_by_hand() -> None:
    # 10 per second of 2 GMACs are 40 GFLOP/s.
    assert Measurement("x", 10, 2, 160).share_of_peak == pytest.approx(0.25)
    assert Measurement("x", 10, 0, 160).share_of_peak is None


def test_peak_is_a_speed() -> None:
    assert measure_peak() > 0.1
    peaks = measure_peaks()
    assert min(peaks) > 0.1
    assert peaks.highest == max(peaks)


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


def test_ratios_by_hand() -> None:
    ratios = speed_ratios(
        [
            speed("distilpose_s", "openvino", "float32", 0.05, 0.32),
            speed("distilpose_s", "openvino", "int8", 0.02, 0.08),
            speed("distilpose_s", "torch", "textbook", 0.1, 0.8),
            speed("tokenpose_l", "openvino", "float32", 0.3, 1.6),
        ]
    )
    assert {ratio.what: ratio.by_batch for ratio in ratios} == {
        "distilpose_s against tokenpose_l, openvino, float32": pytest.approx({1: 6, 8: 5}),
        "distilpose_s, openvino: int8 against float32": pytest.approx({1: 2.5, 8: 4}),
        "distilpose_s: openvino int8 against torch textbook": pytest.approx({1: 5, 8: 10}),
    }


def test_a_worker_answers_from_its_own_process(tmp_path) -> None:
    model = create_model("distilpose_s", input_size_hw=(32, 24), depth=1)
    path = save_checkpoint(model, tmp_path / "small.safetensors")
    for way in (Way("torch", "float32"), Way("torch", "textbook", textbook=True)):
        answer = run_worker(path, way, [1, 2])
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


def test_the_textbook_computes_the_same() -> None:
    model = create_model("distilpose_s", input_size_hw=(64, 48), depth=2).eval()
    images = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        expected = model(images)
        with textbook_encoder():
            found = model(images)
    torch.testing.assert_close(found.xy_norm, expected.xy_norm, rtol=1e-4, atol=1e-5)


def test_the_plot_is_a_picture(tmp_path) -> None:
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
    assert cli.main(["benchmark", "--models", "distilpose_s", "--profile", "--training", *with_accuracy, *files]) == 0
    content = json.loads((tmp_path / "b.json").read_text())
    out = capsys.readouterr().out
    assert len(content["inference"]) == len(WAYS) + len(BEFORE)
    assert len(content["figures"]) == 4 + 2 * len(VARIANTS)
    assert len(content["accuracy"]) == len(exported.WAYS)
    assert {row["runtime"] for row in content["end_to_end"]} == {"torch", "onnxruntime", "openvino"}
    assert all(0.3 < row["share_of_bare"] < 1.3 for row in content["end_to_end"])
    for figure in content["figures"]:
        assert figure["per_second"] > 0
        assert figure["name"] in out
    for row in content["inference"]:
        assert min(row["seconds"].values()) > 0
        assert row["share_of_peak"]["1"] is None or 0 < row["share_of_peak"]["1"] < 1.2
    assert len(content["profiles"]) == 4
    assert (tmp_path / "b.png").exists()
