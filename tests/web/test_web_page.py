"""The page in a real browser: what a visitor does and sees."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host import hosting
from PIL import Image

from distilpose.data.images import read_image
from distilpose.detection.nanodet import NanodetDetector
from distilpose.geometry import CropTransform
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.serving.web import WebOptions, build_page, own_files
from distilpose.video.pose_boxes import boxes_around
from distilpose.visualization.draw import SIDE_COLORS

pytestmark = pytest.mark.slow
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}


@pytest.fixture
def page(browser: Any, visit: Callable[..., Any]) -> Any:
    """The page of a static host."""
    return visit(browser)


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect

    return expect(locator)


def show(page: Any, file: Path) -> None:
    page.set_input_files("#file", file)
    expect(page.locator("#save-json")).to_be_enabled()


def saved(page: Any, button: str) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def rows(page: Any) -> list[dict[str, Any]]:
    return json.loads(saved(page, "#save-json"))


def crop_error(found: PoseResult, expected: PoseResult, input_size_hw: tuple[int, int] = (128, 96)) -> float:
    """Largest distance between two results of the same boxes, as a share of the crop."""
    crops = [CropTransform.from_box(box, input_size_hw) for box in expected.box]
    pairs = zip(crops, found.xy, expected.xy, strict=True)
    return max(float(np.abs(crop.to_norm(a) - crop.to_norm(b)).max()) for crop, a, b in pairs)


def assert_agrees(found: list[dict[str, Any]], image: np.ndarray, predictor: PosePredictor) -> None:
    """Rows as `predict` writes them, with the predictor's numbers."""
    result = PoseResult.from_coco(found)
    expected = predictor(image, [row["box_xyxy"] for row in found], [row["box_score"] for row in found])
    assert crop_error(result, expected) < 1e-3
    np.testing.assert_allclose([row["raw_score"] for row in found], expected.raw_score, atol=5e-3)
    np.testing.assert_allclose([row["score"] for row in found], expected.pose_score, atol=2e-3)
    np.testing.assert_allclose([row["sigma"] for row in found], expected.sigma, rtol=0.02, atol=0.05)
    assert {row["category_id"] for row in found} == {1}


def test_an_image_has_the_predictors_pose(
    page: Any, image_file: Path, drawn_person: np.ndarray, predictor: PosePredictor
) -> None:
    show(page, image_file)
    page.click("#whole")
    found = rows_when(page, lambda found: found[0]["box_xyxy"] == [0, 0, 300, 360])
    assert len(found) == 1
    assert "frame" not in found[0]
    assert (found[0]["image"], found[0]["image_id"]) == ("drawn.png", 1)
    assert_agrees(found, drawn_person, predictor)


def test_where_nobody_is_found_the_whole_frame_counts(page: Any, tmp_path: Path) -> None:
    Image.new("RGB", (320, 240), (90, 120, 150)).save(tmp_path / "empty.png")
    show(page, tmp_path / "empty.png")
    expect(page.locator("#status")).to_contain_text("Nobody was found")
    assert [row["box_xyxy"] for row in rows(page)] == [[0, 0, 320, 240]]


def test_that_nobody_was_found_is_said_until_somebody_is(page: Any, tmp_path: Path, photograph: Path) -> None:
    pytest.importorskip("av", reason="videos need PyAV")
    from distilpose.video.writer import VideoWriter

    person = np.array(Image.fromarray(read_image(photograph)).resize((240, 280)))
    with VideoWriter(tmp_path / "enters.mp4", (280, 240), rate=10) as writer:
        for number in range(20):
            writer.write(person if number >= 10 else np.full_like(person, 90), number / 10)
    show(page, tmp_path / "enters.mp4")
    expect(page.locator("#status")).to_contain_text("Nobody was found")
    page.locator("#seek").fill("1.5")
    expect(page.locator("#seek")).to_have_attribute("aria-valuetext", "0:01 / 0:02")
    page.click("#find")
    expect(page.locator(".box.whole")).to_have_count(0)
    expect(page.locator("#status")).to_be_empty()


