"""Networks without tokens: known sizes and costs, any backbone, and the whole way of a model file."""

import pytest
import torch

from distilpose.backends.checkpoint import describe, load_checkpoint, save_checkpoint
from distilpose.benchmark.measure import measure_complexity
from distilpose.data.preprocess import IMAGENET_MEAN
from distilpose.errors import ConfigError
from distilpose.export.rewrite import ExportForm
from distilpose.models import create_model
from distilpose.models.backbones.hrnet import HRNet
from distilpose.models.backbones.resnet import ResNet
from distilpose.models.base import HeatmapModel
from distilpose.models.heads import PointwiseHead
from distilpose.models.simple_baseline import HeatmapNet

SIZE_HW = (64, 64)
SMALL = ("deeppose_r18", "simplebaseline_r18")


# Millions of parameters: arXiv:1908.07919, table 1.
@pytest.mark.parametrize(
    ("name", "published"), [("simplebaseline_r50", 34.0), ("hrnet_w32", 28.5), ("hrnet_w48", 63.6)]
)
def test_teachers_have_the_published_size(name, published) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(published, abs=0.06)


def test_cost_with_deconvolutions_equals_the_layer_sizes() -> None:
    with torch.device("meta"):
        model = create_model("simplebaseline_r50")
    # A ResNet-50 is listed with 4.09 GMACs at 224 x 224; each deconvolution reads a 4 x 4 kernel per input cell.
    deconvolutions = 4 * 4 * 256 * (2048 * 8 * 6 + 256 * 16 * 12 + 256 * 32 * 24) / 1e9
    expected = 4.09 * (256 * 192) / 224**2 + deconvolutions
    assert measure_complexity(model).gmacs == pytest.approx(expected, rel=0.02)


FAMILIES = ("distilpose_s", "tokenpose_s", "deeppose_r18", "hrnet_w32")
BACKBONES = ("stem", "resnet18_c5", "mobilenet_fpn", "efficientnet_lite0_s8")


@pytest.mark.parametrize(
    ("preset", "backbone"),
    [
        # Each family and each backbone once, all pairs in the slow tests.
        pytest.param(preset, backbone, marks=[] if column == row else [pytest.mark.slow])
        for row, preset in enumerate(FAMILIES)
        for column, backbone in enumerate(BACKBONES)
    ],
)
def test_every_family_takes_every_backbone(preset, backbone, tmp_path) -> None:
    tokens = {"patch_size_hw": (2, 2), "dim": 16, "depth": 1, "num_heads": 2}
    options = {"input_size_hw": SIZE_HW, "backbone": backbone, **(tokens if "pose_s" in preset else {})}
    model = create_model(preset, **options).eval()
    images = torch.randn(2, 3, *SIZE_HW)
    with torch.inference_mode():
        output = model(images)
    if isinstance(model, HeatmapModel):
        assert output.heatmaps.shape == (2, 17, 16, 16)
    else:
        assert output.xy_norm.shape == (2, 17, 2)
    if model.token_layout is not None:
        side = SIZE_HW[0] // model.backbone.stride // 2
        assert output.visual_tokens.shape == (2, side * side, 16)
    again = load_checkpoint(save_checkpoint(model, tmp_path / "m.safetensors"))
    assert type(again.backbone) is type(model.backbone)
    with torch.inference_mode():
        torch.testing.assert_close(again(images)[0], output[0])
    mean = model.backbone.normalization[0] if model.backbone.normalization else IMAGENET_MEAN
    assert describe(again).normalization.mean == mean


@pytest.mark.parametrize(("num_sigmas", "with_score"), [(0, False), (1, True), (2, False)])
def test_a_deeppose_gives_what_it_is_built_for(num_sigmas, with_score) -> None:
    model = create_model(
        "deeppose_r18", input_size_hw=(64, 48), num_keypoints=5, num_sigmas=num_sigmas, with_score=with_score
    )
    output = model(torch.randn(2, 3, 64, 48))
    assert output.xy_norm.shape == (2, 5, 2)
    assert (output.sigma is None) == (num_sigmas == 0)
    assert (output.score is None) == (not with_score)
    form = ExportForm(model.eval())
    assert list(form.output_names) == ["xy_norm", *["sigma"] * (num_sigmas > 0), *["score"] * with_score]


@pytest.mark.parametrize("name", SMALL)
def test_the_exported_form_is_the_model(name, shaken) -> None:
    torch.manual_seed(0)
    model = shaken(create_model(name, input_size_hw=SIZE_HW)).double()
    images = torch.randn(2, 3, *SIZE_HW, dtype=torch.float64)
    with torch.no_grad():
        expected = [value for value in model(images) if value is not None]
        found = ExportForm(model)(images)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_heatmaps_of_another_stride_say_their_size() -> None:
    model = HeatmapNet(ResNet(18), PointwiseHead(512, 3), num_keypoints=3, input_size_hw=(128, 96))
    assert model(torch.zeros(1, 3, 128, 96)).heatmaps.shape == (1, 3, *model.heatmap_size_hw) == (1, 3, 4, 3)
    narrow = HeatmapNet(HRNet(width=8), PointwiseHead(8, 3), num_keypoints=3, input_size_hw=(64, 32))
    assert narrow(torch.zeros(1, 3, 64, 32)).heatmaps.shape == (1, 3, *narrow.heatmap_size_hw) == (1, 3, 16, 8)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("simplebaseline_r18", {"input_size_hw": (64, 48)}, "multiples of 32"),
        ("hrnet_w32", {"input_size_hw": (96, 72)}, "multiples of 32"),
        ("deeppose_r18", {"input_size_hw": (64, 50)}, "multiples of 4"),
        ("deeppose_r18", {"num_keypoints": 0}, "num_keypoints"),
        ("deeppose_r18", {"num_sigmas": 3}, "num_sigmas"),
        ("deeppose_r18", {"dim": 3}, "dim"),
        ("distilpose_s", {"backbone": "vgg"}, "backbone must be one of stem"),
    ],
)
def test_impossible_options_name_themselves(name, options, named) -> None:
    with pytest.raises(ConfigError, match=named):
        create_model(name, **options)
