"""Networks as sources of heatmaps: torch modules (our own, ViTPose) and ONNX files (heatmaps, SimCC)."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distilpose.backends.address import ForeignOptions
from distilpose.backends.base import file_digest
from distilpose.backends.checkpoint import load_checkpoint
from distilpose.backends.description import ModelDescription
from distilpose.backends.device import AUTO
from distilpose.backends.exported import OnnxRuntimeBackend, is_exported
from distilpose.backends.foreign import PIXELS, OnnxNetwork, foreign_skeleton, recognize, usual_scale
from distilpose.data.preprocess import Normalization
from distilpose.errors import ConfigError
from distilpose.models.base import HeatmapModel
from distilpose.models.outputs import HeatmapOutput
from distilpose.skeletons import Skeleton
from distilpose.teachers.adapter import Sampling, resample
from distilpose.teachers.base import SourceSpec, unnamed_skeleton
from distilpose.teachers.config import OnnxTeacher, SimccTeacher, VitPoseTeacher
from distilpose.types import Size


class NetworkSource:
    """A torch module (images -> `HeatmapOutput`) as a source: frozen, in evaluation mode, channels last.

    It follows its images to their device.
    """

    def __init__(self, module: nn.Module, spec: SourceSpec) -> None:
        self._module = module.eval().requires_grad_(False)
        self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.spec = spec

    def __call__(self, images: Tensor) -> HeatmapOutput[Tensor]:
        """(B, 3, H, W) -> what the module says."""
        if any(value.device != images.device for value in islice(self._module.parameters(), 1)):
            self._module.to(images.device)
        output: HeatmapOutput[Tensor] = self._module(images)
        return output


def load_checkpoint_source(file: str | Path) -> NetworkSource:
    """A heatmap model of our own; a `DistilPoseError` if the file is unusable, or holds a student."""
    model = load_checkpoint(file)
    if not isinstance(model, HeatmapModel):
        raise ConfigError(
            f"teacher must be a heatmap model, such as tokenpose_*, got the {type(model).__name__} in {file}: name the "
            "teacher's checkpoint"
        )
    return model_source(model, file_digest([Path(file)]))


def load_vitpose_source(config: VitPoseTeacher) -> NetworkSource:
    """ViTPose in the layout of transformers, with the errors of `load_vitpose`."""
    from distilpose.backends.vitpose import load_vitpose

    keypoints = config.keypoints if isinstance(config.keypoints, str) else ",".join(config.keypoints)
    options = ForeignOptions(keypoints=keypoints, dataset_index=config.dataset_index)
    try:
        loaded = load_vitpose(config.model, options)
    except ConfigError as error:
        raise ConfigError(f"teacher {error}") from error
    known = loaded.description
    description = {"kind": "vitpose", "weights": file_digest(loaded.files), "dataset_index": config.dataset_index}
    normalization = known.normalization or Normalization()
    spec = SourceSpec(known.input_size_hw, known.skeleton, normalization, udp=known.udp, description=description)
    return NetworkSource(loaded.module, spec)


def model_source(model: HeatmapModel, weights: str | None = None) -> NetworkSource:
    """A heatmap model that is already there; ``weights`` tells its weights from others."""
    skeleton, normalization = unnamed_skeleton(model.num_keypoints), Normalization()
    known = getattr(model, "description", None)
    if isinstance(known, ModelDescription):
        skeleton, normalization = known.skeleton, known.normalization or normalization
    description = {"kind": "checkpoint", "weights": weights}
    spec = SourceSpec(model.input_size_hw, skeleton, normalization, tokens=model.token_layout, description=description)
    return NetworkSource(model, spec)


class OnnxSource:
    """An ONNX file whose outputs are heatmaps, or become some.

    A file of ``distilpose export`` says all itself and may not be contradicted.

    Raises:
        DistilPoseError: the file is unusable, or does not fit what is declared of it.
    """

    def __init__(self, config: OnnxTeacher | SimccTeacher, device: str = AUTO, threads: int | None = None) -> None:
        path = Path(config.file)
        more: dict[str, Any] = {}
        self._to_heatmaps: Any = lambda heatmaps: heatmaps
        if isinstance(config, OnnxTeacher) and path.is_file() and is_exported(path):
            backend = OnnxRuntimeBackend(path, threads, device=device)
            known = backend.description
            _check_own_words(config, known)
            size_hw, skeleton = known.input_size_hw, known.skeleton
            normalization = known.normalization or Normalization(*PIXELS)
            self._pixels = known.normalization is None
            self._run: Any = lambda images: [backend(images).heatmaps]  # type: ignore[union-attr]
        else:
            network, outputs, skeleton = _open(path, config, device, threads)
            size_hw = network.input_size_hw
            self._pixels = network.dtype.__name__ == "uint8"
            usual = usual_scale(path, pixels=self._pixels)
            normalization = Normalization(config.mean or usual[0], config.std or usual[1])
            self._run = partial(network.run, outputs=outputs)
            if isinstance(config, SimccTeacher):
                map_hw = config.heatmap_size_hw or (size_hw[0] // 4, size_hw[1] // 4)
                rule: dict[str, Any] = {name: getattr(config, name) for name in ("activation", "sharpness", "peak")}
                self._to_heatmaps = partial(simcc_heatmaps, size_hw=map_hw, **rule)
                more = {"heatmap_size_hw": list(map_hw), **rule}
            more["outputs"] = list(outputs)
        udp = isinstance(config, OnnxTeacher) and bool(config.udp)
        color = config.color or "rgb"
        description = {
            "kind": "onnx" if isinstance(config, OnnxTeacher) else "simcc", "weights": file_digest([path]),
            "mean": list(normalization.mean), "std": list(normalization.std), "color": color, "udp": udp, **more,
        }  # fmt: skip
        self.spec = SourceSpec(size_hw, skeleton, normalization, color == "bgr", udp, description=description)

    def __call__(self, images: Tensor) -> HeatmapOutput[Tensor]:
        """(B, 3, H, W) -> heatmaps (B, K, h, w) on the same device, without tokens."""
        array = images.detach().float().cpu().numpy()
        if self._pixels:
            array = array.round().clip(0, 255).astype("uint8")
        outputs = [torch.from_numpy(values).to(images.device) for values in self._run(array)]
        return HeatmapOutput(self._to_heatmaps(*outputs))


def _open(
    path: Path, config: OnnxTeacher | SimccTeacher, device: str, threads: int | None
) -> tuple[OnnxNetwork, tuple[str, ...], Skeleton]:
    """The network, the outputs that are read, and their keypoints."""
    names = ([config.output] if config.output else None) if isinstance(config, OnnxTeacher) else config.outputs
    try:
        network = OnnxNetwork(path, config.input_size_hw, threads=threads, device=device)
        layout = recognize(network, names)
        if layout.kind != ("heatmaps" if isinstance(config, OnnxTeacher) else "simcc"):
            other = "onnx" if layout.kind == "heatmaps" else "simcc"
            raise ConfigError(f"{path} gives {layout.kind}, which is kind {other}: change teacher.kind")
        skeleton = foreign_skeleton(str(path), config.keypoints, layout.num_keypoints, "teacher")
    except ConfigError as error:
        where = "in a configuration: teacher.input_size_hw, teacher.output or outputs, teacher.keypoints"
        raise ConfigError(f"teacher {error} ({where})") from error
    return network, layout.outputs, skeleton


def _check_own_words(config: OnnxTeacher, known: ModelDescription) -> None:
    """Refuse a student, and options that contradict what an exported file says of itself."""
    if known.output != "heatmap":
        raise ConfigError(f"teacher {config.file} must be a heatmap model, such as tokenpose_*, got {known.model}")
    normalization = known.normalization or Normalization(*PIXELS)
    own = {
        "mean": normalization.mean, "std": normalization.std, "color": "rgb", "udp": False,
        "input_size_hw": known.input_size_hw,
    }  # fmt: skip
    for name, value in own.items():
        given = getattr(config, name)
        if given is not None and (tuple(given) if isinstance(given, list) else given) != value:
            raise ConfigError(
                f"teacher {config.file} says of itself {name} {value}, teacher.{name} is {given}: leave it out"
            )
    if config.keypoints is None:
        return
    names = foreign_skeleton(f"teacher {config.file}", config.keypoints, None).keypoint_names
    if not known.skeleton.has_keypoints(names):
        raise ConfigError(
            f"teacher {config.file} says of itself that its keypoints are {', '.join(known.skeleton.keypoint_names)}, "
            f"teacher.keypoints has {', '.join(names)}: leave it out"
        )


def simcc_heatmaps(
    along_x: Tensor,
    along_y: Tensor,
    size_hw: Size,
    *,
    activation: Literal["softmax", "none"] = "softmax",
    sharpness: float = 10.0,
    peak: Literal["value", "one"] = "value",
) -> Tensor:
    """The outer product of two axes, (B, K, Wx) and (B, K, Hy), thinned out to (B, K, h, w) float32 heatmaps in [0, 1].

    Each axis becomes positive, its bins are averaged into cells (bin b of Wx lies at b / Wx of the crop, cell c of w at
    c / w), and it is divided by its largest cell; so the product has height 1 at the product of the two peaks. It is
    multiplied by the keypoint's score. For the options see `SimccTeacher`: ``activation`` ``"none"`` cuts negative
    values off, the ``sharpness`` that a network was trained with keeps its widths, ``peak`` ``"value"`` is cut to 0..1.

    Source:
        SimCC (arXiv:2107.03332): the axes; RTMPose (arXiv:2303.07399): the score of a keypoint. The product is ours.
    """
    column, row = (
        _profile(axis, size, activation, sharpness) for axis, size in ((along_x, size_hw[1]), (along_y, size_hw[0]))
    )
    heatmaps = row.unsqueeze(-1) * column.unsqueeze(-2)
    if peak == "one":
        return heatmaps
    score = torch.minimum(along_x.amax(-1), along_y.amax(-1)).float().clamp(0, 1)
    return heatmaps * score[..., None, None]


def _profile(axis: Tensor, size: int, activation: str, sharpness: float) -> Tensor:
    """(B, K, bins) -> (B, K, size) in [0, 1], 1 at its largest cell; 0 everywhere without a positive value."""
    values = axis.float()
    if activation == "softmax":
        values = (sharpness * (values - values.amax(-1, keepdim=True))).exp()  # softmax, up to its sum
    else:
        values = values.clamp(min=0)
    bins = values.shape[-1]
    cells = resample(values, Sampling(values.shape[-2]), Sampling(size, bins / size))
    return cells / cells.amax(-1, keepdim=True).clamp(min=1e-12)
