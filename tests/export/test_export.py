"""The exported file is the same model, says what it is, and is refused when it is not one of ours."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import distilpose
from distilpose.backends.base import runtime_of
from distilpose.backends.checkpoint import describe
from distilpose.backends.description import ModelDescription
from distilpose.backends.exported import OnnxRuntimeBackend, OpenVinoBackend
from distilpose.backends.loading import as_backend, load_model
from distilpose.cli import main as cli
from distilpose.data.images import write_image
from distilpose.data.preprocess import network_input
from distilpose.errors import CheckpointError, ConfigError, InputError
from distilpose.export import export
from distilpose.export.export import calibration_crops, export_model
from distilpose.models import PoseModel, create_model
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.skeletons import Skeleton

Exported = Callable[..., Path]
FORMATS = ("onnx", "openvino")


def arrays(output: Any) -> list[NDArray[np.float32]]:
    kept = output._replace(keypoint_tokens=None, visual_tokens=None)
    return [value for value in kept if value is not None]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["student", pytest.param("teacher", marks=pytest.mark.slow)])
def test_same_numbers_on_any_batch(exported: Exported, request: Any, kind: str, format: str) -> None:
    model = request.getfixturevalue(kind)
    backend, torch_backend = as_backend(exported(kind, format)), as_backend(model)
    for batch in (1, 2, 5, 9):
        images = np.random.default_rng(batch).standard_normal((batch, 3, 64, 48)).astype(np.float32)
        found, expected = backend(images), torch_backend(images)
        assert type(found) is type(expected) is (PoseOutput if kind == "student" else HeatmapOutput)
        for ours, theirs in zip(arrays(found), arrays(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_describes_itself(exported: Exported, student: PoseModel, format: str) -> None:
    backend = load_model(exported("student", format))
    assert isinstance(backend, OnnxRuntimeBackend if format == "onnx" else OpenVinoBackend)
    told = describe(student)
    assert backend.description == replace(told, options=dict(backend.description.options))
    rebuilt = create_model(backend.description.model, **backend.description.options)
    assert describe(rebuilt) == told
    assert load_model(exported("student", format, "int8")).description.precision == "int8"
    assert load_model(exported("student", format, uint8_input=True)).description.normalization is None


@pytest.mark.parametrize("format", FORMATS)
def test_uint8_input_gives_the_same(exported: Exported, crops: NDArray[np.uint8], format: str) -> None:
    plain, pixels = as_backend(exported("student", format)), as_backend(exported("student", format, uint8_input=True))
    found = pixels(network_input(crops[:4], None))
    expected = plain(network_input(crops[:4], plain.description.normalization))
    for ours, theirs in zip(arrays(found), arrays(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_half_weights_and_int8(exported: Exported, student: PoseModel, crops: NDArray[np.uint8], format: str) -> None:
    def size(path: Path) -> int:
        return sum(file.stat().st_size for file in (path, path.with_suffix(".bin")) if file.exists())

    whole = exported("student", format)
    images = network_input(crops[8:24], describe(student).normalization)
    expected = as_backend(student)(images)
    spread = expected.xy_norm.std()
    for precision, share, off in (("float16", 0.56, 0.02), ("int8", 0.4, 0.25)):
        path = exported("student", format, precision)
        assert size(path) < share * size(whole)
        found = as_backend(path)(images)
        assert 0 < np.abs(found.xy_norm - expected.xy_norm).mean() < off * spread


def test_int8_leaves_the_head_alone(exported: Exported) -> None:
    graph = onnx.load(exported("student", "onnx", "int8")).graph
    maker = {name: node for node in graph.node for name in node.output}
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 20
    waiting, seen = [output.name for output in graph.output], set()
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.op_type == "LayerNormalization":
            continue
        seen.add(node.op_type)
        waiting += node.input
    assert {"MatMul", "Sigmoid"} & seen
    assert not {"QuantizeLinear", "DequantizeLinear"} & seen


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("flip_test", ["off", "aligned"])
def test_predictor_takes_it_like_a_checkpoint(
    exported: Exported, student: PoseModel, format: str, flip_test: Any
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    boxes = [[10, 10, 70, 110], [60, 5, 150, 100], [-20, 30, 40, 90]]
    for path in (exported("student", format), exported("student", format, uint8_input=True)):
        found = distilpose.PosePredictor(path, flip_test=flip_test)(image, boxes)
        expected = distilpose.PosePredictor(student, flip_test=flip_test)(image, boxes)
        np.testing.assert_allclose(found.xy, expected.xy, atol=0.05)
        np.testing.assert_allclose(found.raw_score, expected.raw_score, atol=1e-3)


NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "lightning"):
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Refuse())
from distilpose.cli import main as cli
sys.exit(any(cli.main(command.split("|")) for command in sys.argv[1:]))
"""


