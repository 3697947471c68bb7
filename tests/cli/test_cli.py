"""The command line as a user meets it."""

import errno
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml
from PIL import Image

from distilpose.cli import main as cli
from distilpose.cli.command import read_options
from distilpose.cli.training import train_config
from distilpose.compat import current_options
from distilpose.errors import ConfigError
from distilpose.inference.options import OutputOptions, PredictOptions, VideoOptions
from distilpose.models import create_model
from distilpose.training import ablation
from distilpose.visualization.draw import STYLES

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "\nvariants:" in path.read_text())
ALIASES = "\n".join(f"a{n}: &a{n} " + ("{x: 1}" if n == 0 else f"[{', '.join([f'*a{n - 1}'] * 9)}]") for n in range(30))
MERGED = ALIASES.replace("[", "{<<: [").replace("]", "]}")
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(SWEEPS))


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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ["SOURCE", "distilpose predict photo.jpg", "distilpose predict video.mp4"]),
        (["a.jpg", "--batch", "3"], ["--batch", "did you mean --batch-size?"]),
        (["a.jpg", "--batch-size", "0"], ["--batch-size", "at least 1", "got 0"]),
        (["a.jpg", "--max-people", "2.5"], ["--max-people", "a whole number", "'2.5'"]),
        (["a.jpg", "--keypoint-threshold", "nan"], ["--keypoint-threshold", "at least 0", "nan"]),
        (["a.jpg", "--preview", "65536"], ["--preview", "at most 65535"]),
        (["a.jpg", "--style", "pretty"], ["--style", "'sides'", "'minimal'"]),
        (["--anonymize", "faces", "a.jpg"], ["--anonymize", "'faces'", "'none'", "'face'", "'body'"]),
        (["a.jpg", "--boxes", "-5,0,10,20"], ["one that begins with - is written --boxes=VALUE"]),
        (["a.jpg", "--end", "2:x"], ["--end", "MINUTES:SECONDS", "2:x"]),
    ],
)
def test_wrong_usage_is_told_with_examples(arguments, told, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", *arguments])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert all(text in err for text in [*told, "examples:"]), err


def test_a_command_line_becomes_the_options_of_the_python_function() -> None:
    words = ["a.jpg", "b", "--no-smooth", "--end", "1:30", "--crops", "--max-people", "3", "--style", "labels"]
    expected = PredictOptions(
        ["a.jpg", "b"],
        max_people=3,
        video=VideoOptions(smooth=False, end=90.0),
        output=OutputOptions(crops=True, style="labels"),
    )
    assert read_options(cli.COMMANDS["predict"], "predict", words) == expected
    old_names = current_options(["a.jpg", "b", "--no-smoothing", "--save-crops", *words[3:5], *words[6:]])
    assert read_options(cli.COMMANDS["predict"], "predict", old_names) == expected
    assert list(get_args(get_args(get_type_hints(OutputOptions)["style"])[0])) == list(STYLES)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: VideoOptions(every=0), "every must be a whole number of at least 1, got 0"),
        (lambda: VideoOptions(every=[2]), r"every must be a whole number of at least 1, got \[2\]"),
        (lambda: VideoOptions(smooth=[True]), r"smooth must be true or false, got \[True\]"),
        (lambda: VideoOptions(detect_every=1.5), "detect_every must be a whole number"),
        (lambda: VideoOptions(start=math.inf), "start must be a number of at least 0, got inf"),
        (lambda: VideoOptions(start=3.0, end=1.0), "start < end"),
        (lambda: OutputOptions(style="pretty"), "style must be one of sides, people"),
        (lambda: PredictOptions(["a"], batch_size=True), "batch_size must be"),
    ],
)
def test_python_callers_meet_the_same_ranges(make, told) -> None:
    with pytest.raises(ConfigError, match=told):
        make()


def test_a_missing_extra_names_its_install_command(monkeypatch, capsys) -> None:
    def run(_: object) -> int:
        raise ModuleNotFoundError("No module named 'av'", name="av.video")

    monkeypatch.setitem(cli.COMMANDS, "predict", cli.COMMANDS["predict"]._replace(run=run))
    assert cli.main(["predict", "a.jpg"]) == 1
    assert 'pip install "distilpose[video]"' in capsys.readouterr().err


