"""Something that is no person, all the way: train, evaluate, predict, export, serve; and the docs' walk-through."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import draw_beetles
from distilpose import PosePredictor, PoseResult, load_model
from distilpose.backends.checkpoint import describe, read_description, save_checkpoint
from distilpose.cli import main as cli
from distilpose.data.images import read_image, write_image
from distilpose.data.labels import skeleton_of_file
from distilpose.errors import ConfigError, DatasetError
from distilpose.evaluation.evaluate import EvaluateOptions, evaluate_files
from distilpose.models import create_model
from distilpose.skeletons import COCO_17, CROWDPOSE_14, LSP_14, skeleton_from_file
from distilpose.training.config import train_config_from
from distilpose.training.data import TrainingData
from distilpose.training.train import train
from distilpose.video.tracking import PoseTracker
from synthetic_people import write_synthetic_dataset

ROOT = Path(__file__).parents[2]
SMALL = {"input_size_hw": [64, 48], "patch_size_hw": [4, 3], "dim": 16, "depth": 1, "num_heads": 2}
LAMP_YAML = """
name: lamp
keypoints: [base, elbow, bulb, left_screw, right_screw]
edges: [[base, elbow], [elbow, bulb]]
oks_sigmas: 0.08
upper_body: [bulb, left_screw, right_screw]
lower_body: [base, elbow]
"""
COUNT = 5


class Lamps(NamedTuple):
    """A folder with lamps, and a student trained on them for a moment."""

    folder: Path
    weights: Path


def write_lamps(folder: Path, count: int = 8) -> None:
    """Images of three bright dots and two faint ones, and labels without boxes and areas."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        rng = np.random.default_rng(number)
        xy = np.array([[30, 80], [35, 50], [60, 30], [30, 55], [40, 55]]) + rng.integers(-8, 8, 2)
        image = np.full((100, 100, 3), 30, dtype=np.uint8)
        for x, y in xy:
            image[y - 2 : y + 3, x - 2 : x + 3] = 220
        write_image(folder / "images" / f"{number}.png", image)
        images.append({"id": number, "file_name": f"{number}.png", "height": 100, "width": 100})
        keypoints = [int(v) for point in xy for v in (*point, 2)]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "keypoints": keypoints})
    names = ["base", "elbow", "bulb", "left_screw", "right_screw"]
    category = {"id": 1, "name": "lamp", "keypoints": names, "skeleton": [[1, 2], [2, 3]]}
    document = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "keypoints.json").write_text(json.dumps(document))
    (folder / "lamp.yaml").write_text(LAMP_YAML)


def config(root: Path, out: Path, datasets: list[dict[str, Any]], **data: Any) -> Any:
    """A run of two steps."""
    return train_config_from(
        {
            "out": str(out),
            "model_options": SMALL,
            "epochs": 1,
            "data": {"root": str(root), "train": datasets, "batch_size": 4, "workers": 0, **data},
        }
    )


SET = {"annotations": "keypoints.json", "images": "images"}


@pytest.fixture(scope="module")
def lamps(tmp_path_factory: pytest.TempPathFactory) -> Lamps:
    folder = tmp_path_factory.mktemp("lamps")
    write_lamps(folder)
    run = train(config(folder, folder / "run", [SET], skeleton="lamp.yaml", validation=SET))
    assert run.best is not None
    return Lamps(folder, run.best)


def test_a_checkpoint_knows_its_skeleton(lamps: Lamps) -> None:
    skeleton = describe(load_model(lamps.weights)).skeleton
    assert skeleton == skeleton_from_file(lamps.folder / "lamp.yaml")
    assert skeleton.flip_pairs == ((3, 4),)


def test_without_a_name_the_first_set_says_what_its_keypoints_are(lamps: Lamps, tmp_path: Path) -> None:
    run = train(config(lamps.folder, tmp_path / "run", [SET]))
    skeleton = read_description(run.last).skeleton
    assert (skeleton.name, skeleton.edges) == ("lamp", ((0, 1), (1, 2)))


def test_a_number_of_keypoints_that_is_not_the_skeleton_s_is_refused(lamps: Lamps, tmp_path: Path) -> None:
    wrong = config(lamps.folder, tmp_path / "run", [SET])
    wrong.model_options["num_keypoints"] = 17
    with pytest.raises(ConfigError, match="num_keypoints is 17, the skeleton lamp has 5"):
        train(wrong)
    with pytest.raises(DatasetError, match="name the skeleton they belong to"):
        train(config(lamps.folder, tmp_path / "other", [SET], skeleton="mpii_16"))
    with pytest.raises(ConfigError, match="mapping needs the skeleton"):
        train(config(lamps.folder, tmp_path / "other", [{**SET, "mapping": {"base": "bulb"}}]))


