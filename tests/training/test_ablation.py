"""Sweeps of runs: trained once, resumed, measured alike, compared."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from distilpose.backends.checkpoint import save_checkpoint
from distilpose.cli import main as cli
from distilpose.errors import ConfigError
from distilpose.models import PoseModel
from distilpose.skeletons import COCO_17
from distilpose.training import ablation
from distilpose.training import train as training
from distilpose.training.ablation import AblationConfig, AblationResult, Row, Variant, ablate, ablation_table


@pytest.fixture
def sweep(make_config, tmp_path: Path) -> AblationConfig:
    """Two variants of one epoch each."""
    base = asdict(make_config("unused", epochs=1))
    del base["out"], base["seed"]
    changed = {"optimizer": {"lr": 1e-4}}
    return AblationConfig(
        str(tmp_path / "sweep"), base, [Variant("plain", seeds=[0, 1]), Variant("Slow & low", changed)], "plain"
    )


def test_every_variant_is_trained_once_measured_and_compared(sweep: AblationConfig) -> None:
    assert [row.name for row in ablate(sweep, only=["Slow & low"]).rows] == ["Slow & low"]
    run = Path(sweep.out) / "slow_low" / "seed0"
    before = (run / "last.safetensors").stat().st_mtime_ns
    result = ablate(sweep)
    assert (run / "last.safetensors").stat().st_mtime_ns == before
    assert not result.failures
    assert [row.name for row in result.rows] == ["plain", "Slow & low"]
    assert [len(row.metrics) for row in result.rows] == [2, 1]
    assert result.rows[0].samples == 16
    assert result.rows[0].minutes is not None
    table, figures, image = result.files
    text = table.read_text()
    assert "| plain | 2 | 16 |" in text
    assert "1. Slow & low: AP" in text
    assert image.stat().st_size > 5000
    with figures.open(newline="") as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["plain", "Slow & low"]
    settings = (run / "settings.json").read_text()
    assert '"lr": 0.0001' in settings
    assert '"schedule": "cosine"' in settings  # untouched by the nested change

    sweep.variants.append(Variant("given", checkpoint=str(run / "last.safetensors")))
    rows = {row.name: row for row in ablate(sweep, only=["given"]).rows}
    assert rows["given"].samples is None
    assert rows["given"].metrics == rows["Slow & low"].metrics
    (run / "metrics.json").unlink()
    sweep.variants[1].changes["optimizer"]["lr"] = 1e-5
    result = ablate(sweep, only=["Slow & low"])
    assert "other settings (optimizer changed)" in result.failures[0]


def test_a_failing_variant_does_not_stop_the_others(sweep: AblationConfig) -> None:
    sweep.variants.insert(0, Variant("broken", {"teacher": "nowhere.safetensors"}))
    result = ablate(sweep, only=["broken", "Slow & low"])
    assert len(result.failures) == 1
    assert "broken, seed 0" in result.failures[0]
    assert [row.name for row in result.rows] == ["Slow & low"]


def test_any_error_is_one_of_its_run_and_broken_files_are_named(
    sweep: AblationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ablation, "train", fail)
    failures = ablate(sweep).failures
    assert [failure.endswith("failed with RuntimeError: out of memory") for failure in failures] == [True] * 3
    run = Path(sweep.out) / "plain" / "seed0"
    (run / "settings.json").write_text("")
    assert "settings.json: expected the settings of a run" in ablate(sweep, only=["plain"]).failures[0]
    for content, message in (("[" * 100_000, "nested too deeply"), ("{}", "expected the metrics AP")):
        (run / "metrics.json").write_text(content)
        with pytest.raises(ConfigError, match=message):
            ablate(sweep)


def test_a_run_that_stopped_before_its_first_state_starts_anew(
    sweep: AblationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("killed")

    sweep.base["epochs"] = 2
    monkeypatch.setattr(training, "write_state", fail)
    assert len(ablate(sweep, only=["Slow & low"]).failures) == 1
    run = Path(sweep.out) / "slow_low" / "seed0"
    assert (run / "last.safetensors").exists()
    assert not (run / "state.ckpt").exists()
    monkeypatch.undo()
    result = ablate(sweep, only=["Slow & low"])
    assert not result.failures
    assert result.rows[0].samples == 2 * 16


def test_runs_are_measured_on_the_keypoints_that_validation_names(
    sweep: AblationConfig, small_model: PoseModel, drawn_data: Path, tmp_path: Path
) -> None:
    names = [f"point {number}" for number in range(17)]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "keypoints": names}))
    document = json.loads((drawn_data / "person_keypoints.json").read_text())
    document["categories"][0]["keypoints"] = names
    (tmp_path / "renamed.json").write_text(json.dumps(document))
    mapping = dict(zip(COCO_17.keypoint_names, names, strict=True))
    renamed = {"annotations": str(tmp_path / "renamed.json"), "skeleton": str(tmp_path / "mine.yaml")}
    save_checkpoint(small_model, tmp_path / "weights.safetensors")
    changes = [{}, {"data": {"validation": renamed | {"mapping": mapping}}}]
    weights = str(tmp_path / "weights.safetensors")
    sweep.variants = [Variant(name, each, checkpoint=weights) for name, each in zip("ab", changes, strict=True)]
    sweep.reference = "a"
    plain, mapped = ablate(sweep).rows
    assert plain.metrics == mapped.metrics
    assert plain.metrics[0]["PCK@0.2"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "nothing"}, "reference must name one of the variants"),
        ({"seeds": []}, "seeds must name at least one, each once, got none"),
        ({"seeds": [1, 2, 1]}, r"^seeds must name at least one, each once, got \[1, 2, 1\]"),
        ({"variants": [Variant("plain", seeds=[])]}, "variant 'plain': seeds must name at least one"),
        ({"variants": [Variant("plain", seeds=[0, 0])]}, r"variant 'plain': seeds .* each once, got \[0, 0\]"),
        ({"variants": [Variant("plain", {"seed": 1})]}, "variant 'plain': seed would have no effect: name 'seeds'"),
        ({"variants": [Variant("plain", {"out": "x"})]}, "variant 'plain': out would have no effect: each run has"),
        ({"variants": [Variant("plain"), Variant("Plain")]}, "different names"),
        ({"variants": [Variant("plain"), Variant("+ plain")]}, "different names in the letters a-z and digits"),
        ({"variants": [Variant("plain"), Variant("评分")]}, "different names in the letters a-z and digits"),
        (
            {"variants": [Variant("plain", {"data": {"validation": None}})]},
            "variant 'plain': expected data.validation, the people that all variants are measured on",
        ),
        ({"variants": [Variant("plain", {"adam": {"lr": 1}})]}, "variant 'plain': there is no option adam"),
        (
            {"variants": [Variant("plain", {"epochs": 0})]},
            "variant 'plain': epochs must be a whole number of at least 1",
        ),
    ],
)
def test_wrong_sweeps(sweep: AblationConfig, changes: dict[str, object], message: str) -> None:
    for key, value in changes.items():
        setattr(sweep, key, value)
    with pytest.raises(ConfigError, match=message):
        ablate(sweep)
    with pytest.raises(ConfigError, match="--only must name variants"):
        ablate(AblationConfig(sweep.out, sweep.base, [Variant("plain")], "plain"), only=["other"])


def test_mean_spread_and_difference() -> None:
    def row(name: str, *ap: float) -> Row:
        return Row(name, tuple({"AP": x, "AP50": 0.5, "AR": 0.5, "PCK@0.2": 0.9} for x in ap), 16, 1.0)

    reference, other = row("alone", 0.1), row("all four", 0.3, 0.5)
    assert other.mean("AP") == pytest.approx(0.4)
    assert other.spread("AP") == pytest.approx(0.02**0.5)
    cells = [list(column.cells)[1] for column in ablation_table([reference, other], reference).columns]
    metrics = ["40.0 ± 14.1", "50.0 ± 0.0", "50.0 ± 0.0", "90.0 ± 0.0"]
    assert cells == ["all four", "2", "16", "1", *metrics, "+30.0", "+0.0"]


def test_a_nested_setting_changes_only_itself(
    sweep: AblationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(asdict(sweep)))
    asked = []
    monkeypatch.setattr(
        ablation, "ablate", lambda config, only, **_: asked.extend([config, only]) or AblationResult((), (), ())
    )
    words = ["--base.data.root", "elsewhere", "--base.optimizer.lr=0.5", "--only", "Slow & low"]
    assert cli.main(["ablate", str(file), *words]) == 0
    assert list(asked[1]) == ["Slow & low"]
    expected = json.loads(json.dumps(sweep.base))
    expected["data"]["root"] = "elsewhere"
    expected.setdefault("optimizer", {})["lr"] = 0.5
    expected["flip_test"] = False  # how YAML reads a bare off; `train_config_from` puts it right
    assert json.loads(json.dumps(asked[0].base)) == expected
    for wrong, message in {
        ("--base.data.root",): "expected a value after --base.data.root",
        ("--base.optimizer=3", "--base.optimizer.lr=1"): "--base.optimizer.lr=1 changes a part of 'optimizer'",
        ("--base.epochs=[",): "expected a YAML value after --base.epochs",
    }.items():
        assert cli.main(["ablate", str(file), *wrong]) == 1
        assert message in capsys.readouterr().err
