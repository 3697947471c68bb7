"""Foreign pose networks: fed and read by their own rules, recognized by shape, refused by name."""

import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import distilpose
from distilpose.backends.foreign import ForeignBackend, decode_simcc
from distilpose.backends.loading import as_backend, load_model
from distilpose.data.images import read_image
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import COCO_17, COCO_WHOLEBODY_133, HALPE_26
from foreign_files import SIZE_HW, simcc, write_network
from onnx_text import save_onnx, tensor

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
BOXES = np.array([[10.0, 10, 70, 110], [60, 5, 150, 100]])


def rtmpose_by_hand(
    path: Path, image: NDArray[np.uint8], box: NDArray[np.float64], mean: Any, std: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RTMPose's whole way as its papers and MMPose describe it: crop by three points, normalize, argmax, split by 2."""
    height, width = SIZE_HW
    center, wh = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * 1.25
    wh = np.array([max(wh[0], wh[1] * width / height), max(wh[1], wh[0] * height / width)])
    corners = np.array([center, center - [0, wh[1] / 2], center - [wh[0] / 2, 0]], np.float32)
    places = np.array([[width / 2, height / 2], [width / 2, 0], [0, height / 2]], np.float32)
    crop = cv2.warpAffine(image, cv2.getAffineTransform(corners, places), (width, height), flags=cv2.INTER_LINEAR)
    pixels = ((crop - np.array(mean)) / np.array(std)).astype(np.float32).transpose(2, 0, 1)[None]
    x, y = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": pixels})
    xy = np.stack([x[0].argmax(-1), y[0].argmax(-1)], -1) / 2.0
    return xy / [width, height] * wh + center - wh / 2, np.minimum(x[0].max(-1), y[0].max(-1))


MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.mark.parametrize("packed", [False, True])
def test_simcc_equals_its_own_rules_by_hand(tmp_path: Path, packed: bool) -> None:
    path = simcc(tmp_path / "end2end.onnx")
    model = path
    if packed:
        model = tmp_path / "rtmpose.zip"
        with zipfile.ZipFile(model, "w") as archive:
            archive.write(path, "20230831/rtmpose/end2end.onnx")
            archive.writestr("20230831/rtmpose/pipeline.json", "{}")
    found = distilpose.PosePredictor(model)(IMAGE, BOXES)
    for person, box in enumerate(BOXES):
        xy, score = rtmpose_by_hand(path, IMAGE, box, MEAN, STD)
        np.testing.assert_allclose(found.xy[person], xy, atol=0.1)
        np.testing.assert_allclose(found.raw_score[person], score, rtol=1e-3, atol=1e-3)


def test_options_say_how_it_is_fed(tmp_path: Path) -> None:
    path = simcc(tmp_path / "model.onnx")
    mean, std = (10.0, 20.0, 30.0), (40.0, 50.0, 60.0)
    address = f"{path}?color=bgr&mean=10,20,30&std=40,50,60&padding=1.25"
    found = distilpose.PosePredictor(address)(IMAGE, BOXES[:1])
    xy, _ = rtmpose_by_hand(path, np.ascontiguousarray(IMAGE[..., ::-1]), BOXES[0], mean, std)
    np.testing.assert_allclose(found.xy[0], xy, atol=0.1)
    assert load_model(f"{path}?padding=1.5").description.crops(BOXES)[0].box_wh[1] == pytest.approx(100 * 1.5)


def test_the_axes_are_told_apart_by_length_and_decoded_at_half_pixels() -> None:
    x, y = np.full((1, 2, 96), 0.1, np.float32), np.full((1, 2, 128), 0.2, np.float32)
    x[0, 0, 33], y[0, 0, 64] = 0.9, 0.8
    output = decode_simcc(x, y)
    assert output.xy_norm[0, 0].tolist() == pytest.approx([16.5 / 48, 32 / 64])
    assert output.score[0].tolist() == pytest.approx([0.8, 0.1])


def test_exchanged_axes_and_extra_outputs(tmp_path: Path) -> None:
    swapped = write_network(tmp_path / "swapped.onnx", {"first": (17, 128), "second": (17, 96)})
    backend = load_model(swapped)
    assert backend(np.ones((1, 3, *SIZE_HW), np.float32)).xy_norm.shape == (1, 17, 2)
    more = write_network(tmp_path / "more.onnx", {"maps": (17, 16, 12), "other": (4, 16, 12)})
    with pytest.raises(ConfigError, match=r"maps \(B, 17, 16, 12\), other \(B, 4, 16, 12\).*outputs=NAME"):
        load_model(more)
    assert isinstance(load_model(f"{more}?outputs=maps")(np.ones((1, 3, *SIZE_HW), np.float32)), HeatmapOutput)


@pytest.mark.parametrize(("count", "skeleton"), [(17, COCO_17), (26, HALPE_26), (133, COCO_WHOLEBODY_133)])
def test_keypoints_are_known_by_their_number(tmp_path: Path, count: int, skeleton: Any) -> None:
    assert load_model(simcc(tmp_path / "m.onnx", count)).description.skeleton == skeleton


def test_other_keypoints_are_named(tmp_path: Path) -> None:
    path = simcc(tmp_path / "m.onnx", 3)
    with pytest.raises(ConfigError, match=r"gives 3 keypoints.*name them"):
        load_model(path)
    assert load_model(f"{path}?keypoints=nose,left_ear,right_ear").description.skeleton.flip_pairs == ((1, 2),)
    with pytest.raises(ConfigError, match="gives 3 keypoints, keypoints=a,b has 2"):
        load_model(f"{path}?keypoints=a,b")


def test_heatmaps_of_a_fixed_batch_and_movenet_pixels(tmp_path: Path) -> None:
    """Cell c of w lies at c / w of the crop; a file of batch one is run once per crop."""
    peak = np.zeros((3 * 8 * 6, 17 * 16 * 12), np.float32)
    peak.reshape(3 * 8 * 6, 17, 16, 12)[:, :, 9, 5] = 1
    path = write_network(tmp_path / "movenet.onnx", {"maps": (17, 16, 12)}, batch=1, weights={"maps": peak})
    backend = load_model(path)
    images = np.random.default_rng(0).random((3, 3, *SIZE_HW), np.float32)
    maps = backend(images).heatmaps
    assert maps.shape == (3, 17, 16, 12)
    assert np.array_equal(maps[1:2], backend(images[1:2]).heatmaps)
    # MoveNet reads pixel values.
    predictor = distilpose.PosePredictor(path)
    crops = predictor.prepare(IMAGE, BOXES[:1]).images
    assert 240 < crops.max() <= 255
    result = predictor(IMAGE, BOXES[:1])
    transform = backend.description.crops(BOXES[:1])[0]
    np.testing.assert_allclose(result.xy[0], np.tile(transform.norm_to_img([5 / 12, 9 / 16]), (17, 1)), atol=0.6)


def test_udp_counts_from_center_to_center(tmp_path: Path) -> None:
    peak = np.zeros((3 * 8 * 6, 17 * 16 * 12), np.float32)
    peak.reshape(3 * 8 * 6, 17, 16, 12)[:, :, 15, 11] = 1  # the last cell: no step is taken at the border
    path = write_network(tmp_path / "m.onnx", {"maps": (17, 16, 12)}, weights={"maps": peak})
    result = distilpose.PosePredictor(f"{path}?udp=1&mean=0&std=1&padding=1")(IMAGE, [[10, 10, 70, 90]])
    np.testing.assert_allclose(result.xy[0, 0], [70, 90], atol=1e-6)  # the corner of the box


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{}?nothing=1", "option must be one of keypoints"),
        ("{}?mean=1,2", "three with commas"),
        ("{}?std=0", "> 0"),
        ("{}?std=0.229,0.224,0.225", "in pixel values 0 to 255"),
        ("{}?color=grey", "rgb or bgr"),
        ("{}?size=10", "HxW"),
        ("{}?size=99999x10", "at most"),
        ("{}?size=32x32", "reads \\(64, 48\\)"),
        ("{}?outputs=simcc_z", "has no output"),
        ("{}?udp=1", "udp is for heatmaps"),
        ("{}?padding=nan", "0.5..3"),
        ("{}?mean", "expected FILE"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, address: str, message: str) -> None:
    path = simcc(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=message):
        load_model(address.format(path))


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no known top-down pose network"):
        load_model(write_network(tmp_path / "numbers.onnx", {"numbers": (17,)}))
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nothing")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with zipfile.ZipFile(tmp_path / "damaged.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.onnx", bytes(range(256)) * 40)
    content = bytearray((tmp_path / "damaged.zip").read_bytes())
    content[36:60] = b"\xff" * 24
    (tmp_path / "damaged.zip").write_bytes(content)
    unreadable = "cannot be read as a zip"
    for name, message in (
        ("broken.zip", unreadable),
        ("damaged.zip", unreadable),
        ("empty.zip", "must hold one .onnx file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / name)
    endless = np.full((3 * 8 * 6, 17 * 16 * 12), np.nan, np.float32)
    path = write_network(tmp_path / "nan.onnx", {"maps": (17, 16, 12)}, weights={"maps": endless})
    with pytest.raises(CheckpointError, match="be finite"):
        load_model(path)
    for shape, nodes, message in (
        (("n", 3, 8, 6), ["maps = ReduceMean <keepdims = 0> (images)"], "zero-dimensional arrays"),
        (("n", 3, 8, 10**9), ["maps = Identity (images)"], "sides of 1 to 4096"),
        ((10**9, 3, 8, 6), ["maps = Identity (images)"], "images at once, expected 1 to 1024"),
    ):
        file = save_onnx(tmp_path / "odd.onnx", [tensor("images", *shape)], ["float maps"], nodes)
        with pytest.raises(CheckpointError, match=message):
            load_model(file)


@pytest.mark.slow  # tests of teachers hold the same network against the same library
def test_vitpose_sees_and_says_what_transformers_does(tmp_path: Path) -> None:
    """Its crops are cut by unbiased data processing, and its heatmaps are read from center to center."""
    import torch
    import transformers
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    torch.manual_seed(0)
    backbone = transformers.VitPoseBackboneConfig(
        image_size=SIZE_HW, patch_size=(16, 16), hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17, initializer_range=0.3)
    model = transformers.VitPoseForPoseEstimation(config).eval()
    processor = VitPoseImageProcessorPil(size={"height": SIZE_HW[0], "width": SIZE_HW[1]})
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    predictor = distilpose.PosePredictor(str(tmp_path))
    image = cv2.GaussianBlur(IMAGE, (0, 0), 4)  # the interpolations of the two differ on noise and at the border
    inputs = processor(image, boxes=[[[60, 30, 30, 50]]], return_tensors="pt")
    prepared = predictor.prepare(image, [[60, 30, 90, 80]])
    np.testing.assert_allclose(prepared.images, inputs.pixel_values.numpy(), atol=1.01 / 255 / 0.224)  # one gray level
    with torch.inference_mode():
        expected = model(**inputs).heatmaps.numpy()
    backend = as_backend(str(tmp_path))
    np.testing.assert_allclose(backend(prepared.images).heatmaps, expected, atol=0.02 * np.abs(expected).max())
    assert backend.description.udp
    with pytest.raises(ConfigError, match="has one expert"):
        load_model(f"{tmp_path}?dataset_index=1")


def test_movenet_finds_labeled_people(shared_data: Path) -> None:
    """On a photograph, the heatmap network that the project learns from finds people where they are labeled."""
    folder = shared_data / "coco_val_dev"
    labels = json.loads((folder / "person_keypoints.json").read_text())
    row = max(labels["annotations"], key=lambda entry: entry["num_keypoints"] * min(entry["area"], 40_000))
    image = next(entry for entry in labels["images"] if entry["id"] == row["image_id"])
    x, y, width, height = row["bbox"]
    file = shared_data.parent / "models" / "movenet_thunder_heatmaps.onnx"
    if not file.is_file():
        pytest.skip(f"MoveNet is not part of the repository and {file} is not there")
    backend = as_backend(file)
    assert isinstance(backend, ForeignBackend)
    result = distilpose.PosePredictor(backend)(
        read_image(folder / "images" / image["file_name"]), [[x, y, x + width, y + height]]
    )
    truth = np.array(row["keypoints"]).reshape(17, 3)
    off = np.linalg.norm(result.xy[0] - truth[:, :2], axis=-1)[truth[:, 2] > 0]
    assert np.median(off) < 0.05 * np.sqrt(row["area"])
