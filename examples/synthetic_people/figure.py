"""One drawn person: a jointed body in a random pose, seen from a random side, as colored patches and keypoints.

A body frame is a 3 x 3 matrix whose columns point to the person's left, down and front. Lengths are fractions of the
body's height. Seen from the viewer, x goes right, y down and z towards the viewer; depth is simply left out (no
perspective), so keypoints are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

from distilpose.skeletons import COCO_17
from distilpose.types import FloatArray

Color = tuple[int, int, int]

_SPINE, _SHOULDER, _HIP, _NECK = 0.29, 0.105, 0.058, 0.105
_UPPER_ARM, _FOREARM, _HAND = 0.165, 0.145, 0.045
_THIGH, _SHIN, _FOOT = 0.235, 0.235, 0.075
_FACE = {  # left, down, front of the head's center
    "nose": (0.0, 0.012, 0.068),
    "left_eye": (0.026, -0.010, 0.054),
    "right_eye": (-0.026, -0.010, 0.054),
    "left_ear": (0.063, 0.006, 0.0),
    "right_ear": (-0.063, 0.006, 0.0),
}
_SKINS = ((244, 214, 190), (229, 184, 143), (200, 148, 105), (160, 107, 68), (115, 74, 46), (78, 50, 34))
_HAIRS = ((30, 24, 20), (74, 48, 28), (128, 84, 40), (205, 170, 100), (150, 60, 30), (170, 170, 170))
_CIRCLE = np.stack([np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)], axis=1)


class _Reach(NamedTuple):
    """Ranges in degrees of a limb's joints: swing to the front, spread to the side, bend of elbow or knee."""

    swing: tuple[float, float]
    spread: tuple[float, float]
    bend: tuple[float, float]


_ARM_REACHES = (
    _Reach((-25, 25), (5, 25), (0, 40)),  # hanging
    _Reach((-20, 20), (25, 60), (60, 130)),  # hands near the hips
    _Reach((40, 110), (-10, 40), (0, 110)),  # reaching out
    _Reach((140, 190), (0, 35), (0, 70)),  # raised
    _Reach((-10, 10), (60, 110), (0, 120)),  # out to the side
)
_LEG_REACHES = (
    _Reach((-8, 8), (2, 14), (0, 10)),  # standing
    _Reach((-35, 45), (0, 12), (0, 60)),  # striding
    _Reach((70, 100), (5, 30), (60, 110)),  # sitting
    _Reach((-20, 90), (5, 50), (0, 110)),  # anything
)


class Patch(NamedTuple):
    """A convex, evenly colored piece of a body.

    Attributes:
        outline: (P, 2) corners.
        depth: patches with a larger depth lie in front.
        color: RGB, 0..255.
        shows: indices of the keypoints that are seen where this patch is seen.
        edged: whether the patch has a dark rim.
    """

    outline: FloatArray
    depth: float
    color: Color
    shows: tuple[int, ...] = ()
    edged: bool = True


_UNIFORM: dict[str, Color] = {  # by side and upper end of the piece of limb
    "left_shoulder": (255, 140, 0),
    "left_elbow": (255, 220, 0),
    "left_wrist": (255, 255, 160),
    "left_hip": (200, 0, 0),
    "left_knee": (255, 80, 120),
    "left_ankle": (120, 0, 60),
    "right_shoulder": (0, 110, 255),
    "right_elbow": (0, 210, 255),
    "right_wrist": (170, 255, 255),
    "right_hip": (0, 130, 0),
    "right_knee": (90, 230, 90),
    "right_ankle": (0, 60, 60),
}


class Figure(NamedTuple):
    """A person of height about 1, pelvis at (0, 0), x to the right and y down as in images.

    Attributes:
        xy: (17, 2) keypoints in COCO order.
        patches: back to front.
    """

    xy: FloatArray
    patches: tuple[Patch, ...]


class _Looks(NamedTuple):
    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    long_sleeves: bool
    long_legs: bool
    long_hair: bool
    girth: float
    uniform: bool


def draw_figure(rng: np.random.Generator, uniform: bool = False) -> Figure:
    """Draw a person: pose, view, build and clothes are random.

    Half of the people face the viewer (within 60 degrees), the others stand in any direction. Left and right can be
    told apart by face, hair and neckline.

    Args:
        rng: the source of chance.
        uniform: everyone wears the same clothes, every piece of a limb in a color of its own: easy to learn.
    """
    joints, head = _pose(rng)
    patches = _patches(joints, head, _draw_looks(rng, uniform))
    xy = np.array([joints[name][:2] for name in COCO_17.keypoint_names])
    return Figure(xy, tuple(sorted(patches, key=lambda patch: patch.depth)))


