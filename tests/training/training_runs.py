"""Reading and comparing runs."""

import csv
from pathlib import Path

import torch

from distilpose.backends.checkpoint import load_checkpoint
from distilpose.training.loop import Training


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in load_checkpoint(path).state_dict().items()}


def assert_same_run(a: Path, b: Path) -> None:
    """Equal losses, rates and weights; speed may differ."""
    ignored = "samples_per_second"
    first, second = ([{k: v for k, v in row.items() if k != ignored} for row in rows(p / "losses.csv")] for p in (a, b))
    assert first == second
    mine, other = weights(a / "last.safetensors"), weights(b / "last.safetensors")
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def die_at(monkeypatch, epoch: int, batch: int = 0) -> None:
    """Let every run fail before this batch."""
    step = Training._train_step

    def dies(self, values, index):
        if (self.epoch, index) == (epoch, batch):
            raise RuntimeError("killed")
        return step(self, values, index)

    monkeypatch.setattr(Training, "_train_step", dies)
