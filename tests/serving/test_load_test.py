"""The load test: its client finds lost and wrong answers, and in the whole of it there are none."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from serving_client import PICTURE_HW, encoded, number_of, plain

from distilpose.bench import serving
from distilpose.bench.serving import (
    Load,
    ServingReport,
    http_request,
    measure_serving,
    send_load,
    serving_tables,
)

WHOLE = [[0.0, 0.0, PICTURE_HW[1], PICTURE_HW[0]]]


def test_the_client_brings_each_answer_back_to_its_picture(address: str) -> None:
    requests = [http_request(encoded(plain(number)), WHOLE) for number in range(7)]
    answers = asyncio.run(send_load(address, requests, 5, 40))
    assert sorted(answer.picture for answer in answers) == sorted(number % 7 for number in range(40))
    for answer in answers:
        assert answer.status == 200
        assert number_of(json.loads(answer.body)["people"][0]) == answer.picture
        assert 0 < answer.seconds < 60


def test_failures_and_wrong_answers_are_told_apart(address: str, start: Any) -> None:
    requests = [http_request(encoded(plain(number)), WHOLE) for number in (5000, 9)]
    right, other = (answer.body for answer in asyncio.run(send_load(address, requests, 1, 2)))
    assert serving._same(right, serving._keypoints(right))
    assert not serving._same(other, serving._keypoints(right))
    assert not serving._same(b'{"people": []}', serving._keypoints(right))
    closed = start(api_key="x").address
    assert {answer.status for answer in asyncio.run(send_load(closed, requests, 2, 4))} == {401}


def test_rounds_are_summed_up_and_shown() -> None:
    loads = [
        Load(4, float(speed), 0.9, 1, 2, 3, 4, 5, 6, 100 + speed, failed, 0)
        for speed, failed in ((10, 0), (30, 1), (20, 1))
    ]
    load = serving._summary(loads)
    assert (load.clients, load.per_second, load.megabytes, load.failed) == (4, 20, 130, 2)
    screen = Console(file=StringIO(), width=80)
    for table in serving_tables(ServingReport("onnx", 22.0, 9.0, (load,)), 100.0):
        screen.print(table)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for shown in ("requests/s", "p99 ms", "wrong", "server CPU ms", "crops a run", "20.0", "90 %", "130"):
        assert shown in text, shown
    assert "…" not in text  # nothing is cut on a narrow screen


@pytest.mark.slow
def test_the_whole_load_test() -> None:
    report = measure_serving("distilpose_s_demo", format="onnx", clients=(1, 8), requests=24, rounds=1)
    assert [load.clients for load in report.loads] == [1, 8]
    for load in report.loads:
        assert load.failed == load.wrong == 0