def _draw_looks(rng: np.random.Generator, uniform: bool) -> _Looks:
    shirt, trousers, shoes = (_color(rng.integers(0, 256, 3)) for _ in range(3))
    skin, hair = _SKINS[rng.integers(len(_SKINS))], _HAIRS[rng.integers(len(_HAIRS))]
    long_sleeves, long_legs, long_hair = (bool(value) for value in rng.random(3) < (0.5, 0.7, 0.4))
    girth = float(rng.uniform(0.8, 1.35))
    if uniform:
        shirt = (245, 245, 245)
    return _Looks(skin, hair, shirt, trousers, shoes, long_sleeves, long_legs, long_hair, girth, uniform)


def _color(values: ArrayLike) -> Color:
    red, green, blue = np.asarray(values, dtype=int).tolist()
    return red, green, blue


def _swing(degrees: float) -> FloatArray:
    """Turn that takes down to the front."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _spread(degrees: float) -> FloatArray:
    """Turn that takes down to the left."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def _face_about(degrees: float) -> FloatArray:
    """Turn that takes the front to the left."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def _pose(rng: np.random.Generator) -> tuple[dict[str, FloatArray], FloatArray]:
    """Joints by name, (3,) each in the viewer's frame, and the frame of the head."""
    view = rng.uniform(-60, 60) if rng.random() < 0.5 else rng.uniform(-180, 180)
    tilt = rng.uniform(-180, 180) if rng.random() < 0.08 else 10 * rng.standard_normal()
    pelvis = _spread(tilt) @ _face_about(view)
    torso = pelvis @ _swing(rng.uniform(-25, 8)) @ _spread(8 * rng.standard_normal())
    head = torso @ _face_about(rng.uniform(-40, 40)) @ _swing(rng.uniform(-25, 15))
    joints = {"pelvis": np.zeros(3), "neck": -_SPINE * torso[:, 1]}
    joints["chest"] = joints["neck"] + 0.085 * torso[:, 1]
    joints["neckline"] = joints["chest"] + 0.05 * torso[:, 2]
    joints["head"] = joints["neck"] - _NECK * head[:, 1]
    joints |= {name: joints["head"] + head @ np.array(offset) for name, offset in _FACE.items()}
    for side, sign in (("left", 1), ("right", -1)):
        shoulder = joints["neck"] + torso @ np.array([sign * _SHOULDER, 0.02, 0.0])
        upper, lower = _draw_limb(rng, torso, sign, _ARM_REACHES, 1)
        joints[f"{side}_shoulder"] = shoulder
        joints[f"{side}_elbow"] = shoulder + _UPPER_ARM * upper[:, 1]
        joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + _FOREARM * lower[:, 1]
        joints[f"{side}_hand"] = joints[f"{side}_wrist"] + _HAND * lower[:, 1]
        hip = pelvis @ np.array([sign * _HIP, 0.0, 0.0])
        upper, lower = _draw_limb(rng, pelvis, sign, _LEG_REACHES, -1)
        joints[f"{side}_hip"] = hip
        joints[f"{side}_knee"] = hip + _THIGH * upper[:, 1]
        joints[f"{side}_ankle"] = joints[f"{side}_knee"] + _SHIN * lower[:, 1]
        joints[f"{side}_toe"] = joints[f"{side}_ankle"] + lower @ np.array([0, 0.025, _FOOT])
    return joints, head


def _draw_limb(
    rng: np.random.Generator, trunk: FloatArray, sign: int, reaches: Sequence[_Reach], bends_to: int
) -> tuple[FloatArray, FloatArray]:
    """Frames of the upper and lower half of a limb; elbows bend to the front (1), knees to the back (-1)."""
    reach = reaches[int(rng.integers(len(reaches)))]
    upper = trunk @ _spread(sign * rng.uniform(*reach.spread)) @ _swing(rng.uniform(*reach.swing))
    return upper, upper @ _swing(bends_to * rng.uniform(*reach.bend))


