"""PCKh, PCK by the torso and CrowdPose AP, counted by hand and against faster-coco-eval's own CrowdPose code."""

import json
import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from labeled_people import arms, labeled_people

from distilpose.cli import main as cli
from distilpose.errors import ConfigError, DatasetError
from distilpose.evaluation.comparison import ComparedPeople, head_sizes, load_ground_truth
from distilpose.evaluation.evaluate import evaluate_predictions
from distilpose.evaluation.metrics.pck import crowdpose_ap, default_metrics, measure_protocols, pck_torso, pckh
from distilpose.skeletons import COCO_17, CROWDPOSE_14, LSP_14, MPII_16, Skeleton, map_keypoints


def person(skeleton: Skeleton, points: dict[str, tuple[float, float]], head_box: Any = None) -> ComparedPeople:
    """A person with some labeled keypoints, predicted at the labels; `head_box` is x, y, width, height."""
    values = np.zeros((skeleton.num_keypoints, 3))
    for name, point in points.items():
        values[skeleton.keypoint_names.index(name)] = *point, 2
    by_box, by_segment = head_sizes(values, skeleton, head_box)
    return labeled_people(
        skeleton, values[None, :, :2], labeled=values[None, :, 2] > 0, xy_img=values[None, :, :2], head_box=[by_box],
        head_segment=[by_segment],
    )  # fmt: skip


def moved(somebody: ComparedPeople, moves: dict[str, tuple[float, float]]) -> ComparedPeople:
    """Somebody with some predictions elsewhere."""
    xy = somebody.true_xy_img.copy()
    for name, by in moves.items():
        xy[0, somebody.skeleton.keypoint_names.index(name)] += by
    return replace(somebody, xy_img=xy)


def joined(*people: ComparedPeople) -> ComparedPeople:
    """Several as one."""
    names = [field.name for field in fields(ComparedPeople)[1:] if getattr(people[0], field.name) is not None]
    return replace(people[0], **{name: np.concatenate([getattr(each, name) for each in people]) for name in names})


BODY = {"head_top": (50.0, 0.0), "upper_neck": (50.0, 40.0), "left_knee": (60.0, 150.0), "pelvis": (50.0, 100.0)}


def test_pckh_by_the_head_segment() -> None:
    somebody = person(MPII_16, BODY)  # a head of 40 pixels: 20 are within reach
    somebody = moved(somebody, {"head_top": (0, 20), "left_knee": (15, 15), "pelvis": (90, 0)})
    result = pckh(somebody)
    assert result.per_joint["head_top"] == (1.0, 1)
    assert result.per_joint["left_knee"] == (0.0, 1)  # 21.2 pixels
    assert result.per_joint["pelvis"] == (0.0, 1)
    assert result.per_joint["left_ankle"] == (None, 0)
    assert result.values["PCKh@0.5"] == pytest.approx(2 / 3)  # pelvis and thorax are not in MPII's mean
    assert (result.facts["people_by_head_box"], result.facts["people_by_head_segment"]) == (0, 1)
    assert result.facts["not_in_mean"] == ["pelvis", "thorax"]
    spelled = replace(MPII_16, keypoint_names=tuple(name.title() for name in MPII_16.keypoint_names))
    assert pckh(replace(somebody, skeleton=spelled)).values == result.values


def test_pckh_by_the_head_box_is_mpii_s_rule() -> None:
    somebody = person(MPII_16, BODY, head_box=[30, 0, 30, 40])  # diagonal 50: a head of 30, so 15 are within reach
    for move, found in ((14.9, 1.0), (15.1, 0.0)):
        result = pckh(moved(somebody, {"left_knee": (move, 0)}))
        assert result.per_joint["left_knee"].pck == found
    assert result.facts["people_by_head_box"] == 1


def test_pckh_leaves_out_people_without_a_head_and_counts_those_without_a_prediction(caplog) -> None:
    somebody, headless = person(MPII_16, BODY), person(MPII_16, {"left_knee": (5.0, 5.0)})
    with caplog.at_level(logging.WARNING):
        result = pckh(replace(joined(headless, somebody), xy_img=np.full((2, 16, 2), np.nan)))
    assert result.values["PCKh@0.5"] == 0
    assert result.per_joint["left_knee"] == (0.0, 1)
    assert (result.facts["people"], result.facts["people_left_out"]) == (1, 1)
    assert "1 of 2 people are left out" in caplog.text
    assert pckh(headless).values["PCKh@0.5"] is None


def test_pckh_without_any_head_is_refused_and_coco_works_with_head_boxes() -> None:
    nobody = person(COCO_17, {"nose": (1.0, 1.0)})
    with pytest.raises(ConfigError, match="add head_box"):
        pckh(nobody)
    boxed = person(COCO_17, {"nose": (1.0, 1.0)}, head_box=[0, 0, 3, 4])
    assert pckh(moved(boxed, {"nose": (1.4, 0)})).values["PCKh@0.5"] == 1  # 0.5 x 0.6 x 5 = 1.5
    assert pckh(moved(boxed, {"nose": (1.6, 0)})).values["PCKh@0.5"] == 0


