import numpy as np
import pytest

from distilpose.data.augment import AugmentOptions, draw_crop_transform, jitter_colors
from distilpose.errors import ConfigError
from distilpose.geometry import CropTransform
from distilpose.skeletons import COCO_17

SIZE_HW = (256, 192)
STILL = AugmentOptions(flip_prob=0, half_body_prob=0, rotation_prob=0, scale_std=0, shift_prob=0)
DRAWS = 4000


def draw(sample, options, count=DRAWS, seed=0):
    rng = np.random.default_rng(seed)
    return [draw_crop_transform(sample, SIZE_HW, COCO_17, options, rng) for _ in range(count)]


def only(**changes):
    """Options with everything off but what is given."""
    return AugmentOptions(**(vars(STILL) | changes))


def test_nothing_on_is_the_evaluation_crop(make_sample):
    sample = make_sample()
    assert set(draw(sample, STILL, 5)) == {CropTransform.from_box(sample.box_xyxy, SIZE_HW)}


def test_same_generator_same_crops(make_sample):
    sample = make_sample()
    before = sample.box_xyxy.copy(), sample.xy_img.copy()
    assert draw(sample, AugmentOptions(), 50, seed=1) == draw(sample, AugmentOptions(), 50, seed=1)
    assert draw(sample, AugmentOptions(), 50, seed=1) != draw(sample, AugmentOptions(), 50, seed=2)
    assert np.array_equal(before[0], sample.box_xyxy)
    assert np.array_equal(before[1], sample.xy_img)


def test_flip_share(make_sample):
    flips = [crop.flip for crop in draw(make_sample(), only(flip_prob=0.5))]
    assert np.mean(flips) == pytest.approx(0.5, abs=0.03)  # 4 standard errors


def test_rotation_is_a_normal_cut_at_two_sigma(make_sample):
    turns = np.array([crop.rotation_deg for crop in draw(make_sample(), only(rotation_prob=0.6))])
    assert np.mean(turns != 0) == pytest.approx(0.6, abs=0.03)
    turned = turns[turns != 0]
    assert np.abs(turned).max() == 90
    assert np.mean(np.abs(turned) == 90) == pytest.approx(0.0455, abs=0.017)  # mass of a normal beyond 2 sigma
    assert np.mean(np.abs(turned) < 45) == pytest.approx(0.6827, abs=0.04)


def test_scale_is_a_normal_cut_at_one_sigma_and_keeps_the_aspect(make_sample):
    sample = make_sample()
    plain = CropTransform.from_box(sample.box_xyxy, SIZE_HW).box_wh
    crops = draw(sample, only(scale_std=0.35))
    factors = np.array([crop.box_wh for crop in crops]) / plain
    assert np.allclose(factors[:, 0], factors[:, 1])
    assert (factors.min(), factors.max()) == (pytest.approx(0.65), pytest.approx(1.35))
    assert np.mean((factors[:, 0] > 0.651) & (factors[:, 0] < 1.349)) == pytest.approx(0.68, abs=0.03)


def test_shift_moves_by_a_share_of_the_unpadded_box(make_sample):
    sample = make_sample()
    x1, y1, x2, y2 = sample.box_xyxy
    centers = np.array([crop.center_xy for crop in draw(sample, only(shift_prob=0.3))])
    moves = (centers - [(x1 + x2) / 2, (y1 + y2) / 2]) / [x2 - x1, y2 - y1]
    moved = moves.any(axis=1)
    assert np.mean(moved) == pytest.approx(0.3, abs=0.03)
    assert np.abs(moves).max() <= 0.2 + 1e-9
    assert moves[moved].std(axis=0) == pytest.approx([0.4 / 12**0.5] * 2, rel=0.06)  # uniform of width 0.4


def test_half_body_frames_one_half(make_sample):
    sample = make_sample()
    halves = []
    for half in (COCO_17.upper_body, COCO_17.lower_body):
        points = sample.xy_img[list(half)]
        low, high = points.min(axis=0), points.max(axis=0)
        width, height = high - low
        width = 1.5 * max(width, 0.75 * height)
        halves.append((*((low + high) / 2), width, width / 0.75))
    crops = draw(sample, only(half_body_prob=0.3))
    seen = [(*crop.center_xy, *crop.box_wh) for crop in crops]
    shares = [np.mean([np.allclose(crop, half) for crop in seen]) for half in halves]
    assert shares == pytest.approx([0.15, 0.15], abs=0.025)


def test_half_body_needs_enough_keypoints(make_sample):
    always = only(half_body_prob=1.0)
    whole = CropTransform.from_box(make_sample().box_xyxy, SIZE_HW)
    eight = np.where(np.arange(17) < 8, 2, 0)
    assert set(draw(make_sample(visibility=eight), always, 20)) == {whole}
    nine_upper_two_lower = np.where((np.arange(17) < 9) | (np.arange(17) > 14), 2, 0)
    centers = {crop.center_xy for crop in draw(make_sample(visibility=nine_upper_two_lower), always, 20)}
    assert len(centers) == 1
    assert centers != {whole.center_xy}


def test_half_body_of_points_on_a_line_is_a_usable_crop(make_sample):
    sample = make_sample(xy_img=np.full((17, 2), 50.0))
    for crop in draw(sample, only(half_body_prob=1.0), 10):
        assert np.isfinite(crop.matrix).all()


def test_jitter_equals_the_three_steps_written_out():
    crop = np.random.default_rng(3).integers(90, 150, (20, 30, 3), dtype=np.uint8)
    options = AugmentOptions(color_jitter=0.2)
    saturation, contrast, brightness = np.random.default_rng(8).uniform(0.8, 1.2, 3)
    luma = np.array([0.299, 0.587, 0.114])
    gray = (crop @ luma)[..., None]
    saturated = gray + saturation * (crop - gray)
    mean = (crop @ luma).mean()
    expected = brightness * (mean + contrast * (saturated - mean))
    jittered = jitter_colors(crop, options, np.random.default_rng(8))
    assert jittered.dtype == np.uint8
    assert np.abs(jittered - expected).max() < 1  # OpenCV multiplies in fixed point
    assert np.abs(jittered.astype(int) - crop).max() > 3


def test_no_jitter_changes_and_draws_nothing():
    crop = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    rng = np.random.default_rng(8)
    assert np.array_equal(jitter_colors(crop, AugmentOptions(), rng), crop)
    assert rng.random() == np.random.default_rng(8).random()


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"flip_prob": 1.1}, "a number of at least 0 and at most 1"),
        ({"scale_std": 1.0}, "a number of at least 0 and below 1"),
        ({"color_jitter": -0.1}, "a number of at least 0 and below 1"),
        ({"rotation_deg": float("nan")}, "a number of at least 0"),
    ],
)
def test_options_out_of_range(change, limit):
    (name,) = change
    with pytest.raises(ConfigError, match=f"{name} must be {limit}, got"):
        AugmentOptions(**change)
