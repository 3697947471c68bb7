"""The page in Gradio: its parts fit Gradio's, and what it calls draws and lists people."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PHOTO = Path(__file__).parent.parent / "docs" / "images" / "photos" / "000000085772.jpg"


def test_people_are_drawn_and_listed() -> None:
    pytest.importorskip("gradio", reason="needs pip install gradio")
    import gradio_app

    page, photo = gradio_app.build(), np.asarray(Image.open(PHOTO).convert("RGB"))
    assert "The image stays on this machine" in page.description
    drawn, table = page.fn(photo)
    assert drawn.shape == photo.shape
    assert 0.001 < (np.abs(drawn.astype(int) - photo) > 60).any(axis=2).mean() < 0.3  # lines over the photograph
    assert {"keypoint", "x", "y", "score"} <= set(table.columns)
    assert len(table) % 17 == 0
    assert len(table) > 0
    assert page.fn(None) == (None, None)
