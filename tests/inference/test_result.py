"""The result type: alignment of its arrays, round trips, COCO's layout."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from distilpose.errors import ConfigError, InputError
from distilpose.inference.result import PoseResult
from distilpose.skeletons import COCO_17, Skeleton
from distilpose.visualization.draw import PLAIN_COLOR, STYLES, draw_poses

PAIR = Skeleton("pair", ("left_hand", "right_hand"), ((0, 1),), ((0, 1),), (0, 1), (), (0.05, 0.05))


@pytest.fixture
def result() -> PoseResult:
    """Three people with two keypoints; person n has x = 10 n and 10 n + 1."""
    return PoseResult(
        xy=np.array([[[0.0, 5.0], [1.0, 6.0]], [[10.0, 5.5], [11.0, 6.5]], [[20.0, 5.0], [21.0, 6.0]]]),
        box=np.array([[0.0, 0, 9, 9], [10, 0, 19, 9], [20, 0, 29, 9]]),
        box_score=np.array([1.0, 0.5, 0.25]),
        pose_score=np.array([0.9, 0.4, 0.2]),
        raw_score=np.array([[1.25, 0.75], [0.5, -0.1], [0.0, 0.3]]),
        sigma=np.full((3, 2, 2), 1.5),
        skeleton=PAIR,
    )


def test_score_is_the_raw_score_within_0_and_1(result: PoseResult) -> None:
    assert result.score.tolist() == [[1.0, 0.75], [0.5, 0.0], [0.0, 0.3]]
    assert replace(result, raw_score=None).score is None


def test_filter_takes_a_mask_or_an_order(result: PoseResult) -> None:
    assert result.filter(result.pose_score > 0.3).xy[:, 0, 0].tolist() == [0, 10]
    turned = result.filter([2, 0])
    assert turned.xy[:, 0, 0].tolist() == [20, 0]
    assert turned.box_score.tolist() == [0.25, 1.0]
    assert turned.skeleton == PAIR
    turned.xy[:] = -1
    assert result.xy[2, 0, 0] == 20
    assert len(result.filter([])) == 0
    assert replace(result, raw_score=None, sigma=None).filter([1]).sigma is None


def test_people_are_taken_by_index(result: PoseResult) -> None:
    assert [person.pose_score.tolist() for person in result] == [[0.9], [0.4], [0.2]]
    assert result[-1].xy.tolist() == result.xy[2:].tolist()
    assert result[1:].box_score.tolist() == result[[1, 2]].box_score.tolist() == [0.5, 0.25]
    assert result[result.pose_score > 0.3].pose_score.tolist() == [0.9, 0.4]
    with pytest.raises(IndexError):
        result[3]


@pytest.mark.parametrize("kept", [[0, 1, 2], [1], []])
def test_json_round_trip_loses_nothing(result: PoseResult, kept: list[int]) -> None:
    for original in (result.filter(kept), replace(result, raw_score=None, sigma=None).filter(kept)):
        back = PoseResult.from_dict(json.loads(json.dumps(original.to_dict())))
        assert back.skeleton == PAIR
        for name in ("xy", "box", "box_score", "pose_score", "raw_score", "sigma"):
            before, after = getattr(original, name), getattr(back, name)
            assert (before is None) == (after is None)
            if before is not None:
                assert before.shape == after.shape
                np.testing.assert_array_equal(before, after)


def test_coco_entries(result: PoseResult) -> None:
    entries = result.to_coco(7)
    assert entries[0] == {"image_id": 7, "category_id": 1, "keypoints": [0.0, 5.0, 1.0, 1.0, 6.0, 0.75], "score": 0.9}
    assert [entry["score"] for entry in entries] == [0.9, 0.4, 0.2]
    assert replace(result, raw_score=None).to_coco(None)[1]["keypoints"] == [10.0, 5.5, 1.0, 11.0, 6.5, 1.0]
    assert result.filter([]).to_coco(7) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("xy", np.zeros((2, 2, 2)), r"xy must have shape \(3, 2, 2\), got \(2, 2, 2\)"),
        ("xy", np.zeros((3, 17, 2)), r"got \(3, 17, 2\)"),
        ("xy", np.full((3, 2, 2), np.nan), "xy must be finite, got nan"),
        ("raw_score", np.zeros(3), r"raw_score must have shape \(3, 2\)"),
        ("sigma", -np.ones((3, 2, 2)), "sigma must not be negative, got -1"),
        ("box", [["a"] * 4] * 3, "box must be an array of numbers"),
        ("box_score", 1.0, "box_score must have shape"),
        ("pose_score", np.ones((3, 1)), "pose_score"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(result: PoseResult, field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(result, **{field: value})


@pytest.mark.parametrize("broken", [{}, {"xy": []}, None])
def test_broken_dict_is_refused(broken: object) -> None:
    with pytest.raises(InputError, match="to_dict"):
        PoseResult.from_dict(broken)  # type: ignore[arg-type]


def test_a_result_draws_itself(result: PoseResult) -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    tracked = replace(result, track_id=[5, 6, 7])
    np.testing.assert_array_equal(result.draw(image), draw_poses(image, result, "sides"))
    assert result.draw(image).any()
    for style in STYLES:
        np.testing.assert_array_equal(tracked.draw(image, style=style), draw_poses(image, tracked, style))
    np.testing.assert_array_equal(tracked.draw(image), tracked.draw(image, style="people"))
    with pytest.raises(ConfigError, match="got 'neon'"):
        result.draw(image, style="neon")


def test_bare_keypoints_become_people() -> None:
    xy = np.arange(8.0).reshape(2, 2, 2)
    people = PoseResult.from_keypoints(xy, PAIR, raw_score=np.array([[1.0, 1], [1, 0]]))
    assert people.box.tolist() == [[0, 1, 2, 3], [4, 5, 4, 5]]
    assert people.pose_score.tolist() == people.box_score.tolist() == [1, 1]
    assert len(PoseResult.from_keypoints([], PAIR)) == 0
    with pytest.raises(InputError, match=r"xy must have shape \(N, 2, 2\), got \(2, 2\)"):
        PoseResult.from_keypoints(xy[0], PAIR)


def test_the_image_is_carried_along_but_not_written(result: PoseResult) -> None:
    image = np.full((20, 40, 3), 9, np.uint8)
    imaged = replace(result, image=image)
    assert imaged.image is image
    assert imaged.filter([1]).image is image
    assert imaged.to_skeleton(PAIR).image is image
    assert imaged.to_dict() == result.to_dict()
    np.testing.assert_array_equal(imaged.draw(), result.draw(image))
    assert (image == 9).all()
    for broken in (image[..., 0], image.astype(float), "photo.jpg"):
        with pytest.raises(InputError, match="image must be an"):
            replace(result, image=broken)


def test_a_failed_save_keeps_the_file_that_was_there(result: PoseResult, tmp_path: Path) -> None:
    for name, format, message in (
        ("annotations.json", "coco-dataset", r"needs the size of the image .*pass size_hw=\(H, W\)"),
        ("tasks.json", "labelstudio", "needs the size of the image"),
    ):
        (tmp_path / name).write_text("good")
        with pytest.raises(InputError, match=message):
            result.save(tmp_path / name, format)
        assert (tmp_path / name).read_text() == "good"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.json", "tasks.json"]
    result.save(tmp_path / "annotations.json", "coco-dataset", size_hw=(40, 50))
    assert json.loads((tmp_path / "annotations.json").read_text())["images"][0]["width"] == 50


def test_what_cannot_be_saved_is_an_error_of_ours(result: PoseResult, tmp_path: Path) -> None:
    for name in ("folder.png", "folder.csv"):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=f"{name} cannot be written"):
            result.save(tmp_path / name)
    replace(result, source="a\udcff.jpg").save(tmp_path / "poses.csv")
    assert (tmp_path / "poses.csv").read_text().splitlines()[1].startswith("a\\udcff.jpg,")


def test_without_an_image_people_are_drawn_on_a_canvas_with_room_for_them(result: PoseResult) -> None:
    far = replace(result, xy=result.xy + np.array([300, 500]))
    canvas = far.draw()
    assert canvas.shape == (526, 341, 3)  # 20 pixels more than the outermost keypoint
    assert (canvas != PLAIN_COLOR).any()
    assert replace(result, xy=result.xy + 1e9).draw().shape == (2048, 2048, 3)
    assert replace(result, xy=result.xy - 1e9).draw().shape == (120, 120, 3)
    assert PoseResult.empty().draw().shape == (120, 120, 3)


def test_blur_faces_takes_the_result_s_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    xy = np.random.default_rng(1).uniform(30, 90, (1, 17, 2))
    result = PoseResult(xy, [[20, 20, 100, 100]], [1], [1], image=image)
    assert (result.blur_faces() != image).any()
    np.testing.assert_array_equal(result.blur_faces(), replace(result, image=None).blur_faces(image))
    with pytest.raises(InputError, match="this result has none"):
        replace(result, image=None).blur_faces()


def test_notebooks_show_an_image_of_modest_size(result: PoseResult) -> None:
    shown = replace(result, image=np.zeros((60, 100, 3), np.uint8))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown._repr_png_()))), shown.draw())
    large = replace(result, image=np.zeros((1500, 3000, 3), np.uint8))
    assert Image.open(io.BytesIO(large._repr_png_())).size == (1024, 512)
    assert Image.open(io.BytesIO(PoseResult.empty()._repr_png_())).size == (120, 120)


def test_show_uses_the_notebook_or_else_a_viewer(result: PoseResult, monkeypatch) -> None:
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(("viewer", image.size)))
    monkeypatch.setitem(sys.modules, "IPython", None)
    result.show()
    display = SimpleNamespace(display=lambda image: shown.append(("notebook", image.size)))
    for shell in (None, object()):
        ipython = SimpleNamespace(get_ipython=lambda shell=shell: shell, display=display)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        result.show(style="minimal")
    assert [where for where, _ in shown] == ["viewer", "viewer", "notebook"]


def test_repr_is_one_line_without_arrays(result: PoseResult) -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    assert repr(result) == "PoseResult(3 people, pair, pose_score 0.20..0.90)"
    full = replace(result, track_id=[1, 2, 3], sigma=None, image=image).filter([0])
    assert repr(full) == "PoseResult(1 person, pair, pose_score 0.90, no sigma, track ids, image 480x640)"
    assert repr(PoseResult.empty(COCO_17)) == "PoseResult(0 people, coco_17)"
