"""Skeletons of people that are built in; their order and constants are those of the data sets named beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from distilpose.skeletons.definition import Pairs, Skeleton
from distilpose.skeletons.names import pairs_by_name


def _person(
    name: str, keypoints: str, edges: Pairs, lower_body: Collection[int], oks_sigmas: Mapping[str, float]
) -> Skeleton:
    """The rest follows: left and right from the names, the upper half of the body from the lower."""
    names = tuple(keypoints.split())
    upper_body = tuple(index for index in range(len(names)) if index not in lower_body)
    sigmas = tuple(oks_sigmas[keypoint] for keypoint in names)
    return Skeleton(name, names, pairs_by_name(names), edges, upper_body, tuple(lower_body), sigmas)


# Order, limbs and OKS constants: COCO keypoint challenge, https://cocodataset.org/#keypoints-eval
_COCO = {"nose": 0.026}
for _part, _sigma in {
    "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107, "knee": 0.087,
    "ankle": 0.089,
}.items():  # fmt: skip
    _COCO |= {f"left_{_part}": _sigma, f"right_{_part}": _sigma}
COCO_17 = _person(
    "coco_17",
    " ".join(_COCO),
    (
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    range(11, 17),
    _COCO,
)  # fmt: skip

# Order: OpenPose's COCO output (POSE_COCO_BODY_PARTS). OKS constants: COCO's; the neck, the middle of the shoulders,
# has theirs, as COCO does not measure it.
OPENPOSE_18 = _person(
    "openpose_18",
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear",
    (
        (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
        (0, 14), (14, 16), (0, 15), (15, 17),
    ),
    range(8, 14),
    {**_COCO, "neck": 0.079},
)  # fmt: skip

# Order and OKS constants: https://github.com/Fang-Haoshu/Halpe-FullBody, the first 26 of 136 keypoints, constants from
# its evaluation code. "head" is the top of the head, "hip" the middle of the hips.
_HALPE_FEET = "left_big_toe right_big_toe left_small_toe right_small_toe left_heel right_heel"
HALPE_26 = _person(
    "halpe_26",
    f"{' '.join(_COCO)} head neck hip {_HALPE_FEET}",
    (
        (15, 13), (13, 11), (11, 19), (16, 14), (14, 12), (12, 19), (17, 18), (18, 19), (18, 5), (5, 7), (7, 9),
        (18, 6), (6, 8), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (15, 20), (15, 22), (15, 24),
        (16, 21), (16, 23), (16, 25),
    ),
    (*range(11, 17), *range(19, 26)),
    {**_COCO, **dict.fromkeys(("head", "neck", "hip"), 0.080), **dict.fromkeys(_HALPE_FEET.split(), 0.089)},
)  # fmt: skip

# OKS constants of sets that have none: joints that COCO has take COCO's, pelvis those of a hip, thorax, neck and top of
# the head those of a shoulder, as CrowdPose does for its head and neck.
_DERIVED = {**_COCO, "pelvis": 0.107, **dict.fromkeys(("thorax", "neck", "upper_neck", "head", "head_top"), 0.079)}

# Order: http://human-pose.mpi-inf.mpg.de ("joint id").
MPII_16 = _person(
    "mpii_16",
    "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck head_top right_wrist "
    "right_elbow right_shoulder left_shoulder left_elbow left_wrist",
    (
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (7, 12), (12, 11), (11, 10), (7, 13),
        (13, 14), (14, 15),
    ),
    range(7),
    _DERIVED,
)  # fmt: skip

# Order: Leeds Sports Pose, http://sam.johnson.io/research/lsp.html
LSP_14 = _person(
    "lsp_14",
    "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow right_shoulder "
    "left_shoulder left_elbow left_wrist neck head_top",
    (
        (0, 1), (1, 2), (3, 4), (4, 5), (2, 3), (2, 8), (3, 9), (6, 7), (7, 8), (8, 12), (12, 9), (9, 10), (10, 11),
        (12, 13),
    ),
    range(6),
    _DERIVED,
)  # fmt: skip

# Order and OKS constants: https://github.com/Jeff-sjtu/CrowdPose
CROWDPOSE_14 = _person(
    "crowdpose_14",
    "left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_hip right_hip left_knee "
    "right_knee left_ankle right_ankle head neck",
    (
        (10, 8), (8, 6), (11, 9), (9, 7), (6, 7), (0, 6), (1, 7), (0, 2), (1, 3), (2, 4), (3, 5), (12, 13), (13, 0),
        (13, 1),
    ),
    range(6, 12),
    _DERIVED,
)  # fmt: skip

# COCO-WholeBody: body, feet, face and hands, put together from its five parts.
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


def _wholebody_names() -> tuple[str, ...]:
    feet = [f"{side}_{part}" for side in ("left", "right") for part in _FOOT]
    face = [f"face-{point}" for point in range(_LEFT_HAND - _FACE)]
    hand = ["hand_root", *(f"{finger}{joint}" for finger in _FINGERS for joint in range(1, 5))]
    hands = [f"{side}_{point}" for side in ("left", "right") for point in hand]
    return (*COCO_17.keypoint_names, *feet, *face, *hands)


def _wholebody_flip_pairs() -> Pairs:
    mirrored = ((right, left) for rights, lefts in _FACE_MIRROR for right, left in zip(rights, lefts, strict=True))
    face = ((_FACE + left, _FACE + right) for right, left in mirrored)
    body, hands = (pairs_by_name(names) for names in (_wholebody_names()[:_FACE], _wholebody_names()[_LEFT_HAND:]))
    return (*body, *face, *((_LEFT_HAND + left, _LEFT_HAND + right) for left, right in hands))


def _wholebody_edges() -> Pairs:
    left_ankle, left_wrist = COCO_17.keypoint_names.index("left_ankle"), COCO_17.keypoint_names.index("left_wrist")
    feet = ((left_ankle + side, _FEET + 3 * side + toe) for side in (0, 1) for toe in range(3))
    runs = ((_FACE + point, _FACE + point + 1) for run in _FACE_RUNS for point in run[:-1])
    rings = (
        (_FACE + point, _FACE + (point + 1 if point != ring[-1] else ring[0])) for ring in _FACE_RINGS for point in ring
    )
    hands: list[tuple[int, int]] = []
    for wrist, root in ((left_wrist, _LEFT_HAND), (left_wrist + 1, _RIGHT_HAND)):
        hands.append((wrist, root))
        for first in range(root + 1, root + 1 + 4 * len(_FINGERS), 4):
            hands += [(root, first), *((joint, joint + 1) for joint in range(first, first + 3))]
    return (*COCO_17.edges, *feet, *runs, *rings, *hands)


# Names, order and OKS constants: https://github.com/jin-s13/COCO-WholeBody (arXiv:2007.11858)
COCO_WHOLEBODY_133 = Skeleton(
    name="coco_wholebody_133",
    keypoint_names=_wholebody_names(),
    flip_pairs=_wholebody_flip_pairs(),
    edges=_wholebody_edges(),
    upper_body=(*COCO_17.upper_body, *range(_FACE, _END)),
    lower_body=(*COCO_17.lower_body, *range(_FEET, _FACE)),
    oks_sigmas=(*COCO_17.oks_sigmas, *_FOOT_SIGMAS, *_FACE_SIGMAS, *_HAND_SIGMAS, *_HAND_SIGMAS),
)

SKELETONS: dict[str, Skeleton] = {
    skeleton.name: skeleton
    for skeleton in (COCO_17, LSP_14, MPII_16, CROWDPOSE_14, OPENPOSE_18, HALPE_26, COCO_WHOLEBODY_133)
}