def _patches(joints: dict[str, FloatArray], head: FloatArray, looks: _Looks) -> list[Patch]:
    index = COCO_17.keypoint_names.index
    patches = [*_head_patches(joints, head, looks), *_torso_patches(joints, looks)]
    limbs = (  # from, to, radii, color, keypoints at the ends
        ("shoulder", "elbow", 0.034, 0.027, looks.shirt, ("shoulder", "elbow")),
        ("elbow", "wrist", 0.027, 0.020, looks.shirt if looks.long_sleeves else looks.skin, ("elbow", "wrist")),
        ("wrist", "hand", 0.021, 0.018, looks.skin, ("wrist",)),
        ("hip", "knee", 0.052, 0.036, looks.trousers, ("hip", "knee")),
        ("knee", "ankle", 0.036, 0.024, looks.trousers if looks.long_legs else looks.skin, ("knee", "ankle")),
        ("ankle", "toe", 0.026, 0.018, looks.shoes, ("ankle",)),
    )
    for side in ("left", "right"):
        for start, end, wide, narrow, color, names in limbs:
            ends = [joints[f"{side}_{start}"], joints[f"{side}_{end}"]]
            shows = tuple(index(f"{side}_{name}") for name in names)
            seen = _UNIFORM[f"{side}_{start}"] if looks.uniform else color
            patches.append(_patch(ends, (wide * looks.girth, narrow * looks.girth), seen, shows))
    return patches


def _torso_patches(joints: dict[str, FloatArray], looks: _Looks) -> list[Patch]:
    corners = [joints[f"{side}_{name}"] for name in ("shoulder", "hip") for side in ("left", "right")]
    radii = (0.038, 0.038, 0.05 * looks.girth, 0.05 * looks.girth)
    # The trunk counts as lying a little behind its joints, so that only limbs clearly behind it vanish.
    trunk = _patch(corners, radii, looks.shirt, depth_shift=-0.04)
    neckline = _patch([joints["neck"], joints["neckline"]], (0.03, 0.016), looks.skin, edged=False)
    towards_viewer = float(joints["neckline"][2] - joints["chest"][2])
    return [trunk, neckline._replace(depth=trunk.depth + towards_viewer / 2)]


def _head_patches(joints: dict[str, FloatArray], frame: FloatArray, looks: _Looks) -> list[Patch]:
    index = COCO_17.keypoint_names.index

    def at(left: float, down: float, front: float) -> FloatArray:
        point: FloatArray = joints["head"] + frame @ np.array([left, down, front])
        return point

    hair_discs = [at(0, -0.016, -0.018)] + [at(0, 0.07, -0.045)] * looks.long_hair
    dark_skin = _color(0.75 * np.array(looks.skin))
    patches = [
        _patch([joints["neck"], joints["head"]], (0.03, 0.028), looks.skin, depth_shift=-0.03),
        _patch([at(0, -0.005, 0), at(0, 0.042, 0.012)], (0.062, 0.04), looks.skin),
        _patch(hair_discs, (0.064, 0.05)[: len(hair_discs)], looks.hair),
        _patch([at(-0.014, 0.042, 0.058), at(0.014, 0.042, 0.058)], (0.006, 0.006), (150, 40, 45), edged=False),
        _patch([at(0, -0.005, 0.062), joints["nose"]], (0.005, 0.011), dark_skin, (index("nose"),), 0.01, False),
    ]
    for side in ("left", "right"):
        eye, ear = index(f"{side}_eye"), index(f"{side}_ear")
        patches.append(_patch([joints[f"{side}_eye"]], (0.014,), (245, 245, 245), (eye,), edged=False))
        patches.append(_patch([joints[f"{side}_eye"]], (0.008,), (25, 25, 35), (eye,), 0.001, False))
        patches.append(_patch([joints[f"{side}_ear"]], (0.017,), dark_skin, (ear,), 0.002))
    return patches


def _patch(
    centers: Sequence[FloatArray],
    radii: Sequence[float],
    color: Color,
    shows: tuple[int, ...] = (),
    depth_shift: float = 0.0,
    edged: bool = True,
) -> Patch:
    """The convex hull of discs."""
    points = [center[:2] + radius * _CIRCLE for center, radius in zip(centers, radii, strict=True)]
    outline = cv2.convexHull(np.concatenate(points).astype(np.float32))[:, 0].astype(np.float64)
    depth = float(np.mean([center[2] for center in centers])) + depth_shift
    return Patch(outline, depth, color, shows, edged)
