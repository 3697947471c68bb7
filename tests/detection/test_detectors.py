"""Detectors: ONNX graphs whose answer is known, tiny transformers models, and what goes wrong."""

import json
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distilpose.backends import hub
from distilpose.detection import onnx as onnx_detector
from distilpose.detection.detectors import Detector, create_detector
from distilpose.detection.filtering import keep_people
from distilpose.detection.nanodet import NanodetDetector
from distilpose.detection.onnx import OnnxOptions, parse_source, place_image
from distilpose.detection.onnx_layouts import LAYOUTS, TensorSpec, recognize_layout
from distilpose.errors import CheckpointError, ConfigError, InputError
from distilpose.formats.boxes import PersonBoxes
from onnx_text import save_onnx, tensor

Image = NDArray[np.uint8]
LABELS = {0: "car", 1: "Person", 2: "dog"}
MODEL_HW = (64, 96)


def noise(height: int, width: int, seed: int = 0) -> Image:
    """An image with large and small structure."""
    rng = np.random.default_rng([seed, height, width])
    coarse = rng.integers(0, 200, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)
    return (coarse[:height, :width] + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)


def assert_same(people: PersonBoxes, expected: PersonBoxes, pixels: float = 1e-6, score: float = 1e-6) -> None:
    assert people.boxes_xyxy.shape == expected.boxes_xyxy.shape
    assert np.allclose(people.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=pixels)
    assert np.allclose(people.box_score, expected.box_score, rtol=0, atol=score)


def assert_batch_is_its_images(detector: Detector) -> None:
    images = [noise(50, 80), noise(120, 40, 1), noise(3, 3, 2), noise(50, 80, 3), noise(1, 200, 4)]
    together = detector(images)
    assert len(together) == len(images)
    for image, people in zip(images, together, strict=True):
        assert_same(people, detector([image])[0], pixels=1e-3, score=1e-4)
    assert detector([]) == []


# What all share


def test_boxes_are_clipped_sorted_and_cleared_of_what_is_none() -> None:
    boxes = [
        [-5, -5, 20, 30],  # clipped
        [10, 10, 10, 20],  # no width
        [30, 10, 20, 40],  # turned round
        [np.nan, 0, 5, 5],
        [0, 0, np.inf, 5],
        [60, 0, 90, 20],  # outside the image
        [20, 20, 40, 40],
        [21, 21, 41, 41],  # the same person again
        [0, 40, 10, 50],  # too weak
        [30, 0, 40, 10],  # without a score
    ]
    score = [0.6, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.1, np.nan]
    people = keep_people(boxes, score, (50, 60), threshold=0.3, nms_iou=0.7)
    assert people.boxes_xyxy.tolist() == [[20, 20, 40, 40], [0, 0, 20, 30]]
    assert people.box_score.tolist() == [0.8, 0.6]
    assert len(keep_people(boxes, score, (50, 60), threshold=0.3, nms_iou=1).box_score) == 3
    nobody = keep_people([], [], (50, 60), threshold=0, nms_iou=0)
    assert nobody.boxes_xyxy.shape == (0, 4)
    assert nobody.box_score.shape == (0,)


@pytest.mark.parametrize("name", ["cat", "hf", "hf:", "onnx:", "auto:fast", "", ":", "hog"])
def test_unknown_names(name: str) -> None:
    known = "auto, nanodet, whole-image, hf:ID_OR_FOLDER, onnx:FILE"
    with pytest.raises(ConfigError, match=f"detector must be one of {known}, got '{name}'"):
        create_detector(name)


