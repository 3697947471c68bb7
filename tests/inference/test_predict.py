"""Files in, files out."""

import json
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from distilpose.data.images import read_image, write_image
from distilpose.detection.detectors import WholeImage
from distilpose.errors import ConfigError, InputError
from distilpose.files import OutputLock
from distilpose.formats.writers import WRITERS
from distilpose.inference.options import OutputOptions, PredictOptions
from distilpose.inference.predict import predict_files
from distilpose.visualization import annotators as annotated
from known_model import run

BRIGHT_XY = (211, 143)
NO_IMAGES = OutputOptions(images=False)


@pytest.fixture
def folder(tmp_path: Path, image: NDArray[np.uint8]) -> Path:
    """Three images of the same scene."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("7.png", "8.png", "garden.png"):
        write_image(photos / name, image)
    return photos


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Two people in 7.png, one in 8.png, nobody in garden.png."""
    rows = [
        {"image_id": 7, "bbox": [150, 60, 130, 200], "score": 0.9},
        {"image_id": 8, "bbox": [150, 60, 130, 200], "score": 0.8},
        {"image_id": 7, "bbox": [190, 120, 40, 40], "score": 0.1},
    ]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(rows))
    return path


def load(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "predictions.json").read_text())
    return rows


def test_boxes_file_to_predictions_and_images(folder: Path, boxes: Path, tmp_path: Path, backend: Any) -> None:
    out = tmp_path / "deep" / "out"
    report = run(backend, out, folder, boxes=boxes)
    assert (report.predictions, report.failures) == (out / "predictions.json", ())
    assert (report.num_images, report.num_frames, report.num_people) == (3, 0, 3)
    assert {path.name: count.people for path, count in report.counts.items()} == {
        "7.png": 2,
        "8.png": 1,
        "garden.png": 0,
    }
    assert (report.num_empty, report.num_others) == (1, 0)
    rows = load(out)
    assert [(row["image_id"], row["image"], row["box_score"]) for row in rows] == [
        (7, (folder / "7.png").as_posix(), 0.9),
        (7, (folder / "7.png").as_posix(), 0.1),
        (8, (folder / "8.png").as_posix(), 0.8),
    ]
    first = rows[0]
    assert first["category_id"] == 1
    assert first["box_xyxy"] == [150, 60, 280, 260]
    assert first["score"] == pytest.approx(0.9 * 0.75)
    assert first["raw_score"] == [0.75] * 17
    keypoints = np.array(first["keypoints"]).reshape(17, 3)
    np.testing.assert_allclose(keypoints[:, :2], [BRIGHT_XY] * 17, atol=1.5)
    assert (keypoints[:, 2] == 0.75).all()
    np.testing.assert_allclose(first["sigma"], [[200 * 0.75 * 1.25 / 48, 2 * 200 * 1.25 / 64]] * 17)
    assert sorted(path.name for path in out.iterdir()) == ["7.jpg", "8.jpg", "garden.jpg", "predictions.json"]
    drawn, plain = read_image(out / "7.jpg"), read_image(folder / "7.png")
    assert np.abs(drawn.astype(int) - plain).max() > 60
    assert np.abs(read_image(out / "garden.jpg").astype(int) - plain).max() < 10


def test_coco_tools_read_the_predictions(folder: Path, boxes: Path, tmp_path: Path, backend: Any) -> None:
    run(backend, tmp_path / "out", folder, boxes=boxes, output=NO_IMAGES)
    truth = COCO()
    truth.dataset = {"images": [{"id": 7}, {"id": 8}], "annotations": [], "categories": [{"id": 1}], "info": {}}
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "out" / "predictions.json"))
    assert sorted(len(loaded.getAnnIds(imgIds=[image_id])) for image_id in (7, 8)) == [1, 2]


def test_predictions_serve_as_boxes_again(folder: Path, boxes: Path, tmp_path: Path, backend: Any) -> None:
    first = run(backend, tmp_path / "one", folder, boxes=boxes, output=NO_IMAGES)
    run(backend, tmp_path / "two", folder, boxes=first.predictions, output=NO_IMAGES)
    assert load(tmp_path / "two") == load(tmp_path / "one")


def test_weak_people_are_written_but_not_drawn(folder: Path, boxes: Path, tmp_path: Path, backend: Any) -> None:
    boxes.write_text(json.dumps([{"image_id": 7, "bbox": [150, 60, 130, 200], "score": 0.2}]))
    report = run(backend, tmp_path / "out", folder / "7.png", boxes=boxes)
    assert len(load(tmp_path / "out")) == 1
    assert (report.num_undrawn, report.counts[folder / "7.png"].undrawn) == (1, 1)
    difference = read_image(tmp_path / "out" / "7.jpg").astype(int) - read_image(folder / "7.png")
    assert np.abs(difference).max() < 10


