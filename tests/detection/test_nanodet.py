"""The built-in person detector: its file against the published network, and photographs."""

import json
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")

from distilpose import errors  # noqa: E402
from distilpose.detection import nanodet  # noqa: E402
from distilpose.detection.nanodet import WEIGHTS, NanodetDetector, fit_image, place_tiles  # noqa: E402
from distilpose.errors import ConfigError  # noqa: E402
from distilpose.geometry import box_iou_xyxy, xywh_to_xyxy  # noqa: E402

PUBLISHED = Path(__file__).parents[3] / "shared" / "models" / "nanodet_g_416_raw.onnx"


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """(606, 512, 3): Grace Hopper, hip to cap, a public domain photograph that matplotlib brings."""
    pytest.importorskip("matplotlib")
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg", asfileobj=True) as file:
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def detector() -> NanodetDetector:
    return NanodetDetector(threads=1)


@pytest.fixture(scope="module")
def session():
    return onnxruntime.InferenceSession(str(WEIGHTS), providers=["CPUExecutionProvider"])


def decode(score_maps: list[np.ndarray], side_maps: list[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """NanoDet's decoding, from its published description: cell by cell, side by side."""
    boxes, scores = [], []
    for stride, score_map, side_map in zip((8, 16, 32), score_maps, side_maps, strict=True):
        for cell, (score, sides) in enumerate(zip(score_map, side_map.astype(np.float64), strict=True)):
            x, y = (cell % (size // stride) + 0.5) * stride, (cell // (size // stride) + 0.5) * stride
            weights = np.exp(sides.reshape(4, 11) - sides.max())
            left, top, right, bottom = stride * (weights * np.arange(11)).sum(1) / weights.sum(1)
            boxes.append([x - left, y - top, x + right, y + bottom])
            scores.append(score[0])
    return np.array(boxes), np.array(scores)


def run_published(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(416, 416, 3) uint8 RGB -> boxes and scores of the published network."""
    if not PUBLISHED.is_file():
        pytest.skip(f"the published network is not part of the repository and {PUBLISHED} is not there")
    raw = onnxruntime.InferenceSession(str(PUBLISHED), providers=["CPUExecutionProvider"])
    image = (pixels[..., ::-1] - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]
    outputs = raw.run(None, {raw.get_inputs()[0].name: image.transpose(2, 0, 1)[None].astype(np.float32)})
    largest_first = sorted((value[0] for value in outputs), key=len, reverse=True)
    score_maps = [value for value in largest_first if value.shape[1] == 80]
    return decode(score_maps, [value for value in largest_first if value.shape[1] == 44], 416)


def converter() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    import convert_nanodet

    return convert_nanodet


def square(image: np.ndarray) -> np.ndarray:
    pixels, _ = fit_image(image, 416)
    return cv2.copyMakeBorder(pixels, 0, 416 - pixels.shape[0], 0, 416 - pixels.shape[1], cv2.BORDER_CONSTANT)


def test_file_finds_what_the_published_network_finds(session, portrait: np.ndarray) -> None:
    """Its weights have eight bits: sure boxes agree within a few pixels of 416, scores within five hundredths."""
    pixels = square(portrait)
    expected_boxes, expected_scores = run_published(pixels)
    boxes, scores = (value[0] for value in session.run(["boxes", "scores"], {"images": pixels[None]}))
    assert boxes.shape == expected_boxes.shape == (52**2 + 26**2 + 13**2, 4)
    assert np.abs(scores - expected_scores).max() < 0.05
    sure = expected_scores > 0.5
    assert sure.sum() > 3
    assert np.abs(boxes - expected_boxes)[sure].max() < 4


def test_graph_with_published_weights_is_the_published_network(portrait: np.ndarray) -> None:
    """The converter's graph on another conversion's weights of 16 bits: the same numbers within rounding."""
    onnx = pytest.importorskip("onnx")
    expected_boxes, expected_scores = run_published(square(portrait))
    nodes = onnx.load(PUBLISHED).graph
    tensors = {value.name: onnx.numpy_helper.to_array(value).astype(np.float32) for value in nodes.initializer}
    convolutions = {}
    for node in nodes.node:
        if node.op_type == "Conv":
            kernel, bias = node.input[1:]  # a kernel is called PartitionedCall/split_NUMBER:0
            number = int(kernel.removesuffix(":0").partition("split")[2].lstrip("_") or 0)
            convolutions[number] = tensors[f"{kernel}_fp16"], tensors[bias]
    model = converter().build_model([convolutions[number] for number in range(34)], 16, {})
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores = (value[0] for value in run.run(["boxes", "scores"], {"images": square(portrait)[None]}))
    assert np.abs(boxes - expected_boxes).max() < 1e-3
    assert np.abs(scores - expected_scores).max() < 1e-5


def test_file_says_what_it_is(session) -> None:
    said = session.get_modelmeta().custom_metadata_map
    assert said["model"] == "NanoDet-g"
    assert said["license"] == "Apache-2.0"
    assert len(said["origin_sha256"]) == 64
    assert WEIGHTS.stat().st_size < 8e6


def test_portrait_is_one_person(detector: NanodetDetector, portrait: np.ndarray) -> None:
    (people,) = detector([portrait])
    assert len(people.boxes_xyxy) == 1
    assert people.box_score[0] > 0.6
    # Cap at y = 25, both elbows at the edges, cut at the bottom: read off the photograph.
    assert box_iou_xyxy(people.boxes_xyxy, [[10, 20, 512, 606]])[0, 0] > 0.85


def test_images_without_people(detector: NanodetDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert detector([]) == []
    for people in detector([np.zeros((480, 640, 3), np.uint8), noise, np.full((1, 1, 3), 255, np.uint8)]):
        assert people.boxes_xyxy.shape == (0, 4)
        assert people.box_score.shape == (0,)


@pytest.mark.parametrize("left_top", [(0, 0), (700, 50), (388, 294)])
def test_boxes_are_in_the_pixels_of_the_image(
    detector: NanodetDetector, portrait: np.ndarray, left_top: tuple[int, int]
) -> None:
    """A person pasted elsewhere, at half the size, is found there."""
    left, top = left_top
    scene = np.full((600, 1000, 3), 90, np.uint8)
    scene[top : top + 303, left : left + 256] = cv2.resize(portrait, (256, 303), interpolation=cv2.INTER_AREA)
    (people,) = detector([scene])
    assert box_iou_xyxy(people.boxes_xyxy[:1], [[left + 5, top + 10, left + 256, top + 303]])[0, 0] > 0.75


def test_close_up_is_found_at_a_second_look(portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found at the first size is left as it is; where nobody is, a smaller size is tried, once."""
    sizes = []
    original = nanodet.fit_image

    def noted(image: np.ndarray, size: int) -> tuple[np.ndarray, tuple[float, float]]:
        sizes.append(size)
        return original(image, size)

    monkeypatch.setattr(nanodet, "fit_image", noted)
    finder = NanodetDetector(threads=1)
    finder([portrait])
    assert sizes == [416]
    finder([np.zeros((100, 100, 3), np.uint8)])
    assert sizes == [416, 416, 256]
    # The score at 256 pixels is the higher one for a face that fills the image: find a threshold between the two.
    face = portrait[100:200, 200:300]
    first, second = (float(people_scores(face, size).max()) for size in (416, 256))
    assert first < second
    (people,) = NanodetDetector(threshold=(first + second) / 2, threads=1)([face])
    assert len(people.boxes_xyxy) >= 1


def people_scores(image: np.ndarray, size: int) -> np.ndarray:
    pixels, _ = fit_image(image, size)
    run = onnxruntime.InferenceSession(str(WEIGHTS), providers=["CPUExecutionProvider"])
    return run.run(["scores"], {"images": pixels[None]})[0]


def test_threshold_and_nms(portrait: np.ndarray) -> None:
    (many,) = NanodetDetector(threshold=0.01, nms_iou=1.0, threads=1)([portrait])
    (few,) = NanodetDetector(threshold=0.01, nms_iou=0.55, threads=1)([portrait])
    assert len(many.boxes_xyxy) > len(few.boxes_xyxy) > 0
    overlap = box_iou_xyxy(few.boxes_xyxy, few.boxes_xyxy) - np.eye(len(few.boxes_xyxy))
    assert overlap.max() <= 0.55
    for people in (many, few):
        assert people.box_score.min() >= 0.01
        assert (np.diff(people.box_score) <= 0).all()
        assert people.boxes_xyxy.min() >= 0
        assert (people.boxes_xyxy.max(0) <= [512, 606, 512, 606]).all()
    assert len(NanodetDetector(threshold=1.0, threads=1)([portrait])[0].boxes_xyxy) == 0


def test_tiles_find_small_people(portrait: np.ndarray) -> None:
    """Three people 60 pixels high in an image of 1600 x 1200: about 15 pixels high to the network."""
    scene = np.full((1200, 1600, 3), 90, np.uint8)
    places = [(70, 60), (1000, 500), (1545, 1135)]
    small = cv2.resize(portrait, (51, 60), interpolation=cv2.INTER_AREA)
    for left, top in places:
        scene[top : top + 60, left : left + 51] = small
    expected = [[left, top, left + 51, top + 60] for left, top in places]

    def found(detector: NanodetDetector) -> int:
        return int((box_iou_xyxy(expected, detector([scene])[0].boxes_xyxy) > 0.6).any(1).sum())

    assert found(NanodetDetector(threads=1)) == 0
    assert found(NanodetDetector(tile=320, threads=1)) == 3


def test_tiles_keep_people_larger_than_a_tile_whole(portrait: np.ndarray) -> None:
    """Parts of a person that a tile cuts off are no people of their own."""
    large = cv2.resize(portrait, (1024, 1212), interpolation=cv2.INTER_LINEAR)
    scene = cv2.copyMakeBorder(large, 200, 100, 300, 300, cv2.BORDER_CONSTANT, value=(90, 90, 90))
    (whole,) = NanodetDetector(threads=1)([scene])
    (tiled,) = NanodetDetector(tile=900, threads=1)([scene])
    assert len(whole.boxes_xyxy) == len(tiled.boxes_xyxy) == 1
    assert box_iou_xyxy(whole.boxes_xyxy, tiled.boxes_xyxy)[0, 0] > 0.9


@pytest.mark.parametrize("image_hw", [(100, 641), (1600, 2400), (641, 641), (5000, 30), (3000, 640)])
def test_tiles_cover_the_image_and_overlap(image_hw: tuple[int, int]) -> None:
    tile = 640
    assert place_tiles((480, 640), tile) == []  # one tile is none
    seen = np.zeros(image_hw, dtype=np.uint8)
    tiles = place_tiles(image_hw, tile)
    for left, top in tiles:
        assert left >= 0
        assert top >= 0
        assert left + min(tile, image_hw[1]) <= image_hw[1]
        assert top + min(tile, image_hw[0]) <= image_hw[0]
        seen[top : top + tile, left : left + tile] += 1
    assert seen.min() >= 1
    for axis in range(2):
        starts = sorted({place[axis] for place in tiles})
        assert all(0 < later - start <= 0.75 * tile + 1 for start, later in pairwise(starts))


@pytest.mark.parametrize("image_hw", [(480, 640), (640, 480), (1080, 1920), (50, 60), (1, 4000), (4000, 1), (416, 416)])
def test_image_is_fitted_in_its_own_shape(image_hw: tuple[int, int]) -> None:
    image = np.full((*image_hw, 3), 200, np.uint8)
    pixels, scale_xy = fit_image(image, 416)
    height, width = pixels.shape[:2]
    assert height % 32 == width % 32 == 0
    assert max(height, width) == 416
    inner = round(image_hw[0] * scale_xy[1]), round(image_hw[1] * scale_xy[0])
    assert (pixels[: inner[0], : inner[1]] == 200).all()
    assert pixels[inner[0] :].sum() == pixels[:, inner[1] :].sum() == 0
    assert height - inner[0] < 32
    assert width - inner[1] < 32


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 400}, "multiple of 32"),
        ({"size": 0}, "size must be a whole number of at least 32"),
        ({"tile": 10}, "tile must be a whole number of"),
    ],
)
def test_options_out_of_range(options: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        NanodetDetector(**options)


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    with pytest.raises(ConfigError, match="pip install"):
        NanodetDetector()


def test_people_of_coco(detector: NanodetDetector, shared_data: Path) -> None:
    """Of the people at least 100 pixels high in 40 photographs, four in five are found (IoU of 0.5)."""
    coco = json.loads((shared_data / "coco_val_dev" / "person_keypoints.json").read_text())
    tall = found = 0
    for entry in coco["images"][:40]:
        image = cv2.imread(str(shared_data / "coco_val_dev" / "images" / entry["file_name"]))
        labels = [a for a in coco["annotations"] if a["image_id"] == entry["id"] and not a["iscrowd"]]
        people = xywh_to_xyxy([a["bbox"] for a in labels if a["bbox"][3] >= 100])
        overlap = box_iou_xyxy(people, detector([cv2.cvtColor(image, cv2.COLOR_BGR2RGB)])[0].boxes_xyxy)
        tall, found = tall + len(people), found + int((overlap >= 0.5).any(1).sum())
    assert tall > 40
    assert found / tall > 0.8
