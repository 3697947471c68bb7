"""COCO-WholeBody: body, feet, face and hands, put together from its five parts."""

from __future__ import annotations

from distilpose.skeletons.definition import Skeleton
from distilpose.skeletons.people import COCO_17

Pairs = tuple[tuple[int, int], ...]

# First index of each part; the body is COCO's and starts at 0.
_FEET, _FACE, _LEFT_HAND, _RIGHT_HAND, _END = 17, 23, 91, 112, 133
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_FOOT = ("big_toe", "small_toe", "heel")

# The 68 points of the face, in the order of iBUG 300-W: contour from the right ear to the left, right and left brow,
# bridge and base of the nose, right and left eye, outer and inner lips. "Right" is the person's. Each line: the points
# on the right of the face, and what they mirror onto.
_FACE_MIRROR: tuple[tuple[range, range], ...] = (
    (range(0, 8), range(16, 8, -1)),  # contour; 8 is the chin
    (range(17, 22), range(26, 21, -1)),  # brows
    (range(31, 33), range(35, 33, -1)),  # base of the nose; 27-30 and 33 lie in the middle
    (range(36, 40), range(45, 41, -1)),  # eyes, upper lid with both corners
    (range(40, 42), range(47, 45, -1)),  # eyes, lower lid
    (range(48, 51), range(54, 51, -1)),  # outer lips, upper; 51 and 57 lie in the middle
    (range(58, 60), range(56, 54, -1)),  # outer lips, lower
    (range(60, 62), range(64, 62, -1)),  # inner lips, upper; 62 and 66 lie in the middle
    (range(67, 68), range(65, 64, -1)),  # inner lips, lower
)
# Lines of the face when drawn: runs of neighbors, and rings, whose last point joins the first.
_FACE_RUNS = (range(0, 17), range(17, 22), range(22, 27), range(27, 31), range(31, 36))
_FACE_RINGS = (range(36, 42), range(42, 48), range(48, 60), range(60, 68))

_FACE_SIGMAS = (
    0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041,
    0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012,
    0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034,
    0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007, 0.007, 0.008, 0.011, 0.008,
    0.008, 0.008, 0.010, 0.008,
)  # fmt: skip
_FOOT_SIGMAS = (0.068, 0.066, 0.066, 0.092, 0.094, 0.094)
_HAND_SIGMAS = (
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021, 0.021,
    0.032, 0.020, 0.019, 0.022, 0.031,
)  # fmt: skip


def _names() -> tuple[str, ...]:
    feet = [f"{side}_{part}" for side in ("left", "right") for part in _FOOT]
    face = [f"face-{point}" for point in range(_LEFT_HAND - _FACE)]
    hands = []
    for side in ("left", "right"):
        hands.append(f"{side}_hand_root")
        hands += [f"{side}_{finger}{joint}" for finger in _FINGERS for joint in range(1, 5)]
    return (*COCO_17.keypoint_names, *feet, *face, *hands)


def _flip_pairs() -> Pairs:
    feet = ((_FEET + toe, _FEET + 3 + toe) for toe in range(3))
    face = (
        (_FACE + left, _FACE + right)
        for rights, lefts in _FACE_MIRROR
        for right, left in zip(rights, lefts, strict=True)
    )
    hands = ((left, left + _RIGHT_HAND - _LEFT_HAND) for left in range(_LEFT_HAND, _RIGHT_HAND))
    return (*COCO_17.flip_pairs, *feet, *face, *hands)


def _edges() -> Pairs:
    left_ankle, left_wrist = COCO_17.keypoint_names.index("left_ankle"), COCO_17.keypoint_names.index("left_wrist")
    feet = ((left_ankle + side, _FEET + 3 * side + toe) for side in (0, 1) for toe in range(3))
    runs = ((_FACE + point, _FACE + point + 1) for run in _FACE_RUNS for point in run[:-1])
    rings = (
        (_FACE + point, _FACE + (point + 1 if point != ring[-1] else ring[0])) for ring in _FACE_RINGS for point in ring
    )
    hands: list[tuple[int, int]] = []
    for side, root in enumerate((_LEFT_HAND, _RIGHT_HAND)):
        hands.append((left_wrist + side, root))
        for finger in range(len(_FINGERS)):
            first = root + 1 + 4 * finger
            hands += [(root, first), *((joint, joint + 1) for joint in range(first, first + 3))]
    return (*COCO_17.edges, *feet, *runs, *rings, *hands)


# Names, order and OKS constants: https://github.com/jin-s13/COCO-WholeBody (arXiv:2007.11858)
COCO_WHOLEBODY_133 = Skeleton(
    name="coco_wholebody_133",
    keypoint_names=_names(),
    flip_pairs=_flip_pairs(),
    edges=_edges(),
    upper_body=(*COCO_17.upper_body, *range(_FACE, _END)),
    lower_body=(*COCO_17.lower_body, *range(_FEET, _FACE)),
    oks_sigmas=(*COCO_17.oks_sigmas, *_FOOT_SIGMAS, *_FACE_SIGMAS, *_HAND_SIGMAS, *_HAND_SIGMAS),
)