@pytest.mark.parametrize("format", FORMATS)
def test_predict_and_evaluate_need_no_torch(exported: Exported, people: Path, tmp_path: Path, format: str) -> None:
    model = ["--model", str(exported("student", format))]
    image = str(next((people.parent / "images").iterdir()))
    predict = ["predict", image, *model, "--detector", "whole-image", "--out", str(tmp_path)]
    evaluate = ["evaluate", *model, "--annotations", str(people), "--images", str(people.parent / "images")]
    commands = ["|".join(command) for command in (predict, evaluate)]
    done = subprocess.run([sys.executable, "-c", NO_TORCH, *commands], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 1


def test_a_wrong_file_is_an_error_and_not_left_behind(
    student: PoseModel, traced_once: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    class Shifted(OnnxRuntimeBackend):
        def __call__(self, images: Any) -> Any:
            output = super().__call__(images)
            return output._replace(xy_norm=output.xy_norm + (0.01 if len(images) == 8 else 0))

    monkeypatch.setattr(export, "as_backend", lambda path, *_, **settings: Shifted(path, **settings))
    with traced_once("student_False"), pytest.raises(CheckpointError, match="xy_norm at batch 8 is off"):
        export_model(student, tmp_path / "wrong.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_found(exported: Exported, checkpoint: Path, tmp_path: Path) -> None:
    """Of every kind of file: the description holds a digest of the rest."""
    files = [checkpoint, exported("student", "onnx"), exported("student", "openvino")]
    for good in files:
        names = [good, good.with_suffix(".bin")] if good.suffix == ".xml" else [good]
        for name in names:
            (tmp_path / name.name).write_bytes(name.read_bytes())
        load_model(tmp_path / good.name)
        weights = tmp_path / names[-1].name
        content = bytearray(weights.read_bytes())
        content[len(content) * 3 // 4] ^= 1
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged"):
            load_model(tmp_path / good.name)


def test_an_onnx_file_runs_in_openvino_too(exported: Exported, student: PoseModel) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 48)).astype(np.float32)
    backend = as_backend(exported("student", "onnx"), "openvino:CPU", threads=1)
    assert str(runtime_of(backend)).startswith("OpenVINO 20")
    np.testing.assert_allclose(backend(images).xy_norm, as_backend(student)(images).xy_norm, atol=1e-4)
    with pytest.raises(ConfigError, match="device openvino:NPU is not there for OpenVINO: it has openvino:CPU"):
        as_backend(exported("student", "onnx"), "openvino:NPU")


LINE = Skeleton("line", ("a", "b"), (), ((0, 1),), (0,), (1,), (0.1, 0.1)).to_dict()


def with_description(path: Path, **changes: Any) -> onnx.ModelProto:
    model = onnx.load(path)
    values = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "distilpose"))
    onnx.helper.set_model_props(model, {"distilpose": json.dumps({**values, "digest": None, **changes})})
    return model


def with_sequence(path: Path) -> onnx.ModelProto:
    """A file whose output is no tensor."""
    model = with_description(path)
    element = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("SplitToSequence", ["images"], ["xy_norm"])
    output = onnx.helper.make_value_info("xy_norm", onnx.helper.make_sequence_type_proto(element))
    graph = onnx.helper.make_graph([node], "graph", model.graph.input, [output])
    model.graph.CopyFrom(graph)
    return model


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda good, bad: bad.write_bytes(good.read_bytes()[:20_000]), "cannot be read by ONNX Runtime"),
        (lambda good, bad: bad.write_bytes(b""), "cannot be read by ONNX Runtime"),
        (lambda good, bad: bad.write_text("hello"), "cannot be read by ONNX Runtime"),
        (lambda good, bad: None, "is not a file"),
        (lambda good, bad: onnx.save(with_description(good, format=99), bad), "upgrade distilpose"),
        (lambda good, bad: onnx.save(with_description(good, input_size_hw="x"), bad), "description is broken"),
        (lambda good, bad: onnx.save(with_description(good, output="heatmap"), bad), "must have an output 'heatmaps'"),
        (lambda good, bad: onnx.save(with_description(good, input_size_hw=[32, 24]), bad), "failed while ONNX Runtime"),
        (lambda good, bad: bad.write_bytes(good.read_bytes().replace(b"written_by", b"wr\xfftten_by")), "can't decode"),
        (lambda good, bad: bad.write_bytes(good.read_bytes().replace(b"images", b"im\xffges")), "can't decode"),
        (lambda good, bad: onnx.save(with_description(good, skeleton=LINE), bad), r"float32 of shape \(2, 2, 2\)"),
        (lambda good, bad: onnx.save(with_sequence(good), bad), "output 'xy_norm' is no array of numbers"),
    ],
)
def test_bad_onnx_files(exported: Exported, tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(exported("student", "onnx"), tmp_path / "bad.onnx")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "bad.onnx")


