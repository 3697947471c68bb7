"""A bulk run but for the engine: options, models, detectors, and what the driver makes of reports."""

import contextlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from distilpose.backends.loading import DEFAULT_MODEL, shipped_file
from distilpose.bulk import engine
from distilpose.bulk import predict as bulk
from distilpose.bulk.inputs import items_of, list_inputs
from distilpose.bulk.options import BulkOptions
from distilpose.bulk.output_files import RunFolder
from distilpose.bulk.predict import predict_bulk
from distilpose.bulk.worker import ShardReport, ShardWorker
from distilpose.errors import CheckpointError, ConfigError, InputError
from distilpose.files import OutputLock
from foreign_files import simcc


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "auto", "boxes": "b"}, "got both"),
        ({"detector": "auto", "box_scores": "s"}, "need boxes"),
        ({"detector": "dog"}, "detector must be one of"),
        ({"detector": "whole-image", "workers": 0}, "workers must be a whole number of at least 1, got 0"),
        ({"detector": "whole-image", "shard_size": 0}, "shard_size must be a whole number of at least 1"),
        ({"detector": "whole-image", "detection_threshold": 2.0}, "detection_threshold"),
        ({"detector": "whole-image", "tile": 300}, "tiles are searched by the built-in detector"),
        ({"detector": "whole-image", "flip_test": "on"}, "flip_test"),
    ],
)
def test_wrong_options_are_told_before_anything_starts(options, message, images, model_file, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        predict_bulk(BulkOptions(images, tmp_path / "out", model=model_file, **options))


def test_wrong_models_and_folders_are_told(images, model_file, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere is not a file.*distilpose_mobilenet"):
        predict_bulk(BulkOptions(images, tmp_path / "out", model="nowhere", detector="whole-image"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="broken"):
        predict_bulk(BulkOptions(images, tmp_path / "out", model=broken, detector="whole-image"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        predict_bulk(BulkOptions(images, tmp_path / "file" / "out", model=model_file, detector="whole-image"))


def test_a_checkpoint_is_exported_once_into_the_run(checkpoint_file, small_onnx, tmp_path, monkeypatch) -> None:
    traced: list[Path] = []

    def trace(form: object, size_hw: object, path: Path) -> None:
        traced.append(shutil.copy(small_onnx, path))  # the graph of this checkpoint: tracing it again takes seconds

    monkeypatch.setattr("distilpose.export.openvino_file.export_onnx", trace)
    exported = bulk._ready_model(checkpoint_file, tmp_path)
    assert exported == tmp_path / "model" / "model.xml"
    before = exported.stat().st_mtime_ns
    assert bulk._ready_model(checkpoint_file, tmp_path) == exported
    assert exported.stat().st_mtime_ns == before
    assert len(traced) == 1


def test_a_checkpoint_that_cannot_be_exported_runs_as_it_is(
    checkpoint_file, tmp_path, images, monkeypatch, caplog
) -> None:
    def fails(*_, **__):
        raise ConfigError("openvino is not installed")

    monkeypatch.setattr("distilpose.export.export.export_model", fails)
    with caplog.at_level(logging.WARNING):
        assert bulk._ready_model(checkpoint_file, tmp_path) == checkpoint_file
    assert "slower" in caplog.text
    RunFolder(tmp_path / "out").start({})
    worker = ShardWorker(BulkOptions(images, tmp_path / "out", model=checkpoint_file, detector="whole-image"))
    assert worker.work(0, items_of(list_inputs(images))).error is None


def test_detectors_mean_the_same_for_every_worker(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.onnx").touch()
    assert bulk._same_everywhere("onnx:d.onnx?layout=yolo") == f"onnx:{tmp_path}/d.onnx?layout=yolo"
    assert bulk._same_everywhere("hf:some/model") == "hf:some/model"
    assert bulk._same_everywhere("auto") == "auto"


def drive(reports: list[ShardReport], images: Path) -> None:
    table = list_inputs(images)
    left = {shard: table.slice(4 * shard, 4) for shard in range(3)}
    bulk._drive(iter(reports), left, len(table), False)


def test_what_kept_shards_from_being_done_is_told(images, tmp_path) -> None:
    good = ShardReport(0, 4)
    full = f"{tmp_path} cannot be written (No space left on device): expected a folder with room (on node7)"
    drive([good, ShardReport(2, 4), ShardReport(1, 4)], images)
    with pytest.raises(InputError, match=r"cannot be written \(No space left .*on node7.*shards stay.*goes on"):
        drive([good, ShardReport(1, 4, disk_error=full)], images)
    with pytest.raises(InputError, match=r"2 of 3 shards .* first is 1 with rows 4 to 7: boom\..*tries these again"):
        drive([good, ShardReport(1, 4, error="boom")], images)


def test_a_table_changed_by_hand_is_noticed(images, model_file, tmp_path) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.start({})
    worker = ShardWorker(BulkOptions(images, folder.path, model=model_file, detector="whole-image"))
    worker.work(0, items_of(list_inputs(images)))
    report = bulk._report(folder, 1, 0, 12)
    assert (report.num_images, report.num_people, report.num_failed) == (11, 11, 1)
    assert "04.jpg" in report.failures[0]
    file = folder.path / "images" / "shard-000000.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(InputError, match="11 rows for 12 images"):
        bulk._report(folder, 1, 0, 12)


def test_shards_with_failures_are_done_again_when_asked_for(images, model_file, tmp_path) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.start({})
    worker, items = (
        ShardWorker(BulkOptions(images, folder.path, model=model_file, detector="whole-image")),
        items_of(list_inputs(images)),
    )
    for shard in range(3):
        worker.work(shard, items[4 * shard : 4 * shard + 4])
    assert folder.finished(3) == {0, 1, 2}
    assert folder.finished(3, retry_failed=True) == {0, 2}
    assert folder.finished(3) == {0, 2}
    (folder.path / "poses" / "shard-000002.parquet").unlink()
    assert folder.finished(3) == {0}
    assert not folder.is_finished(2)


def nodes(*cores: int) -> list[dict[str, Any]]:
    return [
        {"Alive": True, "NodeManagerHostname": f"node{number}", "Resources": {"CPU": float(count)}}
        for number, count in enumerate(cores)
    ]


def test_workers_are_counted_by_machines_because_none_reaches_over_two(monkeypatch) -> None:
    dead = [{"Alive": False, "NodeManagerHostname": "dead", "Resources": {}}]
    monkeypatch.setattr("ray.nodes", lambda: [*nodes(6, 3, 4), *dead])
    assert [engine.max_workers(threads) for threads in (1, 2, 4, 6)] == [13, 6, 2, 1]
    with pytest.raises(ConfigError, match=r"no machine has 7 cores .*largest is node0 with 6: lower threads"):
        engine.max_workers(7)


@pytest.mark.parametrize(("asked", "started"), [(None, 2), (1, 1), (5, 2)])
def test_no_more_workers_than_the_cores_hold(asked, started, images, model_file, tmp_path, monkeypatch) -> None:
    counts: list[int] = []

    def do_nothing(options: BulkOptions, id_type: str, shards: list[Any], workers: int) -> list[ShardReport]:
        counts.append(workers)
        return []

    monkeypatch.setattr(bulk, "ray_session", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(bulk, "work_in_ray", do_nothing)
    monkeypatch.setattr("ray.nodes", lambda: nodes(3, 3))
    asking = {"shard_size": 4, "threads": 2, "workers": asked}
    options = BulkOptions(images, tmp_path / "out", model=model_file, detector="whole-image", **asking)
    with pytest.raises(InputError, match="3 of 3 shards could not be done"):
        predict_bulk(options)
    assert counts == [started]


def test_the_default_model_and_foreign_ones_run_as_they_are(images, tmp_path, monkeypatch) -> None:
    def work_here(options: BulkOptions, id_type: str, shards: list[Any], workers: int) -> list[ShardReport]:
        models.append(str(options.model))
        worker = ShardWorker(options, id_type)
        return [worker.work(shard, items_of(table)) for shard, table in shards]

    models: list[str] = []
    monkeypatch.setattr(bulk, "ray_session", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(bulk, "work_in_ray", work_here)
    monkeypatch.setattr("ray.nodes", lambda: nodes(1))
    monkeypatch.chdir(tmp_path)
    simcc(Path("network.onnx"))
    default = BulkOptions(images, "default", detector="whole-image")
    foreign = replace(default, model="network.onnx?mean=0&color=bgr", out="foreign")
    assert [predict_bulk(options).num_failed for options in (default, foreign)] == [1, 1]
    assert models == [shipped_file(DEFAULT_MODEL), f"{tmp_path}/network.onnx?mean=0&color=bgr"]
    assert not list(tmp_path.rglob("*.xml"))
    with pytest.raises(InputError, match="another run"):
        predict_bulk(replace(foreign, model="network.onnx?mean=0"))


def test_a_run_that_never_began_leaves_its_folder_to_another(images, model_file, tmp_path, monkeypatch) -> None:
    def work_here(options: BulkOptions, id_type: str, shards: list[Any], workers: int) -> list[ShardReport]:
        worker = ShardWorker(options, id_type)
        return [worker.work(shard, items_of(table)) for shard, table in shards]

    monkeypatch.setattr(bulk, "ray_session", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(bulk, "work_in_ray", work_here)
    monkeypatch.setattr("ray.nodes", lambda: nodes(1))
    options = BulkOptions(images, tmp_path / "out", model=model_file, detector="whole-image")
    with pytest.raises(CheckpointError, match=r"none\.onnx is not a file"):
        predict_bulk(replace(options, detector="onnx:none.onnx"))
    assert predict_bulk(options).num_failed == 1
    with pytest.raises(InputError, match="another run"):
        predict_bulk(replace(options, flip_test="aligned"))
    with pytest.raises(ConfigError, match="openvino:NPU"):
        predict_bulk(replace(options, retry_failed=True, device="openvino:NPU"))  # shards are unfinished by now
    assert predict_bulk(replace(options, retry_failed=True)).num_failed == 1


def test_a_folder_that_another_run_writes_to_is_refused(images, model_file, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    options = BulkOptions(images, tmp_path / "out", model=model_file, detector="whole-image")
    with OutputLock(tmp_path / "out", "the first run"), pytest.raises(InputError, match="in use by the first run"):
        predict_bulk(options)


def test_ray_client_is_refused(images, model_file, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"Ray Client.*--address auto"):
        predict_bulk(
            BulkOptions(images, tmp_path / "out", model=model_file, detector="whole-image", address="ray://head:10001")
        )
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigError, match="Ray Client"):
        engine.check_address("auto")
    engine.check_address(None)


def test_the_content_of_a_detector_counts_not_its_name_alone(tmp_path) -> None:
    file = tmp_path / "d.onnx"
    digests = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        digests += [bulk._digest(bulk._files_at(place)) for place in (file, tmp_path)]
    assert len(set(digests)) == 2
    assert digests[0] == digests[1]
    assert bulk._digest(bulk._files_at(Path())) is None
