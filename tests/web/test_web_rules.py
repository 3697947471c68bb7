"""The page's JavaScript, run by Node.js, against the package: crops, decoding, boxes that follow, rows, drawing."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distilpose.backends.description import ModelDescription
from distilpose.data.preprocess import crop_image
from distilpose.detection.filtering import keep_people
from distilpose.detection.nanodet import fit_image
from distilpose.formats.image_ids import image_ids
from distilpose.formats.writers import PoseRecord, prediction_rows
from distilpose.geometry import crops_from_boxes
from distilpose.geometry.oks import oks
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.models.outputs import PoseOutput
from distilpose.serving.web import STATIC, detector_rules, model_entry, shared_rules
from distilpose.skeletons import COCO_17
from distilpose.video.pose_boxes import boxes_around
from distilpose.visualization import draw
from distilpose.visualization import rasterizer as paint

DESCRIPTION = ModelDescription("student", "regression", (128, 96), (32, 24))
BOXES = [[20.0, 30.0, 170.5, 200.25], [-60.0, -10.0, 41.0, 90.0], [500.0, 500.0, 600.0, 700.0], [0, 0, 200, 240]]

NAMES = [
    "000000000785.jpg", "785", "0.png", "007.tar.gz", "7.", "7..jpg", ".785", "..785", ".jpg", "", "a.jpg", "12a.jpg",
    "-5.jpg", "+5.jpg", "1_000.jpg", "1.5.jpg", "1e3.jpg", "0x10.jpg", " 5.jpg", "5 .jpg", "5.jpg\n", "5\n.jpg",
    "folder/12.jpg", r"c:\photos\13.jpg", "14.jpg/", "5.x/a.jpg", "\u0663.jpg", "\uff11\uff12.jpg", "\u00b2.jpg",
    "1\u0660.jpg", "M\u00fcnchen.jpg", "\u5199\u771f.jpg", "\U0001f600.png", "5.\u5199\u771f", f"{2**53 - 1}.jpg",
    f"{2**53 + 1}.jpg", f"{2**63 - 1}.jpg", f"{2**63}.jpg", "12345678901234567890.jpg", "00000000000000000042.jpg",
    "9" * 2000 + ".jpg",
]  # fmt: skip
SIZES_WH = [[640, 480], [480, 640], [100, 100], [5000, 7], [333, 500]]


def many_boxes() -> dict[str, np.ndarray]:
    """What a network of 208 x 416 might give: doubles, boxes over the edge, weak ones."""
    rng = np.random.default_rng(3)
    corner = rng.random((400, 2)) * [180, 380] - 10
    boxes = np.concatenate([corner, corner + rng.random((400, 2)) * [90, 150]], axis=1).astype(np.float32)
    return {"boxes": boxes, "scores": rng.random(400, dtype=np.float32)}


class Fixed:
    """An `InferenceBackend` that gives a fixed answer."""

    description = DESCRIPTION

    def __init__(self, output: PoseOutput[np.ndarray]) -> None:
        self.output = output

    def __call__(self, images: np.ndarray) -> PoseOutput[np.ndarray]:
        return self.output


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """(240, 200, 3) smooth and noisy at once."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(240), np.arange(200))[..., None] % 200
    return (ramp + rng.integers(0, 56, (240, 200, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def output() -> PoseOutput[np.ndarray]:
    rng = np.random.default_rng(1)
    count = len(BOXES)
    return PoseOutput(
        rng.random((count, 17, 2), dtype=np.float32),
        rng.random((count, 17, 2), dtype=np.float32) + 1,
        rng.random((count, 17), dtype=np.float32) * 1.2 - 0.1,
    )


@pytest.fixture(scope="module")
def two() -> list[PoseResult]:
    """A whole pose, and the same person a little on, larger, the legs hidden."""
    rng = np.random.default_rng(2)
    xy = rng.random((1, 17, 2)) * [60, 160] + [100, 50]
    score = np.full((1, 17), 0.8)
    hidden = score.copy()
    hidden[:, 11:] = 0.02
    box = np.array([[60.0, 0.0, 400.0, 260.0]])
    return [
        PoseResult(points, box, np.ones(1), np.full(1, 0.8), raw_score=scores)
        for points, scores in ((xy, score), (xy * 1.1 + 7, hidden))
    ]


def as_pose(result: PoseResult) -> dict[str, Any]:
    assert result.raw_score is not None
    return {"xy": result.xy[0].tolist(), "rawScore": result.raw_score[0].tolist(), "box": result.box[0].tolist()}


@pytest.fixture(scope="module")
def answers(
    image: np.ndarray, output: PoseOutput[np.ndarray], two: list[PoseResult], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js: apt-get install nodejs")
    folder = tmp_path_factory.mktemp("page")
    for path in STATIC.glob("*.js"):
        shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    rgba = np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=2)
    question = {
        "image": {"width": 200, "height": 240, "rgba": base64.b64encode(rgba.tobytes()).decode()},
        "boxes": BOXES,
        "model": model_entry(DESCRIPTION),
        "rules": shared_rules(),
        "output": {name: getattr(output, name).ravel().tolist() for name in ("xy_norm", "sigma", "score")},
        "people": [as_pose(result) for result in two],
        "sizes": SIZES_WH,
        "finds": {name: values.tolist() for name, values in many_boxes().items()},
        "detectorRules": detector_rules(),
        "names": NAMES,
    }
    script = Path(__file__).with_name("rules.mjs")
    done = subprocess.run(
        [node, str(script), str(folder)], input=json.dumps(question), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_crops_are_those_of_the_package(answers: dict[str, Any], image: np.ndarray) -> None:
    for planes, crop in zip(answers["planes"], crops_from_boxes(BOXES, (128, 96)), strict=True):
        found = np.frombuffer(base64.b64decode(planes), np.uint8).reshape(3, 128, 96)
        expected = crop_image(image, crop).transpose(2, 0, 1)
        # Where a position lies between two 32nds of a pixel, the two may round it to either side.
        assert (found != expected).mean() < 0.01
        assert np.abs(found.astype(int) - expected).max() <= 8


def test_poses_and_rows_are_those_of_the_package(
    answers: dict[str, Any], image: np.ndarray, output: PoseOutput[np.ndarray]
) -> None:
    expected = PosePredictor(Fixed(output))(image, BOXES)
    poses = answers["poses"]
    np.testing.assert_allclose([pose["xy"] for pose in poses], expected.xy, atol=1e-4)
    np.testing.assert_allclose([pose["sigma"] for pose in poses], expected.sigma, rtol=1e-6)
    np.testing.assert_allclose([pose["poseScore"] for pose in poses], expected.pose_score, rtol=1e-6)
    rows = prediction_rows(PoseRecord("a.jpg", expected, (240, 200), *image_ids(["a.jpg"])))
    for found, row in zip(json.loads(answers["rows"]), rows, strict=True):
        assert list(found) == list(row)
        for name, value in row.items():
            if name == "sigma":
                np.testing.assert_allclose(found[name], value, rtol=1e-6)
            else:
                assert found[name] == pytest.approx(value, abs=1e-4), name
    assert json.loads(answers["empty"]) == []
    np.testing.assert_allclose(answers["thereAndBack"], expected.xy, atol=1e-4)


def test_image_ids_are_those_of_the_package(answers: dict[str, Any]) -> None:
    for name, text in zip(NAMES, answers["named"], strict=True):
        saved = json.loads(text)
        assert {row["image"] for row in saved} == {name}
        assert {row["image_id"] for row in saved} == {*image_ids([name])}, name


def test_each_frame_has_an_id_that_it_keeps(answers: dict[str, Any]) -> None:
    ids = {(row["time"], row["image_id"]) for row in json.loads(answers["frames"])}
    assert ids == {(0, 1), (0.5, 3), (1, 2)}


def test_boxes_follow_as_in_the_package(answers: dict[str, Any], two: list[PoseResult]) -> None:
    for result, found in zip(two, answers["around"], strict=True):
        np.testing.assert_allclose(found, boxes_around(result)[0], atol=1e-6)


def test_images_are_fitted_as_by_the_detector(answers: dict[str, Any]) -> None:
    for (width, height), fit in zip(SIZES_WH, answers["fits"], strict=True):
        pixels, scale_xy = fit_image(np.zeros((height, width, 3), np.uint8), detector_rules()["sizes"][0])
        assert fit["inputWh"] == [pixels.shape[1], pixels.shape[0]]
        np.testing.assert_allclose(fit["innerWh"], np.array(scale_xy) * [width, height])


def test_people_are_kept_as_by_the_detector(answers: dict[str, Any]) -> None:
    finds, rules = many_boxes(), detector_rules()
    in_image = finds["boxes"].astype(float) * 1000 / 416
    limits = {"threshold": rules["threshold"], "nms_iou": rules["nms_iou"]}
    expected = keep_people(in_image, finds["scores"], (1000, 500), **limits)
    assert 5 < len(expected.box_score) < 300
    np.testing.assert_allclose([one["box"] for one in answers["kept"]], expected.boxes_xyxy, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose([one["score"] for one in answers["kept"]], expected.box_score, rtol=1e-6)


def test_similarity_is_that_of_the_package(answers: dict[str, Any], two: list[PoseResult]) -> None:
    area = 340.0 * 260.0 * 1.25**2
    assert answers["similarity"] == pytest.approx(oks(two[0].xy, two[1].xy, area, COCO_17.oks_sigmas).item(), rel=1e-6)


def test_people_are_drawn_as_by_the_package(answers: dict[str, Any]) -> None:
    assert answers["drawing"] == {
        "score": list(draw._SCORE_RAMP),
        "sigma": list(paint._SIGMA_RAMP),
        "width": draw._WIDTH_SHARE,
    }
