"""Model files: round trips, released layout, and every way in which a file can be wrong."""

import json

import pytest
import torch
from safetensors.torch import save_file

from distilpose.backends.checkpoint import (
    HubModel,
    convert_released,
    describe,
    load_checkpoint,
    read_description,
    save_checkpoint,
)
from distilpose.backends.description import METADATA_KEY
from distilpose.backends.loading import as_backend, load_model
from distilpose.cli import main as cli
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models import create_model
from distilpose.skeletons import COCO_17, Skeleton

SMALL = {"input_size_hw": (64, 48), "dim": 32, "depth": 2, "num_heads": 4}
LINE = Skeleton("line", ("a", "b"), (), ((0, 1),), (0,), (1,), (0.1, 0.1))


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("name", ["distilpose_s", "tokenpose_s"])
def test_round_trip_needs_nothing_but_the_file(name, tmp_path) -> None:
    model = create_model(name, **SMALL).eval()
    path = save_checkpoint(model, tmp_path / "new" / "model.safetensors", training={"steps": 3})
    again = load_model(path)
    assert same_weights(model, again)
    assert not again.training
    images = torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        assert torch.equal(model(images)[0], again(images)[0])
    description = read_description(path)
    assert description == describe(again)
    assert description.training == {"steps": 3}
    assert description.input_size_hw == (64, 48)
    assert description.skeleton == COCO_17
    assert list(path.parent.iterdir()) == [path]  # no debris of the atomic write


def test_another_skeleton_is_kept(tmp_path) -> None:
    model = create_model("distilpose_s", num_keypoints=2, **SMALL)
    path = save_checkpoint(model, tmp_path / "m.safetensors", skeleton=LINE)
    assert describe(load_checkpoint(path)).skeleton == LINE
    # Saved again, the description of the file stays.
    again = save_checkpoint(load_checkpoint(path), tmp_path / "n.safetensors")
    assert read_description(again).skeleton == LINE
    with pytest.raises(ConfigError, match="17"):
        save_checkpoint(model, tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("name", ["distilpose_s", pytest.param("tokenpose_l", marks=pytest.mark.slow)])
def test_released_file_converts_to_the_same_model(name, released_file, tmp_path) -> None:
    source, target = released_file(name), tmp_path / f"{name}.safetensors"
    assert cli.main(["convert", str(source), str(target)]) == 0
    assert same_weights(convert_released(source), load_model(target))
    assert same_weights(load_model(source), load_model(target))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("backbone.conv1.weight"), "missing backbone.conv1.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra"),
        (lambda state: state.update({"backbone.bn1.weight": torch.zeros(3)}), r"\[3\], expected \[64\]"),
        (lambda state: state["keypoint_head.tokenhead.pos_embedding"].add_(1), "sine"),
        (lambda state: [state.pop(k) for k in list(state) if "tokenhead" in k], "no released"),
    ],
)
def test_released_file_with_wrong_tensors_is_refused(change, named, released_file, tmp_path) -> None:
    content = torch.load(released_file("distilpose_s"), weights_only=True)
    change(content["state_dict"])
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=named):
        load_model(tmp_path / "bad.pth")


