"""One training step, as Lightning wants it."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError, TrainingDivergedError
from distilpose.losses import CELL, TARGET_SIGMA, heatmap_loss
from distilpose.models import PoseModel
from distilpose.models.outputs import HeatmapOutput
from distilpose.training.config import OptimizerConfig, learning_rate_factor
from distilpose.training.distillation import BatchView, Task
from distilpose.training.self_distillation import SelfDistillation


class DeepSupervision(nn.Module):
    """Heatmaps read straight off the backbone's features, in training only.

    The convolutions learn what body parts look like from every cell of an image, while the tokens are still learning
    where to look.

    Args:
        model: whose backbone's last output is watched; at 4 crop pixels per cell.
        weight: of the loss.
        target_sigma: of the targets, in heatmap cells.

    Raises:
        ConfigError: the backbone's output is too coarse.

    Source:
        Intermediate supervision, Convolutional Pose Machines (arXiv:1602.00134).
    """

    def __init__(self, model: PoseModel, weight: float, target_sigma: float) -> None:
        super().__init__()
        self._weight = weight
        self._target_sigma = target_sigma
        stride = model.backbone.stride
        if stride != CELL:
            raise ConfigError(
                f"backbone_heatmap needs features at stride {CELL}, the backbone of {model.preset} has {stride}: "
                "leave it out"
            )
        self.read = nn.Conv2d(model.backbone.out_channels, model.num_keypoints, 1)
        nn.init.normal_(self.read.weight, std=0.01)
        self._features: Tensor | None = None
        model.backbone.register_forward_hook(self._keep)

    def loss(self, batch: Batch) -> Tensor:
        """Weighted heatmap loss of the features of the batch that the model has just seen."""
        assert self._features is not None
        output = HeatmapOutput(self.read(self._features))
        self._features = None
        return self._weight * heatmap_loss(output, batch.xy_norm, batch.target_weight, self._target_sigma)

    def _keep(self, module: nn.Module, inputs: object, features: Tensor) -> None:
        if module.training:
            self._features = features


class PoseTraining(LightningModule):
    """Model, task and optimizer of one run.

    Args:
        model: what is trained.
        task: what it learns; holds the teacher, which is neither a parameter nor in any checkpoint.
        optimizer: Adam and its learning rate.
        epochs: of the run.
        ema_decay: keep a moving average of the weights.
        freeze_batchnorm: batch-norm uses its running statistics and keeps them.
        backbone_heatmap: weight of `DeepSupervision`; 0 leaves it out.
        target_sigma: of its targets, in heatmap cells.
        self_distillation: from further cycles of the encoder; None without them.
    """

    def __init__(
        self,
        model: PoseModel,
        task: Task,
        optimizer: OptimizerConfig,
        epochs: int,
        ema_decay: float | None = None,
        freeze_batchnorm: bool = False,
        backbone_heatmap: float = 0.0,
        target_sigma: float = TARGET_SIGMA,
        self_distillation: SelfDistillation | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.extra = nn.ParameterList(task.extra_parameters())
        self.deep_supervision: DeepSupervision | None = None
        if backbone_heatmap > 0:
            self.deep_supervision = DeepSupervision(model, backbone_heatmap, target_sigma)
        self.average: AveragedModel | None = None
        if ema_decay is not None:
            move = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(model, multi_avg_fn=move).requires_grad_(False)
        self._task = task
        self._self_distillation = self_distillation
        self._optimizer = optimizer
        self._epochs = epochs
        self._freeze_batchnorm = freeze_batchnorm

    @property
    def best_weights(self) -> PoseModel:
        """What is evaluated and saved: the moving average where there is one."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, PoseModel)
        return model

    def on_fit_start(self) -> None:
        """Take the teacher along to the device."""
        self._task.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Training mode, but for a frozen batch-norm."""
        self.model.train()
        if self._freeze_batchnorm:
            for part in self.model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        """Loss of one batch, with its named terms averaged over all processes.

        Raises:
            TrainingDivergedError: a term is not finite.
        """
        images = batch.images.contiguous(memory_format=torch.channels_last)
        output = self.model(images)
        terms = self._task.losses(output, batch, self._mean_over_ranks)
        if self._self_distillation is not None:
            terms |= self._self_distillation.losses(self.model, output, batch, self._task, self._mean_over_ranks)
        if self.deep_supervision is not None:
            terms["backbone_heatmap"] = self.deep_supervision.loss(batch)
        self._check_finite(terms, batch, batch_index)
        total = torch.stack(list(terms.values())).sum()
        logged = torch.stack([*terms.values(), total]).detach()
        logged = self._mean_over_ranks(logged)
        return {"loss": total, "terms": dict(zip([*terms, "total"], logged.unbind(), strict=True))}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """After each step, move the average."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    @torch.no_grad()
    def view(self, batch: Batch) -> BatchView:
        """What `best_weights` make of a batch, in evaluation mode; the training does not notice."""
        model = self.best_weights
        was_training = model.training
        output = model.eval()(batch.images.contiguous(memory_format=torch.channels_last))
        model.train(was_training)
        return self._task.view(output, batch)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam with the learning rate set per step."""
        parameters = [*self.model.parameters(), *self.extra]
        if self.deep_supervision is not None:
            parameters += self.deep_supervision.parameters()
        adam = torch.optim.Adam(
            parameters, lr=self._optimizer.lr, weight_decay=self._optimizer.weight_decay, fused=True
        )
        steps = int(self.trainer.estimated_stepping_batches) // self._epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, learning_rate_factor(self._optimizer, steps, self._epochs))
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        reduced: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
        return reduced

    def _check_finite(self, terms: dict[str, Tensor], batch: Batch, batch_index: int) -> None:
        if torch.stack(list(terms.values())).isfinite().all():
            return
        bad = [f"{name} = {value.item()}" for name, value in terms.items() if not value.isfinite()]
        advice = self._task.find_fault() or "lower optimizer.lr or lengthen the warm-up"
        raise TrainingDivergedError(
            f"{', '.join(bad)} in batch {batch_index} of epoch {self.current_epoch} (step {self.global_step}; samples "
            f"{batch.sample_index.tolist()[:8]}...): {advice}"
        )
