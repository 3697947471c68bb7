"""Measuring people over time: generated scenes are what they say, figures are right by hand, poses help."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from distilpose.bench import people_over_time as bench
from distilpose.bench.people_over_time import (
    METHODS,
    MOTIONS,
    Film,
    measure_smoothing,
    measure_smoothing_of,
    measure_tracking,
    observed,
    smoothing_table,
    tracking_table,
)
from distilpose.bench.walking_people import LEVELS, Gait, body, scene
from distilpose.errors import ConfigError, InputError
from distilpose.results import PoseResult
from distilpose.skeleton import COCO_17


def printed(table: object) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_a_body_is_one() -> None:
    xy = body(Gait(np.linspace(0, 6.28, 50), 1.0, 1.0))
    assert xy.shape == (50, 17, 2)
    height = xy[..., 1].max(1) - xy[..., 1].min(1)
    assert ((height > 0.8) & (height < 1)).all()
    for a, b in COCO_17.edges:  # limbs keep their length as far as they swing in the picture's plane
        if {a, b} & {7, 8, 9, 10, 13, 14, 15, 16}:
            length = np.linalg.norm(xy[:, a] - xy[:, b], axis=-1)
            assert np.ptp(length) < 1e-9
    assert np.ptp(xy[:, 15, 0]) > 0.2  # feet swing ...
    assert np.ptp(body(Gait(np.linspace(0, 6, 9), 0.0, 1.0)), axis=0).max() == 0  # ... unless they stand
    left_first = body(Gait(0.0, 0.0, 0.0))
    assert all(left_first[left, 0] > left_first[right, 0] for left, right in COCO_17.flip_pairs)  # facing the camera


def test_scenes_are_reproducible_and_as_hard_as_they_say() -> None:
    for level in LEVELS:
        frames, again = scene(level, 3, 4.0), scene(level, 3, 4.0)
        assert len(frames) == round(4 * level.rate)
        assert json.dumps(frames[-1].result.to_dict()) == json.dumps(again[-1].result.to_dict())
        assert all(len(np.unique(frame.truth_id)) == len(frame.truth_box) for frame in frames)
    hidden = {
        level.name: np.mean(
            [level.people - len(frame.truth_id) for seed in (1, 2) for frame in scene(level, seed, 6.0)]
        )
        for level in LEVELS
    }
    assert hidden["crossings"] > 0.1
    assert hidden["crowd"] > 3 * hidden["crossings"]


def test_sigma_tells_the_noise_of_observed_motion() -> None:
    film = observed(MOTIONS["standing"], 30.0, 0)
    truth = MOTIONS["standing"](np.zeros(1))[0] * 300 + 400
    off = np.stack([(result.xy[0] - truth) / result.sigma[0] for result, _ in film if result.sigma is not None])
    usual = np.abs(off) < 5  # neither lost nor on the other side
    assert off[usual].std() == pytest.approx(1, abs=0.1)
    assert 0.005 < 1 - usual.mean() < 0.1


def test_poses_keep_people_apart_better_than_boxes() -> None:
    """The property the tracker is built on, on scenes that nothing was tuned on."""
    crossings = [level for level in LEVELS if level.name != "easy" and level.people < 10]
    rows = measure_tracking(crossings, seeds=(11, 12, 13), seconds=8.0)
    for level in crossings:
        pose, box = (row for row in rows if row.level == level.name)
        assert (pose.tracker, box.tracker) == ("pose and box", "box alone")
        assert pose.switches < box.switches
        assert pose.idf1 > box.idf1
        assert pose.people == box.people > 0
    assert json.loads(json.dumps([row._asdict() for row in rows]))[0]["level"] == "crossings"
    text = printed(tracking_table(rows))
    assert f"{100 * rows[0].idf1:.1f}" in text


def test_a_scene_without_any_trouble_is_perfect() -> None:
    calm = LEVELS[0]._replace(people=1, missed=0.0, false=0.0, box_noise=0.0)
    (row, _) = measure_tracking([calm], seeds=(1,), seconds=2.0)
    assert (row.mota, row.idf1, row.switches, row.people) == (1.0, 1.0, 0, 60)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "motmetrics", None)
    with pytest.raises(ConfigError, match=r"needs the package motmetrics: pip install 'distilpose\[dev\]'"):
        measure_tracking([LEVELS[0]], seeds=(1,), seconds=0.1)


def accelerated(times: list[float]) -> Film:
    """One person moved by 3 t^2 body heights, 200 px high."""
    base = observed(MOTIONS["standing"], 10.0, 0)[0][0]
    pose = body(Gait(0.0, 0.0, 0.0))
    pose *= 200 / np.ptp(pose[:, 1])
    return [(replace(base, xy=pose[None] + [200 * 3 * t**2, 0]), t) for t in times]


def test_jitter_by_hand() -> None:
    # The second derivative of 3 t^2 is 6, at any frame rate.
    for times in ([0.0, 0.1, 0.2, 0.3], [0.0, 0.01, 0.2, 0.21]):
        rows = measure_smoothing_of(accelerated(times), "falling")
        assert rows[0].method == "none"
        assert rows[0].jitter == pytest.approx(6.0)
        assert (rows[0].film, rows[0].error, rows[0].lag) == ("falling", None, None)
    film = accelerated([0.0, 0.1, 0.2, 0.3])
    film = [*film[:2], (PoseResult.empty(), 0.2), *film[2:]]  # never three frames running
    with pytest.raises(InputError, match="three frames running"):
        measure_smoothing_of([film[0], film[1], film[2]])
    with pytest.raises(InputError, match="track ids"):
        bench._jitter([replace(result, track_id=None) for result, _ in accelerated([0.0, 0.1, 0.2])], [0.0, 0.1, 0.2])


def test_a_known_delay_is_measured() -> None:
    times = np.arange(0, 3, 1 / 30)
    late = MOTIONS["arm swings"](times - 0.05) * 300 + 400
    base = observed(MOTIONS["standing"], 30.0, 0)[0][0]
    film = [(replace(base, xy=xy[None]), float(t)) for xy, t in zip(late, times, strict=True)]
    jitter, error, lag = bench._against_truth(MOTIONS["arm swings"], film, METHODS["none"])
    assert lag == pytest.approx(50, abs=2)
    assert error > 0.001
    assert jitter > 0
    # The mean of the last five frames is two frames late.
    on_time = [(replace(base, xy=MOTIONS["walking"](np.array([t])) * 300 + 400), float(t)) for t in times]
    lag = bench._against_truth(MOTIONS["walking"], on_time, METHODS["mean of last 5"])[2]
    assert lag == pytest.approx(2000 / 30, abs=6)


def test_smoothing_calms_without_lag_and_comes_nearer_to_the_truth() -> None:
    film = observed(MOTIONS["walking"], 30.0, 21, seconds=2.0)
    rows = measure_smoothing({"a film": film}, seeds=(21, 22))
    assert [row.film for row in rows[::4]] == ["walking", "arm swings", "standing", "a film"]
    for none, mean, live, files in (rows[i : i + 4] for i in range(0, 12, 4)):
        assert files.jitter < 0.15 * none.jitter
        assert live.jitter < 0.6 * none.jitter
        assert None not in (none.error, mean.error, live.error, files.error)
        assert files.error < 0.5 * none.error
        assert live.error < 1.1 * none.error
        if none.film == "standing":
            assert files.lag is None
        else:
            assert abs(files.lag) <= 2
            assert live.lag < 30 < mean.lag
    assert rows[-1].jitter < rows[-4].jitter
    text = printed(smoothing_table(rows))
    assert "zero lag (files)" in text
    assert "a film" in text
