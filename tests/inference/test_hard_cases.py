"""What users bring: odd boxes, odd images, odd videos. Poses are finite, or the error says what is wrong."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from distilpose.cli import main as cli
from distilpose.errors import InputError
from distilpose.formats.boxes import PersonBoxes
from distilpose.inference import predictor as predictor_module
from distilpose.inference import run as run_module
from distilpose.inference.batching import LocatedImage, predict_stream
from distilpose.inference.decoding import decode
from distilpose.inference.estimator import PoseEstimator
from distilpose.inference.people import read_boxes
from distilpose.inference.predictor import PosePredictor
from distilpose.models.outputs import HeatmapOutput
from known_model import BrightestPixel, run

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
side = st.floats(-4e8, 4e8, allow_nan=False)
span = (
    st.tuples(side, st.floats(0.001, 4e8))
    .map(lambda pair: (pair[0], pair[0] + pair[1]))
    .filter(lambda pair: pair[1] - pair[0] >= 0.001)
)
boxes = st.tuples(span, span).map(lambda spans: (spans[0][0], spans[1][0], spans[0][1], spans[1][1]))
anything = st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(st.lists(boxes, max_size=6))
def test_any_valid_box_gives_finite_keypoints(several: list[tuple[float, ...]]) -> None:
    result = PosePredictor(BrightestPixel())(IMAGE, several)
    assert result.xy.shape == (len(several), 17, 2)
    for values in (result.xy, result.sigma, result.pose_score, result.score):
        assert np.isfinite(values).all()


@settings(deadline=None)
@given(st.tuples(anything, anything, anything, anything))
def test_any_four_numbers_give_finite_keypoints_or_an_error_that_names_them(box: tuple[float, ...]) -> None:
    told = ""
    try:
        finite = np.isfinite(PosePredictor(BrightestPixel())(IMAGE, [box]).xy).all()
    except InputError as error:
        told = str(error)
    assert told.startswith("boxes_xyxy must") or finite


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-30, 1.0, 1e30]), st.sampled_from([-1.0, 0.0, 1.0]))
def test_decoding_any_heatmap_is_finite(seed: int, scale: float, sign: float) -> None:
    maps = np.random.default_rng(seed).uniform(0, 1, (2, 17, 16, 12)).astype(np.float32) * np.float32(scale * sign)
    keypoints = decode(HeatmapOutput(maps))
    assert np.isfinite(keypoints.xy_norm).all()
    assert np.isfinite(keypoints.raw_score).all()


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    return np.broadcast_to(np.linspace(0, 250, width)[None, :, None], (height, width, 3)).astype(np.uint8)


IMAGES: dict[str, Image.Image] = {
    "one.png": Image.new("RGB", (1, 1), (200, 10, 10)),
    "wide.png": Image.fromarray(gradient(3, 20_000)),
    "tall.png": Image.new("RGB", (2, 20_000)),
    "gray.jpg": Image.fromarray(gradient(60, 80)[..., 0]),
    "palette.gif": Image.fromarray(gradient(60, 80)).quantize(16),
    "alpha.webp": Image.new("RGBA", (80, 60), (200, 100, 0, 128)),
    "cmyk.jpg": Image.new("CMYK", (80, 60), (20, 100, 0, 10)),
    "bits.png": Image.fromarray(gradient(60, 80)[..., 0].astype(np.uint16) * 257),
    "two.tif": Image.fromarray(gradient(60, 80)[..., 0] > 100),
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_of_image_is_predicted_and_drawn(name: str, tmp_path: Path, backend: Any) -> None:
    IMAGES[name].save(tmp_path / name)
    report = run(backend, tmp_path / "out", tmp_path / name)
    assert (report.num_images, report.num_people, report.failures) == (1, 1, ())
    with Image.open(tmp_path / "out" / f"{Path(name).stem}.jpg") as drawn:
        assert drawn.size == IMAGES[name].size
        assert drawn.mode == "RGB"


def test_the_fallback_detector_takes_every_kind_of_image(tmp_path: Path, backend: Any) -> None:
    for name, image in IMAGES.items():
        image.save(tmp_path / name)
    report = run(backend, tmp_path / "out", tmp_path, detector="auto")
    assert (report.num_images, report.num_people, report.failures) == (len(IMAGES), 0, ())
    assert json.loads(report.predictions.read_text()) == []


def test_people_cut_by_the_border_and_outside_the_image(
    tmp_path: Path, backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(gradient(60, 80)).save(tmp_path / "1.png")
    rows = [{"image_id": 1, "bbox": box} for box in ([-40, -30, 60, 80], [70, 50, 60, 80], [500, 500, 20, 40])]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    report = run(backend, tmp_path / "out", tmp_path / "1.png", boxes=tmp_path / "boxes.json")
    assert (report.num_people, report.failures) == (2, ())
    assert f"boxes.json: a box lies outside of {tmp_path}/1.png and is left out: [500.0, 500.0" in caplog.text
    report = run(backend, tmp_path / "out", tmp_path / "1.png", boxes="80,0,90,60")
    told = r"1\.png: boxes_xyxy must be at least partly inside of the 80 x 60 pixels of the image, got \[80.0, .*row 0"
    assert re.search(told, *report.failures)
    with pytest.raises(InputError, match="at least partly inside of the 80 x 60 pixels"):
        PoseEstimator(backend, "whole-image")(gradient(60, 80), [[-9, 0, 0, 60]])
    assert len(PoseEstimator(backend, "whole-image")(gradient(60, 80), [[-9, 0, 1, 60]])) == 1


def test_an_output_in_place_of_a_file(tmp_path: Path, backend: Any) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot be made a folder"):
        run(backend, tmp_path / "a.png" / "out", tmp_path / "a.png")
    (tmp_path / "out" / "predictions.json").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot write to"):
        run(backend, tmp_path / "out", tmp_path / "a.png")


def test_one_input_never_ends_a_run(tmp_path: Path, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever exception reading, detecting, cutting, or the network raises, the other images are predicted."""
    for number in range(6):
        Image.fromarray(np.full((40, 40, 3), 10 * number, np.uint8)).save(tmp_path / f"{number}.png")

    def read(path: Path) -> Any:
        if path.stem == "0":
            raise RecursionError("too deep")
        return module_read(path)

    class Odd(BrightestPixel):
        def __call__(self, images: Any) -> Any:
            if images.max() > -1.0:  # the brightest image
                raise MemoryError
            return super().__call__(images)

    def detect(images: Any) -> Any:
        if any(image.max() == 10 for image in images):
            raise ZeroDivisionError("odd")
        return [PersonBoxes(np.array([[0.0, 0, 40, 40]]), np.ones(1)) for _ in images]

    module_read = run_module.read_image
    monkeypatch.setattr(run_module, "read_image", read)
    report = run(Odd(), tmp_path / "out", tmp_path, detector=detect, batch_size=1)
    assert report.num_images == 3
    for told, reason in zip(
        sorted(report.failures), ("RecursionError: too deep", "ZeroDivisionError: odd", "MemoryError"), strict=True
    ):
        assert reason in told


