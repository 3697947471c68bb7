"""What a run needs is looked for before it starts."""

import json
from pathlib import Path

import pytest

from distilpose.backends.checkpoint import describe
from distilpose.cli import main as cli
from distilpose.errors import ConfigError
from distilpose.models import create_model
from distilpose.skeletons import COCO_17
from distilpose.training.ablation import AblationConfig, Variant, ablate
from distilpose.training.config import train_config_from
from distilpose.training.data import check_files, files_of, find_model_skeleton, load_validation_set
from synthetic_people import write_synthetic_dataset

ROOT = Path(__file__).parents[2]


def config(root: Path, **fields: object) -> dict[str, object]:
    sets = {"annotations": "person_keypoints.json", "images": "images"}
    return {"data": {"root": str(root), "train": [sets], "validation": sets}, **fields}


def test_missing_files_are_named_with_the_command_that_writes_them(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(ROOT)
    write_synthetic_dataset(tmp_path, 2)
    run = train_config_from(config(tmp_path, out=str(tmp_path / "run"), teacher="runs/real/teacher/last.safetensors"))
    told = r"teacher/last.safetensors \(teacher\): run first  distilpose train configs/real/2_teacher.yaml"
    with pytest.raises(ConfigError, match=told):
        check_files({"run": files_of(run)})


def test_teachers_in_mappings_and_ensembles_count_and_hub_ids_do_not(tmp_path) -> None:
    write_synthetic_dataset(tmp_path, 2)
    members = [{"kind": "onnx", "file": "a.onnx"}, {"kind": "vitpose", "model": "usyd/vitpose"}, "b.safetensors"]
    run = train_config_from(
        config(tmp_path, out="run", teacher={"kind": "ensemble", "members": members}, init="imagenet")
    )
    missing = [str(path) for path, _ in files_of(run) if not path.exists()]
    assert missing == ["a.onnx", "b.safetensors"]


def test_files_of_other_programs_among_the_configurations_are_passed_over(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    write_synthetic_dataset(tmp_path, 2)
    for name, content in (("a.yaml", "größe: 1\n".encode("latin-1")), ("c.yaml", b"out: runs/teacher\n")):
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / name).write_bytes(content)
    (tmp_path / "configs" / "b.yaml").mkdir()
    run = train_config_from(config(tmp_path, out="run", teacher="runs/teacher/last.safetensors"))
    with pytest.raises(ConfigError, match=r"\(teacher\): run first  distilpose train configs/c.yaml"):
        check_files({"run": files_of(run)})


def test_members_of_an_ensemble_that_are_no_list_are_left_to_the_check(tmp_path) -> None:
    write_synthetic_dataset(tmp_path, 2)
    run = train_config_from(config(tmp_path, out="run", teacher={"kind": "ensemble", "members": 3}))
    check_files({"run": files_of(run)})
    with pytest.raises(ConfigError, match=r"teacher \(ensemble\)"):
        run.check()


def test_of_a_file_with_several_categories_the_named_one_is_trained_and_measured(tmp_path) -> None:
    write_synthetic_dataset(tmp_path, 4)
    file = tmp_path / "person_keypoints.json"
    document = json.loads(file.read_text())
    document["categories"].append({"id": 2, "name": "lamp", "keypoints": ["bulb"], "skeleton": []})
    statue = document["categories"][0] | {"id": 3, "name": "statue"}
    document["categories"].append(statue)
    document["annotations"][0]["category_id"] = 3
    file.write_text(json.dumps(document))
    values = config(tmp_path, out="run")
    for name in ("train", "validation"):
        values["data"][name] = values["data"]["validation"] | {"category": "person"}
    values["data"]["train"] = [values["data"]["train"]]
    run = train_config_from(values)
    skeleton = find_model_skeleton(run.data)
    assert skeleton is COCO_17
    people = load_validation_set(run, describe(create_model("distilpose_s"), skeleton=skeleton))
    assert len(people.ground_truth.people) == len(document["annotations"]) - 1


def test_a_sweep_without_its_teacher_stops_at_once(tmp_path) -> None:
    write_synthetic_dataset(tmp_path, 2)
    variants = [Variant("alone"), *(Variant(f"v{i}", {"teacher": str(tmp_path / "no.safetensors")}) for i in range(3))]
    sweep = AblationConfig(str(tmp_path / "out"), config(tmp_path), variants, "alone")
    with pytest.raises(ConfigError, match=r"3 of 4 runs need files that are not there"):
        ablate(sweep)
    assert not (tmp_path / "out").exists()


def test_what_another_run_of_the_sweep_writes_is_no_missing_file(tmp_path) -> None:
    write_synthetic_dataset(tmp_path, 2)
    own = tmp_path / "out" / "first" / "seed0" / "last.safetensors"
    run = train_config_from(config(tmp_path, out="x", teacher=str(own)))
    check_files({"second": files_of(run)}, made=tmp_path / "out")
    with pytest.raises(ConfigError):
        check_files({"second": files_of(run)})


def test_the_command_line_says_what_to_draw_first(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", str(ROOT / "configs" / "quickstart" / "student_alone.yaml")]) == 1
    told = capsys.readouterr().err
    assert "demo/data/train/person_keypoints.json (annotations)" in told
    assert "first lines of the configuration" in told
