"""Whole runs in Ray: killed workers, killed drivers, and what is left on the machine."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from bulk_files import table_rows, write_list

from distilpose.bulk.options import BulkOptions
from distilpose.bulk.predict import predict_bulk
from distilpose.cli import main as cli
from distilpose.data.images import write_image
from distilpose.errors import InputError

MANY, PER_SHARD = 600, 30


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list that takes some seconds: of the same few large images again and again, with another box each time."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(1)
    for number in range(4):
        write_image(folder / f"{number}.jpg", rng.integers(0, 255, (700, 1000, 3), dtype=np.uint8))
    paths = [f"{number % 4}.jpg" if number % 50 else "missing.jpg" for number in range(MANY)]
    boxes = [[[0, 0, 100 + number, 200]] if number % 7 else [] for number in range(MANY)]
    return write_list(folder / "list.parquet", path=paths, id=list(range(1000, 1000 + MANY)), boxes=boxes)


COLUMNS = {"ids": "id", "boxes": "boxes"}


def check_tables(out: Path) -> None:
    """Each image once, each person once."""
    images, poses = table_rows(out / "images"), table_rows(out / "poses")
    assert [row["row"] for row in images] == list(range(MANY))
    assert [row["image_id"] for row in images] == list(range(1000, 1000 + MANY))
    missing = [row["row"] for row in images if row["error"] is not None]
    assert missing == list(range(0, MANY, 50))
    assert all("there is no such file" in images[row]["error"] for row in missing)
    people = [number for number in range(MANY) if number % 50 and number % 7]
    assert [row["row"] for row in poses] == people
    assert [row["box_xyxy"][2] for row in poses] == [100 + number for number in people]
    assert not [file for file in out.rglob(".*") if file.is_file()]


def finished(out: Path) -> list[Path]:
    return sorted((out / "images").glob("shard-*"))


def wait_for(condition, seconds: float, run: subprocess.Popen[str] | None = None) -> None:
    """Until the condition holds; a run that ends before shows its output."""
    deadline = time.monotonic() + seconds
    while not condition():
        if run is not None and run.poll() is not None:
            pytest.fail(f"ended with code {run.returncode}: {run.communicate()}")
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def in_work(out: Path) -> set[str]:
    """Names of the shards that a worker has taken up and not finished."""
    return {note.name[1:].removesuffix(".attempts") for note in (out / "images").glob(".*.attempts")}


def kill_at_work(out: Path) -> tuple[int, set[str]]:
    """Kill one of two workers while each has a shard in work: its process id, and both shards."""
    wait_for(lambda: len(finished(out)) > 1, 120)
    while True:
        workers = ray_workers(psutil.Process())
        for worker in workers:
            worker.suspend()
        wait_for(lambda stopped=workers: all(one.status() == psutil.STATUS_STOPPED for one in stopped), 10)
        held = in_work(out)
        if len(workers) == len(held) == 2 and not any((out / "images" / shard).exists() for shard in held):
            workers[0].kill()
            workers[1].resume()
            return workers[0].pid, held
        for worker in workers:
            worker.resume()
        assert len(finished(out)) < MANY // PER_SHARD, "all was done before"


def ray_workers(of: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in of.children(recursive=True):
        try:
            if process.name().startswith("ray::MapWorker") or "ray::MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_doubles_nothing(ray_here, many, model_file, tmp_path) -> None:
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_at_work, out)
        report = predict_bulk(BulkOptions(many, out, model=model_file, **COLUMNS, shard_size=PER_SHARD, workers=2))
        process, shards = killed.result()
    assert not psutil.pid_exists(process)
    assert all((out / "images" / shard).exists() for shard in shards)  # one of them done again
    assert (report.num_images, report.num_failed, report.num_shards, report.num_resumed) == (588, 12, 20, 0)
    assert len(report.failures) == 12
    check_tables(out)


def test_the_command_tells_failures_and_what_differs_from_the_run_in_its_folder(
    ray_here, images, model_file, tmp_path, capsys
) -> None:
    out = tmp_path / "out"
    command = ["predict-bulk", str(images), "--out", str(out), "--model", str(model_file), "--detector",
               "whole-image", "--shard-size", "5", "--workers", "1"]  # fmt: skip
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    assert "04.jpg cannot be read as an image" in captured.err
    assert "11 images, 11 people, 1 failed ->" in captured.out
    assert [row["row"] for row in table_rows(out / "images")] == list(range(12))
    assert len(table_rows(out / "poses")) == 11

    (images / "b" / "new.jpg").touch()
    assert cli.main(command) == 1
    assert "another run, which differs in images, list" in capsys.readouterr().err
    (images / "b" / "new.jpg").unlink()
    other = tmp_path / "other.onnx"
    other.write_bytes(model_file.read_bytes() + b"\0")
    with pytest.raises(InputError, match="differs in model"):
        predict_bulk(BulkOptions(images, out, model=other, detector="whole-image", shard_size=5))


def working_in(folder: Path) -> list[str]:
    """Processes that work in ``folder``, as all do that a command there started; Ray's overwrite their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_killed_command_goes_on_without_torch_and_leaves_no_process(many, model_file, tmp_path) -> None:
    (tmp_path / "no_torch").mkdir()
    (tmp_path / "no_torch" / "torch.py").write_text("raise ImportError('torch is not here')\n")
    path = os.pathsep.join([str(tmp_path / "no_torch"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "distilpose", "predict-bulk", str(many), "--out", str(out), "--model",
               str(model_file), "--boxes", "boxes", "--ids", "id", "--shard-size", str(PER_SHARD)]  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as output:
        first = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=output, stderr=output, text=True)
    wait_for(lambda: len(finished(out)) >= 3 or first.poll() is not None, 120)
    assert first.poll() is None, log.read_text()
    assert working_in(tmp_path)
    first.kill()
    first.wait()
    wait_for(lambda: not working_in(tmp_path), 120)  # Ray's own agents look for their parent for a minute
    there = {file: file.stat().st_mtime_ns for file in finished(out)}
    assert 3 <= len(there) < 20

    second = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 1, second.stderr  # of the missing images
    assert f"({len(there)} of 20 shards were there)" in second.stdout
    assert all(file.stat().st_mtime_ns == before for file, before in there.items())
    check_tables(out)
    wait_for(lambda: not working_in(tmp_path), 30)


DYING_CONTROL = """
import sys, threading, time
from pathlib import Path
import psutil
from distilpose.bulk.options import BulkOptions
from distilpose.bulk.predict import predict_bulk
from distilpose.errors import InputError
images, out, model = sys.argv[1:4]
heard = []
def kill():
    while not list(Path(out, "images").glob("shard-*")):
        time.sleep(0.05)
    for process in psutil.Process().children(recursive=True):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                heard.append(connection.laddr.ip)
    (control,) = [one for one in psutil.Process().children(recursive=True) if one.name() == "gcs_server"]
    control.kill()
    global killed
    killed = time.monotonic()
threading.Thread(target=kill, daemon=True).start()
try:
    predict_bulk(BulkOptions(images, out, model=model, boxes="boxes", ids="id", shard_size=10, workers=1))
except InputError as error:
    print(error)
print(f"{time.monotonic() - killed:.1f}", sorted({ip.removeprefix("::ffff:") for ip in heard}))
print(len(psutil.Process().children(recursive=True)))
"""


@pytest.mark.slow
def test_a_dead_control_process_is_told_at_once_and_ray_listens_on_loopback(many, model_file, tmp_path) -> None:
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    command = [sys.executable, "-c", DYING_CONTROL, str(many), str(tmp_path / "out"), str(model_file)]
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True, env=environment)
    told, measured, left = done.stdout.splitlines()
    assert "its process gcs_server died" in told
    seconds, _, heard = measured.partition(" ")
    assert float(seconds) < 20  # it was a minute
    assert heard == "['127.0.0.1']"
    assert left == "0"
    assert (home / ".ray").stat().st_mode & 0o077 == 0
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_once_and_leaves_no_process(number, many, model_file, tmp_path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "distilpose", "predict-bulk", str(many), "--out", str(out), "--model",
               str(model_file), "--boxes", "boxes", "--ids", "id", "--shard-size", str(PER_SHARD)]  # fmt: skip
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(finished(out)) >= 1, 120, run)
    run.send_signal(number)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "interrupted: what was written stays" in error
    assert "Traceback" not in error
    wait_for(lambda: not working_in(tmp_path), 30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_told_soon(images, model_file, tmp_path) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "distilpose", "predict-bulk", str(images), "--out", str(tmp_path / "out"),
               "--model", str(model_file), "--detector", "whole-image", "--address", address]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"no Ray cluster answers at {address}" in done.stderr


@pytest.mark.slow
def test_a_cluster_that_is_there_does_the_work_and_stays(images, model_file, tmp_path) -> None:
    port = free_port()
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = subprocess.Popen(
        [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port", str(port), "--num-cpus", "2",
         "--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--disable-usage-stats",
         "--ray-client-server-port", str(free_port()), "--object-store-memory", "100000000"],
        cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: answers(port), 60, head)
        command = [sys.executable, "-m", "distilpose", "predict-bulk", str(images), "--out", "out", "--model",
                   str(model_file), "--detector", "whole-image", "--address", f"127.0.0.1:{port}"]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert "11 images, 11 people, 1 failed" in done.stdout, done.stderr
        assert head.poll() is None
        wrong = {**env, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        command[command.index("out")] = "another"
        done = subprocess.run(command, cwd=tmp_path, env=wrong, capture_output=True, text=True)
        assert "error: there is no Ray cluster to use" in done.stderr
        assert "a cluster with a token needs it on this machine" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        head.terminate()
        head.wait(60)
        wait_for(lambda: not working_in(tmp_path), 120)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