def test_people_are_found_as_by_the_package(page: Any, photograph: Path, predictor: PosePredictor) -> None:
    show(page, photograph)
    image = read_image(photograph)
    (people,) = NanodetDetector()([image])
    found = rows(page)
    # A canvas scales images a little differently from OpenCV.
    np.testing.assert_allclose([row["box_xyxy"] for row in found], people.boxes_xyxy, atol=3)
    np.testing.assert_allclose([row["box_score"] for row in found], people.box_score, atol=0.03)
    assert_agrees(found, image, predictor)
    page.click("#whole")
    expect(page.locator(".box.whole")).to_have_count(1)
    page.click("#find")
    expect(page.locator(".box.whole")).to_have_count(0)
    assert rows_when(page, lambda again: again == found) == found


def test_a_photograph_has_the_predictors_pose_in_boxes_drawn_by_mouse(
    page: Any, photograph: Path, predictor: PosePredictor
) -> None:
    show(page, photograph)
    page.click("#whole")
    expect(page.locator(".box.whole")).to_have_count(1)
    assert_agrees(rows(page), read_image(photograph), predictor)
    area = page.locator("#boxes").bounding_box()

    def drag(*shares: float) -> None:
        x, y = ([area[side] + share * area[size] for share in shares[at::2]]
                for at, side, size in ((0, "x", "width"), (1, "y", "height")))  # fmt: skip
        page.mouse.move(x[0], y[0])
        page.mouse.down()
        page.mouse.move(x[1], y[1], steps=3)
        page.mouse.up()

    drag(0.2, 0.1, 0.75, 0.95)
    drag(0.8, 0.3, 0.98, 0.9)
    page.locator(".box").nth(1).hover()
    expect(page.locator(".box")).to_have_count(2)
    expect(page.locator("#score")).to_contain_text(",")
    found = rows(page)
    height, width = read_image(photograph).shape[:2]
    drawn = [0.2 * width, 0.1 * height, 0.75 * width, 0.95 * height]
    np.testing.assert_allclose(found[0]["box_xyxy"], drawn, atol=3)
    assert_agrees(found, read_image(photograph), predictor)


def test_the_skeleton_is_drawn(page: Any, photograph: Path) -> None:
    show(page, photograph)
    (row,) = rows(page)
    points = np.array(row["keypoints"]).reshape(-1, 3)
    drawn = page_png(page)
    image = read_image(photograph).astype(int)
    for name, side in ((5, "left"), (6, "right")):  # shoulders
        x, y, score = points[name]
        assert score > 0.35  # almost in full
        color = drawn[round(y), round(x)]
        assert np.abs(color - SIDE_COLORS[side]).max() < 30, name
        assert np.abs(image[round(y), round(x)] - SIDE_COLORS[side]).max() > 60
    page.uncheck("#show-skeleton")
    assert np.abs(page_png(page) - image).max() < 16  # the image alone, decoded twice


def page_png(page: Any) -> np.ndarray:
    from io import BytesIO

    return np.array(Image.open(BytesIO(saved(page, "#save-png"))).convert("RGB")).astype(int)


def test_everything_works_by_keyboard(browser: Any, visit: Callable[..., Any], image_file: Path) -> None:
    page = visit(browser)
    # Registered early: the browser takes a moment until it hands choosers over.
    page.on("filechooser", lambda chooser: chooser.set_files(image_file))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the image"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "open"
    outline = page.locator("#open").evaluate("element => getComputedStyle(element).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("Enter")
    expect(page.locator("#save-json")).to_be_enabled()
    for button in ("#whole", "#new-box"):  # in place of the person that was found, a box by hand
        page.focus(button)
        page.keyboard.press("Enter")
    expect(page.locator(".box:focus")).to_have_count(1)
    middle = [75, 45, 225, 315]
    assert rows_when(page, lambda found: found[0]["box_xyxy"] == middle)[0]["box_xyxy"] == middle
    page.focus(".box")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator(".box")).to_have_attribute("aria-label", re.compile("left 79, top 49, width 146, height 270"))
    page.keyboard.press("Delete")
    expect(page.locator(".box.whole")).to_have_count(1)
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert {
        "camera",
        "facing",
        "close",
        "model",
        "where",
        "find",
        "new-box",
        "whole",
        "fit",
        "save-json",
        "save-png",
    } <= seen


