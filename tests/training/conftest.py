"""A run that is small enough to be a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilpose.data.augment import AugmentOptions
from distilpose.data.synthetic import write_synthetic_dataset
from distilpose.training.config import DataConfig, DatasetConfig, OptimizerConfig, TrainConfig

SMALL = {"input_size_hw": [64, 48], "patch_size_hw": [4, 3], "dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with drawn people."""
    folder = tmp_path_factory.mktemp("drawn")
    write_synthetic_dataset(folder, 16, seed=5)
    return folder


@pytest.fixture
def make_config(drawn_data: Path, tmp_path: Path):
    """Function (name of the run, changes) -> a small run on drawn people."""

    def make(name: str, **changes: object) -> TrainConfig:
        people = DatasetConfig("person_keypoints.json", "images")
        data = DataConfig([people], people, root=str(drawn_data), batch_size=8, workers=0, samples_per_epoch=16)
        values: dict[str, object] = {
            "out": str(tmp_path / name),
            "data": data,
            "model_options": dict(SMALL),
            "epochs": 2,
            "evaluate_every": 1,
            "log_every": 1,
            "optimizer": OptimizerConfig(warmup_steps=2, schedule="cosine"),
            "augment": AugmentOptions(color_jitter=0.2),
            "accelerator": "cpu",
        }
        return TrainConfig(**{**values, **changes})

    return make
