"""From files to numbers with models whose answers are known."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from distilpose.backends.description import ModelDescription
from distilpose.errors import ConfigError, DatasetError, DistilPoseError, InputError
from distilpose.evaluation.evaluate import (
    EvaluateOptions,
    EvaluationSet,
    evaluate_files,
    evaluate_model,
    evaluate_predictions,
    evaluate_set,
    metrics_table,
    write_evaluation,
)
from distilpose.formats.boxes import PersonBoxes
from distilpose.geometry import CropTransform
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.skeletons import COCO_17

SIZE_HW, MAP_HW = (256, 192), (64, 48)
MODEL = ModelDescription("answer_key", "regression", SIZE_HW, MAP_HW)
Document = dict[str, Any]
Write = Callable[[str, Any], Path]


class AnswerKey:
    """A model that was told the answers, box by box, in the order in which the crops come."""

    def __init__(self, xy_norm: np.ndarray, score: np.ndarray | None = None, heatmap: bool = False) -> None:
        self.xy_norm, self.score, self.heatmap, self.batches = xy_norm, score, heatmap, []

    @property
    def description(self) -> ModelDescription:
        return replace(MODEL, output="heatmap") if self.heatmap else MODEL

    def __call__(self, images: np.ndarray) -> PoseOutput | HeatmapOutput:
        rows = np.arange(len(images)) + sum(self.batches)
        self.batches.append(len(images))
        if self.heatmap:
            y, x = np.mgrid[: MAP_HW[0], : MAP_HW[1]]
            cells = self.xy_norm[rows, :, :, None, None] * np.array([48, 64])[:, None, None]
            squared = (x - cells[:, :, 0]) ** 2 + (y - cells[:, :, 1]) ** 2
            return HeatmapOutput(np.exp(-squared / 8).astype(np.float32))
        score = None if self.score is None else self.score[rows]
        return PoseOutput(self.xy_norm[rows].astype(np.float32), None, score)


def true_answers(evaluation_set: EvaluationSet) -> np.ndarray:
    people = evaluation_set.ground_truth.people
    assert evaluation_set.boxes.person is not None
    rows = zip(evaluation_set.boxes.person, evaluation_set.transforms, strict=True)
    return np.stack([transform.to_norm(people.true_xy_img[row]) for row, transform in rows])


@pytest.fixture
def evaluation_set(annotations: Path, images: Path) -> EvaluationSet:
    return EvaluationSet.load(annotations, images, MODEL)


def test_the_right_answers_are_perfect(evaluation_set: EvaluationSet) -> None:
    model = AnswerKey(true_answers(evaluation_set))
    result = evaluate_set(model, evaluation_set, batch_size=3)
    assert model.batches == [3, 1]
    assert result.metrics == pytest.approx(dict.fromkeys(result.metrics, 1.0))
    assert result.per_joint["all"] == (1.0, 17 + 12 + 17 + 9)
    assert result.per_joint["right_ankle"] == (1.0, 2)
    assert result.counts == {"images": 3, "people": 4, "results": 4}
    assert result.people_by_size == {"medium": 3, "large": 1}


def test_heatmaps_are_decoded_to_a_fraction_of_a_cell(evaluation_set: EvaluationSet) -> None:
    result = evaluate_set(AnswerKey(true_answers(evaluation_set), heatmap=True), evaluation_set)
    assert result.metrics["AP"] == pytest.approx(1)
    found = np.array(result.results[-1]["keypoints"]).reshape(17, 3)
    people = evaluation_set.ground_truth.people
    truth = people.true_xy_img[people.image_id == 9]
    assert np.abs(truth - found[:, :2]).max(axis=(1, 2)).min() < 0.05


def test_boxes_are_cut_as_the_baselines_cut_them(evaluation_set: EvaluationSet) -> None:
    assert evaluation_set.boxes.image_id.tolist() == [3, 3, 9, 9]
    # width 50 spans 49 pixel steps; 49 x 79 grows to 3:4 and is padded by 1.25
    expected = CropTransform((174.5, 59.5), (79 * 0.75 * 1.25, 79 * 1.25), SIZE_HW)
    np.testing.assert_allclose(evaluation_set.transforms[0].matrix, expected.matrix)


def test_a_joint_that_is_always_wrong_shows(evaluation_set: EvaluationSet) -> None:
    answers = true_answers(evaluation_set)
    answers[:, 0] += 1.0
    result = evaluate_set(AnswerKey(answers), evaluation_set)
    assert result.per_joint["nose"].pck == 0
    assert result.per_joint["left_eye"].pck == 1
    assert result.per_joint["all"].pck == pytest.approx(51 / 55)
    assert result.metrics["AP"] < 1


def test_scores_rank_people_and_none_leaves_the_box_score(evaluation_set: EvaluationSet) -> None:
    answers = true_answers(evaluation_set)
    score = np.tile([[0.9], [0.5], [0.1], [2.0]], (1, 17))
    score[0, :7] = -1.0
    with_score = evaluate_set(AnswerKey(answers, score), evaluation_set)
    assert [r["score"] for r in with_score.results] == pytest.approx([0.9, 0.5, 2.0, 0.0]), "best first in each image"
    assert with_score.protocol["pose_score"] == "box score x mean keypoint score above 0.2"
    without = evaluate_set(AnswerKey(answers), evaluation_set)
    assert [r["score"] for r in without.results] == [1.0] * 4
    assert without.protocol["pose_score"] == "box score"


def detection(image_id: int, box_xywh: list[float], score: float, category_id: int = 1) -> dict[str, Any]:
    return {"image_id": image_id, "bbox": box_xywh, "score": score, "category_id": category_id}


def test_detections_replace_the_boxes(
    evaluation_set: EvaluationSet, annotations: Path, images: Path, write: Write
) -> None:
    found = write(
        "detections.json",
        [
            detection(9, [150.0, 25.0, 100.0, 160.0], 0.8),
            detection(77, [0.0, 0.0, 50.0, 50.0], 0.9),
            detection(3, [145.0, 15.0, 60.0, 90.0], 0.9),
            detection(9, [155.0, 30.0, 95.0, 150.0], 0.4),
            detection(9, [0.0, 0.0, 9.0, 9.0], 0.7, category_id=18),
        ],
    )
    detected = EvaluationSet.load(annotations, images, MODEL, detections=found)
    assert sorted(zip(detected.boxes.image_id.tolist(), detected.boxes.score.tolist(), strict=True)) == [
        (3, 0.9), (9, 0.4), (9, 0.8),
    ]  # fmt: skip
    true_xy_img = evaluation_set.ground_truth.people.true_xy_img
    right = {3: true_xy_img[1], 9: true_xy_img[2]}
    rows = zip(detected.boxes.image_id.tolist(), detected.transforms, strict=True)
    answers = np.stack([transform.to_norm(right[image_id]) for image_id, transform in rows])
    result = evaluate_set(AnswerKey(answers), detected)
    assert sorted(r["score"] for r in result.results) == [0.8, 0.9], "the second box on the same person is suppressed"
    assert len(evaluate_set(AnswerKey(answers), detected, nms_threshold=1.0).results) == 3
    assert result.metrics["AR"] == pytest.approx(0.5), "two of four people were detected"
    assert result.per_joint["all"] == (pytest.approx(29 / 55), 55)
    assert result.protocol["boxes"] == "detections.json"


def test_a_detector_gives_the_boxes_and_true_boxes_stand_beside(
    evaluation_set: EvaluationSet, annotations: Path, images: Path
) -> None:
    chosen = evaluation_set.ground_truth.people.filter([0, 2])  # of the first of three images, which alone shows people

    def detector() -> Any:
        boxes = iter([chosen.box_xyxy, np.zeros((0, 4)), np.zeros((0, 4))])
        return lambda images: [PersonBoxes(found := next(boxes), np.ones(len(found)))]

    detected = EvaluationSet.load(annotations, images, MODEL, detector=detector())
    pairs = zip(detected.transforms, chosen.true_xy_img, strict=True)
    answers = np.stack([transform.to_norm(xy) for transform, xy in pairs])
    model = AnswerKey(np.concatenate([answers, true_answers(evaluation_set)]))
    result = evaluate_model(model, annotations, images, detector=detector())
    assert result.people_found == {"OKS >= 0.5": 2, "OKS >= 0.75": 2}
    assert result.protocol["people_with_a_box"] == 2
    assert result.with_true_boxes.people_found == {"OKS >= 0.5": 4, "OKS >= 0.75": 4}
    assert result.to_dict()["with_true_boxes"]["AP"] == pytest.approx(1)
    with pytest.raises(ConfigError, match="--detector and --detections stand for the same thing"):
        EvaluateOptions(annotations=annotations, images=images, detector="auto", detections="boxes.json")


def test_a_results_file_gives_the_numbers_it_was_written_with(
    evaluation_set: EvaluationSet, annotations: Path, tmp_path: Path
) -> None:
    answers = true_answers(evaluation_set) + np.random.default_rng(0).normal(0, 0.04, (4, 17, 2))
    result = evaluate_set(AnswerKey(answers, np.full((4, 17), 0.7)), evaluation_set)
    assert 0.1 < result.metrics["AP"] < 0.9
    write_evaluation(result, tmp_path / "new" / "out")
    again = evaluate_predictions(tmp_path / "new" / "out" / "results_keypoints.json", annotations)
    assert again.metrics == result.metrics
    assert again.per_joint == result.per_joint
    written = json.loads((tmp_path / "new" / "out" / "metrics.json").read_text())
    assert {name: written[name] for name in result.metrics} == result.metrics
    assert written["per_joint"]["nose"] == {"PCK@0.2": result.per_joint["nose"].pck, "labeled": 4}
    assert written["PCK@0.2"] == result.per_joint["all"].pck
    assert written["by_size"]["large"] == {"AP": written["APL"], "AR": written["ARL"], "people": 1}
    assert written["protocol"]["boxes"] == "ground truth"


def test_kept_crops_need_no_images_the_second_time(annotations: Path, images: Path) -> None:
    kept = EvaluationSet.load(annotations, images, MODEL, keep_crops=True)
    normalization = AnswerKey(np.zeros(0)).description.normalization
    next(kept.batches(1, normalization))  # an interrupted pass keeps nothing
    first = list(kept.batches(3, normalization))
    shutil.rmtree(images)
    second = list(kept.batches(3, normalization))
    assert [batch.shape for batch in first] == [(3, 3, 256, 192), (1, 3, 256, 192)]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert first[0].std() > 0.1


def test_a_person_without_a_box_in_the_image_is_missed(
    document: Document, images: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    document["annotations"][0]["bbox"] = [400.0, 10.0, 50.0, 50.0]
    evaluation_set = EvaluationSet.load(write("gt.json", document), images, MODEL)
    assert "1 people have no box inside the image" in caplog.text
    result = evaluate_set(AnswerKey(true_answers(evaluation_set)), evaluation_set)
    assert len(evaluation_set) == result.counts["results"] == 3
    assert result.per_joint["all"] == (pytest.approx(38 / 55), 55)


def test_nobody_to_look_at_gives_zero(document: Document, images: Path, write: Write) -> None:
    for annotation in document["annotations"]:
        annotation["bbox"] = [400.0, 10.0, 50.0, 50.0]
    nobody = EvaluationSet.load(write("gt.json", document), images, MODEL)
    result = evaluate_set(AnswerKey(np.zeros((0, 17, 2))), nobody)
    assert result.metrics == dict.fromkeys(result.metrics, 0.0)
    assert result.results == ()


def test_sets_and_models_that_do_not_fit_are_refused(annotations: Path, images: Path) -> None:
    small = EvaluationSet.load(annotations, images, replace(MODEL, input_size_hw=(128, 96)))
    with pytest.raises(ConfigError, match=r"\(256, 192\) .*, the evaluation set was loaded for \(128, 96\)"):
        evaluate_set(AnswerKey(np.zeros((4, 17, 2))), small)
    body = replace(COCO_17, name="body", keypoint_names=tuple(f"k{k}" for k in range(17)))
    other = EvaluationSet(
        small.ground_truth, dict.fromkeys((3, 9), annotations), small.boxes, replace(MODEL, skeleton=body)
    )
    with pytest.raises(ConfigError, match=r"keypoints of coco_17, the evaluation set was loaded for .* and body"):
        evaluate_set(AnswerKey(np.zeros((4, 17, 2))), other)
    with pytest.raises(ConfigError, match="got 'sideways'"):
        evaluate_set(AnswerKey(np.zeros((4, 17, 2))), small, flip_test="sideways")  # type: ignore[arg-type]


def test_missing_and_foreign_images_are_refused(
    annotations: Path, images: Path, document: Document, write: Write
) -> None:
    with pytest.raises(DatasetError, match=r"image_3.png does not exist \(2 of 2 images .*--images"):
        EvaluationSet.load(annotations, images / "elsewhere", MODEL)
    document["images"][0]["height"] = 201
    wrong = EvaluationSet.load(write("gt.json", document), images, MODEL)
    with pytest.raises(
        DatasetError, match=r"image_9.png is of height and width \(200, 300\), its annotations are of \(201, 300\)"
    ):
        evaluate_set(AnswerKey(np.zeros((4, 17, 2))), wrong)
    del document["images"][0]["height"]
    with pytest.raises(DatasetError, match="image 9 needs a positive whole height and width"):
        EvaluationSet.load(write("gt.json", document), images, MODEL)
    del document["images"][0]["file_name"]
    with pytest.raises(DatasetError, match="image 9 has no file_name"):
        EvaluationSet.load(write("gt.json", document), images, MODEL)


def test_broken_images_are_found_before_and_left_out_if_asked_for(
    document: Document, images: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    cut = images / "image_9.png"
    cut.write_bytes(cut.read_bytes()[:-500])
    (images / "image_5.png").unlink()  # which shows nobody
    document["annotations"][5]["bbox"] = [1.0]
    file = write("gt.json", document)
    options = {"description": MODEL, "check_images": True}
    with pytest.raises(DatasetError, match="expected 4 finite numbers in bbox"):
        EvaluationSet.load(file, images, **options)
    left = EvaluationSet.load(file, images, skip_invalid=True, **options)
    assert left.ground_truth.people.image_id.tolist() == left.boxes.image_id.tolist() == [3]
    assert list(left.ground_truth.images) == [3, 5]
    assert "skipped: " in caplog.text
    assert "image_9.png cannot be read" in caplog.text
    result = evaluate_set(AnswerKey(true_answers(left)), left)
    assert (result.metrics["AP"], result.counts["people"]) == (pytest.approx(1), 1)
    document["annotations"].pop()
    message = r"1 of 2 images cannot be used:\n.*image_9.png cannot be read.*\nReplace them, or pass --skip-invalid"
    with pytest.raises(DatasetError, match=message):
        EvaluationSet.load(write("gt.json", document), images, **options)
    cut.unlink()
    with pytest.raises(DatasetError, match=r"image_9.png does not exist \(1 of 2 images .*data.validation.images"):
        EvaluationSet.load(write("gt.json", document), images, **options)


def test_of_many_broken_images_twenty_are_named(document: Document, images: Path, write: Write) -> None:
    for number in range(100, 130):
        name = f"broken_{number}.png"
        (images / name).write_text("no image")
        document["images"].append({"id": number, "file_name": name, "height": 200, "width": 300})
        document["annotations"].append(document["annotations"][0] | {"id": number, "image_id": number})
    with pytest.raises(DatasetError) as found:
        EvaluationSet.load(write("gt.json", document), images, MODEL, check_images=True)
    first, *shown, more, remedy = str(found.value).splitlines()
    assert "30 of 32 images cannot be used" in first
    assert len(shown) == 20
    assert (more, remedy[:12]) == ("  ... and 10 more", "Replace them")


def test_images_without_name_or_size_are_left_out_if_asked_for(
    document: Document, images: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    del document["images"][0]["height"]
    del document["images"][2]["file_name"]  # which shows nobody
    file = write("gt.json", document)
    with pytest.raises(DatasetError, match="image 5 has no file_name"):
        EvaluationSet.load(file, images, MODEL)
    left = EvaluationSet.load(file, images, MODEL, skip_invalid=True)
    assert left.ground_truth.people.image_id.tolist() == [3, 3]
    assert {entry["image_id"] for entry in left.ground_truth.coco["annotations"]} == {3}
    assert "image 9 needs a positive whole height and width" in caplog.text
    assert "not among the images" not in caplog.text


def test_detections_of_other_images_are_refused(annotations: Path, images: Path, write: Write) -> None:
    found = write("detections.json", [detection(77, [0.0, 0.0, 50.0, 50.0], 0.9)])
    with pytest.raises(DistilPoseError, match=r"detections.json: none of its 1 boxes"):
        EvaluationSet.load(annotations, images, MODEL, detections=found)


def test_evaluate_files_reads_results_alone(
    annotations: Path, perfect_results: list[dict[str, Any]], write: Write, tmp_path: Path
) -> None:
    predictions = write("mine.json", perfect_results)
    result = evaluate_files(
        EvaluateOptions(annotations=str(annotations), predictions=str(predictions), out=tmp_path / "out")
    )
    assert result.metrics["AP"] == pytest.approx(1)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"]["predictions"] == "mine.json"
    empty = evaluate_files(EvaluateOptions(annotations=annotations, predictions=write("empty.json", [])))
    assert empty.metrics == dict.fromkeys(result.metrics, 0.0)
    assert empty.per_joint["all"] == (0.0, 55)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected --images, or --predictions alone"),
        ({"model": "m.safetensors"}, "expected --images"),
        ({"predictions": "p.json", "model": "m.safetensors"}, "alone, got --model as well"),
        ({"predictions": "p.json", "flip_test": "aligned"}, "alone, got --flip-test as well"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(annotations: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_files(EvaluateOptions(annotations=annotations, **options))


def test_an_unusable_out_is_refused_before_the_work(annotations: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be written .*: expected a folder that can be written to"):
        evaluate_files(EvaluateOptions(annotations="not read yet", predictions="nor this", out=annotations))


RESULT_FAULTS: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], str]] = {
    "foreign image": (lambda r: r[1].update(image_id=4), r"result 1: image_id 4 is not among the images of .*\.json"),
    "no image": (lambda r: r[0].update(image_id=None), "image_id None is not among.*predict with --annotations"),
    "another image": (lambda r: r[0].update(image="x/b.jpg"), "image x/b.jpg is not .* which has image_id"),
    "no score": (lambda r: r[0].pop("score"), "result 0 has no score"),
    "no person": (lambda r: r.insert(0, 7), "result 0 has no image_id, category_id, keypoints, score"),
    "a dog": (lambda r: r[0].update(category_id=18), "expected category_id 1"),
    "short": (lambda r: r[0].update(keypoints=[1.0] * 34), "17 times x, y, score.*34 entries"),
    "nan": (lambda r: r[0].update(score=float("nan")), "finite score, got nan"),
}


@pytest.mark.parametrize("case", RESULT_FAULTS)
def test_broken_results_are_refused_by_name(
    case: str, annotations: Path, perfect_results: list[dict[str, Any]], write: Write
) -> None:
    spoil, message = RESULT_FAULTS[case]
    spoil(perfect_results)
    with pytest.raises(DatasetError, match=f"(?s)mine.json: .*{message}"):
        evaluate_predictions(write("mine.json", perfect_results), annotations)


def test_ground_truth_in_place_of_results_is_refused(annotations: Path) -> None:
    with pytest.raises(DatasetError, match=r"a list of people, got dict.*the ground truth goes to --annotations"):
        evaluate_predictions(annotations, annotations)


def test_the_table_shows_percent_and_dashes(
    document: Document, perfect_results: list[dict[str, Any]], write: Write
) -> None:
    for annotation in document["annotations"]:
        annotation["area"] = 100.0**2
        annotation["keypoints"][-3:] = [0, 0, 0]
    result = evaluate_predictions(write("mine.json", perfect_results), write("gt.json", document))
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(metrics_table(result))
    rows = [line.split("│") for line in console.export_text().splitlines() if line.startswith("│")]
    lines = {name.strip(): value.strip() for _, name, value, _ in rows}
    assert lines["AP"] == "100.0"
    assert lines["APM"] == "-"
    assert lines["people, OKS >= 0.75"] == "4 of 4"
    assert lines["PCK@0.2 nose"] == "100.0"
    assert lines["PCK@0.2 right_ankle"] == "-"
    assert set(COCO_17.keypoint_names) <= {name.removeprefix("PCK@0.2 ") for name in lines}


def test_numbers_that_are_not_finite_are_refused(evaluation_set: EvaluationSet) -> None:
    with pytest.raises(InputError, match="xy must be finite"):
        evaluate_set(AnswerKey(np.full((4, 17, 2), np.nan)), evaluation_set)