def test_options_out_of_range() -> None:
    for value in (-0.1, 1.5, float("nan"), "high"):
        with pytest.raises(ConfigError, match="detection_threshold must be a number from 0 to 1"):
            create_detector("auto", threshold=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nms_iou must be a number from 0 to 1, got 2"):
        create_detector("auto", nms_iou=2)


# ONNX files, the image on its way in


@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from(["stretch", "letterbox", "letterbox-center"]))
def test_placement_and_back_is_the_identity(height: int, width: int, fit: Any) -> None:
    canvas, placement = place_image(np.zeros((height, width, 3), np.uint8), (96, 64), fit)
    assert canvas.shape == (96, 64, 3)
    corners = np.array([[0.0, 0, width, height], [width / 4, height / 3, width / 2, height]])
    placed = corners * np.tile(placement.scale_xy, 2) + np.tile(placement.offset_xy, 2)
    assert np.allclose(placement.to_img(placed), corners)
    left, top, right, bottom = placed[0]
    assert (left >= 0) & (top >= 0) & (right <= 64 + 1e-9) & (bottom <= 96 + 1e-9)
    black = (canvas == 0).all(-1)
    assert black.sum() == round((right - left) * (bottom - top))  # the image lies where the placement says
    assert black[int(top) : round(bottom), int(left) : round(right)].all()
    assert (canvas[~black] == 114).all()


# ONNX files whose answer is known


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., str]:
    """Function (outputs by name, ...) -> ``onnx:FILE`` of a graph that answers so for every image."""
    types = {np.dtype(np.float32): "float", np.dtype(np.int64): "int64"}

    def make(
        outputs: dict[str, NDArray[Any]],
        *,
        shape: Sequence[int | str] = ("batch", 3, 64, 64),
        told_size: bool = False,
        free: Sequence[str] = (),
        extra_input: str | None = None,
    ) -> str:
        """Each answer is (1, ...), repeated for every image. ``told_size``: ``boxes`` are times orig_target_sizes."""
        inputs, results, known = [tensor("images", *shape)], [], {}
        nodes = ["batch_size = Shape <start = 0, end = 1> (images)"]
        if told_size:
            inputs.append(tensor("orig_target_sizes", "batch", 2, kind="int64"))
            nodes += [
                "size = Cast <to = 1> (orig_target_sizes)",
                "size_twice = Concat <axis = 1> (size, size)",
                "one = Constant <value_ints = [1]> ()",
                "size_of_boxes = Unsqueeze (size_twice, one)",
            ]
        if extra_input:
            inputs.append(tensor(extra_input, "batch"))
        for name, answer in outputs.items():
            rest = np.array(answer.shape[1:])
            known |= {f"{name}_known": answer, f"{name}_rest": rest}
            scaled = told_size and name == "boxes"
            nodes += [
                f"{name}_shape = Concat <axis = 0> (batch_size, {name}_rest)",
                f"{name}{'_fractions' * scaled} = Expand ({name}_known, {name}_shape)",
            ]
            nodes += ["boxes = Mul (boxes_fractions, size_of_boxes)"] * scaled
            sides = ["side" + str(i) if name in free else side for i, side in enumerate(rest.tolist())]
            batch = shape[0] if isinstance(shape[0], int) else "batch"
            results.append(tensor(name, batch, *sides, kind=types[answer.dtype]))
        return f"onnx:{save_onnx(tmp_path / 'known.onnx', inputs, results, nodes, known)}"

    return make


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def detr_outputs(scores: Sequence[Sequence[float]], boxes: Sequence[Sequence[float]]) -> dict[str, NDArray[Any]]:
    logits = [[logit(value) for value in row] for row in scores]
    return {"logits": np.float32([logits]), "pred_boxes": np.float32([boxes])}


BOXES = [[0.5, 0.5, 0.5, 1.0], [0.25, 0.25, 0.25, 0.5], [0.75, 0.75, 0.25, 0.25]]
SCORES = [[0.9, 0.1], [0.6, 0.8], [0.4, 0.95]]
PERSON_0 = PersonBoxes(np.array([[50.0, 0, 150, 100], [25, 0, 75, 50]]), np.array([0.9, 0.6]))
PERSON_1 = PersonBoxes(np.array([[125, 62.5, 175, 87.5], [25, 0, 75, 50]]), np.array([0.95, 0.8]))