def rows_when(page: Any, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Saved rows, once they are as they should become."""
    for _ in range(40):
        found = rows(page)
        if wanted(found):
            break
        page.wait_for_timeout(250)
    return found


def test_fit_to_pose_moves_the_box_once(page: Any, photograph: Path, predictor: PosePredictor) -> None:
    show(page, photograph)
    first = PoseResult.from_coco(rows(page))
    page.click("#fit")
    (row,) = rows_when(page, lambda found: found[0]["box_xyxy"] != first.box[0].tolist())
    np.testing.assert_allclose(row["box_xyxy"], boxes_around(first)[0], atol=1e-6)
    assert_agrees([row], read_image(photograph), predictor)


@contextmanager
def serving(api_key: str | None = None) -> Iterator[str]:
    """The address of a running `distilpose serve`."""
    server = pytest.importorskip("distilpose.serving.server")
    from background_server import BackgroundServer
    from distilpose.serving.options import ServeOptions

    running = server.PoseServer(ServeOptions(model="distilpose_mobilenet", port=0, detector="whole-image"), api_key)
    with BackgroundServer(running):
        yield running.address + "/"


def test_the_server_agrees(browser: Any, visit: Callable[..., Any], photograph: Path, predictor: PosePredictor) -> None:
    with serving() as address:
        page = visit(browser, address)
        expect(page.locator("#threads")).not_to_contain_text("does not isolate")
        show(page, photograph)
        page.select_option("#where", "both")
        expect(page.locator("#difference")).to_contain_text("Largest difference")
        largest = float(re.search(r"difference ([\d.]+) px", page.inner_text("#difference")).group(1))
        assert largest < 1e-3 * CropTransform.from_box([0, 0, 512, 600], (128, 96)).box_wh[0]
        here = rows(page)
        page.select_option("#where", "server")
        rows_when(page, lambda found: found != here)
        assert_agrees(rows(page), read_image(photograph), predictor)


def test_the_server_compares_frames_of_a_video(browser: Any, visit: Callable[..., Any], video: Path) -> None:
    with serving() as address:
        page = visit(browser, address)
        page.select_option("#where", "both")
        show(page, video)
        page.click("#play")
        expect(page.locator("#play")).to_have_text("Play")
        largest = float(re.search(r"difference ([\d.]+) px", page.inner_text("#difference")).group(1))
        assert largest < 1  # of 480 x 280


def test_a_server_with_a_key(browser: Any, built_page: Path, image_file: Path) -> None:
    with serving(api_key="open-sesame") as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#status")).to_contain_text("Ready")
        page.select_option("#where", "both")
        show(page, image_file)
        expect(page.locator("#difference")).to_contain_text("asks for a key")
        page.click("summary:has-text('Server key')")
        page.fill("#key", "open–sesame")  # with a dash that no header can carry
        page.select_option("#where", "both")
        expect(page.locator("#difference")).to_contain_text("outside ASCII")
        page.fill("#key", "open-sesame")
        page.keyboard.press("Enter")  # sends nothing anywhere
        page.select_option("#where", "both")
        expect(page.locator("#difference")).to_contain_text("Largest difference")
        page.close()


def test_models_can_be_changed_while_a_video_plays(
    browser: Any, visit: Callable[..., Any], built_page: Path, video: Path, tmp_path: Path
) -> None:
    first = built_page / "models" / "distilpose_mobilenet.onnx"
    second = shutil.copy(first, tmp_path / "second.onnx")
    site = build_page(WebOptions(out=tmp_path / "site", models=[first, second])).folder
    with hosting(site) as address:
        page = visit(browser, address)
        show(page, video)
        page.click("#play")
        for choice in ("1", "0", "1"):
            page.wait_for_timeout(300)
            page.select_option("#model", choice)
            expect(page.locator("#model")).to_be_enabled()
        assert page.locator("#model option:checked").inner_text().startswith("second")
        expect(page.locator("#play")).to_have_text("Play")
        expect(page.locator("#status")).not_to_have_class(re.compile("bad"))


def test_without_a_server_it_says_so_and_goes_on(browser: Any, built_page: Path, image_file: Path) -> None:
    with hosting(built_page) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#status")).to_contain_text("Ready")
        show(page, image_file)
        page.select_option("#where", "both")
        expect(page.locator("#difference")).to_contain_text("no server part")
        expect(page.locator("#where")).to_have_value("browser")
        page.close()


def walking(image: np.ndarray, frames: int) -> list[np.ndarray]:
    """A person who moves to the right over a wider, dark image."""
    height, width = image.shape[:2]
    shown = []
    for number in range(frames):
        frame = np.full((height, 2 * width, 3), 40, dtype=np.uint8)
        left = round(number * 0.6 * width / frames)
        frame[:, left : left + width] = image
        shown.append(frame)
    return shown


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> Path:
    """Two seconds of someone who moves to the right, written by `VideoWriter`."""
    pytest.importorskip("av", reason="videos need PyAV")
    from distilpose.video.writer import VideoWriter

    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    small = np.array(Image.fromarray(read_image(photograph)).resize((240, 280)))
    with VideoWriter(path, (280, 480), rate=10) as writer:
        for number, frame in enumerate(walking(small, 20)):
            writer.write(frame, number / 10)
    return path


def test_a_video_is_followed(page: Any, video: Path) -> None:
    show(page, video)
    expect(page.locator("#clock")).to_have_text("0:00 / 0:02")
    page.locator("video").evaluate("video => (video.playbackRate = 0.25)")  # enough frames on a busy machine, too
    page.click("#play")
    expect(page.locator("#play")).to_have_text("Pause")
    expect(page.locator("#play")).to_have_text("Play")  # it has ended
    assert float(page.inner_text("#rate")) > 0
    found = rows(page)
    assert len(found) > 5
    times = [row["time"] for row in found]
    assert times == sorted(times)
    assert times[-1] > 1.5
    assert {row["frame"] for row in found} == {None}
    assert len({row["image_id"] for row in found}) == len(set(times))
    assert {row["track_id"] for row in found} == {1}
    assert found[0]["box_xyxy"][2] < 280  # the detector found the person on the left
    assert found[-1]["box_xyxy"][0] > found[1]["box_xyxy"][0] + 30  # the box went along
    page.locator("#seek").fill("0.5")
    expect(page.locator("#clock")).to_have_text("0:00 / 0:02")


def write_y4m(path: Path, frames: list[np.ndarray]) -> None:
    """Uncompressed video, 4:2:0, as Chromium's fake camera reads it."""
    import cv2

    height, width = frames[0].shape[:2]
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())


