"""The built page in Debian's Chromium. Without page, browser or playwright these tests skip and say what is missing."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from host import hosting
from PIL import Image

from distilpose.inference.predictor import PosePredictor
from distilpose.serving.web import MANIFEST_NAME, STATIC
from synthetic_people import draw_people

SWITCHES = ["--no-sandbox"]  # Chromium refuses to run as root without
SOON = 30_000  # milliseconds, until something must be there


@pytest.fixture(scope="session")
def built_page() -> Path:
    """The folder of the page, with runtime and model."""
    if not (STATIC / MANIFEST_NAME).is_file():
        pytest.skip("the page is not built: make web")
    return STATIC


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no browser: apt-get install --no-install-recommends chromium")
    return path


@pytest.fixture(scope="session")
def launch(chromium: str) -> Iterator[Callable[..., Any]]:
    """Function (further switches) -> a running browser."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=SOON)
    with sync_playwright() as playwright, ExitStack() as stack:

        def start(*switches: str) -> Any:
            browser = playwright.chromium.launch(executable_path=chromium, args=[*SWITCHES, *switches])
            stack.callback(browser.close)
            return browser

        yield start


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Any]) -> Any:
    """One browser for all tests that need no switches of their own."""
    return launch()


class Watched:
    """A page, and what it said and asked for."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("requestfailed", lambda request: self.problems.append(f"{request.url}: {request.failure}"))
        page.on("request", lambda request: self._ask(request.url))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)

    def _ask(self, url: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).netloc != self.host:
            self.problems.append(f"request to another host: {url}")

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc


@pytest.fixture
def visit(built_page: Path) -> Iterator[Callable[..., Any]]:
    """Function (browser, address or None for a static host, options of the context) -> a page with its network ready.

    In the end it fails on errors in the console and on requests to other hosts.
    """
    from playwright.sync_api import expect

    with ExitStack() as stack:
        visits = []

        def go(browser: Any, address: str | None = None, *, before: str = "", **options: Any) -> Any:
            address = address or stack.enter_context(hosting(built_page))
            context = browser.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(SOON)
            if before:
                page.add_init_script(before)
            visits.append(Watched(page, address))
            page.goto(address)
            expect(page.locator("#status")).to_contain_text("Ready")
            return page

        yield go
        assert [problem for visited in visits for problem in visited.problems] == []


@pytest.fixture(scope="session")
def predictor() -> PosePredictor:
    """The shipped student in torch, in float32."""
    return PosePredictor("distilpose_mobilenet")


@pytest.fixture(scope="session")
def drawn_person() -> np.ndarray:
    """(360, 300, 3) an image of one drawn person."""
    return draw_people(np.random.default_rng(7), (360, 300), uniform=True)[0]


@pytest.fixture(scope="session")
def photograph() -> Path:
    """A real person: the sample that matplotlib installs."""
    matplotlib = pytest.importorskip("matplotlib", reason="the photograph comes with matplotlib")
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture
def image_file(tmp_path: Path, drawn_person: np.ndarray) -> Path:
    """The drawn person as PNG."""
    path = tmp_path / "drawn.png"
    Image.fromarray(drawn_person).save(path)
    return path
