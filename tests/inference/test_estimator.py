"""One call: sources of every kind, order, memory, streams, and what a result becomes."""

import gc
import json
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import distilpose
from distilpose.data.images import read_image, write_image
from distilpose.errors import ConfigError, InputError
from distilpose.formats.boxes import PersonBoxes
from distilpose.inference import estimator as module
from distilpose.inference.estimator import PoseEstimator, predict
from distilpose.inference.options import VideoOptions
from distilpose.inference.people import ConfirmedDetector, FittedWholeImage
from distilpose.inference.predictor import PosePredictor
from known_model import BrightestPixel


def spot(x: int, y: int, value: int = 255) -> NDArray[np.uint8]:
    image = np.zeros((80, 120, 3), np.uint8)
    image[y - 1 : y + 2, x - 1 : x + 2] = value
    return image


class Halves:
    """Says that a person is in each half of every image, the right one the surer."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[PersonBoxes]:
        boxes = [np.array([[w / 2, 0, w, h], [0, 0, w / 2, h]], float) for h, w in (i.shape[:2] for i in images)]
        return [PersonBoxes(each, np.array([0.9, 0.6])) for each in boxes]


@pytest.fixture
def estimator(backend: BrightestPixel) -> PoseEstimator:
    return PoseEstimator(backend, Halves())


def test_every_kind_of_source_gives_the_same_poses(estimator: PoseEstimator, tmp_path: Path) -> None:
    image = spot(90, 40, 200)
    write_image(tmp_path / "a.png", image)
    expected = estimator(image)
    assert len(expected) == 2
    assert expected.image is image
    np.testing.assert_allclose(expected.xy[0], np.broadcast_to([90, 40], expected.xy[0].shape), atol=1)
    same = [
        estimator(tmp_path / "a.png"),
        estimator(str(tmp_path / "a.png")),
        estimator(Image.fromarray(image)),
        estimator(image[..., 0]),
        estimator(image[..., :1]),
        *estimator.predict([image, tmp_path / "a.png"]),
    ]
    for result in same:
        assert np.array_equal(result.xy, expected.xy)
        assert np.array_equal(result.image, image)


def test_a_saved_result_names_its_image(estimator: PoseEstimator, tmp_path: Path) -> None:
    image = spot(90, 40, 200)
    write_image(tmp_path / "a.png", image)
    one, (first, other) = estimator(tmp_path / "a.png"), estimator.predict([tmp_path / "a.png", image])
    assert [one.source, first.source, other.source] == [str(tmp_path / "a.png")] * 2 + [""]
    one[0].save(tmp_path / "new" / "folder" / "poses.csv")
    text = (tmp_path / "new" / "folder" / "poses.csv").read_text()
    assert "a.png" in text.splitlines()[1]


def test_bgr_is_turned_and_files_are_not(estimator: PoseEstimator, tmp_path: Path) -> None:
    image = spot(30, 40)
    image[..., 0] = 7
    write_image(tmp_path / "a.png", image)
    for source in (image[..., ::-1], tmp_path / "a.png", Image.fromarray(image)):
        assert np.array_equal(estimator(source, bgr=True).image, image)
    assert np.array_equal(estimator(image, bgr=True).image, image[..., ::-1])


def test_given_boxes_take_the_place_of_the_detector(estimator: PoseEstimator) -> None:
    result = estimator(spot(30, 40), [[10, 10, 60, 70]])
    assert result.box.tolist() == [[10, 10, 60, 70]]


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), 7, None, np.zeros(3, np.uint8)])
def test_what_is_no_image_is_refused(estimator: PoseEstimator, bad: object) -> None:
    with pytest.raises(InputError, match=r"expected a path|must be an"):
        estimator(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="image 1: "):
        list(estimator.predict([spot(9, 9), bad]))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"jpeg", r"path, a Pillow image or a uint8 array, got bytes: .*PIL.Image.open\(io.BytesIO"),
        ({"image": "a.jpg"}, "path, a Pillow image or a uint8 array, got dict"),
        (None, "path, a Pillow image or a uint8 array, got NoneType"),
        (
            "http://example.org/a.jpg",
            "file of this machine, by its path or file: address, got 'http://.*': download it",
        ),
    ],
)
def test_one_call_says_what_it_takes(backend: BrightestPixel, bad: object, message: str) -> None:
    options = {"model": backend, "detector": Halves()}
    with pytest.raises(InputError, match=f"^expected a {message}"):
        predict(bad, **options)
    with pytest.raises(InputError, match=f"^image 1: expected a {message}"):
        predict([spot(9, 9), bad], **options)


def test_one_image_and_several_are_not_mixed_up(
    estimator: PoseEstimator, backend: BrightestPixel, tmp_path: Path
) -> None:
    image = spot(30, 40)
    write_image(tmp_path / "a.png", image)
    names = np.array([str(tmp_path / "a.png")] * 2)
    assert [len(result) for result in estimator.predict(names)] == [2, 2]
    with pytest.raises(InputError, match="boxes_xyxy with one image, got several"):
        predict([image], boxes_xyxy=[[10, 10, 60, 70]], model=backend, detector=Halves())
    for one, got in (
        (image, r"an array of shape \(80, 120, 3\)"),
        ("photo.jpg", "str"),
        (Image.fromarray(image), "Image"),
    ):
        with pytest.raises(InputError, match=f"expected several images, got {got}.*call the estimator itself"):
            list(estimator.predict(one))  # type: ignore[arg-type]


def test_a_pillow_image_that_is_cut_short_is_refused(estimator: PoseEstimator, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    with pytest.raises(InputError, match="Pillow image that cannot be decoded"):
        estimator(Image.open(tmp_path / "cut.png"))


def test_answers_of_a_detector_are_checked(backend: BrightestPixel) -> None:
    good = PersonBoxes(np.array([[0.0, 0, 60, 80]]), np.ones(1))
    plain = PersonBoxes([[0, 0, 60, 80], [60, 0, 120, 80]], [0.5, 0.9])  # type: ignore[arg-type]
    image = spot(30, 40)
    short = PoseEstimator(backend, lambda images: [good])
    assert len(short(image)) == 1
    results = list(short.predict([image, image]))  # one by one it has an answer for each
    assert [len(result) for result in results] == [1, 1]
    for wrong in (lambda images: None, lambda images: [[0, 0, 60, 80]]):
        with pytest.raises(InputError, match="expected a list of PersonBoxes from the detector, got"):
            PoseEstimator(backend, wrong)(image)  # type: ignore[arg-type]
    none = PoseEstimator(backend, lambda images: [])
    for call in (none, lambda image: list(none.predict([image]))):
        with pytest.raises(InputError, match="detector's boxes for each of 1 images, got 0"):
            call(image)
    best = PoseEstimator(backend, lambda images: [plain] * len(images), max_people=1)
    assert best(image).box.tolist() == [[60, 0, 120, 80]]
    assert next(best.predict([image])).box_score.tolist() == [0.9]


def test_a_list_stops_at_its_first_bad_image_and_says_which(estimator: PoseEstimator, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", spot(9, 9))
    (tmp_path / "b.png").write_bytes(b"no image")
    results = estimator.predict([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"])
    assert len(next(results)) == 2
    with pytest.raises(InputError, match=rf"^image 1: {tmp_path}/b\.png cannot be read"):
        next(results)

    def fail(*_: object) -> None:
        raise InputError("no numbers")

    estimator.predictor.run = fail  # type: ignore[method-assign]
    with pytest.raises(InputError, match=rf"^image 0: {tmp_path}/a\.png: no numbers"):
        next(estimator.predict([tmp_path / "a.png"]))
    assert estimator(f"file://{tmp_path}/a.png", np.zeros((0, 4))).source == f"file://{tmp_path}/a.png"


def test_a_list_gives_a_list_in_order_and_a_generator_a_generator(backend: BrightestPixel) -> None:
    options = {"model": backend, "detector": Halves(), "max_people": 1, "batch_size": 3}
    images = [spot(65 + 5 * n, 40) for n in range(8)]
    results = predict(images, **options)
    assert [round(result.xy[0, 0, 0]) for result in results] == pytest.approx([65 + 5 * n for n in range(8)], abs=1)
    lazy = predict(iter(images), **options)
    assert iter(lazy) is lazy
    assert [result.xy.tolist() for result in lazy] == [result.xy.tolist() for result in results]
    assert isinstance(predict(images[0], **options), distilpose.PoseResult)
    assert len(predict(np.stack(images[:2]), **options)) == 2
    assert predict([], **options) == []


def test_the_last_estimator_is_kept(monkeypatch: pytest.MonkeyPatch, backend: BrightestPixel) -> None:
    built = []

    class Counted(PoseEstimator):
        def __init__(self, **options: object) -> None:
            built.append(options)
            super().__init__(backend, Halves())

    monkeypatch.setattr(module, "PoseEstimator", Counted)
    module._kept_estimator.cache_clear()
    for _ in range(3):
        predict(spot(9, 9), model="a")
    predict(spot(9, 9), model="b")
    assert built == [{"model": "a"}, {"model": "b"}]
    module._kept_estimator.cache_clear()


def test_whole_image_fits_its_box_to_the_pose(backend: BrightestPixel) -> None:
    class Cloud(BrightestPixel):
        """Keypoints spread over the middle half of the crop."""

        def __call__(self, images):
            output = super().__call__(images)
            grid = np.linspace(0.25, 0.75, output.xy_norm.shape[1])
            output.xy_norm[:] = np.stack([grid, grid[::-1]], axis=-1)
            return output

    predictor = PosePredictor(Cloud())
    image = np.zeros((400, 300, 3), np.uint8)
    (box,) = FittedWholeImage(predictor)([image])[0].boxes_xyxy
    first = predictor(image, [[0, 0, 300, 400]]).xy[0]
    assert (box[:2] <= first.min(0)).all()
    assert (box[2:] >= first.max(0)).all()
    assert (box[2:] - box[:2] < np.array([300, 400]) * 0.95).all()
    unsure = Cloud()
    unsure_call = type(unsure).__call__
    type(unsure).__call__ = lambda self, images: unsure_call(self, images)._replace(
        score=np.zeros(unsure_call(self, images).xy_norm.shape[:2], np.float32)
    )
    assert FittedWholeImage(PosePredictor(unsure))([image])[0].boxes_xyxy.tolist() == [[0, 0, 300, 400]]


@pytest.mark.parametrize(
    ("score", "bare", "people"),
    [(0.75, False, [[0.9, 0], [0.35, 210]]), (0.39, False, [[0.9, 0]]), (0.75, True, [[0.9, 0]])],
)
def test_poses_confirm_weak_boxes(
    score: float, bare: bool, people: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sure box, a part of it, one around it, a small one, and two of one more person, who stays."""
    boxes = [
        [0, 0, 80, 100],
        [5, 5, 60, 90],
        [0, 0, 150, 180],
        [380, 0, 395, 60],
        [210, 0, 300, 190],
        [250, 20, 390, 199],
    ]
    scores = np.array([0.9, 0.3, 0.3, 0.3, 0.25, 0.2])
    monkeypatch.setattr(
        "distilpose.inference.people.NanodetDetector",
        lambda **_: lambda images: [PersonBoxes(np.array(boxes, dtype=float), scores) for _ in images],
    )

    class Model(BrightestPixel):
        def __call__(self, images):
            output = super().__call__(images)
            return output if bare else output._replace(score=np.full(output.xy_norm.shape[:2], score, np.float32))

    model = Model(bare=bare)
    image = np.zeros((200, 400, 3), np.uint8)
    image[80, 270] = 255
    (found,) = ConfirmedDetector(PosePredictor(model))([image])
    assert np.c_[found.box_score, found.boxes_xyxy[:, 0]].tolist() == pytest.approx(np.array(people))
    assert model.batches == [2]  # the weak boxes that were looked at