def test_the_camera(launch: Callable[..., Any], visit: Callable[..., Any], photograph: Path, tmp_path: Path) -> None:
    small = np.array(Image.fromarray(read_image(photograph)).resize((320, 360)))
    write_y4m(tmp_path / "camera.y4m", walking(small, 10)[:1] * 5)
    camera = launch(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={tmp_path / 'camera.y4m'}",
    )
    page = visit(camera, permissions=["camera"])
    page.click("#camera")
    expect(page.locator("#save-json")).to_be_enabled()
    page.wait_for_timeout(2000)
    expect(page.locator("#rate")).not_to_have_text("–")
    found = rows(page)
    assert len(found) > 3
    assert {row["image"] for row in found} == {"camera"}
    assert found[-1]["score"] > 0.3
    assert found[-1]["box_xyxy"][2] < 400  # of 640: the box has closed around the person on the left
    page.click("#close")
    expect(page.locator("#save-json")).to_be_disabled()
    expect(page.locator("#rate")).to_have_text("–")


def test_a_camera_that_does_not_start_is_let_go(launch: Callable[..., Any], visit: Callable[..., Any]) -> None:
    camera = launch("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    watch = """
        const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => (self.stream = await ask(wanted));
        HTMLMediaElement.prototype.play = () => Promise.reject(new Error('the cable is loose'));
    """
    page = visit(camera, before=watch, permissions=["camera"])
    page.click("#camera")
    expect(page.locator("#status")).to_contain_text("the cable is loose")
    assert page.evaluate("self.stream.getTracks().map((track) => track.readyState)") == ["ended"]


def test_a_phone_scrolls_in_one_direction_only(browser: Any, visit: Callable[..., Any], image_file: Path) -> None:
    page = visit(browser, **PHONE)

    def widths() -> list[int]:
        return page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")

    assert widths() == [360, 360]
    show(page, image_file)
    for summary in page.locator("summary").all():
        summary.click()
    assert widths() == [360, 360]
    page.tap("#whole")
    page.tap("#new-box")
    expect(page.locator(".box:not(.whole)")).to_have_count(1)
    small = page.evaluate("[...document.querySelectorAll('button, select')].map(e => e.getBoundingClientRect().height)")
    assert min(small) >= 32


def test_the_status_of_a_small_phone_is_in_view(browser: Any, visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit(browser, **(PHONE | {"viewport": {"width": 360, "height": 568}}))
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.set_input_files("#file", tmp_path / "broken.png")
    expect(page.locator("#status")).to_have_class("status bad")
    box = page.locator("#status").bounding_box()
    assert box["height"] > 20
    assert box["y"] + box["height"] <= 568


def luminance(rgb: list[float]) -> float:
    parts = [value / 255 for value in rgb]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Any, visit: Callable[..., Any], scheme: str) -> None:
    page = visit(browser, color_scheme=scheme)

    def colors(selector: str) -> list[list[float]]:
        return page.locator(selector).first.evaluate(
            """element => {
                const ground = (e) => { const c = getComputedStyle(e).backgroundColor;
                    return c === 'rgba(0, 0, 0, 0)' && e.parentElement ? ground(e.parentElement) : c; };
                return [getComputedStyle(element).color, ground(element)].map(c => c.match(/[\\d.]+/g).map(Number));
            }"""
        )

    for selector in (
        "h1",
        "header p",
        ".panel h2",
        ".note",
        ".numbers dt",
        "#camera",
        ".primary",
        ".empty p",
        "#status",
    ):
        text, ground = (luminance(color[:3]) for color in colors(selector))
        contrast = (max(text, ground) + 0.05) / (min(text, ground) + 0.05)
        assert contrast >= 4.5, selector
    assert (luminance(colors("body")[1][:3]) < 0.1) == (scheme == "dark")


def test_a_host_without_isolation_gets_one_thread(browser: Any, built_page: Path, visit: Callable[..., Any]) -> None:
    with hosting(built_page, isolated=False) as address:
        page = visit(browser, address)
        expect(page.locator("#threads")).to_contain_text("1 thread")
        expect(page.locator("#threads")).to_contain_text("does not isolate")


def test_a_page_that_is_not_built_says_how(browser: Any, tmp_path: Path, built_page: Path) -> None:
    for path in own_files():
        shutil.copy(path, tmp_path)
    with hosting(tmp_path) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#status code")).to_have_text("make web")
        shutil.copy(built_page / "manifest.json", tmp_path)  # the runtime is still missing
        page.reload()
        expect(page.locator("#status code")).to_have_text("make web")
        page.close()


def test_a_file_that_is_no_image(page: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    page.set_input_files("#file", broken)
    expect(page.locator("#status")).to_contain_text("broken.png is not an image")


@pytest.mark.slow
def test_real_images_have_the_predictors_poses(page: Any, shared_data: Path, predictor: PosePredictor) -> None:
    whole, detected = [], []
    for path in sorted((shared_data / "coco_val_dev" / "images").iterdir())[:10]:
        show(page, path)
        expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile(path.name))
        image = read_image(path)
        height, width = image.shape[:2]
        for errors in (detected, whole):
            found = rows(page)
            errors.append(crop_error(PoseResult.from_coco(found), predictor(image, [row["box_xyxy"] for row in found])))
            page.click("#whole")
            rows_when(page, lambda now, size=(width, height): now[0]["box_xyxy"] == [0, 0, *size])
    assert max(whole) < 1e-3
    assert np.median(detected) < 1e-3
    assert max(detected) < 5e-3  # people of 20 pixels, whom the network is unsure of


@pytest.mark.slow
def test_a_written_video_plays_in_the_browser(browser: Any, video: Path) -> None:
    with hosting(video.parent) as address:
        page = browser.new_page()
        page.goto(address)
        state = page.evaluate(
            """name => new Promise(resolve => {
                const video = document.createElement('video');
                const tell = () => resolve({ready: video.readyState, duration: video.duration,
                    size: [video.videoWidth, video.videoHeight], error: video.error && video.error.message});
                video.addEventListener('canplaythrough', tell);
                video.addEventListener('error', tell);
                video.preload = 'auto';
                video.src = name;
            })""",
            video.name,
        )
        page.close()
    assert state["error"] is None
    assert state["ready"] >= 2
    assert state["duration"] == pytest.approx(2.0, abs=0.05)
    assert state["size"] == [480, 280]


@pytest.mark.slow
def test_nothing_jumps(browser: Any, visit: Callable[..., Any], image_file: Path) -> None:
    watch = """window.shifted = 0;
        new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.shifted += entry.value; })
            .observe({type: 'layout-shift', buffered: true});"""
    page = visit(browser, before=watch)
    show(page, image_file)
    page.wait_for_timeout(300)
    assert page.evaluate("window.shifted") < 0.01
