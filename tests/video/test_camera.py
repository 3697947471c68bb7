"""A fake camera: the newest frame wins, latency is bounded by one frame's work, files are finished."""

import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_pipeline import SpotDetector, SpotPose, spot_image, spot_xy
from videos import shown

from distilpose.errors import ConfigError, InputError
from distilpose.inference import run
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import OutputOptions, PredictOptions, VideoOptions
from distilpose.inference.people import people_by_detector
from distilpose.inference.predict import predict_files
from distilpose.inference.predictor import PosePredictor
from distilpose.video.camera import Latency, NewestFrame, Preview, Webcam, watch_camera
from distilpose.video.reader import VideoReader

Image = NDArray[np.uint8]


class FakeCamera:
    """Gives ``count`` images of a moving spot, ``rate`` a second."""

    def __init__(self, count: int = 60, rate: float = 200.0) -> None:
        self.count, self.rate = count, rate
        self.given = 0
        self.ended = False  # all of its images have been taken
        self.closed = False

    def read(self) -> Image | None:
        if self.given == self.count:
            self.ended = True
            return None
        time.sleep(1 / self.rate)
        self.given += 1
        return spot_image(spot_xy((self.given - 1) % 40))

    def close(self) -> None:
        self.closed = True


class Slow:
    """A backend that answers when the camera's last image has arrived."""

    def __init__(self, backend: Any, camera: FakeCamera) -> None:
        self.backend, self.camera, self.description = SpotPose(backend), camera, backend.description

    def __call__(self, images: NDArray[np.float32]) -> Any:
        while not self.camera.ended:
            time.sleep(0.001)
        time.sleep(0.01)
        return self.backend(images)


def watch(camera: FakeCamera, backend: Any, options: VideoOptions, **more: Any) -> list[Any]:
    find = people_by_detector(SpotDetector(), [], None).find
    predictor = PosePredictor(backend)
    return list(watch_camera(camera, "webcam:0", predictor, find, options, interruption=Interruption(), **more))


def test_a_slow_model_sees_the_newest_frames_only(backend: Any) -> None:
    latencies: list[Latency] = []
    camera = FakeCamera(60)
    frame_results = watch(camera, Slow(backend, camera), VideoOptions(smooth=False), show=latencies.append)
    first, last = (item.frame_id.frame for item in frame_results)
    assert first < last == 59
    for item in frame_results:
        np.testing.assert_allclose(item.result.xy[0, 0], spot_xy(item.frame_id.frame % 40), atol=2.5)
        assert item.image is not None
    assert 0.01 <= latencies[-1].median <= latencies[-1].p95
    assert latencies[-1].used == 2 / 60
    assert "ms" in str(latencies[-1])
    assert camera.closed


def test_times_are_those_of_arrival(backend: Any) -> None:
    frame_results = watch(FakeCamera(20, rate=25), SpotPose(backend), VideoOptions())
    assert len(frame_results) > 1
    times = [item.frame_id.time for item in frame_results]
    assert times[0] == 0
    assert times == sorted(set(times))
    assert {int(n) for item in frame_results for n in item.result.track_id} == {1}


def test_it_ends_when_it_is_time_or_when_asked(backend: Any) -> None:
    camera = FakeCamera(10_000, rate=200)
    frame_results = watch(camera, SpotPose(backend), VideoOptions(end=0.2))
    assert frame_results[-1].frame_id.time < 0.2
    assert camera.closed
    interruption = Interruption()
    find = people_by_detector(SpotDetector(), [], None).find
    stream = watch_camera(
        FakeCamera(10_000), "w", PosePredictor(SpotPose(backend)), find, VideoOptions(), interruption=interruption
    )
    next(stream)
    interruption.requested = True
    assert len(list(stream)) <= 1


