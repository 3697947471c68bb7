"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.cli import main as cli
from distilpose.cli.train import train_config
from distilpose.data.synthetic import write_synthetic_dataset
from distilpose.models import create_model

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "\nvariants:" in path.read_text())
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(SWEEPS))


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Folder with drawn people and an untrained model."""
    folder = tmp_path_factory.mktemp("people")
    write_synthetic_dataset(folder, 4, seed=8)
    save_checkpoint(create_model("distilpose_s", input_size_hw=(64, 48), dim=16, depth=1), folder / "m.safetensors")
    return folder


def test_overview_names_every_command(capsys) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in cli.COMMANDS)
    assert cli.main([]) == 2


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command_has_an_example(command, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert f"distilpose {command}" in out


def test_version_and_wrong_command(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("distilpose 0.")
    assert cli.main(["predcit"]) == 2
    assert "predict" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert"])
    assert stop.value.code == 2


def test_models_prints_the_table(capsys) -> None:
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    for text in ("5,364,101", "21,265,637", "6,620,736", "69,411,360", "2.724", "71.6", "arXiv:2303.02455"):
        assert text in out


def test_evaluate_writes_metrics_and_a_submission_that_evaluates_alike(people, tmp_path, capsys) -> None:
    annotations = str(people / "person_keypoints.json")
    model = ["--model", str(people / "m.safetensors"), "--images", str(people / "images")]
    assert cli.main(["evaluate", *model, "--annotations", annotations, "--out", str(tmp_path)]) == 0
    assert "AP50" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) >= {"AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL", "PCK@0.2"}
    again = tmp_path / "again"
    results = ["--predictions", str(tmp_path / "results_keypoints.json")]
    assert cli.main(["evaluate", *results, "--annotations", annotations, "--out", str(again)]) == 0
    second = json.loads((again / "metrics.json").read_text())
    assert {k: second[k] for k in ("AP", "AR", "AP50")} == {k: metrics[k] for k in ("AP", "AR", "AP50")}


def test_predict_reports_a_bad_file_goes_on_and_exits_1(people, tmp_path, capsys) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no image")
    good = next((people / "images").iterdir())
    (tmp_path / "in" / "good.jpg").write_bytes(good.read_bytes())
    arguments = ["--model", str(people / "m.safetensors"), "--detector", "whole-image", "--out", str(tmp_path / "out")]
    assert cli.main(["predict", str(tmp_path / "in"), *arguments]) == 1
    captured = capsys.readouterr()
    assert "bad.jpg" in captured.err
    assert "1 failed" in captured.out
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(row["image"]).name for row in rows] == ["good.jpg"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "nowhere.jpg", "--model", "nowhere.safetensors", "--detector", "whole-image", "--out", "x"],
        ["evaluate", "--model", "nowhere.safetensors", "--annotations", "a.json", "--images", "b"],
        ["evaluate", "--predictions", "nowhere.json", "--annotations", "a.json"],
        ["convert", "nowhere.pth", "x.safetensors"],
        ["convert", "nowhere.pth", "x.onnx"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(arguments, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def parse_train(*arguments: str):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    cli.COMMANDS["train"].add_arguments(parser)
    return train_config(parser.parse_args([*arguments]))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_sweep_parses_and_its_variants_are_trainings(path, monkeypatch) -> None:
    from distilpose.training import ablation

    planned = []
    nothing = ablation.AblationResult((), (), ())
    monkeypatch.setattr(ablation, "ablate", lambda config, **_: planned.append(config) or nothing)
    assert cli.main(["ablate", str(path)]) == 0
    planned[0].check()
    for variant in planned[0].variants:
        for run in ablation._plan(planned[0], variant):
            create_model(run.settings.model, **run.settings.model_options)
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_configuration_parses_and_opens_with_its_story(path) -> None:
    config = parse_train("--config", str(path))
    config.check()
    create_model(config.model, **config.model_options)
    assert config.model == yaml.safe_load(path.read_text())["model"]
    head = path.read_text().splitlines()[:8]
    assert any(line.startswith("# command:") for line in head)
    assert any(line.startswith("# hardware:") for line in head)


def test_command_line_overrides_the_configuration() -> None:
    path = next(path for path in CONFIGS if path.name == "student.yaml")
    config = parse_train("--config", str(path), "--optimizer.lr", "0.5", "--losses.mask=all", "--epochs", "3")
    assert (config.optimizer.lr, config.losses.mask, config.epochs) == (0.5, "all", 3)
    assert config.data.train[0].annotations == "train/person_keypoints.json"


def test_train_names_a_wrong_key(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("out: x\nlearning_rate: 3\ndata: {train: []}\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", str(path)])
    assert stop.value.code == 2
    assert "learning_rate" in capsys.readouterr().err


def test_installed_command_answers() -> None:
    out = subprocess.run([sys.executable, "-m", "distilpose", "--help"], capture_output=True, text=True, check=True)
    assert "usage: distilpose" in out.stdout
