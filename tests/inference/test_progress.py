"""The bar of a batch."""

import pytest

from distilpose.inference.progress import Meter


def test_a_title_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's name is neither markup nor commands for the terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    with Meter(True) as meter:
        for _ in meter.track(range(2), "[red][/x] \x1b[31m", "frames", 2):
            meter.note("[/y] seen")
    told = capsys.readouterr().err
    assert "[red][/x] \\x1b[31m" in told
    assert "[/y] seen" in told
    assert "2/2" in told
