"""Generated people who walk before a camera, past one another, and what a fallible detector and model see of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from distilpose.inference.result import PoseResult
from distilpose.types import FloatArray, IntArray
from distilpose.video.pose_boxes import BOX_MARGIN

IMAGE_WH = (1280, 720)
_STRIDE = 0.8  # body heights walked in one cycle of both legs
_HIDDEN = 0.5  # share of a person behind another from which the detector no longer finds them


class Gait(NamedTuple):
    """What a body does, each of shape (...).

    Attributes:
        phase: of the legs in radians.
        swing: of arms and legs, 0 standing to 1 walking.
        facing: 1 to the right, -1 to the left, 0 towards the camera.
        raised: angle of the arms to the side in radians.
    """

    phase: ArrayLike
    swing: ArrayLike
    facing: ArrayLike
    raised: ArrayLike = 0.0


def body(gait: Gait) -> FloatArray:
    """(..., 17, 2) COCO keypoints of a walking body in body heights, y down, from the ground below its hip."""
    phase, swing, facing, raised = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in gait))
    across = np.maximum(0.25, np.sqrt(np.maximum(0.0, 1 - facing**2)))  # how much of the body's width is seen
    bob = -0.01 * swing * np.cos(2 * phase)
    xy = np.zeros((*phase.shape, 17, 2))

    def put(index: int, x: ArrayLike, y: ArrayLike) -> None:
        xy[..., index, 0], xy[..., index, 1] = x, y

    put(0, 0.06 * facing, -0.90 + bob)
    for left, side in ((0, 1.0), (1, -1.0)):
        put(1 + left, 0.045 * facing + side * 0.02 * across, -0.925 + bob)
        put(3 + left, -0.01 * facing + side * 0.045 * across, -0.91 + bob)
        shoulder = np.stack([side * 0.11 * across, -0.80 + bob], axis=-1)
        hip = np.stack([side * 0.07 * across, -0.52 + bob], axis=-1)
        arm = -side * 0.5 * swing * np.sin(phase)
        elbow = shoulder + 0.17 * _arm(arm, facing, side * raised)
        leg = side * 0.45 * swing * np.sin(phase)
        bend = 0.7 * swing * np.maximum(0.0, side * np.cos(phase))  # the leg that swings forward
        knee = hip + 0.25 * _direction(leg, facing)
        xy[..., 5 + left, :], xy[..., 11 + left, :] = shoulder, hip
        xy[..., 7 + left, :], xy[..., 9 + left, :] = (
            elbow,
            elbow + 0.15 * _arm(arm + 0.3 * swing, facing, side * raised),
        )
        xy[..., 13 + left, :], xy[..., 15 + left, :] = knee, knee + 0.23 * _direction(leg - bend, facing)
    return xy


def _direction(angle: FloatArray, facing: FloatArray) -> FloatArray:
    return np.stack([np.sin(angle) * facing, np.cos(angle)], axis=-1)


def _arm(angle: FloatArray, facing: FloatArray, raised: FloatArray) -> FloatArray:
    along = np.sin(angle) * facing * np.cos(raised) + np.sin(raised)
    return np.stack([along, np.cos(angle) * np.cos(raised)], axis=-1)


class Level(NamedTuple):
    """How hard a scene is.

    Attributes:
        name: of the row.
        people: how many.
        lanes: from how many depths; people of one lane never pass each other at the same distance to the camera.
        rate: frames per second.
        missed: share of people that the detector overlooks.
        false: wrong people per frame.
        box_noise: standard deviation of a box edge, in sides of the box.
        turning: stops and reversals per second and person.
    """

    name: str
    people: int
    lanes: float
    rate: float
    missed: float
    false: float
    box_noise: float
    turning: float


LEVELS = (
    Level("easy", 3, 1.0, 30, 0.02, 0.05, 0.03, 0.0),
    Level("crossings", 5, 0.3, 30, 0.05, 0.1, 0.04, 0.3),
    Level("crowd", 12, 0.4, 30, 0.08, 0.3, 0.05, 0.3),
    Level("5 frames per second", 5, 0.3, 5, 0.05, 0.1, 0.04, 0.3),
)


class SceneFrame(NamedTuple):
    """One moment of a generated scene.

    Attributes:
        time: in seconds.
        result: what detector and model find.
        truth_id: (V,) who is in sight.
        truth_box: (V, 4) where.
    """

    time: float
    result: PoseResult
    truth_id: IntArray
    truth_box: FloatArray


def scene(level: Level, seed: int, seconds: float = 12.0) -> list[SceneFrame]:
    """Walk people up and down before a camera, past one another, and look at them with a fallible detector and model.

    A person more than half behind a nearer one is not found; keypoints behind a nearer one are less sure, noisier and
    sometimes put onto the nearer one's body.
    """
    rng = np.random.default_rng([seed, level.people, int(level.rate)])
    time = np.arange(0, seconds, 1 / level.rate)
    xy, height = _walks(level, time, rng)
    extent = np.concatenate([xy.min(2), xy.max(2)], axis=-1)
    longer = (extent[..., 2:] - extent[..., :2]).max(-1, keepdims=True)
    box = extent + longer * BOX_MARGIN * [-1, -1, 1, 1]
    return [_look(level, float(t), xy[i], box[i], height, rng) for i, t in enumerate(time)]


def _walks(level: Level, time: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(F, N, 17, 2) keypoints in pixels and (N,) body heights, farthest first."""
    count, fine = level.people, 4  # velocity is drawn at four times the frame rate
    step = 1 / (level.rate * fine)
    height = 220 * np.sort(1 + level.lanes * rng.uniform(-0.5, 0.5, count))
    width = IMAGE_WH[0]
    x = rng.uniform(0.1, 0.9, count) * width
    speed = rng.uniform(0.3, 0.8, count) * height  # pixels per second
    heading = rng.choice([-1.0, 1.0], count)
    target, velocity, phase = heading * speed, heading * speed, rng.uniform(0, 2 * np.pi, count)
    ground = 120 + 2 * height
    frames = []
    for tick in range(len(time) * fine):
        turn = rng.random(count) < level.turning * step
        target = np.where(turn, rng.choice([-1.0, 0.0, 1.0], count) * speed, target)
        wall = np.where(x < 0.06 * width, 1.0, np.where(x > 0.94 * width, -1.0, 0.0))
        target = np.where(wall != 0, wall * speed, target)
        velocity = velocity + (target - velocity) * step / 0.15  # seconds to turn round
        x = x + velocity * step
        phase = phase + np.abs(velocity) / (_STRIDE * height) * 2 * np.pi * step
        if tick % fine == 0:
            pace = velocity / speed
            pose = body(Gait(phase, np.minimum(1, np.abs(pace)), np.clip(pace, -1, 1)))
            frames.append(pose * height[:, None, None] + np.stack([x, ground], axis=-1)[:, None])
    return np.stack(frames), height


