"""OKS against its formula and pycocotools, suppression against cases whose answer is plain."""

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from distilpose.geometry.oks import oks, oks_nms
from distilpose.skeletons import COCO_17

SIGMAS = COCO_17.oks_sigmas


def random_poses(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 100, (count, 17, 2))


def test_oks_of_equal_poses_is_one_and_shape_is_n_by_m() -> None:
    a, b = random_poses(3, 0), random_poses(5, 1)
    b[4] = a[2]
    similarity = oks(a, b, np.full((3, 1), 400.0), SIGMAS)
    assert similarity.shape == (3, 5)
    assert similarity[2, 4] == 1
    assert (np.delete(similarity.ravel(), 14) < 1).all()


def test_unlabeled_keypoints_do_not_count() -> None:
    a = random_poses(2, 0)
    b = a.copy()
    b[:, 3:] += 1000
    labeled = np.zeros((2, 17), dtype=bool)
    labeled[0, :3] = True
    assert oks(a, b, 400.0, SIGMAS, labeled).tolist()[0][0] == 1
    assert (oks(a, b, 400.0, SIGMAS, labeled)[1] == 0).all(), "nobody labeled: no similarity"


def test_oks_equals_pycocotools() -> None:
    truth, found = random_poses(4, 2), random_poses(4, 3) * 0.05 + random_poses(4, 2) * 0.95
    labeled = np.random.default_rng(4).random((4, 17)) < 0.7
    areas = [300.0, 2000.0, 8000.0, 20000.0]
    annotations = [
        {
            "id": row + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": areas[row], "bbox": [0, 0, 100, 100],
            "keypoints": np.column_stack([truth[row], 2 * labeled[row]]).ravel().tolist(),
            "num_keypoints": int(labeled[row].sum()),
        }
        for row in range(4)
    ]  # fmt: skip
    coco = COCO()
    coco.dataset = {"images": [{"id": 1}], "annotations": annotations, "categories": [{"id": 1}], "info": {}}
    coco.createIndex()
    results = [
        {"image_id": 1, "category_id": 1, "score": 1 - row / 10, "keypoints": np.insert(xy, 2, 1, axis=1).ravel()}
        for row, xy in enumerate(found)
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
    evaluation._prepare()
    expected = evaluation.computeOks(1, 1)  # detections, best first, by ground truth
    np.testing.assert_allclose(oks(truth, found, np.array(areas)[:, None], SIGMAS, labeled).T, expected, atol=1e-9)


def test_nms_drops_copies_of_better_poses_only() -> None:
    first, second = random_poses(2, 5)
    xy = np.stack([first, second, first + 0.1, second + 0.1])
    kept = oks_nms(xy, [0.5, 0.9, 0.6, 0.2], np.full(4, 1e4), SIGMAS)
    assert kept.tolist() == [1, 2], "best first; the copies 0 and 3 are gone"


def test_a_dropped_pose_drops_nobody() -> None:
    chain = random_poses(1, 6)[0] + np.array([0.0, 3.0, 6.0])[:, None, None]
    neighbor, ends = (
        oks(chain[:2], chain[1:], 900.0, SIGMAS).diagonal().min(),
        oks(chain[:1], chain[2:], 900.0, SIGMAS),
    )
    threshold = (neighbor + ends[0, 0]) / 2
    assert oks_nms(chain, [0.9, 0.8, 0.7], np.full(3, 900.0), SIGMAS, threshold).tolist() == [0, 2]


def test_nms_compares_a_pair_at_its_mean_area() -> None:
    xy = random_poses(1, 7) + np.array([0.0, 4.0])[:, None, None]
    limit = oks(xy[:1], xy[1:], 1000.0, SIGMAS)[0, 0]
    assert oks_nms(xy, [2, 1], [500, 1500], SIGMAS, limit - 1e-6).tolist() == [0]
    assert oks_nms(xy, [2, 1], [500, 1500], SIGMAS, limit + 1e-6).tolist() == [0, 1]


def test_nms_of_equal_scores_keeps_the_first_and_of_nobody_keeps_nobody() -> None:
    xy = np.repeat(random_poses(1, 8), 3, axis=0)
    assert oks_nms(xy, [1, 1, 1], [100, 100, 100], SIGMAS).tolist() == [0]
    assert oks_nms(np.zeros((0, 17, 2)), [], [], SIGMAS).tolist() == []
