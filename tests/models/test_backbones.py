"""Backbones: declared sizes, reach, other libraries' networks, and padding of odd sizes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distilpose.errors import ConfigError
from distilpose.models.backbones.base import Backbone
from distilpose.models.backbones.efficientnet_lite import EfficientNetLite
from distilpose.models.backbones.inverted_residual import ConvBlock, InvertedResidual, scale_channels
from distilpose.models.backbones.pyramid import PyramidNet
from distilpose.models.backbones.registry import BACKBONES, build_backbone
from distilpose.models.backbones.resnet import ResNet

SIZE_HW = (64, 64)


LARGE = ("hrnet_w32_full", "hrnet_w48", "hrnet_w48_full")  # hrnet_w32 is their kind


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in BACKBONES]
)
def test_the_map_has_the_declared_size(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
        for size_hw in ((192, 160), (5 * backbone.lowest_stride, 3 * backbone.lowest_stride)):
            expected = (2, backbone.out_channels, *(-(-side // backbone.stride) for side in size_hw))
            assert backbone(torch.zeros(2, 3, *size_hw)).shape == expected
    with pytest.raises(ConfigError, match="backbone must be one of stem"):
        build_backbone("vgg")


@pytest.mark.parametrize("name", ["resnet18", "pyramid_t", "mobilenet_fpn", "efficientnet_lite0"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name)
    features = backbone(torch.randn(2, 3, *SIZE_HW))
    assert 0.01 < features.std() < 100  # fresh weights keep the size of their input
    features.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in backbone.parameters())


def reach(name: str) -> float:
    """Share of the pixels that one corner cell depends on."""
    torch.manual_seed(0)
    backbone = build_backbone(name).double().eval()
    images = torch.randn(1, 3, 128, 96, dtype=torch.float64, requires_grad=True)
    backbone(images)[0, :, 0, 0].sum().backward()
    assert images.grad is not None
    return (images.grad[0].abs().sum(0) > 0).double().mean().item()


@pytest.mark.parametrize("name", ["pyramid", "pyramid_m", "pyramid_t", "mobilenet_fpn", "efficientnet_lite0"])
def test_a_cell_sees_the_whole_crop_where_the_stem_net_does_not(name: str) -> None:
    assert reach(name) > 0.9
    assert reach("stem") < 0.2


def test_smoothing_at_a_coarser_stage_keeps_size_and_detail() -> None:
    torch.manual_seed(0)
    net = PyramidNet((8, 16, 24), (0, 1, 1), out_channels=12, smooth_stage=1).eval()
    features = net(torch.randn(1, 3, 64, 48))
    assert features.shape == (1, 12, 16, 12)
    # Neighbors that share a cell of stride 8 differ by what the finest stage adds, and by nothing else.
    with torch.no_grad():
        net.lateral[0].weight.zero_()
        coarse = net(torch.randn(1, 3, 64, 48))
    assert torch.equal(coarse[..., ::2, ::2], coarse[..., 1::2, 1::2])
    assert not torch.equal(features[..., ::2, ::2], features[..., 1::2, 1::2])


def count(module: torch.nn.Module, without: tuple[str, ...] = ()) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith(without or "-"))


# Parameters with the classifier of 1000 classes, as every library lists them.
@pytest.mark.parametrize(("depth", "listed"), [(18, 11_689_512), (50, 25_557_032)])
def test_resnets_have_the_listed_number_of_parameters(depth, listed) -> None:
    with torch.device("meta"):
        resnet = ResNet(depth)
    assert count(resnet) + 1000 * (resnet.out_channels + 1) == listed


# With a last convolution of 1280 channels, its norm, and the classifier, as every library lists them.
@pytest.mark.parametrize(("variant", "listed"), [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072)])
def test_efficientnet_lites_have_the_listed_number_of_parameters(variant, listed) -> None:
    with torch.device("meta"):
        net = EfficientNetLite(variant, out_channels=8)
    last = net.lateral[-1].in_channels
    assert count(net, net.own_parts) + 1280 * (last + 2) + 1000 * 1281 == listed
    assert [lateral.in_channels for lateral in net.lateral] == (
        [24, 48, 120, 352] if variant == 2 else [24, 40, 112, 320]
    )


@pytest.mark.parametrize(("channels", "width", "scaled"), [(32, 1.75, 56), (16, 1.1, 16), (40, 1.1, 48), (16, 0.5, 8)])
def test_channels_are_scaled_to_multiples_of_8(channels, width, scaled) -> None:
    assert scale_channels(channels, width) == scaled


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_resnet_computes_what_transformers_resnet_computes(depth, shaken) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = shaken(ResNet(depth))
    basic = depth == 18
    theirs = transformers.ResNetModel(
        transformers.ResNetConfig(
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
            depths=[2, 2, 2, 2] if basic else [3, 4, 6, 3],
            layer_type="basic" if basic else "bottleneck",
        )
    ).eval()
    state = {}
    for name in theirs.state_dict():
        parts = name.replace("embedder.embedder", "0").replace("encoder.stages", "layer").split(".")
        kind = "conv" if "convolution" in parts else "bn"
        if parts[0] == "0":
            own = f"{kind}1"
        else:
            block = f"layer{int(parts[1]) + 1}.{parts[3]}"
            place = int(parts[5]) + 1 if parts[4] == "layer" else None
            own = f"{block}.{kind}{place}" if place else f"{block}.downsample.{int(kind == 'bn')}"
        state[name] = ours.state_dict()[f"{own}.{parts[-1]}"]
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 96, 70)  # sizes that do not divide
    with torch.inference_mode():
        expected = theirs(images).last_hidden_state
        found = ours(images)
    assert found.shape == expected.shape == (2, ours.out_channels, 3, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("stride", "channels"), [(1, 16), (1, 24), (2, 24)])
def test_inverted_residual_computes_what_transformers_mobilenet_computes(stride, channels, shaken) -> None:
    modeling = pytest.importorskip("transformers.models.mobilenet_v2.modeling_mobilenet_v2")
    torch.manual_seed(0)
    config = modeling.MobileNetV2Config(tf_padding=True, layer_norm_eps=1e-3, expand_ratio=6)
    theirs = modeling.MobileNetV2InvertedResidual(config, 16, channels, stride).eval()
    ours = shaken(InvertedResidual(16, channels, expansion=6, stride=stride, kernel=3, norm=True))
    names = {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"}
    kinds = {"convolution": "conv", "normalization": "norm"}
    parts = {key: key.split(".") for key in theirs.state_dict()}
    own = ours.state_dict()
    theirs.load_state_dict({key: own[f"{names[a]}.{kinds[b]}.{c}"] for key, (a, b, c) in parts.items()})
    x = torch.randn(2, 16, 20, 14)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("kernel", [3, 5])
def test_odd_sizes_are_even_sizes_with_a_border(kernel) -> None:
    block = ConvBlock(4, 6, kernel, stride=2, norm=True).eval()
    x = torch.randn(1, 4, 9, 7)
    assert torch.equal(block(x), block(F.pad(x, (0, 1, 0, 1))))
    assert block(x).shape == (1, 6, 5, 4)


def test_folding_the_norms_gives_the_folded_block(shaken) -> None:
    """MoveNet's form of the block and EfficientNet's are one."""
    torch.manual_seed(0)
    plain = shaken(InvertedResidual(16, 16, expansion=6, stride=1, kernel=3, norm=True)).double()
    folded = InvertedResidual(16, 16, expansion=6, stride=1, kernel=3, norm=False).double()

    def fold(block: ConvBlock) -> dict[str, Tensor]:
        scale = block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()
        weight = block.conv.weight * scale[:, None, None, None]
        return {"weight": weight, "bias": block.norm.bias - block.norm.running_mean * scale}

    with torch.no_grad():
        folded.expand.conv.load_state_dict(fold(plain.expand))
        folded.depthwise.conv.load_state_dict(fold(plain.depthwise))
        folded.project.load_state_dict(fold(plain.project))
        x = torch.randn(2, 16, 9, 8, dtype=torch.float64)
        torch.testing.assert_close(folded(x), plain(x))


def test_normalizations_are_those_of_the_published_weights() -> None:
    def normalized(backbone: Backbone, pixel: float) -> float:
        assert backbone.normalization is not None
        (mean, *_), (std, *_) = backbone.normalization
        return (pixel / 255 - mean) / std

    with torch.device("meta"):
        lite, mobile = build_backbone("efficientnet_lite0"), build_backbone("mobilenet_fpn")
    assert normalized(lite, 191) == pytest.approx((191 - 127) / 128)
    assert normalized(mobile, 0) == pytest.approx(-1)
    assert normalized(mobile, 255) == pytest.approx(1)
