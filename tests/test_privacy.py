"""No command talks to anybody: the telemetry of libraries is off, and no name is looked up in the network."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

# Loaded by every Python process of a command: notes down whom it talks to beyond this machine.
WATCH = """
import os, socket, sys
OURS = ("127.", "::1", "::ffff:127.", "localhost", "0.0.0.0", socket.gethostname(), "None")
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        place = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        if isinstance(place, str | bytes) and event != "socket.getaddrinfo":
            return  # a socket of the file system
        host = place[0] if isinstance(place, tuple) else place
        if not str(host).startswith(OURS):
            with open(os.environ["CONNECTIONS"], "a") as file:
                file.write(f"{event} {place} by {sys.argv}\\n")
sys.addaudithook(watch)
"""
PREDICT = ["predict", "photo.png", "--boxes", "1,1,30,30"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([*PREDICT, "--device", "cpu"], id="ONNX Runtime"),
        pytest.param([*PREDICT, "--device", "openvino:CPU"], id="OpenVINO"),
        pytest.param(["serve", "--port", "0"], id="serve"),
        pytest.param(["predict-bulk", "photo.png", "--detector", "whole-image"], id="Ray", marks=pytest.mark.slow),
    ],
)
def test_no_command_connects_to_anybody(words: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "CONNECTIONS": str(tmp_path / "connections")}
    command = [sys.executable, "-m", "distilpose", *words]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if words[0] == "serve":
            address = process.stdout.readline().split(" ")[0]
            urllib.request.urlopen(f"{address}/healthz").close()  # noqa: S310
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert not (tmp_path / "connections").exists(), (tmp_path / "connections").read_text()


def test_the_watch_sees_a_connection(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    environment = {"PYTHONPATH": str(tmp_path), "CONNECTIONS": str(tmp_path / "connections")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert "192.0.2.1" in (tmp_path / "connections").read_text()