@pytest.mark.parametrize("shape", [("batch", 3, 64, 64), (1, 3, 64, 64), (3, 3, 64, 32), ("n", 3, "h", "w")])
def test_detr_focal_by_hand(graph: Callable[..., str], shape: Sequence[int | str]) -> None:
    source = graph(detr_outputs(SCORES, BOXES), shape=shape)
    image = noise(100, 200)
    assert_same(create_detector(source)([image])[0], PERSON_0, pixels=1e-4)
    person_1 = create_detector(source + "?person=1")
    assert_same(person_1([image])[0], PERSON_1, pixels=1e-4)
    assert_batch_is_its_images(person_1)
    assert_same(create_detector(source, threshold=0.7)([image])[0], PersonBoxes(*(part[:1] for part in PERSON_0)), 1e-4)
    assert create_detector(source, threshold=0.99)([image])[0].boxes_xyxy.shape == (0, 4)
    assert len(create_detector(source, nms_iou=0.1)([image])[0].box_score) == 1  # the two overlap by 0.11


def test_detr_softmax_is_named(graph: Callable[..., str]) -> None:
    probability = np.array([[0.1, 0.7, 0.2], [0.2, 0.2, 0.6], [0.2, 0.6, 0.2]])
    source = graph({"logits": np.float32([np.log(probability) + 5]), "pred_boxes": np.float32([BOXES])})
    people = create_detector(source + "?layout=detr-softmax")([noise(100, 200)])[0]
    assert_same(
        people, PersonBoxes(np.array([[50.0, 0, 150, 100], [125, 62.5, 175, 87.5]]), np.array([0.7, 0.6])), 1e-4
    )
    with pytest.raises(ConfigError, match="person must be the index of one of its 2 classes, from 0, got 2"):
        create_detector(source + "?layout=detr-softmax&person=2")


def test_other_names_of_the_same_outputs(graph: Callable[..., str]) -> None:
    known = detr_outputs(SCORES, BOXES)
    source = graph({"dets": known["pred_boxes"], "labels": known["logits"]})
    assert_same(create_detector(source + "?layout=detr-focal&normalize=imagenet")([noise(100, 200)])[0], PERSON_0, 1e-4)
    assert_same(create_detector(source)([noise(100, 200)])[0], PERSON_1, 1e-4)  # RF-DETR, where a person is class 1


def test_deploy_layout_by_hand(graph: Callable[..., str]) -> None:
    outputs = {
        "labels": np.array([[0, 7, 0]]),
        "boxes": np.float32([[[0.25, 0, 0.75, 1], [0, 0, 0.5, 0.5], [0.125, 0, 0.375, 0.5]]]),
        "scores": np.float32([[0.9, 0.8, 0.6]]),
    }
    source = graph(outputs, told_size=True)
    assert_same(create_detector(source)([noise(100, 200)])[0], PERSON_0, 1e-4)
    of_7 = create_detector(source + "?person=7")([noise(100, 200)])[0]
    assert_same(of_7, PersonBoxes(np.array([[0.0, 0, 100, 50]]), np.array([0.8])), 1e-4)
    assert create_detector(source + "?person=5")([noise(100, 200)])[0].boxes_xyxy.shape == (0, 4)
    assert_batch_is_its_images(create_detector(source))


def test_suppressed_layout_by_hand(graph: Callable[..., str]) -> None:
    rows = [[0, 0, 16, 32, 0.7], [32, 0, 64, 32, 0.9], [8, 8, 12, 12, 0.8], [0, 0, 0, 0, 0]]
    source = graph({"dets": np.float32([rows]), "labels": np.array([[0, 0, 3, 0]])}, free=("dets", "labels"))
    # An image of 200 x 100 (width x height) lies in 64 x 64 at scale 0.32.
    expected = PersonBoxes(np.array([[100.0, 0, 200, 100], [0, 0, 50, 100]]), np.array([0.9, 0.7]))
    assert_same(create_detector(source)([noise(100, 200)])[0], expected, 1e-4)
    assert_batch_is_its_images(create_detector(source))


def yolox_answer(cell: int, row: Sequence[float], cells: int = 84, classes: int = 3) -> NDArray[np.float32]:
    answer = np.zeros((1, cells, 5 + classes), np.float32)
    answer[..., 4:] = 0.01
    answer[0, cell, : len(row)] = row
    return answer


