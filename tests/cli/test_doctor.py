"""What the doctor says of an installation."""

import pytest

from distilpose import __version__
from distilpose.cli import doctor
from distilpose.cli import main as cli


def test_it_names_versions_devices_and_extras(capsys) -> None:
    assert cli.main(["doctor"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert __version__ in lines["distilpose"]
    assert lines["onnxruntime"].endswith("cpu")
    assert set(doctor.PURPOSES) <= set(lines)


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch, capsys) -> None:
    found = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in ("av", "torch") else found(name))
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert 'missing av: pip install "distilpose[video]", or in a clone pip install ".[video]"' in out
    assert "torch                   not installed" in out


def test_a_broken_package_is_told_and_the_report_goes_on(monkeypatch, capsys) -> None:
    def broken() -> list[str]:
        raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(doctor, "_onnxruntime", broken)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "OSError: libcudnn.so.9" in out
    assert "openvino" in out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_options(shell: str, capsys) -> None:
    pytest.importorskip("shtab")
    assert cli.main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert "predict-bulk" in script
    assert "--detect-every" in script


def test_an_unknown_shell_is_wrong_usage(capsys) -> None:
    assert cli.main(["--completion", "fish"]) == 2
    assert "bash, zsh, tcsh" in capsys.readouterr().err