def test_whole_image_without_images(folder: Path, tmp_path: Path, backend: Any, bare_backend: Any) -> None:
    out = tmp_path / "out"
    report = run(backend, out, folder, output=NO_IMAGES)
    assert report.num_people == 3
    assert [path.name for path in out.iterdir()] == ["predictions.json"]
    assert [(row["image_id"], row["box_xyxy"]) for row in load(out)] == [
        (image_id, [0, 0, 400, 300]) for image_id in (7, 8, 1)
    ]
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps({"images": [{"id": 31, "file_name": "garden.png"}]}))
    run(bare_backend, out, folder, annotations=annotations, output=NO_IMAGES)
    assert [row["image_id"] for row in load(out)] == [1, 2, 31]
    assert {(row["raw_score"], row["sigma"], row["keypoints"][2]) for row in load(out)} == {(None, None, 1.0)}


def test_an_unreadable_file_does_not_lose_the_rest(folder: Path, tmp_path: Path, backend: Any) -> None:
    (folder / "8.png").write_bytes((folder / "8.png").read_bytes()[:200])
    sources = [folder, tmp_path / "missing.jpg"]
    report = predict_files(
        PredictOptions(sources, tmp_path / "out", model=backend, detector="whole-image"), progress=True
    )
    assert report.num_images == 2
    assert [Path(line.split(" ")[0]).name for line in report.failures] == ["8.png", "missing.jpg"]
    assert [Path(row["image"]).name for row in load(tmp_path / "out")] == ["7.png", "garden.png"]


def test_a_misspelled_name_does_not_replace_earlier_predictions(folder: Path, tmp_path: Path, backend: Any) -> None:
    run(backend, tmp_path / "out", folder / "7.png", output=NO_IMAGES)
    before = load(tmp_path / "out")
    with pytest.raises(InputError, match=r"typo\.png does not exist"):
        run(backend, tmp_path / "out", folder / "typo.png", output=NO_IMAGES)
    assert load(tmp_path / "out") == before != []


def test_a_failing_model_names_the_image(folder: Path, tmp_path: Path, backend: Any) -> None:
    class Broken:
        description = backend.description

        def __call__(self, images: NDArray[np.float32]) -> Any:
            output = backend(images)
            return output._replace(xy_norm=np.full_like(output.xy_norm, np.nan))

    report = run(Broken(), tmp_path / "out", folder / "7.png")
    assert report.failures == (f"{folder / '7.png'}: xy must be finite, got nan",)
    assert load(tmp_path / "out") == []