def test_pck_by_the_torso() -> None:
    torso = {"left_shoulder": (0.0, 0.0), "right_hip": (30.0, 40.0), "left_wrist": (80.0, 0.0)}  # 50: 10 within reach
    other = {"right_shoulder": (0.0, 0.0), "left_hip": (0.0, 100.0), "left_wrist": (80.0, 0.0)}  # 100: 20
    people = [person(LSP_14, torso), person(LSP_14, other), person(LSP_14, {"left_wrist": (0.0, 0.0)})]
    result = pck_torso(joined(*(moved(somebody, {"left_wrist": (0, 15)}) for somebody in people)))
    assert result.per_joint["left_wrist"] == (0.5, 2)
    assert result.values["PCK@0.2 torso"] == pytest.approx(5 / 6)
    assert result.facts["people_left_out"] == 1
    hips = person(MPII_16, {**torso, "pelvis": (0.0, 0.0)})
    assert pck_torso(moved(hips, {"pelvis": (50, 0)})).values["PCK@0.2 torso"] == pytest.approx(3 / 4)  # pelvis counts
    with pytest.raises(ConfigError, match="needs shoulders and hips"):
        pck_torso(arms(0))


@pytest.fixture
def crowd(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Nine crowded images of three people as CrowdPose describes them, and results that are off by random amounts."""
    rng = np.random.default_rng(3)
    images, annotations, results = [], [], []
    for image_id, index in enumerate((0.0, 0.1, 0.15, 0.25, 0.5, 0.79, 0.8, 0.9, 1.0), start=1):
        images.append(
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": 400, "width": 600, "crowdIndex": index}
        )
        for _ in range(3):
            box = [*rng.uniform(0, 200, 2), *rng.uniform(80, 200, 2)]
            xy = box[:2] + rng.uniform(0, 1, (14, 2)) * box[2:]
            seen = rng.integers(0, 3, 14)
            seen[0] = 2
            labels = np.column_stack([xy * (seen > 0)[:, None], seen])
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "bbox": box, "iscrowd": 0,
                    "num_keypoints": int((seen > 0).sum()), "keypoints": labels.ravel().tolist(), "area": 7.0,
                }
            )  # fmt: skip
            guess = np.column_stack([xy + rng.normal(0, 12 * index + 4, (14, 2)), np.ones(14)])
            results.append(
                {
                    "image_id": image_id, "category_id": 1, "keypoints": guess.ravel().tolist(),
                    "score": float(rng.random()),
                }
            )  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(CROWDPOSE_14.keypoint_names), "skeleton": []}
    file = tmp_path / "crowd.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return file, results


def test_crowdpose_numbers_are_those_of_the_library_s_own_crowd_evaluation(crowd) -> None:
    file, results = crowd
    ours = crowdpose_ap(load_ground_truth(file, CROWDPOSE_14), results)
    truth = COCO(str(file), print_function=lambda *_: None)
    theirs = COCOeval_faster(
        truth, truth.loadRes(results), iouType="keypoints_crowd", print_function=lambda *_: None, use_area=False,
        kpt_oks_sigmas=np.array(CROWDPOSE_14.oks_sigmas),
    )  # fmt: skip
    theirs.run()
    names = ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard")
    assert [ours.values[name] for name in names] == pytest.approx(theirs.all_stats.tolist(), abs=6e-5)
    assert len({ours.values[name] for name in names[-3:]}) == 3
    assert ours.facts["images"] == {"easy": 3, "medium": 3, "hard": 3}


def test_images_without_crowd_index_are_said(crowd, caplog) -> None:
    file, results = crowd
    document = json.loads(file.read_text())
    for image in document["images"]:
        del image["crowdIndex"]
    file.write_text(json.dumps(document))
    with caplog.at_level(logging.WARNING):
        values = crowdpose_ap(load_ground_truth(file, CROWDPOSE_14), results).values
    assert values["AP"] > 0
    assert values["AP_easy"] is values["AP_medium"] is values["AP_hard"] is None
    assert "9 of 9 images have no crowdIndex" in caplog.text


def test_a_level_without_people_or_results(crowd) -> None:
    file, results = crowd
    document = json.loads(file.read_text())
    document["annotations"] = [person for person in document["annotations"] if person["image_id"] <= 6]
    file.write_text(json.dumps(document))
    truth = load_ground_truth(file, CROWDPOSE_14)
    found = [result for result in results if 4 <= result["image_id"] <= 6]
    values = crowdpose_ap(truth, found).values
    assert values["AP_easy"] == 0
    assert values["AP_medium"] > 0
    assert values["AP_hard"] is None


def test_defaults_follow_the_keypoints_and_unknown_metrics_are_refused(crowd) -> None:
    assert default_metrics(COCO_17) == ("coco",)
    assert default_metrics(MPII_16) == ("coco", "pckh")
    assert default_metrics(LSP_14) == ("coco", "pck_torso")
    assert default_metrics(CROWDPOSE_14) == ("coco", "crowdpose")
    spelled = tuple(name.replace("_", " ") for name in MPII_16.keypoint_names)
    assert default_metrics(replace(MPII_16, keypoint_names=spelled)) == ("coco", "pckh")
    file, _ = crowd
    truth = load_ground_truth(file, CROWDPOSE_14)
    with pytest.raises(ConfigError, match="metrics must be among coco, pckh, pck_torso, crowdpose, got pcp"):
        measure_protocols(["pcp"], truth, [], truth.people)


def test_a_results_file_says_what_it_was_measured_with_and_may_have_the_file_s_category(crowd, tmp_path: Path) -> None:
    file, results = crowd
    document = json.loads(file.read_text())
    document["categories"][0]["id"] = 7
    for entry in document["annotations"]:
        entry["category_id"] = 7
    file.write_text(json.dumps(document))
    predictions = tmp_path / "results.json"
    predictions.write_text(json.dumps([{**result, "category_id": 1 + 6 * (n % 2)} for n, result in enumerate(results)]))
    found = evaluate_predictions(predictions, file)
    assert found.counts["results"] == 27
    assert found.protocol["skeleton"] == "crowdpose_14"
    assert found.protocol["oks_constants"] == list(CROWDPOSE_14.oks_sigmas)
    even = replace(CROWDPOSE_14, name="even", oks_sigmas=(0.1,) * 14)
    assert evaluate_predictions(predictions, file, skeleton=even).protocol["oks_constants"] == 0.1
    predictions.write_text(json.dumps([{**results[0], "category_id": 2}]))
    with pytest.raises(DatasetError, match="expected category_id 1 or 7"):
        evaluate_predictions(predictions, file)


def test_what_labels_rule_out_is_refused_before_results_are_read(crowd, tmp_path: Path) -> None:
    file, _ = crowd
    bottom = replace(CROWDPOSE_14, name="legs", keypoint_names=tuple(f"point_{index}" for index in range(14)))
    document = json.loads(file.read_text())
    document["categories"][0]["keypoints"] = list(bottom.keypoint_names)
    file.write_text(json.dumps(document))
    for metric, message in (("pckh", "size of heads"), ("pck_torso", "shoulders and hips"), ("pcp", "metrics must be")):
        with pytest.raises(ConfigError, match=message):
            evaluate_predictions(tmp_path / "not there.json", file, metrics=["coco", metric])


def test_on_the_command_line(crowd, tmp_path: Path, capsys) -> None:
    file, results = crowd
    predictions = tmp_path / "results.json"
    predictions.write_text(json.dumps(results))
    command = ["evaluate", "--predictions", str(predictions), "--annotations", str(file), "--out", str(tmp_path / "o")]
    assert cli.main(command) == 0
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert metrics["crowdpose"]["AP_easy"] > metrics["crowdpose"]["AP_hard"]
    assert "AP_easy" in capsys.readouterr().out
    assert cli.main([*command, "--quiet", "--metrics", "pckh", "--report", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'r' / 'report.html'}\n"
    assert "PCKh@0.5" in (tmp_path / "r" / "report.html").read_text()
    assert cli.main([*command, "--metrics", "pckh", "pck_torso"]) == 0
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert 0 < metrics["pckh"]["PCKh@0.5"] < 1
    assert 0 < metrics["pck_torso"]["PCK@0.2 torso"] < 1
    assert "AP" in metrics
    printed = capsys.readouterr().out
    assert "PCKh@0.5" in printed
    assert "AP75" not in printed


def test_a_head_box_is_checked(crowd) -> None:
    file, _ = crowd
    document = json.loads(file.read_text())
    document["annotations"][0]["head_box"] = [0, 0, 10, 20]
    file.write_text(json.dumps(document))
    assert load_ground_truth(file, CROWDPOSE_14).people.head_box[0] == pytest.approx(0.6 * 500**0.5)
    document["annotations"][0]["head_box"] = [0, 0, 10]
    file.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="head_box as x, y, width, height"):
        load_ground_truth(file, CROWDPOSE_14)


def test_other_keypoints_are_mapped_before_an_evaluation(crowd, tmp_path: Path) -> None:
    file, _ = crowd
    truth = load_ground_truth(file, COCO_17, map_keypoints(CROWDPOSE_14, COCO_17))
    own = load_ground_truth(file, CROWDPOSE_14)
    wrist, its = COCO_17.keypoint_names.index("left_wrist"), CROWDPOSE_14.keypoint_names.index("left_wrist")
    assert (truth.people.labeled[:, wrist] == own.people.labeled[:, its]).all()
    assert (truth.people.true_xy_img[:, wrist] == own.people.true_xy_img[:, its]).all()
    assert not truth.people.labeled[:, :5].any()
    # The size of heads comes from the file's own keypoints, which COCO's 17 do not have.
    by_file, by_model = (pckh(replace(p, xy_img=p.true_xy_img + 7)) for p in (truth.people, own.people))
    assert by_file.facts["people_by_head_segment"] == by_model.facts["people_by_head_segment"] > 0
    assert by_file.per_joint["left_wrist"] == by_model.per_joint["left_wrist"]
    with pytest.raises(DatasetError, match="in this order"):
        evaluate_predictions(tmp_path / "none.json", file, skeleton=COCO_17)
