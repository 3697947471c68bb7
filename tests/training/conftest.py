"""Configuration files of runs in processes of their own."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write_config(drawn_data: Path, tmp_path: Path):
    """Function (name of the run, changes) -> configuration file of a small run on drawn people."""

    def write(name: str, **changes: Any) -> Path:
        people = {"annotations": "person_keypoints.json", "images": "images"}
        data = {"root": str(drawn_data), "train": [people], "validation": people, "batch_size": 4, "workers": 0}
        config = {
            "out": str(tmp_path / name),
            "model_options": {"input_size_hw": [64, 48], "dim": 16, "depth": 1, "num_heads": 2},
            "epochs": 12,
            "evaluate_every": 12,
            "log_every": 1,
            "accelerator": "cpu",
            "freeze_batchnorm": True,
            "optimizer": {"warmup_steps": 1},
            **changes,
            "data": {**data, "samples_per_epoch": 32, **changes.get("data", {})},
        }
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(config))
        return file

    return write