def test_yolox_cells_by_hand(graph: Callable[..., str]) -> None:
    # 64 x 64 has 8 x 8 cells of 8 pixels, then 4 x 4 of 16 (from 64 on), then 2 x 2 of 32. Cell 64 + 4 * 1 + 2 is in
    # row 1, column 2: center ((2 + 0.5) * 16, (1 + 0.25) * 16) = (40, 20); width 16 e^0 = 16, height 16 * 2 = 32.
    answer = yolox_answer(70, [0.5, 0.25, 0, np.log(2), 0.8, 0.9])
    source = graph({"output": answer})
    expected = PersonBoxes(np.array([[100.0, 12.5, 150, 100]]), np.array([0.72]))  # y: (4, 36) -> 12.5, 112.5 clipped
    detector = create_detector(source)
    assert_same(detector([noise(100, 200)])[0], expected, 1e-4)
    assert create_detector(source + "?person=1")([noise(100, 200)])[0].boxes_xyxy.shape == (0, 4)
    assert_batch_is_its_images(detector)
    # The first of the 2 x 2 cells, whose size overflows: dropped, not an error.
    assert not create_detector(graph({"output": yolox_answer(80, [0, 0, 800, 0, 1, 1])}))([noise(9, 9)])[
        0
    ].box_score.size


def test_yolox_on_a_grid_that_is_not_square(graph: Callable[..., str]) -> None:
    # 32 x 64 (height x width): 4 x 8, 2 x 4, 1 x 2 cells. Cell 32 + 4 + 3: row 1, column 3 of 16 pixels.
    source = graph({"output": yolox_answer(39, [0, 0, 0, 0, 1, 0.5], cells=42)}, shape=(1, 3, 32, 64))
    people = create_detector(source + "?layout=yolox")([noise(32, 64)])[0]
    assert_same(people, PersonBoxes(np.array([[40.0, 8, 56, 24]]), np.array([0.5])), 1e-4)
    with pytest.raises(ConfigError, match=r"expected one row per cell .*\(B, 84, 5 \+ C\), got \(1, 42, 8\)"):
        create_detector(graph({"output": yolox_answer(0, [0], cells=42)}) + "?layout=yolox")


def test_yolov8_by_hand(graph: Callable[..., str]) -> None:
    answer = np.zeros((1, 4 + 2, 84), np.float32)
    answer[0, :, 5] = [32, 32, 16, 16, 0.2, 0.9]
    answer[0, :, 6] = [16, 24, 16, 8, 0.8, 0.1]
    source = graph({"output0": answer})
    # 200 x 100 lies in the middle of 64 x 64: scale 0.32, 16 pixels of gray above and below.
    detector = create_detector(source)
    expected = PersonBoxes(np.array([[25.0, 12.5, 75, 37.5]]), np.array([0.8]))
    assert_same(detector([noise(100, 200)])[0], expected, 1e-4)
    at_top = create_detector(source + "?fit=letterbox")([noise(100, 200)])[0]
    assert_same(at_top, PersonBoxes(np.array([[25.0, 62.5, 75, 87.5]]), np.array([0.8])), 1e-4)
    of_1 = create_detector(source + "?person=1")([noise(100, 200)])[0]
    assert_same(of_1, PersonBoxes(np.array([[75.0, 25, 125, 75]]), np.array([0.9])), 1e-4)
    assert_batch_is_its_images(detector)


def test_yolo_with_suppression_inside_by_hand(graph: Callable[..., str]) -> None:
    rows = [[16, 24, 32, 32, 0.7, 0], [32, 16, 48, 48, 0.9, 2], [0, 0, 0, 0, 0, 0]]
    detector = create_detector(graph({"output0": np.float32([rows])}))
    expected = PersonBoxes(np.array([[50.0, 25, 100, 50]]), np.array([0.7]))  # scale 0.32, 16 pixels of gray above
    assert_same(detector([noise(100, 200)])[0], expected, 1e-4)
    assert_batch_is_its_images(detector)


def test_decoded_yolox_is_recognized_by_its_values(graph: Callable[..., str]) -> None:
    answer = yolox_answer(70, [40, 20, 16, 32, 0.8, 0.9])
    source = graph({"output": answer})
    expected = PersonBoxes(np.array([[100.0, 12.5, 150, 100]]), np.array([0.72]))
    assert_same(create_detector(source)([noise(100, 200)])[0], expected, 1e-4)
    with pytest.raises(ConfigError, match=r"offsets from its cells, got values up to 40, .*layout=yolox-decoded"):
        create_detector(source + "?layout=yolox")


