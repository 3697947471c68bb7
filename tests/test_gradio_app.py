"""The page in Gradio: started as a user starts it, asked over HTTP and by Gradio's own client."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "docs" / "images" / "photos" / "000000085772.jpg"

pytest.importorskip("gradio", reason="needs pip install gradio")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("gradio")),
    }
    command = [sys.executable, str(ROOT / "examples" / "gradio_app.py"), "--port", str(port)]
    log = tmp_path_factory.mktemp("log") / "gradio.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 200
        address = f"http://127.0.0.1:{port}/"
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_the_page_answers(url: str) -> None:
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310
        assert answer.status == 200
        text = answer.read().decode()
    assert "distilpose" in text
    assert "The image stays on this machine" in text


def test_people_are_drawn_and_listed(url: str) -> None:
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    drawn, table = client.predict(handle_file(str(PHOTO)), api_name="/find_people")
    image, before = np.asarray(Image.open(drawn).convert("RGB")), np.asarray(Image.open(PHOTO).convert("RGB"))
    assert image.shape == before.shape
    assert 0.001 < (np.abs(image.astype(int) - before) > 60).any(axis=2).mean() < 0.3  # lines over the photograph
    assert {"keypoint", "x", "y", "score"} <= set(table["headers"])
    assert len(table["data"]) % 17 == 0
    assert len(table["data"]) > 0
