"""A camera, whose newest frame wins, so that what is shown lags no more than one frame's work, and a page for it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple, Self

import cv2
import numpy as np

from distilpose.errors import InputError
from distilpose.inference.interruption import Interruption
from distilpose.inference.options import VideoOptions
from distilpose.inference.people import Finder, Frame, FrameId
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.sources import CAMERA_PREFIX
from distilpose.types import ImageArray
from distilpose.video.pipeline import FrameResult, detect_some, follow
from distilpose.video.smoothing import OneEuroSmoother

LATENCIES_KEPT = 100  # frames over which latency is summed up
_BOUNDARY = "frame"
_PAGE = b"""<!doctype html><title>distilpose</title><meta name="viewport" content="width=device-width">
<style>body{margin:0;background:#101418;display:grid;place-items:center;height:100vh}img{max-width:100%;max-height:100vh}
</style><img src="stream" alt="what the camera sees, with poses">"""


class Webcam:
    """A camera of this machine, through OpenCV; 0 is the first.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, number: int) -> None:
        logging: Any = getattr(cv2.utils, "logging", cv2)  # in OpenCV 4.10 these functions are outside
        level = logging.getLogLevel()
        logging.setLogLevel(0)  # silent: each of its backends would warn of a camera that is not there
        try:
            self._capture = cv2.VideoCapture(number)
        finally:
            logging.setLogLevel(level)
        if not self._capture.isOpened():
            raise InputError(
                f"{CAMERA_PREFIX}{number} cannot be opened: is there a camera, is it free, and may this user read it?"
            )
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # older images are of no use

    def read(self) -> ImageArray | None:
        """Wait for the next image, (H, W, 3) uint8 RGB; None when there will be no more."""
        good, image = self._capture.read()
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8) if good else None

    def close(self) -> None:
        """Let go of the device."""
        self._capture.release()


class Latency(NamedTuple):
    """From an image's arrival to its poses, over the last frames."""

    median: float  # seconds
    p95: float  # seconds; one in twenty takes longer
    used: float  # share of the camera's images that were predicted

    def __str__(self) -> str:
        return f"latency {1e3 * self.median:.0f} ms (p95 {1e3 * self.p95:.0f}), {100 * self.used:.0f} % of frames used"


class NewestFrame:
    """Reads a camera in a thread and keeps the newest image alone."""

    def __init__(self, camera: Webcam) -> None:
        self._camera = camera
        self._newest: Queue[tuple[int, float, ImageArray]] = Queue(1)
        self._error: BaseException | None = None
        self._stopping = False
        self.read_so_far = 0
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while not self._stopping and (image := self._camera.read()) is not None:
                with suppress(Empty):
                    self._newest.get_nowait()
                number, self.read_so_far = self.read_so_far, self.read_so_far + 1
                self._newest.put((number, time.perf_counter(), image))
        except BaseException as error:
            self._error = error

    def take(self, give_up: Callable[[], bool] = lambda: False) -> tuple[int, float, ImageArray] | None:
        """Wait for an image newer than the last: its number, when it came (``time.perf_counter``), and itself.

        None when the camera gives no more, or ``give_up`` says so.
        """
        while not give_up():
            at_end = not self._thread.is_alive()  # before looking for an image: the last one counts
            with suppress(Empty):
                return self._newest.get(timeout=0 if at_end else 0.1)  # a camera may hang
            if self._error is not None:
                raise self._error
            if at_end:
                break
        return None

    def close(self) -> None:
        """Stop reading and let go of the camera."""
        self._stopping = True
        self._thread.join(2)
        if not self._thread.is_alive():  # a device that hangs in `read` must not be taken from under it
            self._camera.close()


def watch_camera(
    camera: Webcam,
    name: str,
    predictor: PosePredictor,
    find: Finder,
    options: VideoOptions,
    *,
    max_people: int | None = None,
    interruption: Interruption,
    show: Callable[[Latency], None] = lambda _: None,
) -> Generator[FrameResult]:
    """Predict what a camera sees, until it ends, ``options.end`` seconds are over or the user stops it.

    Times are those of arrival, in seconds since the first image; numbers count all images of the camera, so that
    gaps show what was passed over. Outputs call the camera ``name``; it is closed in the end. Of the options ``every``
    and ``start`` do not count. ``show`` is told how long frames take.
    """
    newest = NewestFrame(camera)
    arrived = first = 0.0
    latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)
    used = 0

    def frames() -> Generator[Frame]:
        nonlocal arrived, first
        while (taken := newest.take(lambda: interruption.requested)) is not None and not interruption.requested:
            number, arrived, image = taken
            first = first or arrived
            if options.end is not None and arrived - first >= options.end:
                return
            yield FrameId(Path(name), number, arrived - first, (image.shape[0], image.shape[1])), image

    smoother = OneEuroSmoother()
    detected = detect_some(frames(), find, options.detect_every or 1)  # not ahead: what is shown must be new
    try:
        with closing(follow(detected, predictor, max_people=max_people, keep_images=True)) as frame_results:
            for item in frame_results:
                used += 1
                assert item.frame_id.time is not None
                if item.result is not None and options.smooth:
                    item = item._replace(result=smoother(item.result, item.frame_id.time))
                latencies.append(time.perf_counter() - arrived)
                median, p95 = np.percentile(latencies, [50, 95]).tolist()
                show(Latency(median, p95, used / newest.read_so_far))
                yield item
    finally:
        newest.close()


class Preview:
    """Serves a page that shows the frame given last; on this machine alone.

    Its ``address`` has a random part, which other users of the machine and pages in the browser cannot guess. Port 0
    takes a free one.

    Raises:
        InputError: the port is in use.
    """

    def __init__(self, port: int = 0) -> None:
        self._condition = threading.Condition()
        self._jpeg = b""
        self._count = 0
        self._open = True
        preview, root = self, f"/{secrets.token_urlsafe(16)}/"

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                if secrets.compare_digest(self.path.encode(), root.encode()):
                    self._answer({"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(_PAGE))})
                    self.wfile.write(_PAGE)
                elif secrets.compare_digest(self.path.encode(), f"{root}stream".encode()):
                    self._answer({"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}"})
                    preview._send(self)
                else:
                    self.send_error(404)

            def _answer(self, headers: dict[str, str]) -> None:
                self.send_response(200)
                for name, value in {**headers, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"the preview cannot use port {port} ({reason}): choose another, or 0 for any") from error
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}{root}"
        threading.Thread(target=self._server.serve_forever, name="preview", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, image: ImageArray, time: float = 0.0) -> None:
        """Put an (H, W, 3) uint8 RGB image on the page; its time does not matter."""
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        with self._condition:
            self._jpeg = jpeg.tobytes()
            self._count += 1
            self._condition.notify_all()

    def close(self) -> None:
        """Take the page away."""
        with self._condition:
            self._open = False
            self._condition.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _send(self, request: BaseHTTPRequestHandler) -> None:
        """Frame after frame, those left out that a slow reader has missed."""
        sent = 0
        while True:
            with self._condition:
                while self._count == sent and self._open:
                    self._condition.wait()
                if not self._open:
                    return
                jpeg, sent = self._jpeg, self._count
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                request.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:  # the reader has left
                return