@pytest.mark.parametrize(
    ("outputs", "query", "message"),
    [
        ({"output": yolox_answer(0, [0] * 6)}, "yolov8", r"a column per cell \(B, 4 \+ C, A\), got \(1, 84, 8\)"),
        ({"o": np.full((1, 6, 84), 7, np.float32)}, "yolov8", "expects scores from 0 to 1, got 7 to 7"),
        ({"o": np.full((1, 6, 84), 0.4, np.float32)}, "yolov8", "fractions where pixels belong"),
        (detr_outputs(SCORES, [[9000.0, 9, 9, 9]] * 3), "detr-focal", "pixels where fractions belong"),
        ({"o": np.full((1, 9, 7), 1, np.float32)}, "yolo-nms", r"corners, score and class \(B, N, 6\)"),
    ],
)
def test_a_layout_that_cannot_be_meant(graph: Callable[..., str], outputs, query: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}.*its outputs are"):
        create_detector(graph(outputs) + f"?layout={query}")


def test_outputs_of_another_shape_do_not_fit_by_their_names(graph: Callable[..., str]) -> None:
    source = graph({"dets": np.ones((1, 9, 5), np.float32), "labels": np.ones((1, 9), np.float32)})
    with pytest.raises(ConfigError, match=r"layout rf-detr expects dets \(B, Q, 4\), labels \(B, Q, C\), got dets"):
        create_detector(f"{source}?layout=rf-detr")


def test_what_the_network_sees(tmp_path: Path) -> None:
    """A graph that returns the first pixel as a score tells channel order and range."""
    arrays = {"starts": [0, 0, 0], "ends": [1, 1, 1], "axes": [1, 2, 3], "flat": [0, 1, 1]}
    arrays |= {"thousand": np.float32(1000), "box": np.float32([[[1, 1, 9, 9]]]), "label": [[0]]}
    nodes = [
        "pixel = Slice (images, starts, ends, axes)",
        "small = Div (pixel, thousand)",
        "score = Reshape (small, flat)",
        "dets = Concat <axis = 2> (box, score)",
        "labels = Identity (label)",
    ]
    outputs = [tensor("dets", 1, 1, 5), tensor("labels", 1, 1, kind="int64")]
    file = save_onnx(tmp_path / "pixel.onnx", [tensor("images", 1, 3, 32, 32)], outputs, nodes, arrays)
    image = np.full((32, 32, 3), (250, 100, 200), np.uint8)

    def first_value(query: str) -> float:
        return 1000 * float(create_detector(f"onnx:{file}{query}", threshold=0)([image])[0].box_score[0])

    assert first_value("") == pytest.approx(200, abs=1e-3)  # blue, raw: MMDeploy's defaults
    assert first_value("?color=rgb") == pytest.approx(250, abs=1e-3)
    assert first_value("?color=rgb&normalize=unit") == pytest.approx(250 / 255, abs=1e-4)
    assert first_value("?normalize=imagenet") == pytest.approx((200 / 255 - 0.406) / 0.225, abs=1e-4)


@pytest.mark.parametrize(
    ("outputs", "layout"),
    [
        ([("logits", 1, 300, 80), ("pred_boxes", 1, 300, 4)], "detr-focal"),
        ([("logits", None, None, 91), ("pred_boxes", None, None, 4), ("last_hidden_state", 1, 9, 8)], "detr-focal"),
        ([("labels", 1, 300), ("boxes", 1, 300, 4), ("scores", 1, 300)], "detr-deploy"),
        ([("dets", 1, None, 5), ("labels", 1, None)], "suppressed"),
        ([("dets", 1, 300, 4), ("labels", 1, 300, 91)], "rf-detr"),
        ([("output", 1, 8400, 85)], "yolox"),
        ([("output", None, None, 6)], "yolox"),
        ([("output0", 1, 84, 8400)], "yolov8"),
        ([("output0", None, 84, None)], "yolov8"),
        ([("output0", 1, 300, 6)], "yolo-nms"),
        ([("output0", None, None, None)], None),
        ([("output0", 1, 116, 8400), ("output1", 1, 32, 160, 160)], None),
        ([("heatmaps", 1, 17, 64, 48)], None),
    ],
)
def test_layouts_are_recognized(outputs: list[tuple[Any, ...]], layout: str | None) -> None:
    assert recognize_layout([TensorSpec(name, sides) for name, *sides in outputs], (640, 640)) == layout


