"""The report as a browser meets it, and what it says of models that give less."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distilpose.errors import ConfigError, DistilPoseError, InputError
from distilpose.evaluation.evaluate import (
    EvaluateOptions,
    EvaluationResult,
    evaluate_files,
    evaluate_model,
    evaluate_predictions,
)
from distilpose.evaluation.metrics.diagnosis import diagnose
from distilpose.evaluation.report.charts import best_and_worst
from distilpose.evaluation.report.report import report_page, write_report
from distilpose.models import create_model
from synthetic_people import write_synthetic_dataset

VOID = {"meta", "br", "link", "img"}
Write = Callable[[str, Any], Path]


class Page(HTMLParser):
    """What stands in a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.addresses, self.tags, self._open = "", [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def of(self, kind: str) -> list[str]:
        """The addresses of images of one kind."""
        return [address for address in self.addresses if address.startswith(f"data:image/{kind}")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "srcset")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self._open else ""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_synthetic_dataset(folder, 6, seed=3)
    return folder


def evaluated(drawn: Path, **options: Any) -> EvaluationResult:
    model = create_model("distilpose_s", input_size_hw=(64, 48), dim=16, depth=1, **options)
    return evaluate_model(model, drawn / "person_keypoints.json", drawn / "images")


@pytest.fixture(scope="module")
def result(drawn: Path) -> EvaluationResult:
    return evaluated(drawn)


@pytest.fixture(scope="module")
def markup(result: EvaluationResult, drawn: Path) -> str:
    return report_page(result, drawn / "images")


def noisy_results(document: dict[str, Any], spread: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    people = [entry for entry in document["annotations"] if entry["num_keypoints"]]
    results = []
    for entry in people:
        keypoints = np.array(entry["keypoints"]).reshape(17, 3)
        keypoints += rng.normal(0, spread, keypoints.shape) * [1, 1, 0.1]
        results.append({"image_id": entry["image_id"], "category_id": 1, "keypoints": keypoints.ravel().tolist()})
        results[-1]["score"] = float(rng.random())
    return results


def test_the_page_holds_the_numbers_and_needs_nothing_else(result: EvaluationResult, markup: str) -> None:
    page = Page(markup)
    assert "Evaluation of distilpose_s" in page.text
    for name, value in result.metrics.items():
        assert f"\n{name}{'-' if value < 0 else f'{100 * value:.1f}'}\n" in page.text
    for name, joint in result.per_joint.items():
        assert f"{name.replace('_', ' ')}{100 * joint.pck:.1f}" in page.text
    assert "ground truth" in page.text
    assert page.addresses
    assert all(re.match(r"data:image/(jpeg|svg\+xml);base64,", address) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "http:" not in markup
    assert "https:" not in markup
    assert not re.search(r"url\(|@import", markup)
    assert "prefers-color-scheme: dark" in markup
    assert "width=device-width" in markup


def test_images_can_be_decoded_and_are_small(result: EvaluationResult, markup: str) -> None:
    addresses = Page(markup).of("jpeg")
    best, worst = best_and_worst(result.people, diagnose(result.people), 8)
    assert len(addresses) == len(best) + len(worst) > 2
    for address in addresses:
        jpeg = base64.b64decode(address.partition(",")[2])
        assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (240, 484, 3)
        assert len(jpeg) < 100_000


def test_the_best_come_first_and_nobody_twice(document: dict[str, Any], write: Write) -> None:
    predictions = write("mine.json", noisy_results(document, 4))
    compared = evaluate_predictions(predictions, write("gt.json", document)).people
    diagnosis = diagnose(compared)
    best, worst = best_and_worst(compared, diagnosis, 8)
    assert (len(best), len(worst)) == (2, 2)
    assert sorted([*best, *worst]) == [0, 1, 2, 3]
    ranked = diagnosis.oks[[*best, *worst[::-1]]]
    assert (np.diff(ranked) <= 0).all()
    few = compared.labeled & (np.arange(17) < 5)
    assert len(best_and_worst(replace(compared, labeled=few), diagnosis, 8)[0]) == 0, "too few labels to judge"


def test_a_model_that_gives_less_is_reported_openly_and_text_of_files_stays_text(markup: str, drawn: Path) -> None:
    assert "nothing to check" not in Page(markup).text
    bare = evaluated(drawn, num_sigmas=0, with_score=False)
    evil = '<script src="https://evil.example/x.js"></script>"'
    names = np.array([f"../images/{name}" for name in bare.people.file_name])
    spoilt = replace(bare, protocol={"model": evil, evil: evil}, people=replace(bare.people, file_name=names))
    page = Page(report_page(spoilt, drawn / "images"))
    assert "these predictions carry no keypoint scores" in page.text
    assert "these predictions carry no sigma" in page.text
    assert "script" not in page.tags
    assert evil in page.text
    assert all(address.startswith("data:") for address in page.addresses)


def test_no_predictions_still_make_a_page(annotations: Path, images: Path, write: Write, tmp_path: Path) -> None:
    options = {"annotations": annotations, "predictions": write("empty.json", [])}
    evaluate_files(EvaluateOptions(**options, report=tmp_path / "a"))
    evaluate_files(EvaluateOptions(**options, report=tmp_path / "b", images=images))
    without, with_images = (Page((tmp_path / name / "report.html").read_text()) for name in "ab")
    assert without.of("jpeg") == with_images.of("jpeg") == []
    assert "people without a prediction4" in without.text.replace("\n", "")
    assert "No images: the evaluation was run without --images." in without.text
    assert "nobody with enough labeled keypoints has a prediction" in with_images.text


def test_a_results_file_has_scores_but_no_sigma_and_undefined_numbers_are_dashes(
    document: dict[str, Any], images: Path, write: Write, tmp_path: Path
) -> None:
    for annotation in document["annotations"]:
        annotation["area"] = 100.0**2
        annotation["keypoints"][-3:] = [0, 0, 0]
    predictions, annotations = write("mine.json", noisy_results(document, 6)), write("gt.json", document)
    evaluate_files(EvaluateOptions(annotations=annotations, predictions=predictions, images=images, report=tmp_path))
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.of("jpeg")) == 4
    assert "Evaluation of mine.json" in page.text
    assert "APM-" in page.text
    assert "right ankle-" in page.text
    assert "the mean distance from the line" in page.text
    assert "these predictions carry no sigma" in page.text
    with pytest.raises(ConfigError, match="alone, got --images as well"):
        evaluate_files(EvaluateOptions(annotations=annotations, predictions=predictions, images=images))


def test_equal_scores_are_no_scores(perfect_results: list[dict[str, Any]], annotations: Path, write: Write) -> None:
    for person in perfect_results:
        person["keypoints"][2::3] = [1.0] * 17
    assert evaluate_predictions(write("mine.json", perfect_results), annotations).people.raw_score is None


def test_detections_keep_score_and_sigma_of_the_matched_result(drawn: Path, write: Write) -> None:
    own = evaluated(drawn)
    boxes = [
        {"image_id": int(i), "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for i, (x1, y1, x2, y2) in zip(own.people.image_id, own.people.box_xyxy.tolist(), strict=True)
    ]
    model = create_model("distilpose_s", input_size_hw=(64, 48), dim=16, depth=1)
    files = (drawn / "person_keypoints.json", drawn / "images")
    found = evaluate_model(model, *files, detections=write("boxes.json", boxes), nms_threshold=1.0)
    matched = found.people
    assert matched.predicted.all()
    for row in range(len(matched)):
        xy = matched.xy_img[row]
        (keypoints,) = [k for k in map(_keypoints, found.results) if np.allclose(k[:, :2], xy)]
        np.testing.assert_allclose(np.clip(matched.raw_score[row], 0, 1), keypoints[:, 2])
    assert matched.sigma_img.shape == matched.xy_img.shape
    assert (matched.sigma_img > 0).all()


def _keypoints(person: dict[str, Any]) -> np.ndarray:
    return np.array(person["keypoints"]).reshape(17, 3)


def test_an_unusable_folder_is_refused(result: EvaluationResult, annotations: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be written .*: expected a folder that can be written to"):
        evaluate_files(EvaluateOptions(annotations="not read yet", predictions="nor this", report=annotations))
    with pytest.raises(InputError, match=r"cannot be written .*: expected a folder that can be written to"):
        write_report(result, annotations)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match=r"report.html cannot be written \(Is a directory\)"):
        write_report(result, tmp_path)


def test_missing_images_are_refused_by_name(result: EvaluationResult, tmp_path: Path) -> None:
    with pytest.raises(DistilPoseError, match=r"\.jpg cannot be read as an image: there is no such file"):
        write_report(result, tmp_path / "out", tmp_path)
