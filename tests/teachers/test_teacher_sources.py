"""Each kind of teacher against the library it comes from, and what is said of those that do not fit."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from teacher_parts import K, batch_of
from torch.nn import functional as F

from distilpose.backends.base import stamp_digest
from distilpose.backends.checkpoint import save_checkpoint
from distilpose.backends.description import ModelDescription
from distilpose.data.preprocess import Normalization, normalize, preprocess
from distilpose.errors import CheckpointError, ConfigError, DistilPoseError, InputError
from distilpose.export.onnx_file import describe_onnx
from distilpose.geometry import CropTransform
from distilpose.models import create_model
from distilpose.skeletons import COCO_17, CROWDPOSE_14, skeleton_from_category
from distilpose.teachers import build
from distilpose.teachers.base import CropSpec
from distilpose.teachers.build import TeacherBackend, load_source, open_teacher
from distilpose.teachers.config import teacher_config_from
from distilpose.teachers.networks import simcc_heatmaps
from onnx_text import save_onnx, tensor

CROPS = CropSpec((64, 48), COCO_17)


def smooth_image(size_hw: tuple[int, int]) -> np.ndarray:
    noise = np.random.default_rng(4).random((*size_hw, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 12)
    low, high = blurred.min(), blurred.max()
    return (255 * (blurred - low) / (high - low)).astype(np.uint8)


@pytest.mark.parametrize("size_hw", [(64, 48), (128, 96)])
def test_vitpose_answers_as_in_transformers(vitpose_folder, size_hw: tuple[int, int]) -> None:
    """Its own image processor and model on an image and a box, against our crop of the same box."""
    from transformers import VitPoseForPoseEstimation
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    folder = vitpose_folder()
    image, box = smooth_image((240, 320)), [90.0, 40.0, 80.0, 150.0]
    inputs = VitPoseImageProcessorPil.from_pretrained(folder)(image, boxes=[[box]], return_tensors="pt")
    with torch.no_grad():
        expected = VitPoseForPoseEstimation.from_pretrained(folder).eval()(**inputs).heatmaps

    crop = CropTransform.from_box([90, 40, 170, 190], size_hw)
    images = torch.from_numpy(preprocess(image, [crop], Normalization()))
    crops = CropSpec(size_hw, COCO_17)
    with torch.no_grad():
        ours = open_teacher({"kind": "vitpose", "model": str(folder)}, crops)(batch_of(images)).heatmaps
    # ViTPose counts cells from center to center: cell c of its 16 lies at c / 15, ours at c / 16.
    at = torch.arange(16) * 15 / 16
    rows = torch.from_numpy(np.stack([np.interp(at, np.arange(16), np.eye(16)[i]) for i in range(16)], 1)).float()
    at = torch.arange(12) * 11 / 12
    columns = torch.from_numpy(np.stack([np.interp(at, np.arange(12), np.eye(12)[i]) for i in range(12)], 1)).float()
    moved = rows @ expected @ columns.T
    spread = expected.std()
    assert ours.shape == (1, K, 16, 12)
    assert (ours - moved).abs().max() < 0.12 * spread
    assert (ours - expected).abs().max() > 0.2 * spread  # without moving, they do not agree


def test_vitpose_reads_its_own_processor(vitpose_folder) -> None:
    folder = vitpose_folder()
    values = json.loads((folder / "preprocessor_config.json").read_text())
    values |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "rescale_factor": 2 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    spec = load_source(teacher_config_from({"kind": "vitpose", "model": str(folder)})).spec
    assert spec.input_size_hw == (64, 48)
    assert spec.normalization == Normalization((0.25, 0.25, 0.25), (0.125, 0.125, 0.125))
    assert spec.udp


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_vitpose_saved_in_half_runs_in_float32(vitpose_folder, dtype: torch.dtype, tmp_path: Path, capfd) -> None:
    from transformers import VitPoseForPoseEstimation

    folder = vitpose_folder()
    model = VitPoseForPoseEstimation.from_pretrained(folder).to(dtype)
    model.save_pretrained(tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    capfd.readouterr()
    teacher = open_teacher({"kind": "vitpose", "model": str(tmp_path)}, CropSpec((64, 48), COCO_17))
    assert "Loading weights" not in capfd.readouterr().err
    source = load_source(teacher_config_from({"kind": "vitpose", "model": str(tmp_path)}))
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        expected = model.float()(pixel_values=images).heatmaps
        torch.testing.assert_close(source(images).heatmaps, expected)
        assert teacher(batch_of(images)).heatmaps.dtype == torch.float32


def test_experts_of_vitpose_have_to_be_chosen(vitpose_folder) -> None:
    folder, images = vitpose_folder(num_experts=3), torch.randn(2, 3, 64, 48)

    def ask(**more: int) -> torch.Tensor:
        teacher = open_teacher({"kind": "vitpose", "model": str(folder), **more}, CROPS)
        with torch.no_grad():
            return teacher(batch_of(images)).heatmaps

    assert not torch.allclose(ask(dataset_index=0), ask(dataset_index=2))
    with pytest.raises(ConfigError, match=r"teacher .* 3 experts.*set dataset_index"):
        ask()
    with pytest.raises(ConfigError, match=r"0\.\.2"):
        ask(dataset_index=3)
    with pytest.raises(ConfigError, match="one expert"):
        open_teacher({"kind": "vitpose", "model": str(vitpose_folder()), "dataset_index": 0}, CROPS)


def test_broken_vitpose_folders(vitpose_folder, tmp_path: Path) -> None:
    folder = vitpose_folder()

    def refused(kind: type[DistilPoseError], message: str, **more: object) -> None:
        with pytest.raises(kind, match=message):
            open_teacher({"kind": "vitpose", "model": str(folder), **more}, CROPS)

    refused(ConfigError, "gives 17 keypoints, keypoints=crowdpose_14 has 14", keypoints="crowdpose_14")
    refused(ConfigError, "skeleton must be one of", keypoints="coco")
    processor = folder / "preprocessor_config.json"
    text = processor.read_text()
    processor.write_text(text.replace("64", "128"))
    refused(CheckpointError, r"makes inputs of \(128, 48\), its model reads \(64, 48\)")
    processor.write_text("{}")
    refused(CheckpointError, "cannot be read as an image processor")
    processor.unlink()
    refused(CheckpointError, "lacks preprocessor_config.json")
    with pytest.raises(InputError, match="expected a folder written by save_pretrained or a hub id"):
        open_teacher({"kind": "vitpose", "model": str(tmp_path / "nowhere")}, CROPS)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_onnx_answers_as_torch(onnx_file, weights: np.ndarray, batch: int | str) -> None:
    teacher = open_teacher({"kind": "onnx", "file": str(onnx_file(batch=batch))}, CROPS)
    images = torch.randn(3, 3, 64, 48)
    expected = F.conv2d(images, torch.from_numpy(weights), stride=4)
    torch.testing.assert_close(teacher(batch_of(images)).heatmaps, expected, atol=1e-5, rtol=1e-5)
    assert teacher.tokens is None


def test_our_own_exported_file_says_what_it_is(onnx_file, weights: np.ndarray) -> None:
    file, normalization = onnx_file(size_hw=("height", "width")), Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    backwards = skeleton_from_category({"keypoints": list(reversed(COCO_17.keypoint_names))})
    described = ModelDescription("tokenpose_s", "heatmap", (64, 48), (16, 12), {}, normalization, backwards)
    describe_onnx(file, described)
    stamp_digest([file])
    teacher = open_teacher(str(file), CropSpec((64, 48), COCO_17, normalization))
    images = torch.randn(2, 3, 64, 48)
    expected = F.conv2d(images, torch.from_numpy(weights), stride=4).flip(1)
    torch.testing.assert_close(teacher(batch_of(images)).heatmaps, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "nowhere.onnx"}, "is not a file"),
        ({"keypoints": ["a", "b"]}, r"teacher .* gives 17 keypoints, keypoints=\['a', 'b'\] has 2.*teacher\.keypoints"),
        ({"input_size_hw": [32, 32]}, r"reads \(64, 48\), size says \(32, 32\).*teacher\.input_size_hw"),
        ({"output": "nothing"}, "has no output 'nothing'; it has heatmaps"),
        ({"std": [0, 1, 1]}, "std must be a number above 0, got 0"),
        ({"color": "cmyk"}, "teacher \\(onnx\\)"),
        ({"colors": "bgr"}, "colors"),
        ({"kind": "onxx"}, "kind must be one of checkpoint, vitpose, onnx"),
        ({"std": [float("nan"), 1, 1]}, "std must be a number above 0, got nan"),
        ({"mean": [float("nan"), 1, 1]}, "mean must be finite"),
        ({"input_size_hw": [0, -4]}, "input_size_hw must be a whole number of at least 1, got 0"),
        ({"kind": ["onnx"]}, r"kind must be one of .*, got \['onnx'\]"),
        ({"kind": "simcc", "heatmap_size_hw": [0, 12]}, "heatmap_size_hw must be a whole number of at least 1, got 0"),
        ({"kind": "simcc", "sharpness": float("nan")}, "sharpness must be a number above 0, got nan"),
        ({"kind": "simcc", "outputs": ["x", "x"]}, "outputs must be two, x and y axis, got 'x' twice"),
        ({"keypoints": [f"leg_{at}" for at in range(K)]}, r"mapping: \{NAME IN coco_17: NAME IN teacher\}"),
        ({"mapping": {"nose": "snout"}}, "snout"),
        ({"mapping": {"left_hip": "right_hip"}}, "other side of the body"),
    ],
)
def test_what_does_not_fit_an_onnx_file(onnx_file, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DistilPoseError, match=message):
        open_teacher({"kind": "onnx", "file": str(onnx_file()), **changes}, CROPS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.4, 0.4, 0.4]}, r"says of itself mean \(0\.1, 0\.2, 0\.3\), teacher\.mean is"),
        ({"std": [0.229, 0.224, 0.225]}, "says of itself std"),
        ({"color": "bgr"}, "says of itself color rgb"),
        ({"udp": True}, "says of itself udp False"),
        ({"keypoints": "crowdpose_14"}, "says of itself that its keypoints are nose"),
        ({"input_size_hw": [32, 32]}, r"says of itself input_size_hw \(64, 48\)"),
        ({"mean": [0.1, 0.2, 0.3], "color": "rgb", "udp": False, "keypoints": "coco_17"}, None),
    ],
)
def test_our_own_exported_file_is_not_contradicted(onnx_file, options: dict[str, object], message: str | None) -> None:
    file, normalization = onnx_file(size_hw=("height", "width")), Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    describe_onnx(file, ModelDescription("tokenpose_s", "heatmap", (64, 48), (16, 12), {}, normalization, COCO_17))
    stamp_digest([file])
    values = {"kind": "onnx", "file": str(file), **options}
    if message is None:
        open_teacher(values, CROPS)
        return
    with pytest.raises(ConfigError, match=message):
        open_teacher(values, CROPS)


def save_node(
    path: Path, node: str, *sides: int | str, given: Sequence[int | str] = (1, 3, 64, 48), kind: Any = "float"
) -> str:
    """An ONNX file of one node from an input "pixels" to an output "heatmaps" with these sides."""
    inputs, outputs = [tensor("pixels", *given, kind=kind)], [tensor("heatmaps", *sides, kind=kind)]
    return str(save_onnx(path, inputs, outputs, [f"heatmaps = {node} (pixels)"], opset=13))


def test_onnx_files_of_other_layouts_are_told_what_to_do(onnx_file, tmp_path: Path) -> None:
    def refused(message: str, file: str, **more: object) -> None:
        with pytest.raises(DistilPoseError, match=message):
            open_teacher({"kind": "onnx", "file": file, **more}, CROPS)

    path = tmp_path / "x.onnx"
    names = ["nose", "left_eye", "right_eye"]
    transposed = save_node(path, "Transpose <perm = [0, 2, 3, 1]>", 1, 64, 48, 3)
    refused(r"gives 64 keypoints, keypoints=\['nose', .* has 3 .*teacher\.keypoints", transposed, keypoints=names)
    refused("must have one input of images", save_node(path, "Identity", 1, 4, 64, 48, given=(1, 4, 64, 48)))
    refused("gives 3 keypoints; known by their number", save_node(path, "Identity", 1, 3, 64, 48))
    refused("must begin with the batch and be finite", save_node(path, "Log", 1, 3, 64, 48))
    refused(r"got heatmaps \(B, 3\)", save_node(path, "ReduceMean <axes = [2, 3], keepdims = 0>", 1, 3))


def test_pixels_of_a_teacher_that_reads_bytes_are_bytes(tmp_path: Path) -> None:
    file = save_node(tmp_path / "x.onnx", "Identity", "b", 3, 64, 48, given=("b", 3, 64, 48), kind="uint8")
    teacher = open_teacher({"kind": "onnx", "file": file, "keypoints": ["nose", "left_eye", "right_eye"]}, CROPS)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    heatmaps = teacher(batch_of(torch.from_numpy(normalize(pixels, Normalization())))).heatmaps
    assert torch.equal(heatmaps[:, :3], torch.from_numpy(pixels).permute(0, 3, 1, 2)[:, [0, 1, 2]].float())


def test_names_of_a_teachers_keypoints_are_labels_alone(onnx_file, caplog) -> None:
    """Nothing is said of OKS constants or edges, which nobody asks for; but where it is measured with them, it is."""
    names = [*COCO_17.keypoint_names[:-1], "tail"]
    values = {"kind": "onnx", "file": str(onnx_file()), "keypoints": names}
    with caplog.at_level(logging.WARNING):
        open_teacher(values, CROPS)
        assert "oks_sigmas" not in caplog.text
        TeacherBackend(values)
    assert "oks_sigmas of nose" in caplog.text


def test_a_backend_loads_each_network_once(onnx_file, monkeypatch) -> None:
    loaded = []

    def load(config, **settings):
        loaded.append((config.udp, settings))
        return load_source(config, **settings)

    monkeypatch.setattr(build, "load_source", load)
    member = {"kind": "onnx", "file": str(onnx_file())}
    TeacherBackend({"kind": "ensemble", "members": [member, {**member, "udp": True}]}, device="cpu", threads=1)
    assert loaded == [(udp, {"device": "cpu", "threads": 1}) for udp in (None, True)]
    with pytest.raises(ConfigError, match="device openvino:GPU is not there for torch"):
        TeacherBackend(member, device="openvino:GPU")


def test_onnx_files_that_are_no_heatmap_teachers(onnx_file, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gives simcc, which is kind simcc"):
        open_teacher({"kind": "onnx", "file": str(onnx_file("axes"))}, CROPS)
    with pytest.raises(ConfigError, match="leaves its input size free"):
        open_teacher({"kind": "onnx", "file": str(onnx_file(size_hw=("height", "width")))}, CROPS)
    with pytest.raises(ConfigError, match="gives heatmaps, which is kind onnx"):
        open_teacher({"kind": "simcc", "file": str(onnx_file())}, CROPS)
    exchanged = open_teacher(
        {"kind": "simcc", "file": str(onnx_file("axes")), "outputs": ["simcc_y", "simcc_x"]}, CROPS
    )
    assert exchanged(batch_of(torch.zeros(1, 3, 64, 48))).heatmaps.shape == (1, K, 16, 12)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be read by ONNX Runtime"):
        open_teacher({"kind": "onnx", "file": str(broken)}, CROPS)


def axes(sigma: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, K, 96), (B, K, 128) heights around random points, and the points (B, K, 2) as fractions."""
    generator = torch.Generator().manual_seed(1)
    points = 0.15 + 0.7 * torch.rand(2, K, 2, generator=generator)
    along = []
    for axis, bins in ((0, 96), (1, 128)):
        distance = torch.arange(bins) - points[..., axis, None] * bins
        along.append(torch.exp(-0.5 * (distance / sigma) ** 2))
    return along[0], along[1], points


