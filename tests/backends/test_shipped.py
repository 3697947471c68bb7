"""The weights inside the package: small, self-describing, with their notice, and as good as they say."""

import json
from pathlib import Path

import numpy as np
import pytest

import distilpose
from distilpose.backends.checkpoint import read_description
from distilpose.backends.loading import DEFAULT_MODEL, FAST_MODEL, SHIPPED_WEIGHTS, load_model
from distilpose.cli import main as cli
from distilpose.data.images import write_image
from distilpose.errors import ConfigError
from distilpose.evaluation.evaluate import evaluate_model


@pytest.mark.parametrize("name", SHIPPED_WEIGHTS)
def test_weights_are_small_and_say_where_they_come_from(name: str) -> None:
    path = SHIPPED_WEIGHTS[name]
    assert path.stat().st_size <= (5e6 if name == FAST_MODEL else 12e6)
    notice = (path.parent / "NOTICE.md").read_text()
    assert path.name in notice
    assert "not** covered by the license of the code" in notice
    training = (
        load_model(name, exported=False).description.training
        if path.suffix == ".onnx"
        else read_description(path).training
    )
    assert {"data", "steps", "losses", "validation"} <= set(training)


def test_the_fast_model_finds_the_poses_of_the_default_one() -> None:
    photo = Path(__file__).parents[2] / "docs" / "images" / "photos" / "000000199055.jpg"
    usual, fast = (distilpose.PoseEstimator(name)(photo) for name in (DEFAULT_MODEL, FAST_MODEL))
    assert usual.xy.shape == fast.xy.shape == (1, 17, 2)
    height = np.ptp(usual.xy[0, :, 1])
    assert np.abs(usual.xy - fast.xy).max() < 0.03 * height
    assert np.abs(usual.score - fast.score).max() < 0.15


def test_predict_works_out_of_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photo.png", np.full((120, 90, 3), 128, np.uint8))
    assert cli.main(["predict", "photo.png"]) == 0
    assert (tmp_path / "poses" / "photo.jpg").exists()
    assert json.loads((tmp_path / "poses" / "predictions.json").read_text()) == []


def test_images_without_a_box_are_told_apart_from_images_without_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [str(tmp_path / name) for name in ("1.png", "2.png")]
    for photo in photos:
        write_image(photo, np.zeros((96, 128, 3), np.uint8))
    (tmp_path / "boxes.csv").write_text("image,x1,y1,x2,y2\n2.png,1,2,30,40\n")
    command = ["predict", *photos, "--no-images", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    assert "nobody was found in 2 of 2 images: try --detection-threshold" in capsys.readouterr().err
    assert cli.main([*command, "--boxes", str(tmp_path / "boxes.csv")]) == 0
    told = capsys.readouterr().err
    assert "boxes.csv has no box for 1 of 2 images: if it should, check the names and ids" in told
    assert "--detection-threshold" not in told


def test_it_is_as_good_as_its_file_says(shared_data: Path) -> None:
    folder = shared_data / "coco_val_dev"
    result = evaluate_model(load_model(DEFAULT_MODEL), folder / "person_keypoints.json", folder / "images")
    recorded = read_description(SHIPPED_WEIGHTS[DEFAULT_MODEL]).training["validation"]
    # Half precision moves keypoints by hundredths of a pixel.
    assert result.metrics["AP"] == pytest.approx(recorded["AP"], abs=0.005)
    assert result.metrics["AR"] == pytest.approx(recorded["AR"], abs=0.005)


def test_a_misspelled_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"no model is called distilpose_mobilnet: did you mean distilpose_mobilenet\?"
    ):
        load_model("distilpose_mobilnet")


def test_lists_and_messages_offer_both_shipped_models_and_no_old_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=f"one of {DEFAULT_MODEL}, {FAST_MODEL}, or build it untrained"):
        load_model("distilpose_s")
    assert cli.main(["models"]) == 0
    assert f"--model: {DEFAULT_MODEL}, {FAST_MODEL}" in " ".join(capsys.readouterr().out.split())
