"""The composition root of a training run."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from distilpose import __version__
from distilpose.backends.checkpoint import describe, read_description
from distilpose.data.dataset import ended_workers, error_of_worker
from distilpose.errors import ConfigError, DistilPoseError, TrainingDivergedError
from distilpose.files import OutputLock
from distilpose.inference.interruption import terminated_as_interrupted
from distilpose.models import PoseModel, create_model
from distilpose.models.base import RegressionModel
from distilpose.skeletons import COCO_17, Skeleton
from distilpose.teachers.base import CropSpec, Teacher
from distilpose.teachers.build import open_teacher
from distilpose.training import processes
from distilpose.training.config import TrainConfig
from distilpose.training.data import TrainingData, find_model_skeleton, load_validation_set
from distilpose.training.initialization import initialize_pointer, load_start_weights
from distilpose.training.loop import Training, choose_device, to_device
from distilpose.training.records import (
    BEST_NAME,
    LAST_NAME,
    STATE_NAME,
    Checkpoints,
    Records,
    check_same_settings,
    read_state,
    settings_state,
    write_state,
)
from distilpose.training.step import TrainingStep
from distilpose.training.teacher_cache import TeacherCache, hash_people

logger = logging.getLogger(__name__)


class TrainResult(NamedTuple):
    """Where a run left its weights, and how good they are; without a validation set there is no best."""

    last: Path
    best: Path | None
    best_ap: float | None  # of the best weights, as a fraction
    best_epoch: int | None  # when it was reached


def train(
    config: TrainConfig, *, resume: bool = False, skip_invalid: bool = False, console: Console | None = None
) -> TrainResult:
    """Train a teacher, a student, or a student from a teacher.

    With ``config.devices`` above 1 this very command runs again in as many processes, and this one waits for them.

    Args:
        config: the run.
        resume: go on from the state in ``config.out``, with the numbers of an uninterrupted run.
        skip_invalid: report invalid annotations and images and go on without them.
        console: where progress is shown.

    Raises:
        ConfigError: the configuration contradicts itself, or ``out`` holds another run and ``resume`` is not set.
        TrainingDivergedError: a loss became NaN or infinite; the last good state, if there is one, is kept.
        DistilPoseError: a file is unusable, or another process of the run has ended.
    """
    config.check()
    spread = processes.find_processes(config.devices)
    if spread.machines > 1 and config.teacher_cache is not None:
        raise ConfigError(
            f"a teacher_cache serves the processes of one machine, got {spread.machines} machines: leave it out"
        )
    device = choose_device(config.accelerator)
    most = torch.cuda.device_count() if device.type == "cuda" else max(2, os.cpu_count() or 1)
    if config.devices > most:
        raise ConfigError(f"devices must be at most {most}, as this machine has ({device.type}), got {config.devices}")
    if config.sync_batchnorm and device.type != "cuda":
        raise ConfigError(f"sync_batchnorm works on GPUs, this run is on {device.type}: set it to false")
    out = Path(config.out)
    state = _find_state(out, resume)
    if spread.total > 1 and not processes.was_launched():
        if state is not None:  # said once, before all processes find it
            check_same_settings(state, config, spread.total)
        processes.launch(spread.total, out)
        return _result(out, read_state(out / STATE_NAME))
    with nullcontext() if processes.was_launched() else terminated_as_interrupted(), processes.joined(spread, device):
        try:
            return _train(config, spread, device, state, skip_invalid, console or Console(stderr=True))
        except TrainingDivergedError as error:
            raise TrainingDivergedError(f"{error}\n{_where_to_go_on(out / STATE_NAME)}") from error
        except DistilPoseError as error:
            raise error_of_worker(error) from error.__cause__
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DistilPoseError(
                f"a process that loads images has ended ({str(error)[:200]}): lower data.workers if memory is short; "
                f"{_where_to_go_on(out / STATE_NAME)}"
            ) from error


def _train(
    config: TrainConfig, spread: processes.Processes, device: torch.device, state: dict[str, Any] | None,
    skip_invalid: bool, console: Console,
) -> TrainResult:  # fmt: skip
    processes.check_same_start(0 if state is None else state.get("epoch", 0))
    if state is not None:
        check_same_settings(state, config, spread.total)
    torch.manual_seed(config.seed)
    skeleton = find_model_skeleton(config.data)
    model = _build_model(config, skeleton)
    description = describe(model, skeleton=skeleton)
    data = TrainingData(config, description, skip_invalid)
    loader = data.train_loader(processes.rank(), spread.total)
    if len(loader) == 0:
        raise ConfigError(
            f"an epoch has {len(data)} people or data.samples_per_epoch, fewer than one batch of "
            f"{config.data.batch_size} on {spread.total} devices: lower data.batch_size"
        )
    teacher = None
    if config.teacher is not None:
        teacher = open_teacher(
            config.teacher, CropSpec.of(description), data.samples, set_sizes=data.set_sizes, flip=config.teacher_flip
        )
    step = TrainingStep(
        model,
        config.losses,
        teacher,
        cache=None if teacher is None else _open_cache(config, teacher, data, skeleton),
        target_sigma=config.target_sigma,
        oks_sigmas=skeleton.oks_sigmas,
        areas=torch.tensor([sample.area for sample in data.samples]) if config.losses.score_target == "oks" else None,
    )
    if isinstance(model, RegressionModel) and model.with_score and not step.criterion.learns_score:
        logger.warning(
            "only a teacher teaches the score: without one it means nothing, and poses are drawn faintly. Set "
            "losses.score_target to oks, model_options.with_score to false, or name a teacher."
        )
    if config.start == "pointer" and state is None:
        _, first = data.first(config.data.batch_size)
        initialize_pointer(model, first.images, config.seed, config.target_sigma)
    training = Training(step, config, device, len(loader))
    summary = {
        "distilpose": __version__, "teacher": config.teacher,
        "teacher_description": None if teacher is None else dict(teacher.description),
        "people": len(data), "epochs": config.epochs,
        "batch_size": config.data.batch_size, "devices": spread.total, "seed": config.seed,
        "losses": asdict(config.losses), "data": [dataset.annotations for dataset in config.data.train],
    }  # fmt: skip
    out, is_first = Path(config.out), processes.rank() == 0
    validation = load_validation_set(config, description, skip_invalid) if is_first else None
    checkpoints = Checkpoints(out, description, validation, config.flip_test, summary)
    if state is not None:
        checkpoints.load_state(state)
        training.load_state(state)
    crops, shown = data.first()
    with (
        OutputLock(out, "distilpose train") if is_first else nullcontext(),
        ended_workers(loader),
        Records(
            config, console, steps_per_epoch=len(loader), steps=training.steps, processes=spread.total, active=is_first
        ) as records,
    ):
        while training.epoch < config.epochs:
            loader.sampler.set_epoch(training.epoch)  # type: ignore[attr-defined]  # it is a MixedSampler
            records.begin_epoch()
            training.train_epoch(loader, records)
            if is_first:
                is_due = training.epoch == config.epochs or training.epoch % config.evaluate_every == 0
                weights = training.best_weights
                metrics = checkpoints.write(weights, training.epoch, training.steps, evaluate=is_due)
                if metrics:
                    best = f", best AP {(checkpoints.best_ap or 0) * 100:.1f} (epoch {checkpoints.best_epoch})"
                    records.add_evaluation(training.epoch, training.steps, metrics, best)
                if is_due:
                    view = step.view(to_device(shown, device), weights)
                    records.add_view(crops, view, skeleton, training.steps)
                write_state(out, {**training.state(), **checkpoints.state(), **settings_state(config, spread.total)})
            processes.wait_for_all()
    return _result(out, checkpoints.state())


def _result(out: Path, state: dict[str, Any]) -> TrainResult:
    best = None if state["best_ap"] is None else out / BEST_NAME
    return TrainResult(out / LAST_NAME, best, state["best_ap"], state["best_epoch"])


def _find_state(out: Path, resume: bool) -> dict[str, Any] | None:
    file = out / STATE_NAME
    if resume and file.exists():
        return read_state(file)
    if resume and (out / LAST_NAME).exists():
        told = read_description(out / LAST_NAME).training
        if told.get("epoch") != 1 or told.get("epochs") == 1:  # else it was stopped before it wrote its first state
            raise ConfigError(
                f"{out} holds weights, but not {STATE_NAME}, from which the run could go on: set 'init: "
                f"{out / LAST_NAME}' and another out"
            )
    if resume:
        logger.warning("nothing to resume in %s: starting from the beginning", out)
    elif file.exists() or (out / LAST_NAME).exists():
        raise ConfigError(f"{out} already holds a run: pass --resume to go on with it, or another --out")
    return None


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


def _where_to_go_on(state: Path) -> str:
    if state.exists():
        return f"--resume goes on from the last good state: {state}"
    return "no epoch was finished, so that there is nothing to resume: start again"
