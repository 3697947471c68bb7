"""The cost model by hand, and the measurement that feeds it."""

from __future__ import annotations

import pytest

from distilpose.bench import bulk
from distilpose.bulk import cost
from distilpose.bulk.cost import BulkRates, ClusterAssumptions, forecast
from distilpose.errors import ConfigError

RATES = BulkRates(per_core=100, listed=100_000, shards=80, pictures="small ones")
ASSUMED = ClusterAssumptions(price=0.05, cores=16, picture_bytes=150_000, node_gbit=10, store_gbit=100,
                             store_requests=5_500, shard_size=500)  # fmt: skip


def test_one_node_is_bound_by_its_cores() -> None:
    found = forecast(RATES, ASSUMED, 1)
    assert found.saturated == "cores"
    assert found.limits == pytest.approx(
        {
            "cores": 1600,
            "network of the nodes": 8333.33,
            "bandwidth of the storage": 83_333.33,
            "requests to the storage": 5500,
            "driver": 40_000,
        }
    )
    # A million pictures: 625 s of work and 10 s of listing, of a node for 0.8 $ an hour.
    assert found.per_dollar == pytest.approx(1e6 / (635 / 3600 * 0.8))


def test_what_saturates_first_of_many_nodes() -> None:
    assert forecast(RATES, ASSUMED, 10).saturated == "requests to the storage"
    ample = ClusterAssumptions(store_requests=1e9, store_gbit=1e9)
    assert forecast(RATES, ample, 1000).saturated == "driver"
    assert forecast(RATES, ClusterAssumptions(node_gbit=1), 1).saturated == "network of the nodes"
    assert forecast(RATES, ASSUMED, 1000).per_second == forecast(RATES, ASSUMED, 100).per_second == 5500


def test_numbers_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="greater than 0"):
        forecast(RATES, ASSUMED, 0)
    with pytest.raises(ConfigError, match="greater than 0"):
        forecast(RATES, ClusterAssumptions(price=0), 1)


def test_the_table_is_a_command(capsys) -> None:
    cost.main(["--per-core", "100", "--listed", "1e5", "--shards", "80", "--price", "0.04", "--nodes", "1", "10",
               "--pictures", "portraits"])  # fmt: skip
    out = capsys.readouterr().out
    assert "a model, not a measurement" in out
    assert "0.04 $ a core-hour" in out
    assert "portraits" in out


@pytest.mark.slow
def test_the_benchmark_compares_the_same_pictures(checkpoint_file, monkeypatch) -> None:
    monkeypatch.setattr(bulk, "ROUNDS", 1)
    monkeypatch.setattr(bulk, "EMPTY_SHARDS", 5)
    found = bulk.measure_bulk(checkpoint_file, pictures=12)
    cores = bulk.usable_cores()
    assert [speed.pictures for speed in found.speeds] == [12] * 5
    assert [speed.way for speed in found.speeds] == [
        f"predict, {bulk._layout(1, cores)}",
        f"no engine, {bulk._layout(cores, 1)}",
        f"Ray Data, {bulk._layout(cores, 1)}",
        f"no engine, {bulk._layout(1, cores)}",
        f"Ray Data, {bulk._layout(1, cores)}",
    ]
    assert bulk.bulk_table(found, 100.0).row_count == 5


def test_the_overhead_compares_the_same_processes() -> None:
    work = (9.0, 10.0, 11.0, 20.0, 26.0)
    speeds = tuple(bulk.BulkSpeed(f"{number}", 1.0, seconds, 100) for number, seconds in enumerate(work))
    assert bulk.BulkBenchmark(speeds, RATES, 2).overhead == pytest.approx((0.1 + 0.3) / 2)
