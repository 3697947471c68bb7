"""``distilpose serve`` as a process: how it starts, what it logs, and that it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path

import pytest
from serving_client import BOX, Telltale, ask, encoded, form, metric, number_of, plain, send_image, wait_for
from uvicorn.protocols.http.h11_impl import H11Protocol

from distilpose.cli import main as cli
from distilpose.errors import ConfigError
from distilpose.serving.server import PoseServer

# Its model answers when a file is there. Arguments: this folder, that file, the deadline, seconds for what is stuck.
GATED_SERVER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from serving_client import Telltale
from distilpose.serving import server
from distilpose.serving.options import ServeOptions
class Gated(Telltale):
    def __call__(self, images):
        while len(self.batches) >= 2 and not os.path.exists(sys.argv[2]):  # two are those of the warming up
            time.sleep(0.01)
        return super().__call__(images)
server.STUCK_SECONDS = float(sys.argv[4])
options = ServeOptions(
    model=Gated(), port=0, detector="whole-image", batch_size=2, deadline=float(sys.argv[3]))
server.serve(options, lambda text: print(text, flush=True))
"""
HERE = str(Path(__file__).parent)


class Process:
    """A server in a process of its own."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        self.log_file = folder / "log"
        with self.log_file.open("wb") as log:
            self.popen = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **environment}, cwd=folder
            )
        self.address = self.popen.stdout.readline().decode().split(" ")[0]
        assert self.address.startswith("http"), self.log_file.read_text()
        wait_for(lambda: ask(self.address, "/readyz").status == 200, 60)

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


Run = Callable[..., Process]


@pytest.fixture
def run(tmp_path: Path) -> Generator[Run]:
    started: list[Process] = []

    def make(*command: str, **environment: str) -> Process:
        started.append(Process(tmp_path, [sys.executable, *command], environment))
        return started[-1]

    yield make
    for process in started:
        process.popen.kill()
        process.popen.wait()


def test_an_exported_file_is_served_without_torch_and_logged_line_by_line(run: Run, tiny_onnx: Path) -> None:
    process = run("-m", "distilpose", "serve", "--port", "0", "--model", str(tiny_onnx))
    assert process.address.startswith("http://127.0.0.1:")
    reply = send_image(process.address, 3, BOX * 2, X_Request_ID="seen-in-the-log")
    assert len(reply.json["people"]) == 2
    send_image(process.address, 3, [[1, 2]])
    maps = Path(f"/proc/{process.popen.pid}/maps")
    if maps.is_file():
        libraries = maps.read_text()
        assert "onnxruntime" in libraries
        assert "libtorch" not in libraries
    hang_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN  # as under nohup, which children inherit
    process.popen.send_signal(signal.SIGHUP if hang_up else signal.SIGTERM)
    assert process.popen.wait(20) == 0
    lines = [line for line in process.log() if line["message"] == "request"]
    good, bad = lines
    assert good["id"] == "seen-in-the-log"
    assert (good["method"], good["path"], good["status"]) == ("POST", "/v1/predict", 200)
    assert (good["people"], good["batch"]) == (2, [2])
    assert good["ms"] > 0  # type: ignore[operator]
    assert (bad["status"], bad["error"]) == (422, "boxes")


@pytest.mark.parametrize("ending", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_end_answers_what_was_accepted_and_refuses_the_rest(
    run: Run, ending: signal.Signals, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    process = run("-c", GATED_SERVER, HERE, str(gate), "60", "60")
    with ThreadPoolExecutor(24) as pool:
        accepted = [pool.submit(send_image, process.address, number) for number in range(24)]
        wait_for(lambda: metric(process.address, "distilpose_queue_length") == 24)
        process.popen.send_signal(ending)
        wait_for(lambda: ask(process.address, "/readyz").status != 200)
        assert ask(process.address, "/readyz").json == {"status": "draining"}
        assert ask(process.address, "/healthz").status == 200
        late = send_image(process.address, 99)
        assert (late.status, late.json["error"]) == (503, "draining")
        assert "retry-after" in late.headers
        gate.touch()
        replies = [future.result() for future in accepted]
    assert [number_of(reply.json["people"][0]) for reply in replies] == list(range(24))
    start = time.monotonic()
    assert process.popen.wait(20) == 0
    assert time.monotonic() - start < 10
    with pytest.raises(ConnectionRefusedError):
        ask(process.address, "/healthz")
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.popen.pid)], capture_output=True, check=False)
    assert not children.stdout.strip()


def test_the_end_does_not_wait_for_who_never_comes_to_an_end(run: Run) -> None:
    process = run("-c", GATED_SERVER, HERE, HERE, "60", "60")
    host, port = process.address.removeprefix("http://").split(":")
    body, headers = form(("image", encoded(plain(1)), "x"))
    with socket.create_connection((host, int(port))) as half, socket.create_connection((host, int(port))):
        lines = ["POST /v1/predict HTTP/1.1", "Host: localhost", f"Content-Type: {headers['Content-Type']}"]
        half.sendall("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body[:50])
        wait_for(lambda: metric(process.address, "distilpose_uploads_bytes") == len(body))
        process.popen.send_signal(signal.SIGTERM)
        answer = HTTPResponse(half)
        answer.begin()
        assert (answer.status, answer.getheader("connection")) == (503, "close")
        assert json.loads(answer.read())["error"] == "draining"
        assert process.popen.wait(25) == 0
    requests = [line for line in process.log() if line["message"] == "request"]
    assert [(line["status"], line["error"]) for line in requests] == [(503, "draining")]
    assert not any("traceback" in line for line in process.log())


def test_a_clean_end_leaves_the_program_around_it_alone(tmp_path: Path) -> None:
    """Two signals: one timer, and it is cancelled, else it would end the process a second later with code 1."""
    script = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from serving_client import Telltale, wait_for
from distilpose.serving import server
from distilpose.serving.options import ServeOptions
server.CLOSING_SECONDS, server.STUCK_SECONDS = 0.3, 0.3
one = server.PoseServer(ServeOptions(model=Telltale(), port=0, detector="whole-image", deadline=0.3))
def end():
    wait_for(lambda: one.started)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end).start()
one.run()
time.sleep(2)
print("goes on")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, HERE], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


@pytest.mark.slow
def test_a_model_that_never_returns_does_not_keep_the_process(run: Run) -> None:
    process = run("-c", GATED_SERVER, HERE, f"{HERE}/never", "0.5", "1")
    assert send_image(process.address, 1).status == 504
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(25) == 1
    assert "did not return" in str(process.log()[-1]["message"])


def test_a_port_in_use_is_a_clear_error(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", "--port", port, "--model", str(tiny_onnx)]) == 1
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in error
    assert "--port" in error


@pytest.mark.parametrize(("arguments", "message"), [(["--port", "70000"], "65535"), (["--queue", "0"], "at least 1")])
def test_numbers_out_of_range_are_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        cli.main(["serve", *arguments])
    assert exit_code.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "no.such.host.invalid"], "host must be"),
        (["--host", "pose..local"], "host must be"),
        (["--detection-threshold", "2"], "detection_threshold must be a number from 0 to 1"),
        (["--detector", "whole-image", "--tile", "300"], "tiles are searched by the built-in detector"),
        (["--api-key-file", "missing.txt"], "missing.txt must be a text file"),
    ],
)
def test_wrong_options_are_clear_errors(
    arguments: list[str], message: str, tiny_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "--port", "0", "--model", str(tiny_onnx), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str | None] = []

    def stop(_: object, key: str | None) -> None:
        keys.append(key)
        raise ConfigError("stop")

    monkeypatch.setattr("distilpose.serving.server.PoseServer", stop)
    monkeypatch.setenv("DISTILPOSE_API_KEY", "from-environment")
    (tmp_path / "key.txt").write_text("from-file\n")
    for words in (["--api-key-file", str(tmp_path / "key.txt")], []):
        assert cli.main(["serve", *words]) == 1
    assert keys == ["from-file", "from-environment"]


def test_an_open_server_for_other_machines_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    from distilpose.serving.options import ServeOptions
    from distilpose.serving.server import PoseServer

    for host, key, warned in (
        ("0.0.0.0", None, True),  # noqa: S104  # never served
        ("0.0.0.0", "x", False),  # noqa: S104
        ("127.0.0.1", None, False),
    ):
        caplog.clear()
        server = PoseServer(ServeOptions(model=Telltale(), host=host, port=0, detector="whole-image"), key)
        assert bool(caplog.records) == warned
        assert (server.hosts is None) == (host == "0.0.0.0" or key is not None)  # noqa: S104
        server.close()


def test_answers_are_not_held_back(start: Callable[..., PoseServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and body of an answer are two small packets: without TCP_NODELAY the second waits for the client."""
    found = []
    connected = H11Protocol.connection_made

    def look(self: H11Protocol, transport: asyncio.Transport) -> None:
        found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        connected(self, transport)

    monkeypatch.setattr(H11Protocol, "connection_made", look)
    assert ask(start().address, "/healthz").status == 200
    assert found
    assert all(found)