def test_names_reach_any_terminal_without_control_characters(tmp_path) -> None:
    name = "f\u00fc\u001bc"
    first, second = Image.new("RGB", (40, 40)), Image.new("RGB", (40, 40), "red")
    first.save(tmp_path / f"{name}.gif", save_all=True, append_images=[second])
    words = [f"{name}.gif", f"{name}.jpg", "--boxes", "1,1,30,30"]  # an animation, which is said, and a missing file
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "distilpose", "predict", *words]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path)
    told = done.stdout + done.stderr
    assert (done.returncode, told.count(b"Traceback"), told.count(b"\x1b")) == (1, 0, 0)
    for part in (b".gif is an animation", b".gif: 1 person", b".jpg cannot be read"):
        assert b"f\\xfc\\x1bc" + part in told


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

    return train_config(cli.COMMANDS["train"].options(ArgumentParser(), arguments))


@pytest.mark.parametrize(
    "path",  # the longest one takes seconds
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem == "screening_64" else []) for p in SWEEPS],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_every_sweep_parses_and_its_variants_are_trainings(path, monkeypatch) -> None:
    planned = []
    nothing = ablation.AblationResult((), (), ())
    monkeypatch.setattr(ablation, "ablate", lambda config, **_: planned.append(config) or nothing)
    assert cli.main(["ablate", str(path)]) == 0
    planned[0].check()
    runs = [run.settings for variant in planned[0].variants for run in ablation._plan(planned[0], variant)]
    models = {json.dumps([run.model, run.model_options]): run for run in runs}
    for run in models.values():  # each once
        with torch.device("meta"):  # options are checked, weights are not drawn
            create_model(run.model, **run.model_options)
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_configuration_parses_and_opens_with_its_story(path) -> None:
    config = parse_train("--config", str(path))
    config.check()
    with torch.device("meta"):
        create_model(config.model, **config.model_options)
    assert config.model == yaml.safe_load(path.read_text())["model"]
    head = path.read_text().splitlines()[:8]
    assert any(line.startswith("# command:") for line in head)
    assert any(line.startswith("# hardware:") for line in head)


