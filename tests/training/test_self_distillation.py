"""Self-distillation: the last cycle teaches, the first one learns, prediction takes one."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch
from torch import Tensor

from distilpose.backends.loading import load_model
from distilpose.data.dataset import Batch
from distilpose.errors import ConfigError
from distilpose.losses import DistillationOptions, cycle_keypoint_loss, cycle_token_loss
from distilpose.models import PoseModel, create_model
from distilpose.models.outputs import PoseOutput
from distilpose.training.distillation import make_task
from distilpose.training.self_distillation import SelfDistillation, make_self_distillation
from distilpose.training.train import train

SMALL: dict[str, Any] = {"input_size_hw": (64, 48), "dim": 16, "num_heads": 2, "num_keypoints": 4}


def build(name: str, **options: Any) -> PoseModel:
    torch.manual_seed(0)
    return create_model(name, **{**SMALL, "depth": 2, **options})


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    ones = torch.ones(3, 4)
    places = torch.rand(3, 4, 2, generator=generator)
    images = torch.randn(3, 3, 64, 48, generator=generator)
    return Batch(images, places, ones, ones > 0, torch.zeros(3), torch.zeros(3))


def same(value: Tensor) -> Tensor:
    return value


def test_the_loss_by_hand_teaches_the_first_cycle_alone() -> None:
    first = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    last = torch.tensor([[[3.0, 2.0]]], requires_grad=True)
    nothing = torch.zeros(1, 1, 2)
    loss = cycle_token_loss(
        PoseOutput(nothing, None, None, first, first * 2), PoseOutput(nothing, None, None, last, last * 2)
    )
    assert loss.item() == pytest.approx(2.0 + 8.0)
    loss.backward()
    assert last.grad is None
    assert first.grad is not None
    assert (first.grad[0, 0, 0] < 0) & (first.grad[0, 0, 1] == 0)


def test_positions_of_the_first_cycle_alone_move_towards_the_last() -> None:
    first = torch.tensor([[[0.2, 0.6]]], requires_grad=True)
    last = torch.tensor([[[0.6, 0.6]]], requires_grad=True)
    loss = cycle_keypoint_loss(PoseOutput(first, None, None), PoseOutput(last, None, None))
    assert loss.item() == pytest.approx(0.5 * 0.4**2 / 2)  # smooth L1, mean of x and y
    loss.backward()
    assert last.grad is None
    assert first.grad is not None
    assert (first.grad[0, 0, 0] < 0) & (first.grad[0, 0, 1] == 0)


def test_a_cycle_is_the_same_blocks_again() -> None:
    model = build("distilpose_m", visual_depth=2).eval()
    with torch.no_grad():
        once = model(torch.randn(2, 3, 64, 48))
        twice = model.cycle(once)
        tokens = torch.cat([once.keypoint_tokens, once.visual_tokens], dim=1)
        for block in model.encoder.blocks:
            tokens[:, 4:] += model.encoder.position
            tokens = block(tokens)
        xy_norm = model.head(tokens[:, :4])[0]
    torch.testing.assert_close(twice.visual_tokens, tokens[:, 4:])
    torch.testing.assert_close(twice.xy_norm, xy_norm)
    assert not torch.allclose(twice.xy_norm, once.xy_norm)


@pytest.mark.parametrize("options", [{"visual_depth": 0}, {"prune_after": 1, "keep_tokens": 5}])
def test_students_that_save_tokens_cycle_too(options: dict[str, int]) -> None:
    model = build("distilpose_m", **options).eval()
    with torch.inference_mode():
        once = model(torch.randn(2, 3, 64, 48))
        twice = model.cycle(once)
    assert twice.visual_tokens.shape == once.visual_tokens.shape
    assert not torch.equal(twice.keypoint_tokens, once.keypoint_tokens)


def test_terms_of_the_last_cycle_are_those_of_the_task(batch: Batch) -> None:
    model = build("distilpose_t")
    teacher = build("tokenpose_m")
    task = make_task(model, teacher, DistillationOptions(), 2.0)
    asked: list[int] = []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    output = model(batch.images)
    first = task.losses(output, batch, same)
    terms = SelfDistillation(3, 0.5, 0.25).losses(model, output, batch, task, same)
    assert len(asked) == 1  # every cycle hears the same answer
    assert set(terms) == {*(f"cycled_{name}" for name in first), "cycle_token", "cycle_keypoint"}
    last = model.cycle(model.cycle(output))
    expected = task.losses(last, batch, same)
    assert all(torch.equal(terms[f"cycled_{name}"], value) for name, value in expected.items())
    assert torch.equal(terms["cycle_token"], 0.5 * cycle_token_loss(output, last))
    assert torch.equal(terms["cycle_keypoint"], 0.25 * cycle_keypoint_loss(output, last))
    task.losses(output, batch._replace(images=batch.images + 1), same)
    assert len(asked) == 2


def test_a_run_logs_its_cycles_and_predicts_with_one(make_config, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"input_size_hw": [64, 48], "dim": 16, "depth": 2, "num_heads": 2}
    result = train(make_config("run", model="distilpose_t", model_options=options, cycles=2, epochs=1))
    with (result.last.parent / "losses.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["cycle_token"]) > 0
    named = ("keypoint", "cycled_keypoint", "cycle_token", "cycle_keypoint")
    assert float(row["total"]) == pytest.approx(sum(float(row[name]) for name in named), rel=1e-4)
    model = load_model(result.last)
    monkeypatch.setattr(type(model), "cycle", None)
    assert model(torch.zeros(1, 3, 64, 48)).xy_norm.shape == (1, 17, 2)


@pytest.mark.parametrize("name", ["distilpose_t", "distilpose_m"])
def test_light_students_learn_from_every_token_of_a_teacher_on_their_grid(name: str, batch: Batch) -> None:
    task = make_task(build(name), build("tokenpose_m"), DistillationOptions(), 2.0)
    model = build(name)
    terms = task.losses(model(batch.images), batch, same)
    assert set(terms) == {"keypoint", "visual_token", "keypoint_token", "simulated_heatmap", "score"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    other = build("tokenpose_m", patch_size_hw=(4, 4))
    with pytest.raises(ConfigError, match=r"losses\.token"):
        make_task(model, other, DistillationOptions(token=0.05), 2.0)
    without = make_task(model, other, DistillationOptions(), 2.0)
    assert "visual_token" not in without.losses(model(batch.images), batch, same)


def test_settings_that_cannot_work(make_config) -> None:
    assert make_self_distillation(build("distilpose_t"), 1, 0.05, 1.0) is None
    with pytest.raises(ConfigError, match="cycles needs a distilpose_"):
        make_self_distillation(build("tokenpose_m"), 2, 0.05, 1.0)
    with pytest.raises(ConfigError, match="cycles must be at least 1"):
        make_config("run", cycles=0).check()
    with pytest.raises(ConfigError, match="cycle_token must not be negative"):
        make_config("run", cycle_token=-1.0).check()
    with pytest.raises(ConfigError, match="cycle_keypoint must not be negative"):
        make_config("run", cycle_keypoint=float("nan")).check()
    with pytest.raises(ConfigError, match=r"leave out model_options\.prune_after"):
        train(make_config("run", model="distilpose_m", start="pointer", model_options={
            "input_size_hw": [64, 48], "dim": 16, "depth": 2, "num_heads": 2, "prune_after": 1, "keep_tokens": 4,
        }))  # fmt: skip