def _look(
    level: Level, time: float, xy: FloatArray, box: FloatArray, height: FloatArray, rng: np.random.Generator
) -> SceneFrame:
    count = len(xy)
    area = (box[:, 2:] - box[:, :2]).prod(1)
    size = np.maximum(
        0, np.minimum(box[:, None, 2:], box[None, :, 2:]) - np.maximum(box[:, None, :2], box[None, :, :2])
    )
    cover = np.triu(size.prod(-1) / area[:, None], 1).max(1)  # by anybody nearer: later rows are
    spread = 0.01 * np.exp(0.4 * rng.standard_normal((count, 17)))
    seen = xy.copy()
    for person in range(count):
        for nearer in range(person + 1, count):
            behind = ((xy[person] > box[nearer, :2]) & (xy[person] < box[nearer, 2:])).all(1)
            spread[person, behind] *= 3
            taken = behind & (rng.random(17) < 0.3)
            seen[person, taken] = xy[nearer, taken]
    seen += rng.standard_normal(seen.shape) * spread[..., None] * height[:, None, None]
    visible = cover < _HIDDEN
    found = np.flatnonzero(visible & (rng.random(count) >= level.missed))
    false = rng.poisson(level.false)
    false_height = rng.uniform(100, 300, false)
    pose = body(Gait(*(rng.uniform(low, high, false) for low, high in ((0, 6), (0, 1), (-1, 1)))))
    place = rng.uniform([0, 200], IMAGE_WH, (false, 2))
    all_xy = np.concatenate([seen[found], pose * false_height[:, None, None] + place[:, None]])
    extent = np.concatenate([all_xy.min(1), all_xy.max(1)], axis=1)
    true_box = np.concatenate([box[found], extent[len(found) :]])
    sides = np.tile(true_box[:, 2:] - true_box[:, :2], 2)
    box_score = np.concatenate([0.95 - 0.5 * cover[found] - 0.1 * rng.random(len(found)), rng.uniform(0.2, 0.7, false)])
    all_spread = np.concatenate([spread[found], rng.uniform(0.01, 0.06, (false, 1)) * np.ones(17)])
    score = np.exp(-all_spread / 0.03)
    result = PoseResult(
        xy=all_xy,
        box=true_box + rng.standard_normal(true_box.shape) * level.box_noise * sides,
        box_score=box_score,
        pose_score=box_score * score.mean(1),
        raw_score=score,
        sigma=np.repeat((all_spread * np.concatenate([height[found], false_height])[:, None])[..., None], 2, axis=-1),
    )
    order = rng.permutation(len(result))  # a detector does not know people
    return SceneFrame(time, result.filter(order), np.flatnonzero(visible), box[visible])