def test_a_teacher_with_other_names_for_its_keypoints_is_refused(lamps: Lamps, tmp_path: Path) -> None:

    lamp = skeleton_from_file(lamps.folder / "lamp.yaml")
    names = tuple(f"point_{index}" for index in range(COUNT))
    other = replace(lamp, name="pmal", keypoint_names=names, flip_pairs=())
    teacher = create_model("tokenpose_s", num_keypoints=COUNT, head_hidden=8, **SMALL)
    save_checkpoint(teacher, tmp_path / "teacher.safetensors", skeleton=other)
    run = config(lamps.folder, tmp_path / "run", [SET], skeleton="lamp.yaml")
    run.teacher = str(tmp_path / "teacher.safetensors")
    with pytest.raises(ConfigError, match=r"teacher\.safetensors: no keypoint of pmal .* has the name of one of lamp"):
        train(run)
    save_checkpoint(teacher, tmp_path / "teacher.safetensors", skeleton=lamp)
    assert train(run).last.exists()


def test_evaluate_report_and_predict(lamps: Lamps, tmp_path: Path, capsys, monkeypatch) -> None:
    annotations, images = str(lamps.folder / "keypoints.json"), str(lamps.folder / "images")
    model = ["--model", str(lamps.weights), "--flip-test", "aligned"]
    evaluate = ["evaluate", *model, "--annotations", annotations, "--images", images, "--out", str(tmp_path / "e")]
    assert cli.main([*evaluate, "--report", str(tmp_path / "report")]) == 0
    joints = json.loads((tmp_path / "e" / "metrics.json").read_text())["per_joint"]
    assert list(joints) == ["base", "elbow", "bulb", "left_screw", "right_screw"]
    assert "left screw" in (tmp_path / "report" / "report.html").read_text()
    again = ["evaluate", "--predictions", str(tmp_path / "e" / "results_keypoints.json"), "--annotations", annotations]
    assert cli.main([*again, "--out", str(tmp_path / "again")]) == 0
    first, second = (json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("e", "again"))
    assert first["AP"] == second["AP"]
    assert (first["protocol"]["skeleton"], first["protocol"]["oks_constants"]) == ("lamp", 0.08)
    assert second["protocol"]["oks_constants"] == 0.072  # the file says nothing of them
    monkeypatch.setattr("distilpose.evaluation.evaluate._predict", None)  # not reached
    with pytest.raises(ConfigError, match="needs shoulders and hips"):
        evaluate_files(
            EvaluateOptions(annotations=annotations, images=images, model=lamps.weights, metrics=["pck_torso"])
        )

    predict = ["predict", images, "--model", str(lamps.weights), "--out", str(tmp_path / "p")]
    assert cli.main([*predict, "--detector", "whole-image", "--style", "labels"]) == 0
    rows = json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert len(rows) == 8
    assert all(len(row["keypoints"]) == 3 * COUNT for row in rows)
    assert len(list((tmp_path / "p").glob("*.jpg"))) == 8
    capsys.readouterr()
    assert cli.main(predict) != 0
    assert "no person, and the detector auto finds people only" in capsys.readouterr().err
    assert cli.main([*predict, "--detector", "whole-image", "--anonymize"]) != 0
    assert "lamp has none" in capsys.readouterr().err


def test_half_bodies_that_are_never_drawn_are_said(lamps: Lamps, caplog: pytest.LogCaptureFixture) -> None:
    for least, said in ((8, True), (4, False)):
        run = config(lamps.folder, lamps.folder, [SET], skeleton="lamp.yaml")
        run = replace(run, augment=replace(run.augment, half_body_min_keypoints=least))
        caplog.clear()
        TrainingData(run, read_description(lamps.weights))
        assert ("lamp has 5 keypoints" in caplog.text) == said


