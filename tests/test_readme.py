"""What README and docs show works: their Python runs, their commands parse, the table is what the command prints."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distilpose.backends.loading import DEFAULT_MODEL, FAST_MODEL
from distilpose.cli import main as cli
from distilpose.cli.command import read_options
from distilpose.compat import current_options
from distilpose.models import list_models

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = {"many_machines.md", "teachers.md"}  # their Python reads data sets that do not come with the repository
TRAINING = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
PHOTO = ROOT / "docs" / "images" / "photos" / "000000085772.jpg"


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of every block of code in a language."""
    return [
        (page.name, text)
        for page in PAGES
        for text in re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    ]


def commands() -> list[str]:
    text = "\n".join(block for _, block in blocks("bash")).replace("\\\n", " ")
    lines = [line.split(" #")[0].split(" > ")[0].strip() for line in text.splitlines()]
    return sorted({line for line in lines if line.startswith("distilpose ") and not line.startswith("distilpose --")})


def python_blocks() -> list[object]:
    """Page and code; what exports a model takes longer than all others together."""
    shown = [(page, code) for page, code in blocks("python") if page not in NOT_RUN]
    return [
        pytest.param(page, code, marks=[pytest.mark.slow] if "export_model(" in code else []) for page, code in shown
    ]


@pytest.mark.parametrize(("page", "code"), python_blocks())
def test_python_runs(page: str, code: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PHOTO, "photo.jpg")
    exec(compile(code, page, "exec"), {})  # noqa: S102 - our own docs


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str, monkeypatch) -> None:
    from jsonargparse import ArgumentParser

    monkeypatch.chdir(ROOT)
    _, name, *arguments = shlex.split(command)
    arguments = current_options(arguments)
    if isinstance(cli.COMMANDS[name].options, str):
        read_options(cli.COMMANDS[name], name, arguments)
        return
    cli.COMMANDS[name].options(ArgumentParser(exit_on_error=False), arguments)


def test_there_is_something_to_check() -> None:
    assert len(commands()) >= 30
    assert len(blocks("python")) >= 8


def test_model_table_is_what_the_command_prints(capsys) -> None:
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"for --model:\s+{DEFAULT_MODEL},\s+{FAST_MODEL}\s", text)
    printed = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    section = TRAINING.split("## Models\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`[^|]*((?:\| \S+ ){4})\|$", section, flags=re.MULTILINE)
    assert sorted(name for name, _ in rows) == list_models()
    for name, values in rows:
        for value in values.split("|")[1:]:
            assert f" {value.strip()} " in printed[name], (name, value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(((?!http|mailto|#)[^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("target", re.findall(r"`(configs/[\w/]+)/\*`", TRAINING))
def test_configuration_folders_exist(target: str) -> None:
    assert list((ROOT / target).glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("section", ["A first pose", "A first training"])
def test_getting_started_runs_as_written_in_a_clone(section: str, tmp_path: Path) -> None:
    for folder in ("examples", "configs", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("notebook_runs"))
    text = (
        (ROOT / "docs" / "getting_started.md").read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    )
    lines = "".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).splitlines()
    programs = {"python": [sys.executable], "distilpose": [sys.executable, "-m", "distilpose"]}
    for line in lines:
        program, *words = shlex.split(line)
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            [*programs[program], *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (line, done.stderr[-2000:])
    assert lines
