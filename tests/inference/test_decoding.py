"""Decoding against drawn Gaussians and a slow oracle, the flip test against a network that mirrors perfectly."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from distilpose.backends.description import ModelDescription
from distilpose.errors import ConfigError
from distilpose.geometry import CropTransform
from distilpose.inference.decoding import (
    Keypoints,
    check_flip_test,
    dark_peaks,
    decode,
    keypoints_to_image,
    pose_score,
    run_with_flip,
)
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.skeletons import Skeleton

FACE = Skeleton("face", ("nose", "left_eye", "right_eye"), ((1, 2),), (), (0,), (1, 2), (0.1, 0.1, 0.1))
SIZE_HW = (64, 48)


def gaussians(xy_cell: np.ndarray, size_hw: tuple[int, int] = SIZE_HW, sigma: float = 2.0) -> np.ndarray:
    """(B, K, 2) centers -> (B, K, H, W) heatmaps of height 1."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    squared = (x - xy_cell[..., 0, None, None]) ** 2 + (y - xy_cell[..., 1, None, None]) ** 2
    return np.exp(-squared / (2 * sigma**2)).astype(np.float32)


def test_dark_finds_the_center_between_the_cells() -> None:
    centers = np.random.default_rng(0).uniform([6, 6], [41, 57], (5, 17, 2))
    xy_cell, peak = dark_peaks(gaussians(centers))
    assert np.abs(xy_cell - centers).max() < 0.02
    nearest = np.rint(centers)
    expected_peak = np.exp(-((nearest - centers) ** 2).sum(-1) / 8)
    np.testing.assert_allclose(peak, expected_peak, rtol=1e-5)


def test_dark_ignores_the_height_of_the_heatmap() -> None:
    maps = gaussians(np.array([[[20.3, 30.7], [10.6, 12.2]]]))
    np.testing.assert_allclose(dark_peaks(maps)[0], dark_peaks(0.01 * maps)[0], atol=1e-3)


@pytest.mark.parametrize("x_cell", [0, 1, 46, 47])
def test_dark_takes_no_step_near_the_border(x_cell: int) -> None:
    assert dark_peaks(gaussians(np.array([[[x_cell, 30.4]]])))[0].tolist() == [[[x_cell, 30.0]]]


def test_dark_is_blur_log_and_newton_step() -> None:
    """The paper's method written out slowly, on a bumpy map: own blur, numeric inverse of the Hessian."""
    rng = np.random.default_rng(3)
    heatmap = gaussians(np.array([[[20.3, 30.7]]]))[0, 0] + 0.05 * rng.random(SIZE_HW, dtype=np.float32)
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 2.0**2))
    padded = np.pad(heatmap.astype(np.float64), 5)
    rows = np.apply_along_axis(np.convolve, 1, padded, weights / weights.sum(), "valid")
    log_map = np.log(np.apply_along_axis(np.convolve, 0, rows, weights / weights.sum(), "valid"))
    y, x = np.unravel_index(heatmap.argmax(), SIZE_HW)
    d = lambda i, j: log_map[y + j, x + i]  # noqa: E731
    gradient = np.array([d(1, 0) - d(-1, 0), d(0, 1) - d(0, -1)]) / 2
    cross = (d(1, 1) - d(1, -1) - d(-1, 1) + d(-1, -1)) / 4
    hessian = [[(d(2, 0) - 2 * d(0, 0) + d(-2, 0)) / 4, cross], [cross, (d(0, 2) - 2 * d(0, 0) + d(0, -2)) / 4]]
    expected = np.array([x, y]) - np.linalg.inv(np.array(hessian)) @ gradient
    np.testing.assert_allclose(dark_peaks(heatmap[None, None])[0][0, 0], expected, atol=1e-3)


def test_a_flat_heatmap_is_read_without_a_step() -> None:
    xy_cell, peak = dark_peaks(np.zeros((1, 2, *SIZE_HW), dtype=np.float32))
    assert xy_cell.tolist() == [[[0, 0], [0, 0]]]
    assert peak.tolist() == [[0, 0]]


