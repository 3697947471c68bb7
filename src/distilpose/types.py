"""Aliases of arrays and sizes that signatures share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ImageArray = NDArray[np.uint8]  # (H, W, 3) RGB, or (N, H, W, 3)
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
Size = tuple[int, int]  # (height, width)
