"""Small foreign networks as ONNX files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_text import save_onnx, tensor

SIZE_HW = (64, 48)


def write_network(
    path: Path,
    outputs: dict[str, tuple[int, ...]],
    *,
    batch: int | str = "batch",
    weights: dict[str, NDArray[np.float32]] | None = None,
) -> Path:
    """A linear network: every output is the image, thinned out to 8 x 6 cells, times random weights."""
    nodes = ['small = Resize <mode = "nearest"> (images, , scales)', "flat = Flatten (small)"]
    arrays = {"scales": np.array([1, 1, 8 / SIZE_HW[0], 6 / SIZE_HW[1]], np.float32)}
    for seed, (name, shape) in enumerate(outputs.items()):
        values = np.random.default_rng(seed).standard_normal((3 * 8 * 6, int(np.prod(shape)))).astype(np.float32)
        arrays |= {f"{name}_weights": values if weights is None else weights[name], f"{name}_shape": [0, *shape]}
        nodes += [f"{name}_flat = MatMul (flat, {name}_weights)", f"{name} = Reshape ({name}_flat, {name}_shape)"]
    found = [tensor(name, batch, *shape) for name, shape in outputs.items()]
    return save_onnx(path, [tensor("images", batch, 3, *SIZE_HW)], found, nodes, arrays, opset=17)


def simcc(path: Path, count: int = 17) -> Path:
    return write_network(path, {"simcc_x": (count, 96), "simcc_y": (count, 128)})
