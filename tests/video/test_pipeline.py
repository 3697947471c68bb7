"""Videos from end to end: a bright spot is the person, so that every answer is known."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from videos import set_display_matrix, shown, sound_seconds, write_video

from distilpose.data.images import read_image, write_image
from distilpose.errors import ConfigError, InputError
from distilpose.formats.boxes import PersonBoxes
from distilpose.inference.options import OutputOptions, PredictOptions, VideoOptions
from distilpose.inference.people import FrameId
from distilpose.inference.predict import predict_files
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.run import PredictReport
from distilpose.video.pipeline import detect_some, follow
from distilpose.video.reader import VideoReader
from distilpose.video.writer import VideoWriter

Image = NDArray[np.uint8]
SIZE_HW = (240, 320)
PLAIN = VideoOptions(smooth=False)


def spot_xy(number: int) -> NDArray[np.float64]:
    return np.array([60.0 + 4 * number, 120.0])


def spot_image(*spots: NDArray[np.float64]) -> Image:
    rows, columns = np.ogrid[: SIZE_HW[0], : SIZE_HW[1]]
    light = sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 60) for x, y in spots) if spots else np.zeros(SIZE_HW)
    return np.clip(np.rint(235 * np.asarray(light)), 0, 255)[..., None].repeat(3, axis=2).astype(np.uint8)


class SpotDetector:
    """Finds bright spots; sees no two in one place."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Sequence[Image]) -> list[PersonBoxes]:
        self.images += len(images)
        found = []
        for image in images:
            bright = image[..., 0].astype(float)
            if bright.max() < 100:
                found.append(PersonBoxes(np.zeros((0, 4)), np.zeros(0)))
                continue
            y, x = np.divmod(bright.argmax(), bright.shape[1])
            found.append(PersonBoxes(np.array([[x - 30.0, y - 40, x + 30, y + 40]]), np.array([0.9])))
        return found