def test_an_interruption_keeps_what_was_predicted(folder: Path, tmp_path: Path, backend: Any) -> None:
    class Interrupted:
        description = backend.description

        def __call__(self, images: NDArray[np.float32]) -> Any:
            if len(backend.batches) == 2:
                raise KeyboardInterrupt
            return backend(images)

    options = PredictOptions([folder], tmp_path / "out", model=Interrupted(), detector=WholeImage(), batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        predict_files(options)
    assert [row["image_id"] for row in load(tmp_path / "out")] == [7, 8]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["7.jpg", "8.jpg", "predictions.json"]


def test_a_full_disk_loses_no_predictions(folder: Path, tmp_path: Path, backend: Any, monkeypatch: Any) -> None:
    def full(path: Path, image: NDArray[np.uint8]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(annotated, "write_image", full)
    with pytest.raises(InputError, match=r"No space left.*can be read"):
        run(backend, tmp_path / "out", folder, batch_size=1)
    assert [row["image_id"] for row in load(tmp_path / "out")] == [7, 8, 1]


def test_an_image_that_cannot_be_written_is_reported_by_its_source(
    folder: Path, tmp_path: Path, backend: Any, monkeypatch: Any
) -> None:
    def refuse(path: Path, image: NDArray[np.uint8]) -> None:
        raise InputError(f"{path} cannot hold it")

    monkeypatch.setattr(annotated, "write_image", refuse)
    report = run(backend, tmp_path / "out", folder / "7.png")
    assert report.failures == (f"{folder / '7.png'}: {tmp_path / 'out' / '7.jpg'} cannot hold it",)
    assert len(load(tmp_path / "out")) == 1


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path, image: NDArray[np.uint8], backend: Any) -> None:
    names = ["a/1.png", "b/1.png", "b/1.webp", "b/a_1.png", "b/two.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, image)
    out = tmp_path / "out"
    report = run(backend, out, *(tmp_path / name for name in names), output=OutputOptions(crops=True))
    assert {path.name for path in (out / "crops").iterdir()} >= {"a_1_1.jpg", "b_1_1.jpg"}
    images = sorted(path.name for path in out.glob("*.jpg"))
    assert images == ["a_1.jpg", "a_1_2.jpg", "b_1.jpg", "b_1_2.jpg", "two.jpg"]
    assert report.num_people == 5
    assert [row["image"] for row in load(out)] == [(tmp_path / name).as_posix() for name in names]
    assert [row["image_id"] for row in load(out)] == [2, 3, 4, 5, 6]  # 1 is the number of three files


def test_inputs_are_never_overwritten(folder: Path, boxes: Path, tmp_path: Path, backend: Any) -> None:
    write_image(folder / "9.jpg", read_image(folder / "7.png"))
    before = (folder / "9.jpg").read_bytes()
    with pytest.raises(InputError, match=r"holds sources, .*: choose another folder"):
        run(backend, folder, folder, boxes=boxes)
    assert (folder / "9.jpg").read_bytes() == before
    own = boxes.rename(tmp_path / "predictions.json")
    with pytest.raises(InputError, match=r"predictions\.json: choose another"):
        run(backend, tmp_path, folder, boxes=own)
    table = tmp_path / "poses.csv"
    table.write_text("image,x1,y1,x2,y2\n7.png,1,2,31,42\n")
    with pytest.raises(InputError, match=r"place of the input poses\.csv: choose another"):
        run(backend, tmp_path, folder, boxes=table, output=OutputOptions(format=["csv"]))
    labels = tmp_path / "yolo" / "labels"
    labels.mkdir(parents=True)
    (labels / "7.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(InputError, match="place of the input yolo: choose another"):
        run(backend, tmp_path, folder, boxes=labels, output=OutputOptions(format=["yolo"]))
    crops = tmp_path / "crops"
    crops.mkdir()
    write_image(crops / "a.jpg", read_image(folder / "7.png"))
    with pytest.raises(InputError, match="place of the input crops: choose another"):
        run(backend, tmp_path, crops, output=OutputOptions(images=False, crops=True))
    with pytest.raises(InputError, match="cannot be made a folder"):
        run(backend, own, folder, output=NO_IMAGES)
    assert backend.batches == []


def test_one_run_writes_to_a_folder(folder: Path, tmp_path: Path, backend: Any) -> None:
    (tmp_path / "out").mkdir()
    with OutputLock(tmp_path / "out", "another run"), pytest.raises(InputError, match="in use by another run"):
        run(backend, tmp_path / "out", folder)


def test_a_name_that_is_no_utf_8_is_written_with_escapes(folder: Path, tmp_path: Path, backend: Any) -> None:
    odd = (folder / "8.png").rename(folder / "8\udcff.png")
    output = OutputOptions(format=["csv", "parquet", "openpose", "yolo"])
    report = run(backend, tmp_path / "out", folder, output=output)
    assert (report.num_images, report.num_people, report.failures) == (3, 3, ())
    names = [Path(row["image"]).name for row in load(tmp_path / "out")]
    assert names == ["7.png", "8\\udcff.png", "garden.png"]
    again = run(backend, tmp_path / "again", odd, boxes=tmp_path / "out" / "predictions.json")
    assert again.num_people == 1


def test_the_longest_names_are_predicted_in_every_format(folder: Path, tmp_path: Path, backend: Any) -> None:
    for name, long in (("7", "n" * 250 + "1"), ("8", "n" * 250 + "2")):
        (folder / f"{name}.png").rename(folder / f"{long}.png")
    output = OutputOptions(format=list(WRITERS), crops=True)
    report = run(backend, tmp_path / "out", folder, output=output)
    assert (report.num_images, report.failures) == (3, ())
    drawn = [path for path in (tmp_path / "out").glob("*.jpg") if path.stem.startswith("n" * 200)]
    written = [len(list((tmp_path / "out" / name).glob("*n*"))) for name in ("openpose", "yolo/labels", "crops")]
    assert (len(drawn), written) == (2, [3, 3, 3])


def test_numbers_of_numpy_are_numbers() -> None:
    assert PredictOptions(["a.jpg"], batch_size=np.int64(4)).batch_size == 4
    for wrong in (np.int64(0), np.float32(2.5), np.bool_(True)):
        with pytest.raises(ConfigError, match="batch_size must be a whole number of at least 1"):
            PredictOptions(["a.jpg"], batch_size=wrong)


def test_boxes_and_a_detector_exclude_each_other(folder: Path, boxes: Path, tmp_path: Path, backend: Any) -> None:
    with pytest.raises(ConfigError, match="both"):
        run(backend, tmp_path / "out", folder, boxes=boxes, detector="whole-image")
    with pytest.raises(ConfigError, match="whole-image"):
        run(backend, tmp_path / "out", folder, detector="whole")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_image", [True, False])
def test_an_image_on_the_standard_input(
    folder: Path, tmp_path: Path, backend: Any, monkeypatch: Any, is_image: bool
) -> None:
    data = (folder / "7.png").read_bytes() if is_image else b"nothing"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=BytesIO(data)))
    report = run(backend, tmp_path / "out", "-")
    assert [row["image"] for row in load(tmp_path / "out")] == ["-"] * is_image
    assert (tmp_path / "out" / "stdin.jpg").exists() == is_image
    assert report.failures == (() if is_image else ("-: the standard input is no image",))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_is_read(
    tmp_path: Path, image: NDArray[np.uint8], backend: Any, caplog: Any, suffix: str
) -> None:
    file, still = tmp_path / f"moving.{suffix}", tmp_path / f"still.{suffix}"
    frames = [Image.fromarray(image), Image.fromarray(255 - image)]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    frames[0].save(still)
    report = run(backend, tmp_path / "out", file, still)
    assert report.num_images == 2
    (line,) = [record.getMessage() for record in caplog.records if "animation" in record.getMessage()]
    assert line.startswith(f"{file} is an animation: its first frame is read")
