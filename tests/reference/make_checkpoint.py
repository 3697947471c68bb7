#!/usr/bin/env python3
"""Write a checkpoint in the layout of the paper authors' released files, with reproducible weights.

The released weights cannot be downloaded here, but their layout (tensor names and shapes) is known:
`keys/<model>.json`. This script fills that layout with seeded pseudo-random numbers, so that code that
reads released checkpoints can be tested end to end against the expected outputs in this folder.

    python make_checkpoint.py distilpose_s out.pth [--seed 0]
"""

import argparse
import json
import math
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def tensor(name: str, shape: list[int], seed: int) -> np.ndarray:
    """The value of one tensor: it depends on its name, its shape and the seed alone."""
    if name.endswith("num_batches_tracked"):
        return np.array(1, dtype=np.int64)
    if name.endswith("pos_embedding"):
        return np.load(HERE / "pos_embedding.npy")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    x = rng.standard_normal(shape)
    if name.endswith("running_var"):
        x = 0.5 + rng.random(shape)
    elif name.endswith("running_mean") or name.endswith("bias"):
        x = 0.1 * x
    elif name.endswith("keypoint_token"):
        x = 0.5 * x
    elif len(shape) == 1:  # scale of a normalization layer
        x = 0.8 + 0.4 * rng.random(shape)
    elif len(shape) == 4:  # convolution
        x = x * math.sqrt(0.4 / math.prod(shape[1:]))
    else:  # linear
        x = x * math.sqrt(1 / shape[1])
    return x.astype(np.float32)


def state_dict(model: str, seed: int = 0) -> dict[str, np.ndarray]:
    keys = json.loads((HERE / "keys" / f"{model}.json").read_text())
    return {name: tensor(name, shape, seed) for name, shape in keys.items()}


if __name__ == "__main__":
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(p.stem for p in (HERE / "keys").glob("*.json")))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    weights = {k: torch.from_numpy(np.array(v)) for k, v in state_dict(args.model, args.seed).items()}
    torch.save({"meta": {"epoch": 300}, "state_dict": weights}, args.out)
