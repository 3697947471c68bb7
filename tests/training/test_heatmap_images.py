"""Images of a training: what they show, where they end up, and that the training does not notice them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distilpose.losses import DistillationOptions, render_gaussian_heatmaps
from distilpose.skeletons import COCO_17
from distilpose.training.records import TAG, draw_view
from distilpose.training.step import BatchView, TrainingStep
from distilpose.training.train import train

TITLE = 24


def heatmaps_at(x_norm: float, y_norm: float) -> torch.Tensor:
    xy = torch.tensor([x_norm, y_norm]).expand(2, 17, 2)
    return render_gaussian_heatmaps(xy, torch.ones(2, 17, 2), (16, 12))


def test_columns_and_rows() -> None:
    crops = np.full((2, 64, 48, 3), 90, dtype=np.uint8)
    before = crops.copy()
    heatmaps = {"teacher": heatmaps_at(0.25, 0.5), "simulated": heatmaps_at(0.75, 0.25)}
    image = draw_view(crops, BatchView(torch.full((2, 17, 2), 0.5), heatmaps), COCO_17)
    assert image.dtype == np.uint8
    assert image.shape == (TITLE + 2 * 256, 3 * 192, 3)  # four times as large
    assert np.array_equal(crops, before)
    for column, (x, y) in enumerate([(0.25, 0.5), (0.75, 0.25)], start=1):
        panel = image[TITLE : TITLE + 256, 192 * column : 192 * (column + 1)].sum(-1, dtype=np.int64)
        row, col = np.unravel_index(panel.argmax(), panel.shape)
        assert (row, col) == (y * 256, x * 192)  # where it was drawn, not half a cell beside it
    assert draw_view(crops, BatchView(None, {}), COCO_17).shape == (TITLE + 2 * 256, 192, 3)


def logged_images(out: str) -> list[np.ndarray]:
    events = EventAccumulator(str(Path(out) / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == [TAG]
    encoded = (np.frombuffer(event.encoded_image_string, np.uint8) for event in events.Images(TAG))
    return [cv2.imdecode(data, cv2.IMREAD_COLOR) for data in encoded]


def test_tensorboard_shows_what_each_training_has(make_config) -> None:
    config = make_config("teacher", model="tokenpose_s", epochs=3, evaluate_every=2)
    teacher = train(config)
    images = logged_images(config.out)
    assert len(images) == 2  # epochs 2 and 3
    assert images[0].shape == (TITLE + 4 * 256, 3 * 192, 3)
    assert np.array_equal(images[0][:, :192], images[1][:, :192])  # the same crops
    assert not np.array_equal(images[0][:, 192:384], images[1][:, 192:384])  # better heatmaps
    assert np.array_equal(images[0][:, 384:], images[1][:, 384:])  # the same targets

    for name, columns, changes in (
        ("student", 3, {"teacher": str(teacher.last)}),
        ("alone", 1, {}),
    ):
        run = make_config(name, epochs=1, **changes)
        train(run)
        assert logged_images(run.out)[0].shape == (TITLE + 4 * 256, columns * 192, 3), name


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_looking_leaves_weights_mode_statistics_and_chance_alone(make_config, monkeypatch, ema_decay) -> None:
    view, looks = TrainingStep.view, []

    def compare(self, batch, model):
        before = {name: value.clone() for name, value in self.state_dict().items()}
        chance, mode = torch.get_rng_state(), model.training
        looks.append(view(self, batch, model))
        assert model.training == mode
        assert torch.equal(chance, torch.get_rng_state())
        assert all(torch.equal(before[name], value) for name, value in self.state_dict().items())
        assert not looks[-1].xy_norm.requires_grad
        return looks[-1]

    monkeypatch.setattr(TrainingStep, "view", compare)
    train(make_config("run", epochs=1, losses=DistillationOptions(keypoint_form="rle"), ema_decay=ema_decay))
    assert looks[0].heatmaps["simulated"].shape == (4, 17, 16, 12)