def test_pickled_code_is_not_run(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"it would call (_io|io)\.open, which is not done"):
        load_model(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


def write_with(path, change) -> None:
    model = create_model("distilpose_s", **SMALL)
    tensors = dict(model.state_dict())
    values = describe(model).to_dict()
    change(tensors, values)
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(values)})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors, values: tensors.pop("head.norm.bias"), "missing head.norm.bias"),
        (lambda tensors, values: tensors.update(more=torch.zeros(1)), "extra more"),
        (lambda tensors, values: values.update(format=99), "upgrade"),
        (lambda tensors, values: values.update(format=None), "format"),
        (lambda tensors, values: values.update(model="resnet"), "resnet"),
        (lambda tensors, values: values.update(options={"depth": -1}), "depth"),
        (lambda tensors, values: values["options"].update(depth=10**9), "an option is 1000000000"),
        (lambda tensors, values: values["options"].update(num_keypoints=10**9), "an option is 1000000000"),
        (lambda tensors, values: values["options"].update(dim=4096), "does not hold a distilpose_s"),
        (lambda tensors, values: values["options"].update(dim=float("nan")), "NaN is no number"),
        (lambda tensors, values: values.update(input_size_hw=[0, 48]), r"size \[0, 48\]"),
        (lambda tensors, values: values.update(input_size_hw=[-64, 48]), "size"),
        (lambda tensors, values: values.update(input_size_hw=[10**9, 48]), "size"),
        (lambda tensors, values: values.update(input_size_hw=[64.5, 48]), "size"),
        (lambda tensors, values: values.update(input_size_hw=[32, 24]), "says of itself input_size_hw"),
        (lambda tensors, values: values.update(normalization={"mean": [0] * 3, "std": [0] * 3}), "broken"),
        (lambda tensors, values: values.update(training=[1]), "broken"),
        (lambda tensors, values: tensors["head.norm.bias"].fill_(float("nan")), "NaN or infinite"),
        (lambda tensors, values: values.pop("skeleton"), "broken"),
        (lambda tensors, values: values.update(normalization={"mean": [0], "std": [1]}), "broken"),
    ],
)
def test_own_file_with_a_fault_is_refused(change, named, tmp_path) -> None:
    path = tmp_path / "bad.safetensors"
    write_with(path, change)
    with pytest.raises(CheckpointError, match=named):
        load_model(path)


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "NaN", "{}", "3", '"x"', "9" * 5000, '{"format": ' + "9" * 5000 + "}", "[" * 100_000, "{" * 3],
)
def test_broken_descriptions_are_refused(text: str, tmp_path) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={METADATA_KEY: text})
    with pytest.raises(CheckpointError, match="description") as caught:
        load_model(path)
    assert len(str(caught.value)) < 1000


def test_files_that_are_no_models(tmp_path) -> None:
    empty, short, foreign, text = (tmp_path / f"{n}.safetensors" for n in ("empty", "short", "foreign", "text"))
    empty.touch()
    write_with(short, lambda tensors, values: None)
    short.write_bytes(short.read_bytes()[:-1000])
    save_file({"a": torch.zeros(1)}, foreign)
    text.write_text("hello")
    for path in (empty, short, foreign, text, tmp_path / "nowhere.safetensors"):
        with pytest.raises(CheckpointError, match=path.name):
            load_model(path)
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(CheckpointError, match="broken"):
        load_model(tmp_path / "broken.pth")


def test_a_preset_name_is_not_a_model_with_weights() -> None:
    with pytest.raises(ConfigError, match="create_model"):
        load_model("distilpose_s")


def test_hub_folder_round_trip(tmp_path) -> None:
    model = create_model("distilpose_s", **SMALL)
    HubModel(model).save_pretrained(tmp_path / "folder")
    assert same_weights(model, HubModel.from_pretrained(tmp_path / "folder").model)
    assert same_weights(model, load_model(tmp_path / "folder"))


def test_hub_id_without_network_and_from_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="someone/pose"):
        load_model("someone/pose")
    # What an earlier download leaves behind: blobs, snapshots and a reference to the revision.
    model, commit = create_model("distilpose_s", **SMALL), "0" * 40
    repository = tmp_path / "models--someone--pose"
    HubModel(model).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    loaded = HubModel.from_pretrained("someone/pose", cache_dir=tmp_path, local_files_only=True).model
    assert same_weights(model, loaded)


def test_backend_returns_numpy_and_absent_outputs_stay_none(tmp_path) -> None:
    model = create_model("distilpose_s", num_sigmas=0, with_score=False, **SMALL)
    backend = as_backend(model)
    output = backend(torch.randn(2, 3, 64, 48).numpy())
    assert output.sigma is None
    assert output.score is None
    assert output.xy_norm.shape == (2, 17, 2)
    assert as_backend(backend) is backend


def test_half_precision_files_are_half_the_size_and_load_as_float32(tmp_path) -> None:
    model = create_model("distilpose_m", input_size_hw=(64, 48), depth=1).eval()
    full, half = (save_checkpoint(model, tmp_path / f"{half}.safetensors", half=half) for half in (False, True))
    assert half.stat().st_size < 0.52 * full.stat().st_size
    loaded = load_model(half)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        assert torch.allclose(loaded(images).xy_norm, model(images).xy_norm, atol=1e-3)


def test_own_checkpoints_are_rewritten_with_their_record(tmp_path) -> None:
    model = create_model("distilpose_s", input_size_hw=(64, 48), dim=16, depth=1)
    source = save_checkpoint(model, tmp_path / "a.safetensors", training={"steps": 7})
    target = tmp_path / "b.safetensors"
    assert cli.main(["convert", str(source), str(target), "--half"]) == 0
    assert describe(load_model(target)).training == {"steps": 7}
