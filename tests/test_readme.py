"""What the README shows works: its Python runs, its commands parse, its table is what the command prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from distilpose.cli import main as cli
from distilpose.cli.command import read_options
from distilpose.compat import current_options
from distilpose.models import list_models

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("distilpose ")]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own README


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str, monkeypatch) -> None:
    from jsonargparse import ArgumentParser

    monkeypatch.chdir(ROOT)
    _, name, *arguments = shlex.split(command)
    arguments = current_options(arguments)
    options = cli.COMMANDS[name].options
    if isinstance(options, str):
        read_options(cli.COMMANDS[name], name, arguments)
        return
    parser = ArgumentParser(exit_on_error=False)
    options(parser)
    parser.parse_args(["--config", *arguments] if name in ("train", "ablate") else arguments)


def test_there_is_something_to_check() -> None:
    assert len(commands()) >= 8
    assert blocks("python")


def test_model_table_is_what_the_command_prints(capsys) -> None:
    assert cli.main(["models"]) == 0
    printed = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "│" in line}
    section = README.split("## Models\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`[^|]*((?:\| \S+ ){4})\|$", section, flags=re.MULTILINE)
    assert sorted(name for name, _ in rows) == list_models()
    for name, values in rows:
        for value in values.split("|")[1:]:
            assert f" {value.strip()} " in printed[name], (name, value)


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("target", re.findall(r"`(configs/[\w/]+)/\*`", README))
def test_configuration_folders_exist(target: str) -> None:
    assert list((ROOT / target).glob("*.yaml"))