@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_a_product_of_axes_peaks_where_both_do(activation: str) -> None:
    x, y, points = axes(6.0)
    x, y = 0.8 * x, 0.6 * y
    full = simcc_heatmaps(x, y, (128, 96), activation=activation)
    peak = full.flatten(2).argmax(-1)
    assert torch.equal(peak % 96, x.argmax(-1))
    assert torch.equal(peak // 96, y.argmax(-1))
    torch.testing.assert_close(full.amax((-2, -1)), y.amax(-1))  # the smaller of the two
    assert simcc_heatmaps(x, y, (128, 96), peak="one").amax((-2, -1)).eq(1).all()

    small = simcc_heatmaps(x, y, (32, 24), activation=activation)
    peak = small.flatten(2).argmax(-1)
    cells = torch.stack([peak % 24, peak // 24], dim=-1)
    assert (cells - points * torch.tensor([24, 32])).abs().max() < 0.76  # half a cell, and half a bin of four
    torch.testing.assert_close(small.amax((-2, -1)), y.amax(-1))


def test_softmax_of_an_axis_is_a_softmax() -> None:
    x, y, _ = axes(6.0)
    heatmaps = simcc_heatmaps(x, y, (128, 96), sharpness=3.0, peak="one")
    expected = (3 * y).softmax(-1)[..., None] * (3 * x).softmax(-1)[..., None, :]
    torch.testing.assert_close(heatmaps, expected / expected.amax((-2, -1), keepdim=True))


def test_a_simcc_file_is_the_product_of_its_axes(onnx_file, weights: np.ndarray) -> None:
    teacher = open_teacher({"kind": "simcc", "file": str(onnx_file("axes")), "sharpness": 2}, CROPS)
    images = torch.randn(2, 3, 64, 48)
    maps = F.conv2d(images, 10 * torch.from_numpy(weights[:, :, :1, :1]))
    expected = simcc_heatmaps(maps.mean(2), maps.mean(3), (16, 12), sharpness=2)
    torch.testing.assert_close(teacher(batch_of(images)).heatmaps, expected, atol=1e-4, rtol=1e-4)


def test_keypoints_come_in_the_students_order(onnx_file, weights: np.ndarray, caplog) -> None:
    """The same file under permuted names, and for a student that has others."""
    order = torch.randperm(K, generator=torch.Generator().manual_seed(2)).tolist()
    names = [COCO_17.keypoint_names[at] for at in order]
    names[names.index("left_eye")] = "LeftEye"
    names[names.index("nose")] = "snout"
    config = {"kind": "onnx", "file": str(onnx_file()), "keypoints": names, "mapping": {"nose": "snout"}}
    images = torch.randn(2, 3, 64, 48)
    plain = F.conv2d(images, torch.from_numpy(weights), stride=4)
    teacher = open_teacher(config, CROPS)
    ours = teacher(batch_of(images)).heatmaps
    assert all(teacher.keypoint_mask)
    for place, at in enumerate(order):
        torch.testing.assert_close(ours[:, at], plain[:, place], atol=1e-5, rtol=1e-5)

    with caplog.at_level(logging.WARNING):
        teacher = open_teacher({**config, "mapping": {}}, CropSpec((64, 48), CROWDPOSE_14))
    keypoint_mask = dict(zip(CROWDPOSE_14.keypoint_names, teacher.keypoint_mask, strict=True))
    assert [name for name, known in keypoint_mask.items() if not known] == ["head", "neck"]
    assert "does not know head, neck" in caplog.text
    heatmaps = teacher(batch_of(images, 14)).heatmaps
    assert heatmaps[:, ~torch.tensor(teacher.keypoint_mask)].abs().max() == 0
    wrist = CROWDPOSE_14.keypoint_names.index("left_wrist")
    torch.testing.assert_close(heatmaps[:, wrist], plain[:, names.index("left_wrist")], atol=1e-5, rtol=1e-5)


def test_a_student_is_no_teacher(tmp_path: Path) -> None:
    student = create_model("distilpose_s", input_size_hw=(64, 48), dim=16, depth=1, num_heads=2)
    file = save_checkpoint(student, tmp_path / "student.safetensors")
    with pytest.raises(ConfigError, match="must be a heatmap model"):
        open_teacher(str(file), CROPS)


def test_a_teacher_as_a_backend_says_what_it_is(onnx_file) -> None:
    names = list(reversed(COCO_17.keypoint_names))
    backend = TeacherBackend({"kind": "onnx", "file": str(onnx_file()), "keypoints": names, "udp": True}, flip=True)
    assert backend.description.skeleton == COCO_17
    assert backend.description.input_size_hw == (64, 48)
    assert backend.description.heatmap_size_hw == (16, 12)
    assert backend(np.zeros((2, 3, 64, 48), np.float32)).heatmaps.shape == (2, K, 16, 12)
    beetle = TeacherBackend({"kind": "onnx", "file": str(onnx_file()), "keypoints": [f"leg_{at}" for at in range(K)]})
    assert beetle.description.skeleton.keypoint_names[3] == "leg_3"