def test_the_shipped_model_confirms_whom_the_detector_doubts() -> None:
    photo = read_image(Path(__file__).parents[2] / "docs" / "images" / "photos" / "000000283520.jpg")
    assert [len(PoseEstimator(detection_threshold=threshold)(photo)) for threshold in (None, 0.35)] == [2, 1]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Of a spot that moves right, 12 frames, ten a second."""
    pytest.importorskip("av")
    from distilpose.video.writer import VideoWriter

    with VideoWriter(tmp_path / "v.mp4", (80, 120), rate=10) as writer:
        for number in range(12):
            writer.write(spot(70 + number, 40), number / 10)
    return tmp_path / "v.mp4"


@pytest.mark.parametrize("detect_every", [None, 1, 5])
def test_a_video_is_streamed_with_the_whole_image_as_box(
    video: Path, backend: BrightestPixel, detect_every: int | None
) -> None:
    estimator = PoseEstimator(backend, "whole-image")
    frames = list(estimator.stream(video, VideoOptions(detect_every=detect_every, smooth=False)))
    assert [frame.error for frame in frames] == [None] * 12
    assert {len(frame.result) for frame in frames} == {1}
    if detect_every == 5:  # these poses have no extent by which they could be followed
        return
    assert {tuple(frame.result.track_id) for frame in frames} == {(1,)}
    xs = [frame.result.xy[0, 0, 0] for frame in frames]
    np.testing.assert_allclose(xs, np.arange(70, 82), atol=2.5)


def test_sources_that_are_no_image_say_what_to_call(estimator: PoseEstimator, video: Path, tmp_path: Path) -> None:
    for source in (video, str(video)):
        with pytest.raises(InputError, match=r"v\.mp4 is a video: .*PoseEstimator\(\)\.stream\("):
            estimator(source)
    with pytest.raises(InputError, match="it is a folder: pass its images as a list, or use the command"):
        estimator(tmp_path)
    with pytest.raises(InputError, match=r"shape \(N, 4\).*got \(4,\): one box is \[\[10.0, 10.0, 60.0, 70.0\]\]"):
        estimator(spot(30, 40), [10, 10, 60, 70])


def test_a_video_is_streamed_with_tracks(estimator: PoseEstimator, video: Path, tmp_path: Path) -> None:
    frames = list(estimator.stream(video, VideoOptions(smooth=False)))
    assert [frame.frame_id.frame for frame in frames] == list(range(12))
    assert {tuple(frame.result.track_id) for frame in frames} == {tuple(frames[0].result.track_id)}
    assert frames[0].result.image.shape == (80, 120, 3)
    bare = next(iter(estimator.stream(video, VideoOptions(every=5), keep_images=False)))
    assert bare.result.image is None
    with pytest.raises(InputError):
        next(iter(estimator.stream(tmp_path / "none.mp4")))
    with pytest.raises(InputError, match="path of a video or the number of a camera, got"):
        next(iter(estimator.stream([video])))  # type: ignore[arg-type]


def test_wrong_options_are_told() -> None:
    with pytest.raises(TypeError, match="detecto"):
        predict(spot(9, 9), detecto="auto")
    with pytest.raises(ConfigError, match="detector must be one of"):
        predict(spot(9, 9), detector="cat")
    for wrong, message in (
        ({"batch_size": "8"}, "batch_size must be a whole number of at least 1, got '8'"),
        ({"batch_size": [8]}, "batch_size must be a whole number"),
        ({"max_people": "3"}, "max_people must be a whole number"),
        ({"tile": "640"}, "tile must be a whole number of at least 32"),
        ({"threads": 2.5}, "threads must be a whole number of at least 1 and at most 1024"),
        ({"detector": None}, "detector must be a name or a function of images, got None"),
    ):
        with pytest.raises(ConfigError, match=message):
            PoseEstimator(**wrong)  # type: ignore[arg-type]


def test_the_package_predicts_in_one_call(shared_data: Path) -> None:
    files = sorted((shared_data / "coco_fixture").glob("*.jpg"))
    results = distilpose.predict(files)
    assert len(results) == len(files)
    assert sum(map(len, results)) >= 6  # of 12 labeled people
    assert np.array_equal(results[0].image, read_image(files[0]))


def test_a_result_plots_saves_and_converts(estimator: PoseEstimator, tmp_path: Path) -> None:
    result = estimator(spot(90, 40))
    assert result.plot().size == (120, 80)
    for name in ("a.png", "a.json", "a.csv", "a.jsonl"):
        result.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0
    assert np.array_equal(read_image(tmp_path / "a.png"), np.asarray(result.plot()))
    with pytest.raises(ConfigError, match="expected a suffix"):
        result.save(tmp_path / "a.xyz")
    array = result.to_numpy()
    assert array.shape == (2,)
    assert np.array_equal(array["xy"], result.xy)
    assert np.array_equal(array["box_score"], [0.9, 0.6])
    (first, _) = result.to_openpose("coco_18")["people"]
    assert first["pose_keypoints_2d"][:2] == pytest.approx(result.xy[0, 0].tolist())
    assert json.loads(json.dumps(result.to_coco(np.int64(7))))[0]["image_id"] == 7  # type: ignore[arg-type]


def test_a_generator_is_taken_in_constant_memory(estimator: PoseEstimator) -> None:
    gc.collect()
    gc.freeze()  # what other tests left is not looked at again for every image
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = 0

    def images():
        for number in range(60):
            image = spot(60 + number % 50, 40)
            alive.append(weakref.ref(image))
            yield image

    for result in estimator.predict(images()):
        del result
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
    assert len(alive) == 60
    assert most < 30
    gc.unfreeze()
