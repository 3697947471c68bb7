"""An ONNX file as OpenVINO's pair of ``.xml`` and ``.bin``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from distilpose.backends.base import described
from distilpose.backends.description import METADATA_KEY, ModelDescription
from distilpose.backends.openvino import import_openvino
from distilpose.data.preprocess import network_input
from distilpose.types import ImageArray


def write_openvino(
    onnx_file: Path,
    path: Path,
    description: ModelDescription,
    *,
    crops: ImageArray | None = None,
    keep_float: Sequence[str] = (),
) -> None:
    """Convert, quantize when the description says int8, and write ``path`` and the weights beside it.

    Args:
        onnx_file: float32 file.
        path: ending in ``.xml``.
        description: of the file to write.
        crops: (N, H, W, 3) uint8 to calibrate with, for int8.
        keep_float: names of nodes that int8 leaves in floating point.
    """
    openvino = import_openvino("export")
    model = openvino.Core().read_model(onnx_file)
    if description.precision == "int8":
        assert crops is not None
        model = _quantize(model, description, crops, keep_float)
    model.set_rt_info(described(description), [METADATA_KEY])
    openvino.save_model(model, path, compress_to_fp16=description.precision == "float16")


def _quantize(model: Any, description: ModelDescription, crops: ImageArray, keep_float: Sequence[str]) -> Any:
    """int8 by NNCF's recipe for transformers: activations smoothed, biases corrected on the crops."""
    import nncf

    # Not its set_log_level, which changes handlers of others as well.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    images = [network_input(crop[None], description.normalization) for crop in crops]
    with redirect_stdout(sys.stderr):  # its progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=list(keep_float), validate=False),
        )
