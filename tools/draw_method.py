"""Draw the images of docs/how_it_works.md with the models of this repository.

python tools/draw_method.py --out docs/images
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

import distilpose
from distilpose.backends.checkpoint import describe, load_checkpoint
from distilpose.backends.loading import load_model
from distilpose.data.images import read_image
from distilpose.data.preprocess import crop_image, preprocess
from distilpose.geometry.crop import CropTransform
from distilpose.losses.simulated_heatmap import render_gaussian_heatmaps, simulate_heatmaps

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))  # the drawn people
PHOTO = ROOT / "docs" / "images" / "photos" / "000000173830.jpg"  # sources and licenses: ATTRIBUTION.md beside it
DRAWN_TEACHER = ROOT / "examples" / "drawn_people_teacher.safetensors"
SHOWN = ("nose", "left_wrist", "right_knee")
DPI = 100


def main() -> None:
    """Write the four images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder, made if missing")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, draw in {"tokens": tokens, "heatmaps": heatmaps, "sigma": sigma, "score": score}.items():
        figure = draw()
        figure.savefig(out / f"method_{name}.png", dpi=DPI, bbox_inches="tight", pil_kwargs={"optimize": True})
        plt.close(figure)


def tokens() -> Any:
    """A crop, its patches, and where the tokens of some keypoints look."""
    model = load_model("distilpose_mobilenet", exported=False)
    description = describe(model)
    result = distilpose.predict(PHOTO)
    largest = int(np.prod(result.box[:, 2:] - result.box[:, :2], axis=1).argmax())
    box, xy = result.box[largest], result.xy[largest]
    transform = CropTransform.from_box(box, description.input_size_hw)
    image = read_image(PHOTO)
    crop, (height, width) = crop_image(image, transform), description.input_size_hw
    seen: list[Tensor] = []
    block = model.encoder.blocks[-1]
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(torch.from_numpy(preprocess(image, [transform], description.normalization)))
        attention = _attention(block, seen[0], model.num_keypoints)[0].numpy()
    rows, columns = model.token_layout.grid_hw
    figure, axes = plt.subplots(1, 2 + len(SHOWN), figsize=(2.3 * (2 + len(SHOWN)), 3.2))
    for axis in axes:
        axis.imshow(crop, extent=(0, width, height, 0))
        axis.axis("off")
    axes[0].set_title(f"crop, {height} x {width}", fontsize=10)
    axes[1].set_title(f"{rows} x {columns} = {rows * columns} visual tokens", fontsize=10)
    for row in range(rows):
        for column in range(columns):
            corner = (column * width / columns, row * height / rows)
            axes[1].add_patch(Rectangle(corner, width / columns, height / rows, fill=False, ec="white", lw=0.8))
    names = description.skeleton.keypoint_names
    for axis, name in zip(axes[2:], SHOWN, strict=True):
        index = names.index(name)
        axis.imshow(attention[index].reshape(rows, columns), extent=(0, width, height, 0), cmap="inferno", alpha=0.6)
        axis.plot(*transform.to_crop(xy[index]), "o", mfc="none", mec="cyan", ms=11, mew=2)
        axis.set_title(f"keypoint token\n{name}: where it looks", fontsize=10)
    return figure


