from __future__ import annotations

from distilpose.bench.data_throughput import measure_data_throughput


def test_measures_both_ways_and_caching_is_faster():
    result = measure_data_throughput(seconds=0.3, num_images=24)
    assert 20 < result.from_files < result.from_cache < 20_000
