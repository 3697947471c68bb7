"""Files and command lines of earlier versions."""

import json

import pytest
from safetensors import safe_open

from distilpose.backends.description import METADATA_KEY, ModelDescription
from distilpose.backends.loading import DEFAULT_MODEL, SHIPPED_WEIGHTS
from distilpose.cli import main as cli
from distilpose.compat import current_names, current_options
from distilpose.data.preprocess import Normalization
from distilpose.detection.onnx import parse_source
from distilpose.errors import ConfigError
from distilpose.teachers.config import OnnxTeacher, teacher_config_from
from distilpose.training import data
from distilpose.training import train as training
from distilpose.training.config import TrainConfig, train_config_from

OLD = {
    "out": "runs/x",
    "data": {"train": [{"annotations": "people.json", "images": "images"}], "variants": 2},
    "teacher": {"kind": "onnx", "file": "teacher.onnx", "colour": "bgr"},
    "teacher_store": "cache",
    "optimiser": {"lr": 0.5},
    "augment": {"colour_jitter": 0.25},
    "start": "pointing",
}


def test_a_description_of_format_2_is_read() -> None:
    with safe_open(SHIPPED_WEIGHTS[DEFAULT_MODEL], "pt") as file:
        values = json.loads(file.metadata()[METADATA_KEY])
    mean = values.pop("normalization" if "normalization" in values else "normalisation")["mean"]
    old = {**values, "format": 2, "normalisation": {"mean": mean, "std": [0.5, 0.25, 0.125]}}
    assert ModelDescription.from_dict(old).normalization == Normalization(tuple(mean), (0.5, 0.25, 0.125))


def test_a_configuration_with_old_keys_is_read() -> None:
    config = train_config_from(OLD)
    assert (config.optimizer.lr, config.augment.color_jitter) == (0.5, 0.25)
    assert (config.teacher_cache, config.start) == ("cache", "pointer")
    teacher = teacher_config_from(config.teacher)
    assert isinstance(teacher, OnnxTeacher)
    assert teacher.color == "bgr"


def test_deleted_options_are_named_and_their_neutral_values_pass(tmp_path, capsys) -> None:
    neutral = {"cycles": 1, "losses": {"cycle_token": 0.05, "cycle_keypoint": 1.0, "fade": None}, "cycle_token": 0.05}
    values = OLD | neutral | {"model_options": {"prune_after": None, "keep_tokens": None, "depth": 2}}
    assert train_config_from(values).model_options == {"depth": 2}
    file = tmp_path / "old.yaml"
    for changes in ({"cycles": 2}, {"losses": {"cycle_token": 1.0}}, {"model_options": {"prune_after": 1}}):
        with pytest.raises(ConfigError, match=r"the option \w+ is gone.*leave it out"):
            train_config_from(OLD | changes)
        file.write_text(json.dumps(OLD | changes))
        assert cli.main(["train", str(file)]) == 1
        assert "is gone" in capsys.readouterr().err


def test_the_command_line_reads_old_files_and_options(tmp_path, monkeypatch) -> None:
    seen: list[TrainConfig] = []

    def train(config: TrainConfig, **_: object) -> None:
        seen.append(config)
        raise ConfigError("stop")

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(data, "check_files", lambda _: None)  # its data are not there
    file = tmp_path / "old.yaml"
    file.write_text(json.dumps(OLD))
    assert cli.main(["train", str(file), "--optimiser.gamma", "0.7", "--augment.colour_jitter=0.5"]) == 1
    assert (seen[0].optimizer.lr, seen[0].optimizer.gamma, seen[0].augment.color_jitter) == (0.5, 0.7, 0.5)


def test_a_detector_with_old_keys_is_read() -> None:
    _, options = parse_source("x.onnx?colour=bgr&fit=letterbox-centre")
    assert (options.color, options.fit) == ("bgr", "letterbox-center")


@pytest.mark.parametrize("word", ["colour", "photo.jpg", "--out=colour", "--style", "-h"])
def test_other_words_stay(word: str) -> None:
    assert current_options([word]) == [word]


def test_names_change_at_every_depth_and_values_do_not() -> None:
    assert current_options(["--anonymise", "--a.optimiser.lr=2"]) == ["--anonymize=face", "--a.optimizer.lr=2"]
    assert current_options(["--anonymize", "body"]) == ["--anonymize", "body"]
    assert current_options(["--anonymize", "faces"]) == ["--anonymize", "faces"]  # is refused, with the choices
    assert current_options(["--anonymize", "photo.jpg"]) == ["--anonymize=face", "photo.jpg"]
    assert current_names({"a": [{"colour": "colour"}], 3: None}) == {"a": [{"color": "colour"}], 3: None}
