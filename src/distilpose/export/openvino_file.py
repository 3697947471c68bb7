"""An ONNX file as OpenVINO's pair of ``.xml`` and ``.bin``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import onnx

from distilpose.backends.base import described
from distilpose.backends.description import METADATA_KEY, ModelDescription
from distilpose.backends.exported import import_openvino
from distilpose.data.preprocess import network_input
from distilpose.export.onnx_file import export_onnx, float_nodes
from distilpose.export.rewrite import ExportForm
from distilpose.types import ImageArray


def write(form: ExportForm, path: Path, description: ModelDescription, crops: ImageArray | None) -> list[Path]:
    """Write ``path``, ending in ``.xml``, and the weights beside it; see `onnx_file.write`."""
    graph = path.with_suffix(".onnx")
    export_onnx(form, description.input_size_hw, graph)
    openvino = import_openvino("export")
    model = openvino.Core().read_model(graph)
    if crops is not None:
        model = _quantize(model, description, crops, float_nodes(onnx.load(graph, load_external_data=False).graph))
    model.set_rt_info(described(description), [METADATA_KEY])
    openvino.save_model(model, path, compress_to_fp16=description.precision == "float16")
    return [path, path.with_suffix(".bin")]


_CONVOLUTION = "/WithoutBiases"  # a convolution of ONNX with a bias becomes an addition of its name, and this


def _quantize(model: Any, description: ModelDescription, crops: ImageArray, keep_float: Sequence[str]) -> Any:
    """int8 by NNCF's recipe for transformers: activations smoothed, biases corrected on the crops."""
    import nncf

    # Not its set_log_level, which changes handlers of others as well.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    images = [network_input(crop[None], description.normalization) for crop in crops]
    names = [f"{name}{suffix}" for name in keep_float for suffix in ("", _CONVOLUTION)]
    with redirect_stdout(sys.stderr):  # its progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=names, validate=False),
        )
