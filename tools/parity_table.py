"""Print the parity table: every golden file of the released code and our largest error against it.

    python tools/parity_table.py [docs/parity.md]

With a file, the table between its two marks is replaced. Rows that need photographs are left out,
with a notice, where ../shared/data is absent.
"""

import gzip
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

TESTS = Path(__file__).parents[1] / "tests"
REFERENCE = TESTS / "reference"
SHARED = TESTS.parent.parent / "shared"
sys.path.insert(0, str(REFERENCE))

import make_checkpoint  # noqa: E402

from distilpose.backends.checkpoint import convert_released, describe  # noqa: E402
from distilpose.backends.torch import TorchBackend  # noqa: E402
from distilpose.data.images import read_image  # noqa: E402
from distilpose.evaluation.metrics.coco_ap import coco_keypoint_ap  # noqa: E402
from distilpose.geometry import CropTransform, xywh_to_xyxy  # noqa: E402
from distilpose.inference.decoding import run_with_flip  # noqa: E402
from distilpose.inference.predictor import PosePredictor  # noqa: E402
from distilpose.losses import (  # noqa: E402
    DistillationCriterion,
    DistillationOptions,
    Labels,
    read_heatmap,
    render_gaussian_heatmaps,
)
from distilpose.models.base import HeatmapModel  # noqa: E402
from distilpose.models.token_encoder import sine_position_code  # noqa: E402
from distilpose.skeletons import COCO_17  # noqa: E402

Row = tuple[str, str, str]
STUDENT_KEYS = {"pred": "xy_norm", "score": "score", "sigma": "sigma"}
LOSS_KEYS = {
    "keypoint": "reg_loss", "visual_token": "vis_dist_loss", "keypoint_token": "kpt_dist_loss",
    "simulated_heatmap": "reg2hm_loss", "score": "score_loss",
}  # fmt: skip


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


def released(folder: Path, model: str, seed: int = 0) -> Path:
    path = folder / f"{model}_{seed}.pth"
    if not path.exists():
        state = make_checkpoint.state_dict(model, seed)
        torch.save({"state_dict": {k: torch.from_numpy(np.array(v)) for k, v in state.items()}}, path)
    return path


def golden_images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([0, 99]).standard_normal((2, 3, 256, 192)).astype(np.float32))


def model_rows(folder: Path) -> list[Row]:
    rows = []
    for name in ("distilpose_s", "distilpose_l", "tokenpose_s", "tokenpose_l"):
        model, golden = convert_released(released(folder, name)), np.load(REFERENCE / f"{name}.npz")
        with torch.inference_mode():
            output = model(golden_images())
        keys = STUDENT_KEYS if name.startswith("distil") else {"pred": "heatmaps"}
        for key, field in {**keys, "kpt_token": "keypoint_tokens", "vis_token": "visual_tokens"}.items():
            expected = golden[key]
            actual = getattr(output, field).numpy()[: len(expected)].reshape(expected.shape)
            rows.append((f"{name}.npz", key, f"{relative(actual, expected):.1e}"))
    code = sine_position_code((16, 16), 192).numpy()
    rows.append(("pos_embedding.npy", "all", f"{relative(code, np.load(REFERENCE / 'pos_embedding.npy')):.1e}"))
    return rows


def known(teacher: HeatmapModel) -> SimpleNamespace:
    """What the criterion asks of a teacher."""
    return SimpleNamespace(tokens=teacher.token_layout, keypoint_mask=[True] * teacher.num_keypoints)


def loss_rows(folder: Path) -> list[Row]:
    rng = np.random.default_rng([0, 7])
    xy = rng.random((2, 17, 2)) * 1.2 - 0.1
    weight = (rng.random((2, 17, 1)) < 0.8) & ((xy >= 0) & (xy <= 1)).all(-1, keepdims=True)
    target, target_weight = torch.from_numpy(xy).float(), torch.from_numpy(weight[..., 0]).float()
    rows = []
    for pair, golden in json.loads((REFERENCE / "losses.json").read_text()).items():
        student_name, teacher_name = pair.split("<-")
        student = convert_released(released(folder, student_name, 0)).train()
        teacher = convert_released(released(folder, teacher_name, 1))
        with torch.no_grad():
            heatmaps = teacher(golden_images())
        criterion = DistillationCriterion(DistillationOptions.reference(), student, known(teacher))
        terms = criterion(student(golden_images()), heatmaps, Labels(target, target_weight, target_weight > -1))
        worst = max(relative(value.item(), golden[LOSS_KEYS[name]]) for name, value in terms.items())
        torch.stack(list(terms.values())).sum().backward()
        norm = torch.stack([p.grad.norm() for p in student.parameters()]).norm().item()
        rows.append(("losses.json", f"{pair}, five terms", f"{worst:.1e}"))
        rows.append(("losses.json", f"{pair}, gradient norm", f"{relative(norm, golden['grad_norm_total']):.1e}"))
    return rows


def geometry_rows() -> list[Row]:
    worst = 0.0
    for case in json.loads((REFERENCE / "affine.json").read_text()):
        width, height = case["size"]
        box_wh = tuple(200 * side for side in case["scale"])
        crop = CropTransform(tuple(case["center"]), box_wh, (height, width), case["rotation"])
        worst = max(worst, relative(crop.matrix, np.array(case["msra"])))
    return [("affine.json", "msra matrices", f"{worst:.1e}")]