class SpotPose:
    """An `InferenceBackend` that sees a nose where its crop is brightest, and a body around it."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.description = backend, backend.description
        angles = np.linspace(0, 2 * np.pi, 17)[:-1]
        self.offsets = np.concatenate([[[0, 0]], np.stack([0.25 * np.cos(angles), 0.34 * np.sin(angles)], axis=1)])

    def __call__(self, images: NDArray[np.float32]) -> Any:
        output = self.backend(images)
        return output._replace(xy_norm=(output.xy_norm + self.offsets).astype(np.float32))


@pytest.fixture(scope="module")
def video(tmp_path_factory: Any) -> Path:
    """A spot that moves right, 40 frames at 10 a second, with a tone."""
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    return write_video(path, [spot_image(spot_xy(number)) for number in range(40)], sound="aac")


def run(model: Any, out: Path, *sources: Path, **options: Any) -> PredictReport:
    """Predict these sources with a detector of spots, unless told otherwise."""
    given = {} if "boxes" in options else {"detector": SpotDetector()}
    return predict_files(PredictOptions(list(sources), out, model=model, **given | options))


def rows_of(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "predictions.json").read_text())
    return rows


def keypoints(rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([row["keypoints"] for row in rows]).reshape(-1, 17, 3)[:, 0, :2]


def test_a_video_becomes_rows_lines_tables_and_a_video(video: Path, tmp_path: Path, backend: Any) -> None:
    output = OutputOptions(format=["jsonl", "parquet"], crops=True)
    report = predict_files(
        PredictOptions([video], tmp_path, model=backend, detector=SpotDetector(), output=output), progress=True
    )
    assert (report.num_images, report.num_frames, report.num_tracks, report.failures) == (0, 40, 1, ())
    rows = rows_of(tmp_path)
    assert [row["frame"] for row in rows] == list(range(40))
    np.testing.assert_allclose([row["time"] for row in rows], np.arange(40) / 10, atol=1e-6)
    assert {(row["track_id"], row["image"]) for row in rows} == {(1, video.as_posix())}
    assert [row["image_id"] for row in rows] == list(range(1, 41))
    np.testing.assert_allclose(keypoints(rows), [spot_xy(number) for number in range(40)], atol=2.5)
    lines = (tmp_path / "poses.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(40))
    assert list(pd.read_parquet(tmp_path / "poses.parquet").frame) == list(range(40))
    assert len(list((tmp_path / "crops").glob("walk_*_track1.jpg"))) == 40
    with VideoReader(tmp_path / "walk.mp4") as reader:
        frames = shown(reader.frames())
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(40) / 10, atol=1e-3)
    drawn = np.abs(frames[20].image.astype(int) - spot_image(spot_xy(20))).max()
    assert drawn > 60
    sound = sound_seconds(tmp_path / "walk.mp4")
    assert sound[2] == pytest.approx(4, abs=0.2)


def test_batches_reach_across_frames(video: Path, tmp_path: Path, backend: Any) -> None:
    run(backend, tmp_path, video, output=OutputOptions(images=False))
    assert max(backend.batches) == 8
    assert sum(backend.batches) == 40


def test_part_of_a_video(video: Path, tmp_path: Path, backend: Any) -> None:
    options = VideoOptions(every=3, start=1.0, end=2.5)
    run(backend, tmp_path, video, video=options)
    assert [row["frame"] for row in rows_of(tmp_path)] == [10, 13, 16, 19, 22]
    with VideoReader(tmp_path / "walk.mp4") as reader:
        np.testing.assert_allclose([frame.time for frame in shown(reader.frames())], [0, 0.3, 0.6, 0.9, 1.2], atol=1e-3)


def test_between_detections_people_are_followed_by_their_pose(video: Path, tmp_path: Path, backend: Any) -> None:
    detector = SpotDetector()
    options = VideoOptions(detect_every=5, smooth=False)
    report = run(SpotPose(backend), tmp_path, video, detector=detector, video=options)
    assert detector.images == 8
    assert (report.num_frames, report.num_tracks) == (40, 1)
    rows = rows_of(tmp_path)
    assert {row["track_id"] for row in rows} == {1}
    np.testing.assert_allclose(keypoints(rows), [spot_xy(number) for number in range(40)], atol=2.5)


@pytest.mark.parametrize(("rate", "calls"), [(30, 4), (10, 12), (5, 12)])
def test_the_detector_looks_ten_times_a_second(tmp_path: Path, backend: Any, rate: int, calls: int) -> None:
    video = write_video(tmp_path / "video.mp4", [spot_image(spot_xy(n)) for n in range(12)], rate=rate)
    seen: list[int] = []

    def detector(images: Sequence[Image]) -> list[PersonBoxes]:
        seen.extend(range(len(images)))
        return SpotDetector()(images)

    run(SpotPose(backend), tmp_path / "out", video, detector=detector)
    assert len(seen) == calls
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 12
    again = PredictOptions([video], tmp_path / "again", model=backend, boxes=tmp_path / "out" / "predictions.json")
    predict_files(again)  # boxes of a file are those of every frame, whatever the rate
    assert [row["box_xyxy"] for row in rows_of(tmp_path / "again")] == [row["box_xyxy"] for row in rows]


def test_smoothing_is_on_for_videos_and_can_be_turned_off(tmp_path: Path, backend: Any) -> None:
    rng = np.random.default_rng(3)
    shaken = [spot_xy(number) + rng.normal(0, 4, 2) for number in range(40)]
    video = write_video(tmp_path / "shaken.mp4", [spot_image(xy) for xy in shaken])
    jitter = {}
    for smooth in (True, False):
        out = tmp_path / str(smooth)
        run(backend, out, video, video=VideoOptions(smooth=smooth))
        jitter[smooth] = np.abs(np.diff(keypoints(rows_of(out)), n=2, axis=0)).mean()
    assert jitter[True] < 0.5 * jitter[False]


def test_predictions_of_a_video_serve_as_its_boxes(video: Path, tmp_path: Path, backend: Any) -> None:
    plain = OutputOptions(images=False)
    first = run(backend, tmp_path / "1", video, video=PLAIN, output=plain)
    run(backend, tmp_path / "2", video, boxes=first.predictions, video=PLAIN, output=plain)
    assert rows_of(tmp_path / "2") == rows_of(tmp_path / "1")
    rows = [{key: value for key, value in row.items() if key != "frame"} for row in rows_of(tmp_path / "1")]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="need a frame field"):
        run(backend, tmp_path / "3", video, boxes=tmp_path / "boxes.json")


def test_images_videos_and_broken_sources_in_one_run(video: Path, tmp_path: Path, backend: Any) -> None:
    write_image(tmp_path / "walk.png", spot_image(spot_xy(3)))
    (tmp_path / "text.mp4").write_text("no video")
    out = tmp_path / "out"
    sources = [tmp_path / "text.mp4", video, tmp_path / "walk.png", tmp_path / "none.mov"]
    report = predict_files(PredictOptions(sources, out, model=backend, detector=SpotDetector()))
    assert (report.num_images, report.num_frames) == (1, 40)
    assert [line.split(" ")[0].split("/")[-1].strip(":") for line in report.failures] == ["text.mp4", "none.mov"]
    written = {f"{video.parent.name}_walk.mp4", f"{tmp_path.name}_walk.jpg", "predictions.json"}
    assert {path.name for path in out.iterdir()} == written
    assert "frame" not in rows_of(out)[0]
    assert rows_of(out)[1]["frame"] == 0


def test_broken_frames_are_reported_and_left_out(tmp_path: Path, backend: Any) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    video = write_video(tmp_path / "noise.mp4", noise)
    data = bytearray(video.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + len(data) // 6] = bytes(len(data) // 6)
    video.write_bytes(data)
    report = run(backend, tmp_path / "out", video, detector="whole-image")
    assert 0 < len(report.failures) <= 11
    assert "noise.mp4: frame " in report.failures[0]
    assert 20 < report.num_frames < 60
    with VideoReader(tmp_path / "out" / "noise.mp4") as reader:
        assert len(shown(reader.frames())) == report.num_frames


def test_a_video_without_frames_in_the_part_asked_for_is_a_failure(video: Path, tmp_path: Path, backend: Any) -> None:
    options = VideoOptions(start=9.0)
    report = run(backend, tmp_path / "out", video, video=options)
    assert report.failures == (f"{video}: no frame between start and end (it lasts 4.0 s)",)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_a_video_that_cannot_be_drawn_costs_no_other(
    video: Path, tmp_path: Path, backend: Any, monkeypatch: Any
) -> None:
    other = write_video(tmp_path / "other.mp4", [spot_image(spot_xy(3))] * 12)
    write = VideoWriter.write

    def refuse(self: Any, image: Image, time: float) -> None:
        if self._path.stem == "walk":
            raise InputError("no encoder takes it")
        write(self, image, time)

    monkeypatch.setattr(VideoWriter, "write", refuse)
    report = run(backend, tmp_path / "out", video, other)
    assert report.failures == (f"{video}: no encoder takes it",)
    assert {row["image"] for row in rows_of(tmp_path / "out")} == {video.as_posix(), other.as_posix()}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other.mp4", "predictions.json"]


def test_a_failed_detection_is_made_up_for_in_the_next_frame(tmp_path: Path, backend: Any) -> None:
    calls = []

    def find(frames: Sequence[Any]) -> list[PersonBoxes]:
        calls.append(frames[0][0].frame)
        return SpotDetector()([frames[0][1]])

    broken = InputError("broken")
    frames = [
        (FrameId(Path("x"), n, n / 10, SIZE_HW), broken if n in (0, 4) else spot_image(spot_xy(n))) for n in range(8)
    ]
    frame_results = list(follow(detect_some(frames, find, 4), PosePredictor(SpotPose(backend)), keep_images=False))
    assert calls == [1, 5]
    assert [item.error is None for item in frame_results] == [n not in (0, 4) for n in range(8)]
    assert all(len(item.result) == 1 for item in frame_results if item.result is not None)


def test_an_error_of_the_detector_costs_one_frame(tmp_path: Path, backend: Any) -> None:
    calls = []

    def find(frames: Sequence[Any]) -> list[PersonBoxes]:
        calls.append(frames[0][0].frame)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory")
        return [] if len(calls) == 3 else SpotDetector()([frames[0][1]])

    frames = [(FrameId(Path("x"), n, n / 10, SIZE_HW), spot_image(spot_xy(n))) for n in range(8)]
    frame_results = list(follow(detect_some(frames, find, 3), PosePredictor(SpotPose(backend)), keep_images=False))
    assert calls == [0, 3, 4, 5]
    errors = {item.frame_id.frame: str(item.error) for item in frame_results if item.error is not None}
    assert errors == {
        3: "failed with RuntimeError: CUDA out of memory",
        4: "expected a detector's boxes for each of 1 images, got 0 answers",
    }


def test_an_earlier_run_stays_when_a_file_cannot_be_opened(video: Path, tmp_path: Path, backend: Any) -> None:
    run(backend, tmp_path, video, output=OutputOptions(images=False))
    before = (tmp_path / "predictions.json").read_bytes()
    (tmp_path / "poses.parquet").write_text("in the way")
    with pytest.raises(InputError, match="cannot write to"):
        run(backend, tmp_path, video, output=OutputOptions(format=["parquet"]))
    assert (tmp_path / "predictions.json").read_bytes() == before


def test_nobody_in_a_video(tmp_path: Path, backend: Any) -> None:
    video = write_video(tmp_path / "empty.mp4", [spot_image()] * 5)
    report = run(backend, tmp_path / "out", video)
    assert (report.num_frames, report.num_tracks) == (5, 0)
    assert rows_of(tmp_path / "out") == []
    assert (tmp_path / "out" / "empty.mp4").is_file()
    assert backend.batches == []


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_an_interrupt_finishes_every_file(video: Path, tmp_path: Path, name: str) -> None:
    """In a process of its own, as a user's Ctrl-C meets it."""
    code = f"""
import os, signal, sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
from known_model import BrightestPixel
from test_pipeline import SpotDetector
from distilpose.inference.options import PredictOptions
from distilpose.inference.predict import (PredictInterruptedError, predict_files)

class Interrupted(BrightestPixel):
    def __call__(self, images):
        if len(self.batches) == 2:
            os.kill(os.getpid(), signal.{name})
        return super().__call__(images)

before = signal.getsignal(signal.{name})
try:
    options = PredictOptions([{str(video)!r}], {str(tmp_path)!r}, model=Interrupted(), detector=SpotDetector())
    predict_files(options)
except PredictInterruptedError as stop:
    assert 0 < stop.report.num_frames < 40
    print("interrupted", signal.getsignal(signal.{name}) == before)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "interrupted True\n"
    done = len(rows_of(tmp_path))
    assert 8 <= done < 40
    with VideoReader(tmp_path / "walk.mp4") as reader:
        frames = shown(reader.frames())
    assert len(frames) == done
    assert all(frame.error is None for frame in frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.json", "walk.mp4"]


def test_a_failing_writer_ends_with_an_error_and_keeps_the_rows(
    video: Path, tmp_path: Path, backend: Any, monkeypatch: Any
) -> None:
    written = []

    def full(self: Any, image: Image, time: float) -> None:
        written.append(time)
        if len(written) > 10:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoWriter, "write", full)
    with pytest.raises(InputError, match="No space left"):
        run(backend, tmp_path, video)
    assert len(rows_of(tmp_path)) >= 10


def test_two_hundred_people_in_a_frame_and_the_best_of_them(tmp_path: Path, backend: Any) -> None:
    video = write_video(tmp_path / "crowd.mp4", [spot_image(spot_xy(3))] * 3)

    def crowd(images: Sequence[Image]) -> list[PersonBoxes]:
        x, y = np.meshgrid(np.arange(20) * 15.0, np.arange(10) * 20.0)
        boxes = np.stack([x, y, x + 14, y + 19], axis=-1).reshape(-1, 4)
        return [PersonBoxes(boxes, np.linspace(0.3, 0.9, 200)) for _ in images]

    report = run(backend, tmp_path / "all", video, detector=crowd)
    assert (report.num_frames, report.num_tracks) == (3, 200)
    for frame in range(3):
        ids = [row["track_id"] for row in rows_of(tmp_path / "all") if row["frame"] == frame]
        assert len(set(ids)) == 200
    run(backend, tmp_path / "few", video, detector=crowd, max_people=2)
    scores = [row["box_score"] for row in rows_of(tmp_path / "few")]
    np.testing.assert_allclose(scores, [0.9, 0.9 - 0.6 / 199] * 3)


def test_a_phone_video_is_upright_in_what_is_written(tmp_path: Path, backend: Any) -> None:
    video = write_video(tmp_path / "phone.mov", [spot_image(spot_xy(10))] * 5)
    set_display_matrix(video, 0, 1, -1, 0)
    run(backend, tmp_path / "out", video, video=PLAIN)
    with VideoReader(tmp_path / "out" / "phone.mp4") as reader:
        assert reader.size_hw == (320, 240)
    np.testing.assert_allclose(keypoints(rows_of(tmp_path / "out")), [[239 - 120, 100]] * 5, atol=2.5)


def test_options_are_checked_before_anything_is_written(video: Path, tmp_path: Path, backend: Any) -> None:
    with pytest.raises(InputError, match="holds sources"):
        run(backend, video.parent, video, detector="whole-image")
    with pytest.raises(ConfigError, match="no camera among the sources"):
        run(backend, tmp_path / "o", video, detector="whole-image", output=OutputOptions(preview=0))
    assert not (tmp_path / "o").exists()


def test_faces_are_blurred_in_images_and_crops(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "coco_fixture"
    image = sorted(source.glob("*.jpg"))[0]
    boxes = source / "test_coco.json"
    plain, blurred = tmp_path / "plain", tmp_path / "blurred"
    for out, anonymize in ((plain, "none"), (blurred, "face")):
        output = OutputOptions(anonymize=anonymize, crops=True)
        run("distilpose_mobilenet", out, image, boxes=boxes, output=output)
    names = sorted(path.name for path in (plain / "crops").iterdir())
    assert names == sorted(path.name for path in (blurred / "crops").iterdir())
    assert any((read_image(plain / "crops" / n) != read_image(blurred / "crops" / n)).any() for n in names)


def test_crops_of_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path, backend: Any) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        write_image(tmp_path / name, spot_image(spot_xy(3)))
    output = OutputOptions(images=False, crops=True)
    sources = [tmp_path / "a", tmp_path / "b"]
    predict_files(PredictOptions(sources, tmp_path / "out", model=backend, detector=SpotDetector(), output=output))
    assert sorted(path.name for path in (tmp_path / "out" / "crops").iterdir()) == ["a_1_1.jpg", "b_1_1.jpg"]