def test_sets_with_other_keypoints_are_learned_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_synthetic_dataset(tmp_path / "coco", 6, seed=1, max_people=1)
    document = json.loads((tmp_path / "coco" / "person_keypoints.json").read_text())
    places = [COCO_17.keypoint_names.index(name) for name in LSP_14.keypoint_names[:12]]
    for person in document["annotations"]:
        grid = np.array(person["keypoints"]).reshape(17, 3)
        person["keypoints"] = [*grid[places].ravel().tolist(), *[0.0] * 6]
        del person["num_keypoints"]
    document["categories"][0] = {"id": 1, "name": "person", "keypoints": list(LSP_14.keypoint_names)}
    (tmp_path / "lsp.json").write_text(json.dumps(document))
    coco = {"annotations": "coco/person_keypoints.json", "images": "coco/images"}
    lsp = {"annotations": "lsp.json", "images": "coco/images", "skeleton": "lsp_14"}
    run = train(config(tmp_path, tmp_path / "run", [coco, lsp], validation=lsp, skeleton="coco_17"))
    assert "lsp.json does not label nose, left_eye" in caplog.text
    caplog.clear()
    images = tmp_path / "coco" / "images"
    evaluate_files(EvaluateOptions(annotations=tmp_path / "lsp.json", images=images, model=run.last, skeleton="lsp_14"))
    assert "lsp.json does not label nose, left_eye" in caplog.text
    assert read_description(run.last).skeleton == COCO_17
    assert run.best_ap is not None
    mapped = {**lsp, "mapping": {"head": "head_top", "neck": "neck"}}
    other = config(tmp_path, tmp_path / "crowd", [mapped], skeleton="crowdpose_14")
    assert read_description(train(other).last).skeleton == CROWDPOSE_14


@pytest.mark.slow
def test_export_serve_and_browser_manifest(lamps: Lamps, tmp_path: Path) -> None:
    from urllib.request import Request, urlopen

    from background_server import BackgroundServer
    from distilpose.backends.exported import OnnxRuntimeBackend
    from distilpose.export.export import export_model
    from distilpose.serving.options import ServeOptions
    from distilpose.serving.server import PoseServer
    from distilpose.serving.web import model_entry

    file = tmp_path / "lamp.onnx"
    assert export_model(lamps.weights, file).description.skeleton.name == "lamp"
    entry = model_entry(OnnxRuntimeBackend(file).description)["skeleton"]
    assert (entry["keypoint_names"][-1], entry["sides"][3:]) == ("right_screw", ["left", "right"])

    server = PoseServer(ServeOptions(model=file, port=0))
    image = (lamps.folder / "images" / "1.png").read_bytes()
    with BackgroundServer(server):
        with urlopen(f"{server.address}/v1/model") as answer:  # noqa: S310 - our own server
            card = json.load(answer)
        request = Request(f"{server.address}/v1/predict", data=image, headers={"Content-Type": "image/png"})  # noqa: S310
        with urlopen(request) as answer:  # noqa: S310
            people = json.load(answer)["people"]
    assert (card["skeleton"], card["flip_pairs"], card["oks_sigmas"]) == ("lamp", [[3, 4]], [0.08] * COUNT)
    assert [len(person["keypoints"]) for person in people] == [3 * COUNT]
    with pytest.raises(ConfigError, match="finds people only"):
        PoseServer(ServeOptions(model=file, port=0, detector="auto"))


def test_the_file_of_beetles_says_all_of_their_skeleton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["draw_beetles.py", "--out", str(tmp_path), "--train", "1", "--test", "1"])
    draw_beetles.main()
    beetle = skeleton_from_file(tmp_path / "beetle.yaml")
    assert skeleton_of_file(tmp_path / "test" / "keypoints.json") == beetle


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_walk_through_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    page = (ROOT / "docs" / "custom_skeleton.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    for folder in ("examples", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    ran = []
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        ran.append(arguments[0])
        if program == "distilpose":
            assert cli.main(arguments) == 0, line
        else:
            assert program == "python"
            subprocess.run([sys.executable, *arguments], check=True)
    assert ran == ["examples/draw_beetles.py", "train", "evaluate", "predict"]
    metrics = json.loads((tmp_path / "beetles" / "evaluation" / "metrics.json").read_text())
    # The mean pose of the training images, put into each box, has AP 0.03 and PCK 0.80.
    assert metrics["AP"] > 0.3
    assert metrics["PCK@0.2"] > 0.95
    drawn = sorted((tmp_path / "beetles" / "poses").glob("*.jpg"))
    assert len(drawn) == 20
    for file in drawn:
        image = read_image(tmp_path / "beetles" / "test" / "images" / f"{file.stem}.png").astype(int)
        changed = (abs(read_image(file) - image) > 60).any(axis=-1)
        assert changed.sum() > 100, f"nothing is drawn on {file.name}"


def test_tracking_smoothing_and_tables_know_no_number_of_keypoints(lamps: Lamps) -> None:
    predictor = PosePredictor(lamps.weights)
    image = np.full((100, 100, 3), 90, dtype=np.uint8)
    result = predictor(image, [[10, 10, 80, 95]])
    assert result.xy.shape == (1, COUNT, 2)
    assert PoseResult.from_dict(result.to_dict()).skeleton == result.skeleton
    assert result.draw(image).shape == image.shape
    tracker = PoseTracker()
    for frame in range(3):
        assert tracker.update(result, frame / 25).xy.shape[1] == COUNT
    with pytest.raises(ConfigError, match="lamp has none"):
        result.blur_faces(image)