def _attention(block: Any, placed: Tensor, keypoints: int) -> Tensor:
    """(B, K, P) attention of the keypoint tokens on the visual tokens, mean over heads."""
    normed = block.attention_norm(placed)
    query, key, _ = (block._heads(part) for part in block.qkv(normed).chunk(3, dim=-1))
    weights = (query[:, :, :keypoints] @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
    found: Tensor = weights[..., keypoints:].mean(1)
    return found


def heatmaps() -> Any:
    """A drawn person: the teacher's heatmap, and outputs of a student drawn as heatmaps."""
    from synthetic_people import draw_people

    image, people = draw_people(np.random.default_rng(8), (256, 256), uniform=True)
    person = people[0]
    teacher = load_checkpoint(DRAWN_TEACHER).eval()
    description = describe(teacher)
    transform = CropTransform.from_box(person.box_xyxy, description.input_size_hw)
    index = description.skeleton.keypoint_names.index("left_wrist")
    with torch.no_grad():
        maps = teacher(torch.from_numpy(preprocess(image, [transform], description.normalization))).heatmaps
    size_hw = tuple(maps.shape[-2:])
    peak = np.unravel_index(int(maps[0, index].argmax()), size_hw)
    place = torch.tensor([[[peak[1] / size_hw[1], peak[0] / size_hw[0]]]])
    outputs = {"teacher's heatmap": maps[0, index]}
    for title, shift, spread in (
        ("student: right place,\nsigma 1 cell", (0.0, 0.0), 1.0),
        ("student: right place,\nsigma 2.5 cells", (0.0, 0.0), 2.5),
        ("student: 3 cells away,\nsigma 1 cell", (-3 / size_hw[1], 0.0), 1.0),
    ):
        there = place + torch.tensor(shift)
        wide = torch.full_like(there, spread)
        outputs[title] = simulate_heatmaps(there, wide, size_hw, description.input_size_hw)[0, 0]
    figure, axes = plt.subplots(1, 1 + len(outputs), figsize=(2.4 * (1 + len(outputs)), 3.4))
    axes[0].imshow(crop_image(image, CropTransform.from_box(person.box_xyxy, (256, 192))))
    axes[0].set_title("crop of a drawn person", fontsize=10)
    for axis, (title, values) in zip(axes[1:], outputs.items(), strict=True):
        axis.imshow(values, cmap="inferno", vmin=0, vmax=1)
        loss = float((values - maps[0, index]).square().mean())
        axis.set_title(title if values is maps[0, index] else f"{title}\nloss {1e4 * loss:.0f} e-4", fontsize=10)
    axes[1].set_title("left wrist:\nteacher's heatmap", fontsize=10)
    for axis in axes:
        axis.axis("off")
    return figure


def sigma() -> Any:
    """The loss of a simulated heatmap against the distance of its keypoint, without and with a floor."""
    size_hw, center = (64, 48), torch.tensor([[[0.5, 0.5]]])
    target = render_gaussian_heatmaps(center, torch.full_like(center, 2.0), size_hw, 0.0)
    distances = torch.linspace(0, 12, 49)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for axis, floor in zip(axes, (0.0, 1.0), strict=True):
        for spread in (0.3, 1.0, 2.0, 4.0):
            losses = []
            for distance in distances:
                moved = center + torch.tensor([float(distance) / size_hw[1], 0.0])
                drawn = render_gaussian_heatmaps(moved, torch.full_like(moved, spread), size_hw, floor)
                losses.append(1e3 * float((drawn - target).square().mean()))
            axis.plot(distances, losses, label=f"sigma {spread:g}")
        axis.axhline(1e3 * float(target.square().mean()), color="gray", ls=":", lw=1)
        axis.set_title("no floor" if floor == 0 else f"floor of {floor:g} cell", fontsize=10)
        axis.set_xlabel("cells between keypoint and teacher's peak")
        axis.legend(fontsize=8, title="dotted: an empty map", title_fontsize=8)
    axes[0].set_ylabel("mean squared error x 1000")
    return figure


def score() -> Any:
    """A photograph with keypoints in the color of their score, and the scores."""
    result = distilpose.predict(PHOTO)
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 1.1))
    axes[0].imshow(read_image(PHOTO))
    axes[0].axis("off")
    for xy, values in zip(result.xy, result.score, strict=True):
        for start, end in result.skeleton.edges:
            axes[0].plot(*xy[[start, end]].T, color="white", lw=1, alpha=0.6)
        points = axes[0].scatter(
            *xy.T, c=values, cmap="RdYlGn", vmin=0, vmax=1, s=26, edgecolors="black", linewidths=0.5
        )
    figure.colorbar(points, ax=axes[0], fraction=0.05)
    names = result.skeleton.keypoint_names
    for number, values in enumerate(result.score):
        axes[1].plot(values, "o", ms=4, alpha=0.7, label=f"person {number + 1}")
    axes[1].set_title("score of each keypoint", fontsize=10)
    axes[1].set_xticks(range(len(names)), names, rotation=70, fontsize=8)
    axes[1].set_ylim(0, 1.02)
    axes[1].grid(alpha=0.3)
    axes[1].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