def test_twenty_thousand_boxes_are_cut_in_chunks(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    def counted(image: Any, transforms: Any, normalization: Any) -> Any:
        nonlocal most
        most = max(most, len(transforms))
        return np.zeros((len(transforms), 3, 8, 6), np.float32)

    monkeypatch.setattr(predictor_module, "preprocess", counted)
    boxes = np.tile([5.0, 5, 40, 50], (20_000, 1))
    predictor = PosePredictor(backend, batch_size=64)
    assert len(predictor(IMAGE, boxes)) == 20_000
    assert most == predictor_module.CROPS_AHEAD
    stream = predict_stream(predictor, [("a", LocatedImage(IMAGE, boxes)), ("b", LocatedImage(IMAGE, boxes[:3]))])
    assert [len(item.result or []) for item in stream] == [20_000, 3]
    assert most == predictor_module.CROPS_AHEAD


def test_boxes_may_be_typed(tmp_path: Path, backend: Any) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "1.png")
    assert run(backend, tmp_path / "out", tmp_path / "1.png", boxes="10,5,40,50;0,0,20,30.5").num_people == 2
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["box_xyxy"] for row in rows] == [[10, 5, 40, 50], [0, 0, 20, 30.5]]
    for typed, told in (("10,5,10,50", "boxes_xyxy must"), ("1,2,3", "X1,Y1,X2,Y2.*got '1,2,3': give four numbers")):
        with pytest.raises(InputError, match=told):
            run(backend, tmp_path / "o", tmp_path / "1.png", boxes=typed)
    assert read_boxes("boxes.json") is read_boxes("2024") is None  # names of files


def test_the_command_names_every_failure_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8nothing")
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    assert cli.main(["predict", str(tmp_path), "--detector", "whole-image", "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "1 image with 1 person, 2 failed" in told.out
    assert told.err.count("failed: ") == 2
    assert all(name in told.err for name in ("bad.jpg", "bad.mp4"))