def test_command_line_overrides_the_configuration() -> None:
    path = next(path for path in CONFIGS if path.parts[-2:] == ("quickstart", "student.yaml"))
    config = parse_train("--config", str(path), "--optimizer.lr", "0.5", "--losses.mask=all", "--epochs", "3")
    assert (config.optimizer.lr, config.losses.mask, config.epochs) == (0.5, "all", 3)
    assert config.data.train[0].annotations == "train/person_keypoints.json"


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        ("train", "learning_rate: 3", "c.yaml: there is no option learning_rate: expected one of out, data, model,"),
        ("train", "ema_decai: 0.9", "c.yaml: there is no option ema_decai: did you mean ema_decay?"),
        ("train", "data: {train: [{annotation: a}]}", "data.train.annotation: did you mean data.train.annotations?"),
        ("ablate", "variant: []", "c.yaml: there is no option variant: did you mean variants?"),
    ],
)
def test_a_wrong_key_is_named_with_its_file_and_the_nearest(command, content, message, tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    assert cli.main([command, str(path)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("out: x".encode("utf-16"), r"cannot be read .*save it as UTF-8"),
        (b"out: [x", "cannot be read as YAML"),
        (b"[" * 20_000, "cannot be read as YAML|more than 100,000 values"),
        (ALIASES.encode(), "more than 100,000 values, aliases unfolded"),
        (b"a: &a [*a]", "more than 100,000 values, aliases unfolded"),
        (MERGED.encode(), "more than 100,000 values, aliases unfolded"),
        (b"epochs: !!int x", "cannot be read as YAML"),
        (b"out: !!timestamp x", "cannot be read as YAML"),
        (b"#" * 2_000_000, "longer than 1,048,576 characters"),
        (None, "No such file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train", "ablate"])
def test_configurations_that_are_none(command, content, message, tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    assert cli.main([command, str(path)]) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("content", ["{a: &a [*a]}", f"{'[' * 2000}{']' * 2000}", ALIASES, MERGED])
def test_values_of_a_configuration_that_are_yaml_in_a_text_are_bounded(content, tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"out": "x", "data": content}))
    ways = ([str(path)], ["--config", str(path)], [f"--config={path}"], ["--out=x", f"--data={content}"])
    for arguments in ways[::3] if len(content) == 4000 else ways:  # the deep one takes seconds each time
        with pytest.raises(SystemExit) as stop:
            cli.main(["train", *arguments])
        assert stop.value.code == 2
        assert 'error: Parser key "data"' in capsys.readouterr().err


def test_a_part_of_a_configuration_that_is_not_utf_8_is_told(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("train: []".encode("utf-16"))
    for arguments in (["--out=x", f"--data={path}"], [f"--config={path}"]):
        assert cli.main(["train", *arguments]) in (1, 2)
        assert "UTF-8" in capsys.readouterr().err


def test_a_null_character_in_a_configuration_is_told(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('out: x\ndata: "a\\0b"\n')
    assert cli.main(["train", str(path)]) == 1
    assert "texts without null characters" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("train", str(CONFIGS[0]), "--epoch", "3"), ("predict", "a.jpg", "--max-peopl", "3")]
)
def test_the_beginning_of_an_option_is_no_option(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert arguments[-2] in capsys.readouterr().err


def test_what_a_disk_says_is_an_error_of_every_command(monkeypatch, capsys) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    error = OSError(errno.ENOSPC, "No space left on device", "out/file")
    assert cli.main(["models"]) == 1
    assert "error: [Errno 28] No space left on device: 'out/file': expected folders that" in capsys.readouterr().err
    error = ConnectionResetError()
    with pytest.raises(ConnectionResetError):
        cli.main(["models"])


def test_a_base_change_that_is_no_yaml_is_told(capsys) -> None:
    assert cli.main(["ablate", str(SWEEPS[0]), "--base.epochs", "!!int x"]) == 1
    assert "expected a YAML value after --base.epochs, got '!!int x'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "ablate"])
def test_a_missing_configuration_is_asked_for(command, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, *(["--resume"] if command == "train" else [])])
    assert stop.value.code == 2
    assert f"expects a configuration file first, got none: distilpose {command} configs/" in capsys.readouterr().err


def test_installed_command_answers() -> None:
    out = subprocess.run([sys.executable, "-m", "distilpose", "--help"], capture_output=True, text=True, check=True)
    assert "usage: distilpose" in out.stdout


def test_a_hang_up_ends_a_command_as_a_request_to_terminate_does() -> None:
    code = (
        "import os, signal, sys, time\n"
        "from distilpose.cli import main as cli\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "run = lambda _: os.kill(os.getpid(), signal.SIGHUP) or time.sleep(10)\n"
        "cli.COMMANDS['models'] = cli.COMMANDS['models']._replace(run=run)\n"
        "cli.main(['models'])\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


@pytest.mark.parametrize(
    ("hidden", "call"),
    [
        ("torch", "import distilpose; distilpose.create_model"),
        ("faster_coco_eval", "from distilpose.cli.main import main; main(['evaluate', '--annotations', 'none.json', "
         "'--images', 'none'])"),
        ("jinja2", "from distilpose.cli.main import main; main(['evaluate', '--annotations', 'none.json', "
         "'--images', 'none', '--report', 'r'])"),
    ],
)  # fmt: skip
def test_a_missing_package_is_told_before_any_work(hidden: str, call: str, tmp_path) -> None:
    hide = f"import sys; sys.modules['{hidden}'] = None; {call}"
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert f"needs {hidden}, which is not installed: pip install" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_is_no_reason_to_install_torch(tmp_path) -> None:
    code = "import sys; sys.modules['torch'] = None; from distilpose import load_model; load_model('nix.safetensors')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "nix.safetensors is not a file: expected" in done.stderr
