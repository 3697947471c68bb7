"""The composition root of a training run."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lightning
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from distilpose import __version__
from distilpose.backends.checkpoint import describe
from distilpose.backends.description import ModelDescription
from distilpose.errors import ConfigError, TrainingDivergedError
from distilpose.models import PoseModel, create_model
from distilpose.models.base import RegressionModel
from distilpose.skeletons import COCO_17, Skeleton
from distilpose.teachers.base import CropSpec, Teacher
from distilpose.teachers.build import open_teacher
from distilpose.training.callbacks import STATE_NAME, Checkpoints, ProgressDisplay, Records
from distilpose.training.config import TrainConfig
from distilpose.training.datamodule import TrainingData, find_model_skeleton, load_validation_set
from distilpose.training.distillation import make_task
from distilpose.training.heatmap_images import NUM_CROPS, HeatmapImages
from distilpose.training.initialization import initialize_pointer, load_start_weights
from distilpose.training.module import PoseTraining
from distilpose.training.processes import SameStart, companions
from distilpose.training.self_distillation import make_self_distillation
from distilpose.training.teacher_cache import TeacherCache, hash_people

logger = logging.getLogger(__name__)

_LOST_PROCESS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


@dataclass(frozen=True)
class TrainResult:
    """Where a run left its weights, and how good they are.

    Attributes:
        last: the last weights.
        best: the weights of the best AP; None without a validation set.
        best_ap: their AP as a fraction; None without a validation set.
        best_epoch: when they were reached.
    """

    last: Path
    best: Path | None
    best_ap: float | None
    best_epoch: int | None


def train(
    config: TrainConfig, *, resume: bool = False, skip_invalid: bool = False, console: Console | None = None
) -> TrainResult:
    """Train a teacher, a student, or a student from a teacher.

    Args:
        config: the run.
        resume: go on from the state in ``config.out``, with the numbers of an uninterrupted run.
        skip_invalid: report invalid annotations and go on without them.
        console: where progress is shown.

    Raises:
        ConfigError: the configuration contradicts itself, or ``out`` holds another run and ``resume`` is not set.
        CheckpointError: a file named in it is unusable.
        DatasetError: an annotation file is unusable.
        TrainingDivergedError: a loss became NaN or infinite; the last good state, if there is one, is kept.
        DistilPoseError: another process of the run has ended, so that this one cannot go on.
    """
    config.check()
    processes = find_processes(config.devices)
    if processes.machines > 1 and config.teacher_cache is not None:
        raise ConfigError(
            f"a teacher_cache serves the processes of one machine, got {processes.machines} machines: leave it out"
        )
    out = Path(config.out)
    state = _find_state(out, resume)
    lightning.seed_everything(config.seed, verbose=False)
    skeleton = find_model_skeleton(config.data)
    model = _build_model(config, skeleton)
    description = describe(model, skeleton=skeleton)
    data = TrainingData(config, description, skip_invalid)
    teacher = _open_teacher(config, description, data)
    if teacher is None and isinstance(model, RegressionModel) and model.with_score:
        logger.warning(
            "only a teacher teaches the score: without one it means nothing, and poses are drawn faintly. Set "
            "model_options.with_score to false, or name a teacher."
        )
    store = None if teacher is None else _open_cache(config, teacher, data, skeleton)
    task = make_task(model, teacher, config.losses, config.target_sigma, store)
    if config.start == "pointer" and state is None:
        first = next(iter(data.train_loader(rank=0, world_size=1)))
        initialize_pointer(model, first.images, config.seed, config.target_sigma)
    module = PoseTraining(
        model,
        task,
        config.optimizer,
        config.epochs,
        ema_decay=config.ema_decay,
        freeze_batchnorm=config.freeze_batchnorm,
        backbone_heatmap=config.backbone_heatmap,
        target_sigma=config.target_sigma,
        self_distillation=make_self_distillation(model, config.cycles, config.cycle_token, config.cycle_keypoint),
    )
    summary = {
        "distilpose": __version__, "teacher": config.teacher,
        "teacher_description": None if teacher is None else dict(teacher.description),
        "people": len(data), "epochs": config.epochs,
        "batch_size": config.data.batch_size, "devices": processes.total, "seed": config.seed,
        "losses": asdict(config.losses), "data": [dataset.annotations for dataset in config.data.train],
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)  # not before all that can be refused is read
    checkpoints = Checkpoints(
        out, description, load_validation_set(config, description), config.flip_test, config.evaluate_every, summary
    )
    callbacks = [
        checkpoints,
        ProgressDisplay(console or Console(stderr=True), checkpoints),
        Records(out, config.log_every, checkpoints),
        HeatmapImages(*data.first(NUM_CROPS), description.skeleton, config.evaluate_every),
    ]
    _fit(config, processes, module, data, callbacks, state)
    best = None if checkpoints.best_ap is None else out / "best.safetensors"
    return TrainResult(out / "last.safetensors", best, checkpoints.best_ap, checkpoints.best_epoch)


def _find_state(out: Path, resume: bool) -> Path | None:
    state = out / STATE_NAME
    if resume and not state.exists():
        logger.warning("nothing to resume in %s: starting from the beginning", out)
        return None
    if not resume and (state.exists() or (out / "last.safetensors").exists()):
        raise ConfigError(f"{out} already holds a run: pass --resume to go on with it, or another --out")
    return state if resume else None


def _build_model(config: TrainConfig, skeleton: Skeleton) -> PoseModel:
    count = config.model_options.get("num_keypoints", skeleton.num_keypoints)
    if count != skeleton.num_keypoints:
        raise ConfigError(
            f"model_options.num_keypoints is {count}, the skeleton {skeleton.name} has {skeleton.num_keypoints}: leave "
            "it out, it follows from data.skeleton"
        )
    model = create_model(config.model, **{**config.model_options, "num_keypoints": count})
    if config.init is not None:
        load_start_weights(model, config.init, config.init_parts)
    return model


def _open_teacher(config: TrainConfig, description: ModelDescription, data: TrainingData) -> Teacher | None:
    if config.teacher is None:
        return None
    if description.output == "heatmap":
        raise ConfigError("a heatmap model is trained on labels: remove 'teacher', or train a student")
    return open_teacher(config.teacher, CropSpec.of(description), data.samples, flip=config.teacher_flip)


def _open_cache(config: TrainConfig, teacher: Teacher, data: TrainingData, skeleton: Skeleton) -> TeacherCache | None:
    if config.teacher_cache is None or config.data.variants is None:
        return None
    content: dict[str, object] = {
        "teacher": dict(teacher.description),
        "augment": asdict(config.augment),
        "data": [dataset.annotations for dataset in config.data.train],
        "people": hash_people(data.samples, Path(config.data.root)),
    }
    if skeleton != COCO_17:  # its mirror pairs and halves shape the crops
        content["skeleton"] = skeleton.to_dict()
    return TeacherCache(Path(config.teacher_cache), content, len(data), config.data.variants)


class Processes(NamedTuple):
    """How a run is spread.

    Attributes:
        of_machine: processes on each machine.
        machines: how many.
    """

    of_machine: int
    machines: int

    @property
    def total(self) -> int:
        """Processes of the run."""
        return self.of_machine * self.machines


def find_processes(devices: int) -> Processes:
    """What torchrun has started, where this process is one of its; else ``devices`` processes on this machine.

    Raises:
        ConfigError: torchrun has started another number than ``devices``, which is not the default.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        return Processes(devices, 1)
    of_machine, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if devices not in (1, of_machine):
        raise ConfigError(
            f"torchrun has started {of_machine} processes on a machine, devices is {devices}: leave devices out"
        )
    return Processes(of_machine, total // of_machine)


def _fit(
    config: TrainConfig,
    processes: Processes,
    module: PoseTraining,
    data: TrainingData,
    callbacks: list[Callback],
    state: Path | None,
) -> None:
    out = Path(config.out)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=processes.of_machine,
        num_nodes=processes.machines,
        strategy="ddp" if processes.total > 1 else "auto",
        precision=config.precision,  # type: ignore[arg-type]  # Lightning checks it
        sync_batchnorm=config.sync_batchnorm,
        max_epochs=config.epochs,
        callbacks=[*callbacks, *([SameStart(state)] if processes.total > 1 else [])],
        logger=TensorBoardLogger(out, name="tensorboard", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )
    loader = data.train_loader(trainer.global_rank, trainer.world_size)
    if len(loader) == 0:
        raise ConfigError(
            f"an epoch has {len(data)} people or data.samples_per_epoch, fewer than one batch of "
            f"{config.data.batch_size} on {processes.total} devices: lower data.batch_size"
        )

    with warnings.catch_warnings():
        # Loading and logging are ours to set: Lightning's advice on them would only puzzle the reader.
        warnings.filterwarnings("ignore", module="lightning.*")
        with companions(trainer, processes.of_machine, partial(_describe_loss, trainer, out)) as watch:
            try:
                trainer.fit(module, loader, ckpt_path=None if state is None else str(state), weights_only=False)
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"{error}\n{_where_to_go_on(out / STATE_NAME)}") from error
            except RuntimeError as error:
                if not _has_lost_process(error, processes):
                    raise
                raise watch.error() from error
            except SystemExit:  # Lightning's answer to Ctrl-C
                if trainer.interrupted:
                    raise KeyboardInterrupt from None
                raise


def _where_to_go_on(state: Path) -> str:
    if state.exists():
        return f"--resume goes on from the last good state: {state}"
    return "no epoch was finished, so that there is nothing to resume: start again"


def _describe_loss(trainer: Trainer, out: Path, lost: str | None) -> str:
    how = lost or "which was killed or failed"
    return (
        f"process {trainer.global_rank} of {trainer.world_size} has lost another one, {how} (its own output says why; "
        f"a lack of memory leaves no word): --resume goes on from the last whole epoch, in {out / STATE_NAME}"
    )


def _has_lost_process(error: RuntimeError, processes: Processes) -> bool:
    """Whether communication failed; some backends say so by nothing but the text."""
    broken = isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in _LOST_PROCESS)
    return processes.total > 1 and broken
