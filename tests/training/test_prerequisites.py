"""What a run needs is looked for before it starts."""

from pathlib import Path

import pytest

from distilpose.cli import main as cli
from distilpose.errors import ConfigError
from distilpose.training.ablation import AblationConfig, Variant, ablate
from distilpose.training.config import train_config_from
from distilpose.training.data import check_files, files_of
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
