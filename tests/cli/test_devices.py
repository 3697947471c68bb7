"""Devices, threads and --verbose of the commands that run a network; what else they refuse in plain words."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.cli import main as cli
from distilpose.models import create_model
from synthetic_people import write_synthetic_dataset

SMALL = {"input_size_hw": (64, 48), "dim": 16, "depth": 1}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_synthetic_dataset(folder, 2, seed=8)
    save_checkpoint(create_model("tokenpose_s", **SMALL, num_heads=2), folder / "teacher.safetensors")
    return folder


WORDS = {
    "predict": "{0}/images --out {1}",
    "predict-bulk": "{0}/images --out {1} --model distilpose_mobilenet_int8",  # which need not be exported first
    "evaluate": "--annotations {0}/person_keypoints.json --images {0}/images",
    "evaluate a": "--annotations {0}/person_keypoints.json --images {0}/images --teacher {0}/teacher.safetensors",
    "label": "{0}/images --teacher {0}/teacher.safetensors --out {1}",
}


@pytest.mark.parametrize("command", WORDS)
def test_a_device_that_is_not_there_is_an_error(command: str, people: Path, tmp_path: Path, capsys: Any) -> None:
    words = WORDS[command].format(people, tmp_path / "out").split()
    assert cli.main([command.split()[0], *words, "--device", "cuda:7", "--threads", "1"]) == 1
    assert re.search(r"error: device cuda:7 is not there for \S+.*: it has ", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("predict", r"distilpose_mobilenet.onnx runs in ONNX Runtime \S+ on cpu, 1 threads, float32"),
        ("label", r"teacher.safetensors runs in torch \S+ on cpu, 1 threads, float32"),
    ],
)
def test_verbose_says_what_runs(command: str, told: str, people: Path, tmp_path: Path, caplog: Any) -> None:
    words = WORDS[command].format(people, tmp_path / "out").split()
    logger = logging.getLogger("distilpose")
    logger.setLevel(logging.WARNING)
    try:
        assert cli.main([command, *words, "--threads", "1", "--device", "cpu", "--verbose"]) == 0
    finally:
        logger.setLevel(logging.NOTSET)
    assert re.search(told, caplog.text)
    assert len(re.findall(r"nanodet_g_person.onnx runs in ONNX Runtime \S+ on cpu, 1 threads", caplog.text)) == 1


@pytest.mark.parametrize("command", ["export", "benchmark"])
def test_the_other_commands_take_them_too(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    out = capsys.readouterr().out
    assert all(f"{name} " in out for name in ("--device", "--threads", "--verbose"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["label", "a.jpg", "--teacher", "distilpose_mobilenet"],
            "a student, .*tokenpose_s or simplebaseline_r50, an ONNX",
        ),
        (
            ["label", "a.jpg", "--teacher", "tokenpose_s"],
            "an untrained architecture: a teacher is a trained heatmap model",
        ),
        (["train", "text.txt"], "text.txt is no configuration: expected a YAML mapping of names to values.*, got str"),
        (["train", "empty.yaml"], "empty.yaml is no configuration: .*, got nothing"),
        (
            ["predict", "a.jpg", "--detector", "cat"],
            "one of auto, nanodet, whole-image, hf:ID_OR_FOLDER, onnx:FILE, got 'cat'",
        ),
    ],
)
def test_what_is_meant_otherwise_is_told(
    words: list[str], told: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a line of text\n")
    Path("empty.yaml").write_text("")
    assert cli.main(words) == 1
    assert re.search(told, capsys.readouterr().err)