def test_foreign_onnx_file(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("student", "onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ConfigError, match=r"no known top-down pose network.*xy_norm \(B, 17, 2\)"):
        load_model(tmp_path / "foreign.onnx")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda xml, weights: weights.unlink(), "needs its weights beside it"),
        (lambda xml, weights: weights.write_bytes(weights.read_bytes()[:1000]), "cannot be read by OpenVINO"),
        (lambda xml, weights: xml.write_text(xml.read_text()[:3000]), "cannot be read by OpenVINO"),
        (
            lambda xml, weights: xml.write_text(re.sub(r"format&quot;: \d+", "format&quot;: 99", xml.read_text())),
            "upgrade distilpose",
        ),
        (lambda xml, weights: xml.write_text(xml.read_text().replace("<distilpose", "<other")), "was not written by"),
    ],
)
def test_bad_openvino_files(exported: Exported, tmp_path: Path, spoil: Any, message: str) -> None:
    good = exported("student", "openvino")
    xml, weights = tmp_path / "bad.xml", tmp_path / "bad.bin"
    xml.write_bytes(good.read_bytes())
    weights.write_bytes(good.with_suffix(".bin").read_bytes())
    spoil(xml, weights)
    with pytest.raises(CheckpointError, match=message):
        load_model(xml)


@pytest.mark.parametrize("format", FORMATS)
def test_arrays_of_another_shape_are_refused(exported: Exported, format: str) -> None:
    backend = as_backend(exported("student", format))
    for images in (
        np.zeros((1, 3, 48, 64), np.float32),
        np.zeros((0, 3, 64, 48), np.float32),
        np.zeros((1, 3, 64, 48), np.uint8),
        np.zeros((3, 64, 48), np.float32),
    ):
        with pytest.raises(InputError, match=r"reads \(B, 3, 64, 48\) float32"):
            backend(images)
    with pytest.raises(ConfigError, match=r"device cuda:7 is not there for (ONNX Runtime|OpenVINO): it has"):
        distilpose.PosePredictor(exported("student", format), device="cuda:7")


def test_the_callers_model_stays_as_it_is(student: PoseModel, traced_once: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(student).double().train()
    with traced_once("student_False"):
        export_model(model, tmp_path / "x.onnx", format="onnx")
    assert model.training
    assert next(model.parameters()).dtype.itemsize == 8


def test_options_that_do_not_fit(
    exported: Exported, student: PoseModel, crops: NDArray[np.uint8], tmp_path: Path
) -> None:
    out = tmp_path / "x.onnx"
    with pytest.raises(ConfigError, match=r"must end in .xml for openvino, got .*x.onnx"):
        export_model(student, out, format="openvino")
    with pytest.raises(ConfigError, match="format must be one of onnx, openvino"):
        export_model(student, out, format="tflite")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"int8 needs calibration images of people.*got none"):
        export_model(student, out, format="onnx", precision="int8")
    with pytest.raises(ConfigError, match=r"got \d+ crops"):
        export_model(student, out, format="onnx", calibration=crops)
    with pytest.raises(InputError, match=r"must be uint8 of shape \(N, 64, 48, 3\) with N >= 8"):
        export_model(student, out, format="onnx", precision="int8", calibration=crops[:, :32])
    with pytest.raises(ConfigError, match="is exported already"):
        export_model(exported("student", "onnx"), out, format="onnx")
    assert list(tmp_path.iterdir()) == []
    for name, file in (("kept.onnx", "kept.onnx"), ("kept.bin", "kept.xml")):
        (tmp_path / name / "inside").mkdir(parents=True)
        with pytest.raises(InputError, match=f"{name} is a folder: expected the name of a file"):
            export_model(student, tmp_path / file)
        assert (tmp_path / name / "inside").is_dir()


def test_calibration_crops(people: Path, tmp_path: Path) -> None:
    small = ModelDescription("any", "regression", (64, 48), (16, 12))
    every = calibration_crops(people, small, count=1000)
    some = calibration_crops(people, small, count=8)
    assert some.shape == (8, 64, 48, 3)
    assert np.array_equal(some[0], every[0])
    assert np.array_equal(some[-1], every[-1])
    assert calibration_crops(people.parent / "images", small, count=9).shape == (9, 64, 48, 3)
    write_image(tmp_path / "one.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(InputError, match="gives 1 crops, calibration needs at least 8"):
        calibration_crops(tmp_path, small)
    with pytest.raises(ConfigError, match="neither a folder nor a file"):
        calibration_crops(tmp_path / "nowhere", small)
    with pytest.raises(ConfigError, match="at least 8 crops, got 2"):
        calibration_crops(people, small, count=2)


def test_command(checkpoint: Path, people: Path, traced_once: Any, tmp_path: Path, capsys: Any) -> None:
    model = ["export", "--model", str(checkpoint)]
    out = tmp_path / "deep" / "student.xml"
    int8 = ["--format", "openvino", "--int8", "--calibration", str(people), "--out", str(out)]
    with traced_once("student_False"):  # the checkpoint is the student's
        assert cli.main([*model, *int8]) == 0
    printed = capsys.readouterr().out
    assert "student.bin" in printed
    assert "compared with torch at batches 1, 3, 8: output " in printed
    assert sorted(path.name for path in out.parent.iterdir()) == ["student.bin", "student.xml"]
    assert cli.main([*model, "--format", "onnx", "--fp16", "--int8", "--out", str(tmp_path / "a.onnx")]) == 1
    assert "at most one of --fp16 and --int8" in capsys.readouterr().err
    assert cli.main([*model, "--format", "onnx", "--int8", "--out", str(tmp_path / "a.onnx")]) == 1
    assert "give --int8 and --calibration together" in capsys.readouterr().err