def test_queries() -> None:
    assert parse_source("a b.onnx") == (Path("a b.onnx"), OnnxOptions())
    file, options = parse_source("d/x.onnx?layout=yolox&person=3&size=480x640&fit=stretch&color=rgb&normalize=unit")
    assert file == Path("d/x.onnx")
    assert options == OnnxOptions("yolox", 3, (480, 640), "stretch", "rgb", "unit")
    assert parse_source("x.onnx?size=416")[1].size_hw == (416, 416)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("layout=yolov5", "layout must be one of detr-focal, .*yolox.*got 'yolov5'"),
        ("persons=1", "key must be one of layout, person, size, fit, color, normalize, got 'persons'"),
        ("person=-1", "person must be a whole number from 0, got '-1'"),
        ("person=", "person must be a whole number from 0, got ''"),
        ("size=0", "size must be as 640 or 480x640"),
        ("size=1x2x3", "size must be as 640 or 480x640"),
        ("size=99999", "size must be as 640 or 480x640"),
        ("fit=crop", "fit must be one of stretch, letterbox, letterbox-center, got 'crop'"),
        ("color=gray", "color must be one of rgb, bgr"),
        ("normalize=1", "normalize must be one of raw, unit, imagenet"),
        ("yolox", r"expected FILE\?key=value&key=value, got the query 'yolox'"),
    ],
)
def test_wrong_queries(query: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_detector(f"onnx:x.onnx?{query}")


def test_files_that_do_not_fit(graph: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.onnx is not a file: expected a model"):
        create_detector(f"onnx:{tmp_path / 'none.onnx'}")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"broken\.onnx cannot be read by ONNX Runtime"):
        create_detector(f"onnx:{tmp_path / 'broken.onnx'}")
    known, heat = detr_outputs(SCORES, BOXES), {"heat": np.zeros((1, 17, 8, 8), np.float32)}
    for outputs, query, options, message in (
        (known, "?person=2", {}, "person must be the index of one of its 2 classes, from 0, got 2"),
        (known, "?size=96", {}, "size must be 64x64, which the file fixes, got 96x96"),
        (known, "?layout=yolox", {}, r"layout yolox expects one output .*got logits .*the layouts are detr-focal: "),
        (known, "", {"shape": ("batch", 64, 64, 3)}, r"one float input of images \(B, 3, H, W\), got images"),
        (known, "", {"shape": (1, 3, 64, 10**9)}, "at most 1024 images of 8192 pixels a side"),
        (known, "", {"shape": (10**9, 3, 64, 64)}, "at most 1024 images of 8192 pixels a side"),
        (known, "", {"extra_input": "im_shape"}, r"expected no input but the images, .*got im_shape"),
        (heat, "", {}, r"its layout is not recognized, its outputs are heat .*detr-deploy: labels"),
    ):
        with pytest.raises(ConfigError, match=message):
            create_detector(graph(outputs, **options) + query)


def test_a_file_that_fails_on_its_images(tmp_path: Path) -> None:
    shapes = {"logits": [1, 4, 2], "pred_boxes": [1, 4, 4]}
    nodes = [f"{name} = Reshape (images, {name}_shape)" for name in shapes]
    outputs = [tensor(name, *shape) for name, shape in shapes.items()]
    arrays = {f"{name}_shape": shape for name, shape in shapes.items()}
    file = save_onnx(tmp_path / "wrong.onnx", [tensor("images", "n", 3, "h", "w")], outputs, nodes, arrays)
    with pytest.raises(InputError, match=r"wrong\.onnx fails on 1 images of 640x640 pixels"):
        create_detector(f"onnx:{file}")
    inputs, node = [tensor("images", "n", 3, 64, 64)], "words = Constant <value_strings = ['a']> ()".replace("'", '"')
    file = save_onnx(tmp_path / "words.onnx", inputs, ["string[1] words"], [node])
    with pytest.raises(InputError, match="output 'words' is no array of numbers"):
        create_detector(f"onnx:{file}")


def test_every_layout_is_documented() -> None:
    assert onnx_detector.__doc__ is not None
    for name, layout in LAYOUTS.items():
        entry = onnx_detector.__doc__.split(f"- ``{name}``:")[1].split("\n- ``")[0]
        defaults = f"{layout.fit}, {layout.color}, {layout.normalize}, {layout.threshold}"
        assert defaults in " ".join(entry.split()), name


# transformers


def write_model(folder: Path, labels: dict[int, str]) -> None:
    """A tiny RT-DETRv2, its weights wide: boxes and scores differ by query and image, and class 1 is the usual."""
    import torch
    import transformers

    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrV2Config(
        backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[16] * 3, encoder_ffn_dim=32,
        encoder_attention_heads=2, d_model=32, num_queries=20, decoder_in_channels=[32] * 3, decoder_ffn_dim=32,
        decoder_layers=2, decoder_attention_heads=2, num_denoising=0, decoder_n_points=2, id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForObjectDetection.from_config(config)
        for name, parameter in model.named_parameters():
            if "class_embed" in name and parameter.ndim == 1:
                torch.nn.init.constant_(parameter, -4)
                torch.nn.init.constant_(parameter[1:2], 0.5)
            elif parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
            elif parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    size = {"height": MODEL_HW[0], "width": MODEL_HW[1]}
    processor = {"image_processor_type": "RTDetrImageProcessor", "size": size, "do_normalize": False, "do_pad": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model with random weights, as ``save_pretrained`` writes it."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, LABELS)
    return folder


@pytest.fixture(scope="module")
def exported(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny RT-DETRv2 as torch.onnx.export writes it, for one image at a time."""
    pytest.importorskip("onnxscript")
    import torch
    import transformers
    from onnxscript import opset18 as op

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.AutoModelForObjectDetection.from_pretrained(model_folder).eval()

        def forward(self, pixel_values):
            found = self.model(pixel_values=pixel_values)
            return found.logits, found.pred_boxes

    file = tmp_path_factory.mktemp("exported") / "rt_detr_v2.onnx"
    # torch 2.13 cannot translate this operator, of a check inside the model, by itself.
    all_true = {
        torch.ops.aten._is_all_true.default: lambda x: op.Cast(op.ReduceMin(op.Cast(x, to=6), keepdims=0), to=9)
    }
    with torch.no_grad():
        torch.onnx.export(
            Outputs().eval(),
            (torch.rand(1, 3, *MODEL_HW),),
            file,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=["pixel_values"],
            output_names=["logits", "pred_boxes"],
            custom_translation_table=all_true,
        )
    return file


def test_a_folder_of_transformers(model_folder: Path) -> None:
    """Against the model and its image processor used by hand."""
    import torch
    import transformers

    detector = create_detector(f"hf:{model_folder}", threshold=0.3, nms_iou=1)
    image = noise(50, 130)
    people = detector([image])[0]

    pixels = np.asarray(transformers.image_utils.PIL.Image.fromarray(image).resize((96, 64), 2), np.float32) / 255
    model = transformers.AutoModelForObjectDetection.from_pretrained(model_folder).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(pixels.transpose(2, 0, 1)[None]))
    score = found.logits[0, :, 1].sigmoid().numpy()
    center, half = found.pred_boxes[0, :, :2].numpy() * [130, 50], found.pred_boxes[0, :, 2:].numpy() * [65, 25]
    boxes = np.clip(np.concatenate([center - half, center + half], 1), 0, [130, 50, 130, 50])
    order = np.argsort(-score)[: (score >= 0.3).sum()]
    assert len(order) > 2
    assert_same(people, PersonBoxes(boxes[order].astype(float), score[order].astype(float)), 1e-3, 1e-5)


@pytest.mark.slow
def test_transformers_batches_threads_and_nobody(model_folder: Path) -> None:
    detector = create_detector(f"hf:{model_folder}", threshold=0.3)
    assert_batch_is_its_images(detector)
    images = [noise(50, 80, seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda image: detector([image])[0], images))
    for people, known in zip(detector(images), alone, strict=True):
        assert_same(people, known, pixels=1e-3, score=1e-5)
    nobody = create_detector(f"hf:{model_folder}", threshold=1)([noise(50, 80)])[0]
    assert nobody.boxes_xyxy.shape == (0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("size_hw", [(50, 130), (300, 200), (3, 5)])
def test_onnx_agrees_with_transformers(model_folder: Path, exported: Path, size_hw: tuple[int, int]) -> None:
    options = {"threshold": 0.3, "nms_iou": 0.7}
    by_transformers = create_detector(f"hf:{model_folder}", **options)  # type: ignore[arg-type]
    by_onnx = create_detector(f"onnx:{exported}?person=1", **options)  # type: ignore[arg-type]
    images = [noise(*size_hw), noise(*size_hw, seed=1)]
    for people, expected in zip(by_onnx(images), by_transformers(images), strict=True):
        assert len(expected.box_score) > 1
        assert_same(people, expected, pixels=2e-3, score=2e-5)


def test_models_without_people(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_model(tmp_path, {0: "car", 1: "dog"})
    with pytest.raises(ConfigError, match=r"finds no people: expected a label human, .*person, got car, dog: choose"):
        create_detector(f"hf:{tmp_path}")


def test_broken_folders(model_folder: Path, tmp_path: Path) -> None:
    import safetensors.numpy

    with pytest.raises(
        InputError, match=r"lacks config\.json, preprocessor_config\.json, model\.safetensors: expected"
    ):
        create_detector(f"hf:{tmp_path}")
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    weights = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(weights)
    gone = sorted(arrays)[0]
    safetensors.numpy.save_file({k: v for k, v in arrays.items() if k != gone}, weights, {"format": "pt"})
    with pytest.raises(InputError, match=f"its weights lack 1 of the model's arrays, such as {gone}"):
        create_detector(f"hf:{folder}")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read as an object detection model"):
        create_detector(f"hf:{folder}")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="cannot be read as an object detection model"):
        create_detector(f"hf:{folder}")
    for name in (str(tmp_path / "gone"), "./gone", "gone", "a/b/c"):
        with pytest.raises(InputError, match=r"expected a folder written by save_pretrained or a hub id .*no folder"):
            create_detector(f"hf:{name}")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that refuses connections, and an empty cache, whose folder it is."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_hub_that_cannot_be_reached(no_hub: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(
        InputError, match=r"no such folder, .*not in the local cache, and it cannot be downloaded \(.+\): "
    ):
        create_detector("hf:nobody/nothing")
    with pytest.raises(InputError, match="cannot be downloaded"):
        create_detector("hf:no body/no?thing")


def test_a_hub_that_does_not_answer_is_given_up(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.3)
        start = time.monotonic()
        with pytest.raises(InputError, match="cannot be downloaded"):
            create_detector("hf:nobody/nothing")
        assert time.monotonic() - start < 5


def put_into_cache(cache: Path, hub_id: str, folder: Path) -> None:
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


def test_a_hub_id_takes_the_model_in_the_cache(no_hub: Path, model_folder: Path) -> None:
    put_into_cache(no_hub, "org/detector", model_folder)
    by_cache, by_folder = (create_detector(f"hf:{name}", threshold=0.3) for name in ("org/detector", model_folder))
    assert_same(by_cache([noise(50, 80)])[0], by_folder([noise(50, 80)])[0])
    for file in no_hub.rglob("model.safetensors"):
        file.write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read as an object detection model"):
        create_detector("hf:org/detector")


def test_the_default_is_inside_the_package(no_hub: Path) -> None:
    assert isinstance(create_detector("auto"), NanodetDetector)
    assert isinstance(create_detector("nanodet", tile=640, threads=1), NanodetDetector)
    with pytest.raises(ConfigError, match="tiles are searched by the built-in detector"):
        create_detector("whole-image", tile=640)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "distilpose\[detect\]"'):
        create_detector("hf:org/name")