def evaluation_rows() -> list[Row]:
    sys.path.insert(0, str(TESTS / "evaluation"))
    from test_coco_ap import golden_results  # the same code that the test runs

    ground_truth = json.loads(gzip.decompress((REFERENCE / "eval_gt.json.gz").read_bytes()))
    expected = json.loads((REFERENCE / "eval_expected.json").read_text())
    rows = []
    for protocol in ("oks_nms", "no_nms", "plain"):
        numbers = coco_keypoint_ap(ground_truth, golden_results(REFERENCE, protocol), COCO_17)
        worst = max(abs(a - b) for a, b in zip(numbers.values(), expected[protocol].values(), strict=True))
        rows.append(("eval_*.json", f"{protocol}, ten numbers", f"{worst:.1e} (absolute)"))
    return rows


def prediction_rows(folder: Path) -> list[Row]:
    file = SHARED / "reference" / "golden" / "predict_coco.npz"
    if not file.is_file():
        print(f"{file} is not there: rows of predict_coco.npz left out", file=sys.stderr)
        return []
    golden, rows = np.load(file), []
    for name in ("distilpose_s", "tokenpose_s"):
        for key, flip_test in (("plain", "off"), ("flip", "reference")):
            predictor, worst = PosePredictor(released(folder, name), flip_test=flip_test), 0.0
            for image_name in np.unique(golden["image"]):
                of_image = golden["image"] == image_name
                image = read_image(SHARED / "data" / "coco_fixture" / str(image_name))
                result = predictor(image, xywh_to_xyxy(golden["bbox"][of_image]))
                worst = max(worst, float(np.abs(result.xy - golden[f"{name}_{key}"][of_image][..., :2]).max()))
            rows.append(("predict_coco.npz", f"{name}, {key}", f"{worst:.4f} px"))
    return rows


def effect_rows(folder: Path) -> list[Row]:
    """What our deliberate differences change, on the golden weights and inputs."""
    student, teacher = (
        convert_released(released(folder, "distilpose_s")),
        convert_released(released(folder, "tokenpose_s", 1)),
    )
    images = golden_images()
    rng = np.random.default_rng([0, 7])
    xy = rng.random((2, 17, 2)) * 1.2 - 0.1
    weight = (rng.random((2, 17, 1)) < 0.8) & ((xy >= 0) & (xy <= 1)).all(-1, keepdims=True)
    target, target_weight = torch.from_numpy(xy).float(), torch.from_numpy(weight[..., 0]).float()
    with torch.no_grad():
        heatmaps = teacher(images)
    terms, wasted = [], 0.0
    for mask in ("reference", "visible", "all"):
        output = student(images)
        output.xy_norm.retain_grad()
        criterion = DistillationCriterion(DistillationOptions(mask=mask), student, known(teacher))
        term = criterion(output, heatmaps, Labels(target, target_weight, target_weight > -1))["simulated_heatmap"]
        term.backward()
        terms.append(f"{mask} {term.item():.3f}")
        size = output.xy_norm.grad.norm(dim=-1)
        wasted = float(size[target_weight == 0].sum() / size.sum()) if mask == "reference" else wasted
    output = student(images)
    readings = [read_heatmap(heatmaps.heatmaps, output.xy_norm, how) for how in ("reference", "bilinear")]
    backend = TorchBackend(student, describe(student))
    aligned, as_released = (run_with_flip(backend, images.numpy(), mode) for mode in ("aligned", "reference"))
    width = images.shape[-1]
    sigma = torch.full((1, 1, 2), 2.0)
    drawn = [render_gaussian_heatmaps(torch.full((1, 1, 2), 0.5), sigma, (64, 48), floor) for floor in (0.0, 0.3)]
    score_change = float(np.abs(aligned.score - as_released.score).mean())
    return [
        ("1", "value of the simulated-heatmap term by mask", ", ".join(terms)),
        ("1", "share of its gradient on unlabeled keypoints, reference mask", f"{100 * wasted:.0f} %"),
        ("2", "mean change of a flip-tested score (spread of scores "
         f"{float(aligned.score.std()):.3f})", f"{score_change:.3f}"),
        ("3", "mean shift of a flip-tested x, crop pixels",
         f"{float(np.abs(aligned.xy_norm - as_released.xy_norm)[..., 0].mean()) * width:.3f}"),
        ("4", "mean change of the score target (spread of targets "
         f"{readings[1].std().item():.3f})", f"{(readings[0] - readings[1]).abs().mean().item():.3f}"),
        ("10", "largest change of a heatmap drawn with sigma 2", f"{(drawn[0] - drawn[1]).abs().max().item():.4f}"),
    ]  # fmt: skip


def replace_table(document: Path, name: str, lines: list[str]) -> None:
    """Write a table between its two marks."""
    before, rest = document.read_text().split(f"<!-- {name} -->")
    after = rest.split(f"<!-- end of {name} -->")[1]
    document.write_text("\n".join([f"{before}<!-- {name} -->", *lines, f"<!-- end of {name} -->{after}"]))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*model_rows(folder), *loss_rows(folder), *geometry_rows(), *evaluation_rows()]
        rows += prediction_rows(folder)
        effects = effect_rows(folder)
    parity = [
        "| golden file | what | largest error |",
        "|---|---|---|",
        *(f"| `{a}` | {b} | {c} |" for a, b, c in rows),
    ]
    differences = [
        "| # | what was measured | effect |",
        "|---|---|---|",
        *(f"| {a} | {b} | {c} |" for a, b, c in effects),
    ]
    for name, lines in (("parity table", parity), ("effects table", differences)):
        print("\n".join(lines), end="\n\n")
        if len(sys.argv) > 1:
            replace_table(Path(sys.argv[1]), name, lines)


if __name__ == "__main__":
    main()
