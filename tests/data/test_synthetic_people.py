import json

import numpy as np
import pytest

import synthetic_people
from distilpose.data.coco import load_person_samples
from distilpose.errors import InputError
from distilpose.skeletons import COCO_17
from synthetic_people import draw_people, write_synthetic_dataset

K = {name: index for index, name in enumerate(COCO_17.keypoint_names)}


def people(count, image_hw=(480, 480), num_people=1):
    """(image, person) pairs."""
    for seed in range(count):
        image, drawn = draw_people(np.random.default_rng(seed), image_hw, num_people)
        for person in drawn:
            yield image, person


def test_a_seed_fixes_images_and_labels(tmp_path):
    small = write_synthetic_dataset(tmp_path / "small", 3, seed=4)
    large = write_synthetic_dataset(tmp_path / "large", 5, seed=4)
    other = write_synthetic_dataset(tmp_path / "other", 3, seed=5)
    documents = [json.loads(file.read_text()) for file in (small, large, other)]
    first, second = (document["annotations"] for document in documents[:2])
    assert first == second[: len(first)]
    assert documents[0] != documents[2]
    for name in ("000001.jpg", "000003.jpg"):
        images = [(file.parent / "images" / name).read_bytes() for file in (small, large, other)]
        assert images[0] == images[1] != images[2]


def test_the_written_set_is_a_valid_data_set(drawn_set):
    document = json.loads(drawn_set.read_text())
    samples = load_person_samples(drawn_set, drawn_set.parent / "images").samples
    assert len(samples) == len(document["annotations"]) >= 12
    for sample, annotation in zip(samples, document["annotations"], strict=True):
        assert (sample.visibility > 0).sum() == annotation["num_keypoints"]


def test_visible_eyes_are_dark_spots_in_white():
    """Oracle for exact points and visibility: the pupil is where the label says, brighter eye-white around it."""
    checked = 0
    for image, person in people(120):
        head = np.linalg.norm(person.xy_img[K["left_ear"]] - person.xy_img[K["right_ear"]])
        for eye in (K["left_eye"], K["right_eye"]):
            x, y = np.rint(person.xy_img[eye]).astype(int)
            if person.visibility[eye] != 2 or head < 40 or min(x, y) < 10 or max(x, y) > 469:
                continue
            around = image[y - 6 : y + 7, x - 6 : x + 7].mean(axis=2)
            assert around[5:8, 5:8].mean() < 0.5 * around.max()
            checked += 1
    assert checked > 40


def test_left_and_right_follow_the_view():
    """Seen from the front, with the head up, the left eye is on the image's right; turned with the head."""
    fronts = 0
    for _, person in people(150, image_hw=(200, 200)):
        left, right, nose = (person.xy_img[K[name]] for name in ("left_eye", "right_eye", "nose"))
        shown = person.visibility[[K["left_eye"], K["right_eye"], K["nose"]]]
        across, down = left - right, nose - (left + right) / 2
        # From the front "down" is a quarter turn clockwise from "to the left eye" in image axes.
        turn = across[0] * down[1] - across[1] * down[0]
        if (shown == 2).all() and np.linalg.norm(across) > 4:
            fronts += 1
            assert turn > 0
    assert fronts > 50


def test_box_and_area_are_those_of_the_changed_pixels(monkeypatch):
    """Oracle: the same image without its person, with camera effects and things off."""
    monkeypatch.setattr(synthetic_people, "_finish", lambda image, rng: image)
    monkeypatch.setattr(synthetic_people, "_draw_thing", lambda *args, **options: None)
    for seed in range(20):
        empty, _ = draw_people(np.random.default_rng(seed), (240, 200), 0)
        image, (person,) = draw_people(np.random.default_rng(seed), (240, 200), 1)
        rows, columns = np.nonzero(np.abs(image.astype(int) - empty).max(axis=2) > 12)
        changed = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert person.box_xyxy == pytest.approx(changed, abs=1)
        assert person.area == pytest.approx(len(rows), rel=0.12)  # dark, soft rims


def test_visibility_is_about_what_is_inside_and_seen():
    for image, person in people(40, image_hw=(160, 200), num_people=2):
        x1, y1, x2, y2 = person.box_xyxy
        assert 0 <= x1 < x2 <= image.shape[1]
        assert 0 <= y1 < y2 <= image.shape[0]
        seen = person.xy_img[person.visibility == 2]
        assert ((seen >= [x1 - 0.5, y1 - 0.5]) & (seen <= [x2 - 0.5, y2 - 0.5])).all()
        inside = ((person.xy_img >= 0) & (person.xy_img <= [199, 159])).all(axis=1)
        assert np.array_equal(person.visibility > 0, inside)


def test_counts_below_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="must be >= 1, got 0 and 2"):
        write_synthetic_dataset(tmp_path, 0)


def test_a_uniform_changes_the_clothes_and_nothing_else() -> None:
    plain, people = draw_people(np.random.default_rng(4), (200, 150))
    dressed, same_people = draw_people(np.random.default_rng(4), (200, 150), uniform=True)
    assert (plain != dressed).any()
    np.testing.assert_array_equal(people[0].xy_img, same_people[0].xy_img)
    np.testing.assert_array_equal(people[0].visibility, same_people[0].visibility)