def test_decode_places_cell_c_at_c_over_w() -> None:
    keypoints = decode(HeatmapOutput(gaussians(np.array([[[12.0, 48.0]]]))))
    np.testing.assert_allclose(keypoints.xy_norm, [[[12 / 48, 48 / 64]]], atol=1e-3)
    assert keypoints.sigma is None
    assert keypoints.raw_score[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("with_extras", [True, False])
def test_decode_of_a_regression_changes_nothing(with_extras: bool) -> None:
    xy, sigma, score = (np.random.default_rng(0).random(s, dtype=np.float32) for s in ((2, 3, 2), (2, 3, 2), (2, 3)))
    keypoints = decode(PoseOutput(xy, sigma if with_extras else None, score - 5 if with_extras else None))
    assert (keypoints.xy_norm == xy).all()
    if with_extras:
        assert (keypoints.sigma == sigma).all()
        assert (keypoints.raw_score == score - 5).all()
    else:
        assert keypoints.sigma is None
        assert keypoints.raw_score is None


@dataclass
class PerfectMirror:
    """A model that sees three bright pixels: the nose on top, and of the eyes the left one further right.

    Mirrored images give mirrored answers with sides changed, exactly, as a perfectly trained network would.
    Score and sigma depend on the brightness of the pixel.
    """

    heatmap: bool = False
    extras: bool = True
    calls: int = 0

    @property
    def description(self) -> ModelDescription:
        return ModelDescription("fake", "heatmap" if self.heatmap else "regression", (256, 192), SIZE_HW, skeleton=FACE)

    def __call__(self, images: np.ndarray) -> PoseOutput | HeatmapOutput:
        self.calls += 1
        points = np.stack([self._find(image) for image in images])
        if self.heatmap:
            cells = np.zeros((len(images), 3, *SIZE_HW), dtype=np.float32)
            for (b, k), (x, y, value) in zip(np.ndindex(len(images), 3), points.reshape(-1, 3), strict=True):
                cells[b, k, int(y) // 4, int(x) // 4] = value
            return HeatmapOutput(cells)
        xy_norm = (points[..., :2] / [192, 256]).astype(np.float32)
        value = points[..., 2].astype(np.float32)
        return (
            PoseOutput(xy_norm, np.stack([value, 2 * value], -1), value)
            if self.extras
            else PoseOutput(xy_norm, None, None)
        )

    @staticmethod
    def _find(image: np.ndarray) -> np.ndarray:
        y, x = np.nonzero(image[0])
        points = np.stack([x, y, image[0, y, x]], axis=-1)
        nose, *eyes = points[np.argsort(y)]
        return np.stack([nose, max(eyes, key=lambda p: p[0]), min(eyes, key=lambda p: p[0])])


def face_image() -> np.ndarray:
    images = np.zeros((2, 3, 256, 192), dtype=np.float32)
    for image, shift in zip(images, (0, 13), strict=True):
        image[:, 40, 96 + shift], image[:, 60, 120 + shift], image[:, 64, 81 + shift] = 0.9, 0.7, 0.3
    return images


def test_off_calls_the_model_once_and_the_others_twice() -> None:
    for mode, calls in (("off", 1), ("aligned", 2), ("reference", 2)):
        backend = PerfectMirror()
        run_with_flip(backend, face_image(), mode)  # type: ignore[arg-type]
        assert backend.calls == calls


def test_aligned_flip_of_a_perfect_network_changes_nothing() -> None:
    plain = run_with_flip(PerfectMirror(), face_image(), "off")
    flipped = run_with_flip(PerfectMirror(), face_image(), "aligned")
    for a, b in zip(plain[:3], flipped[:3], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_reference_flip_is_half_a_pixel_off_and_mixes_the_sides_of_scores() -> None:
    plain = run_with_flip(PerfectMirror(), face_image(), "off")
    flipped = run_with_flip(PerfectMirror(), face_image(), "reference")
    offset_px = (flipped.xy_norm - plain.xy_norm) * [192, 256]
    np.testing.assert_allclose(offset_px, np.broadcast_to([0.5, 0.0], offset_px.shape), atol=1e-4)
    np.testing.assert_allclose(flipped.score, [[0.9, 0.5, 0.5]] * 2, atol=1e-6)
    np.testing.assert_allclose(flipped.sigma[..., 0], flipped.score, atol=1e-6)


def test_flip_without_score_and_sigma_stays_without() -> None:
    flipped = run_with_flip(PerfectMirror(extras=False), face_image(), "aligned")
    assert flipped.sigma is None
    assert flipped.score is None


def test_mirrored_heatmaps_change_sides_and_move_one_cell() -> None:
    flipped = run_with_flip(PerfectMirror(heatmap=True), face_image(), "aligned")
    # The left eye at pixel 120 is cell 30; mirrored it is pixel 71, cell 17, which comes back as 47 - 17 + 1 = 31.
    left_eye = flipped.heatmaps[0, 1, 15]
    assert {int(x): round(float(left_eye[x]), 3) for x in np.nonzero(left_eye)[0]} == {30: 0.35, 31: 0.35}
    as_released = run_with_flip(PerfectMirror(heatmap=True), face_image(), "reference")
    assert (as_released.heatmaps == flipped.heatmaps).all()


def test_unknown_flip_test_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of off, aligned, reference, got 'on'"):
        check_flip_test("on")


def test_keypoints_return_to_the_image_they_were_cut_from() -> None:
    rng = np.random.default_rng(1)
    transforms = [
        CropTransform((100.0, 80.0), (90.0, 120.0), (256, 192)),
        CropTransform((30.5, 200.0), (45.0, 60.0), (256, 192), rotation_deg=30, flip=True),
    ]
    xy_img = rng.uniform(0, 300, (2, 17, 2))
    xy_norm = np.stack([t.to_norm(xy) for t, xy in zip(transforms, xy_img, strict=True)])
    back, sigma_img = keypoints_to_image(Keypoints(xy_norm, np.full((2, 17, 2), 2.0), None), transforms, (64, 48))
    np.testing.assert_allclose(back, xy_img)
    assert sigma_img is not None
    # 48 cells span the 90 pixels of the padded box, so 2 cells are 3.75 pixels, along y as along x.
    np.testing.assert_allclose(sigma_img, np.broadcast_to([[[3.75]], [[1.875]]], (2, 17, 2)))
    assert keypoints_to_image(Keypoints(xy_norm, None, None), transforms, (64, 48))[1] is None


def test_nobody_stays_nobody() -> None:
    empty = Keypoints(np.zeros((0, 17, 2)), np.zeros((0, 17, 2)), None)
    xy_img, sigma_img = keypoints_to_image(empty, [], (64, 48))
    assert xy_img.shape == (0, 17, 2)
    assert sigma_img.shape == (0, 17, 2)
    assert pose_score(np.zeros(0), np.zeros((0, 17))).shape == (0,)


def test_pose_score_is_the_mean_of_keypoint_scores_above_the_threshold() -> None:
    raw = np.array([[0.9, 0.5, 0.1], [0.2, 0.1, -3.0], [1.4, 1.0, 0.0]])
    scores = pose_score([0.5, 1.0, 1.0], raw)
    assert math.isclose(scores[0], 0.5 * 0.7)
    assert scores[1] == 0, "0.2 is not above 0.2"
    assert math.isclose(scores[2], 1.2), "raw scores are unbounded"
    assert pose_score([0.5, 1.0], None).tolist() == [0.5, 1.0]
