"""The training loop: optimizer, learning rate, moving average, precision, and all that a resumed run must know."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distilpose.backends.device import torch_device
from distilpose.data.dataset import Batch
from distilpose.errors import CheckpointError, ConfigError, TrainingDivergedError
from distilpose.models import PoseModel
from distilpose.training.config import PRECISIONS, TrainConfig, learning_rate_factor
from distilpose.training.processes import mean_over_ranks
from distilpose.training.records import Records
from distilpose.training.step import TrainingStep


class Training:
    """A run in progress: `train_epoch` goes on from its state, ``epoch`` finished epochs and ``steps`` steps.

    ``step`` (model, criterion, teacher) is moved to the device.

    Raises:
        ConfigError: ``freeze`` names nothing, or leaves nothing to train.
    """

    def __init__(self, step: TrainingStep, config: TrainConfig, device: torch.device, steps_per_epoch: int) -> None:
        self.step, self.epoch, self.steps = step, 0, 0
        self._config, self._device = config, device
        _freeze(step.model, config.freeze)
        if config.sync_batchnorm and torch.distributed.is_initialized():
            step.model = nn.SyncBatchNorm.convert_sync_batchnorm(step.model)  # type: ignore[no-untyped-call]
        step.to(device)
        self._average: AveragedModel | None = None
        if config.ema_decay is not None:
            move = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(step.model, multi_avg_fn=move).requires_grad_(False)
        self._optimizer = _build_optimizer(step, config)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._rate_factor = learning_rate_factor(config.optimizer, steps_per_epoch, config.epochs)
        self._dtype = PRECISIONS[config.precision]
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self._parallel: nn.Module = step
        if torch.distributed.is_initialized():
            self._parallel = DistributedDataParallel(step)

    @property
    def best_weights(self) -> PoseModel:
        """What is evaluated and saved: the moving average where there is one."""
        model = self.step.model if self._average is None else self._average.module
        assert isinstance(model, PoseModel)
        return model

    def train_epoch(self, batches: Iterable[Batch], records: Records) -> None:
        """Go once through the batches of an epoch; a `TrainingDivergedError` for a loss term that is not finite."""
        self.step.begin_epoch(self._config.freeze_batchnorm)
        for index, batch in enumerate(batches):
            factor = self._rate_factor(self.steps)
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
            terms = self._train_step(batch, index)
            rate = self._config.optimizer.lr * factor
            records.add_step(self.epoch + 1, self.steps, len(batch.images), rate, terms)
        self.epoch += 1

    def _train_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """One step of the optimizer; the terms and their ``total``, averaged over all processes."""
        batch = to_device(batch, self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            terms = self._parallel(batch)
        total = torch.stack(list(terms.values())).sum()
        values = mean_over_ranks(torch.stack([*terms.values(), total]).detach())
        logged = dict(zip([*terms, "total"], values.unbind(), strict=True))
        if not values.isfinite().all():
            raise self._diverged(logged, batch, index)
        self._optimizer.zero_grad()
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.step.model)
        self.steps += 1
        return logged

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state` goes on."""
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "step": self.step.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`; a `CheckpointError` if it is that of a run with other settings."""
        try:
            self.step.load_state_dict(state["step"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
            self._optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:  # not of a run in another precision
                self._scaler.load_state_dict(state["scaler"])
            self.epoch, self.steps = int(state["epoch"]), int(state["steps"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the state of the run does not fit its configuration: {str(error)[:500]}: resume with the settings it "
                "was started with, or start another run"
            ) from error

    def _diverged(self, terms: dict[str, Tensor], batch: Batch, index: int) -> TrainingDivergedError:
        bad = [f"{name} = {value.item()}" for name, value in terms.items() if name != "total" and not value.isfinite()]
        advice = self.step.find_fault(batch) or "lower optimizer.lr or lengthen the warm-up"
        return TrainingDivergedError(
            f"{', '.join(bad)} in batch {index} of epoch {self.epoch + 1} (step {self.steps}; samples "
            f"{batch.sample_index.tolist()[:8]}...): {advice}"
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch in the memory of a device."""
    return Batch._make(None if value is None else value.to(device, non_blocking=True) for value in batch)


def choose_device(accelerator: str) -> torch.device:
    """``auto``, ``cpu``, ``gpu``, ``mps`` -> torch's name, this process's own GPU; a `ConfigError` if it is missing."""
    own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    name = own if accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available()) else accelerator
    device = torch.device(torch_device(name))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _freeze(model: nn.Module, prefixes: list[str]) -> None:
    for prefix in prefixes:
        frozen = [value for name, value in model.named_parameters() if f"{name}.".startswith(f"{prefix.rstrip('.')}.")]
        if not frozen:
            parts = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
            raise ConfigError(f"freeze names {prefix!r}, the model has {', '.join(parts)} and what is below them")
        for value in frozen:
            value.requires_grad_(False)
    if not any(value.requires_grad for value in model.parameters()):
        raise ConfigError("freeze leaves nothing to train: name fewer parts")


def _build_optimizer(step: TrainingStep, config: TrainConfig) -> torch.optim.Adam:
    """Adam with the backbone in a group of its own, whose rate is ``backbone_lr`` times the others'."""
    options = config.optimizer
    trained = [value for value in step.parameters() if value.requires_grad]
    groups = [{"params": trained, "lr": options.lr}]
    if config.backbone_lr != 1:
        backbone = {id(value) for value in step.model.backbone.parameters()}
        groups = [
            {"params": [value for value in trained if (id(value) in backbone) == inside], "lr": options.lr * factor}
            for inside, factor in ((True, config.backbone_lr), (False, 1.0))
        ]
    used = [group for group in groups if group["params"]]
    return torch.optim.Adam(used, lr=options.lr, weight_decay=options.weight_decay, fused=True)