def test_an_error_of_the_camera_is_raised() -> None:
    class Broken:
        def read(self) -> Image | None:
            raise RuntimeError("unplugged")

        def close(self) -> None:
            pass

    newest = NewestFrame(Broken())
    with pytest.raises(RuntimeError, match="unplugged"):
        newest.take()
    newest.close()


def test_a_camera_that_is_not_there(tmp_path: Path, backend: Any, capfd: Any) -> None:
    with pytest.raises(InputError, match="webcam:97 cannot be opened"):
        Webcam(97)
    assert capfd.readouterr() == ("", "")  # OpenCV's own warnings
    report = predict_files(PredictOptions(["webcam:97"], tmp_path / "out", model=backend, detector="whole-image"))
    assert len(report.failures) == 1
    assert "webcam:97 cannot be opened" in report.failures[0]
    with pytest.raises(ConfigError, match="expected one camera, got 2"):
        predict_files(PredictOptions(["webcam:0", "webcam:1"], tmp_path / "out", model=backend, detector="whole-image"))
    with pytest.raises(ConfigError, match="newest frame is taken"):
        predict_files(
            PredictOptions(["webcam:0"], tmp_path, model=backend, detector="whole-image", video=VideoOptions(every=2))
        )
    with pytest.raises(ConfigError, match="knows nothing of a camera"):
        predict_files(PredictOptions(["webcam:97"], tmp_path / "out", model=backend, boxes=tmp_path / "boxes.json"))


def test_a_camera_that_hangs_can_be_given_up() -> None:
    released = threading.Event()

    class Hanging(FakeCamera):
        def read(self) -> Image | None:
            released.wait()
            return None

    newest = NewestFrame(Hanging())
    assert newest.take(lambda: True) is None
    released.set()
    newest.close()


def test_predict_from_a_camera_writes_all_that_a_video_gets(tmp_path: Path, backend: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(run, "Webcam", lambda number: FakeCamera(30, rate=100))
    output = OutputOptions(format=["jsonl"], preview=0)
    report = predict_files(
        PredictOptions(["webcam:0"], tmp_path, model=SpotPose(backend), detector=SpotDetector(), output=output),
        progress=True,
    )
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert 1 <= report.num_frames == len(rows)
    assert {row["image"] for row in rows} == {"webcam:0"}
    with VideoReader(tmp_path / "webcam_0.mp4") as reader:
        times = [frame.time for frame in shown(reader.frames())]
    np.testing.assert_allclose(times, [row["time"] for row in rows], atol=2e-3)
    assert len((tmp_path / "poses.jsonl").read_text().splitlines()) == report.num_frames


def test_a_camera_without_images_is_a_failure(tmp_path: Path, backend: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(run, "Webcam", lambda number: FakeCamera(0))
    report = predict_files(PredictOptions(["webcam:3"], tmp_path, model=backend, detector=SpotDetector()))
    assert report.failures == ("webcam:3: it gave no image",)


def test_the_preview_shows_the_newest_image() -> None:
    with Preview() as preview:
        with urllib.request.urlopen(preview.address, timeout=5) as page:  # noqa: S310
            assert b'src="stream"' in page.read()
        threading.Timer(0.1, preview.show, [spot_image(spot_xy(1))]).start()
        with urllib.request.urlopen(preview.address + "stream", timeout=5) as stream:  # noqa: S310
            head = [stream.readline() for _ in range(4)]
            assert head[0] == b"--frame\r\n"
            length = int(head[2].split(b":")[1])
            assert stream.read(length)[:2] == b"\xff\xd8"
        host, _, token = preview.address.removeprefix("http://").strip("/").partition("/")
        assert len(token) >= 16
        for wrong in ("", "stream", "x" * len(token) + "/", token[:-1] + "/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://{host}/{wrong}", timeout=5)
        port = int(host.rsplit(":", 1)[1])
        with pytest.raises(InputError, match=f"port {port}"):
            Preview(port)
        with pytest.raises(InputError, match="port 99999"):
            Preview(99999)
