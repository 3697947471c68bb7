"""Exported files as inference backends, in ONNX Runtime, OpenVINO and LiteRT; sessions of any ONNX file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilpose.backends import base
from distilpose.backends import device as devices
from distilpose.backends.description import METADATA_KEY, parse_description
from distilpose.data.preprocess import NetworkInput, network_input
from distilpose.errors import CheckpointError, ConfigError, require_package
from distilpose.models.outputs import HeatmapOutput, PoseOutput
from distilpose.types import Float32Array

_HINTS: dict[devices.Compute, str] = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class ExportedBackend:
    """A file of ``distilpose export`` as an `InferenceBackend`; a subclass opens it for its runtime and runs it.

    Of the model's ``files`` the one with the description, whose ``text`` is given, is the first; ``names`` are those of
    the outputs in the order in which `_run` returns them.

    Attributes:
        description: what the model expects and returns.

    Raises:
        CheckpointError: the file is damaged, foreign or newer, does not run, or does not do what it says of itself.
    """

    def __init__(
        self, files: Sequence[Path], text: str | None, names: Sequence[str], runtime: devices.RuntimeInfo
    ) -> None:
        self._path, self._names, self._runtime = files[0], names, runtime
        self.description = parse_description(self._path, text)
        base.check_digest(text, files)
        needed = base.HEATMAP_OUTPUT if self.description.output == "heatmap" else base.POSE_OUTPUTS[0]
        if needed not in names:
            raise CheckpointError(
                f"{self._path} must have an output {needed!r}, got {', '.join(names)[:300]}: export it again"
            )
        self._try_out()

    def describe(self) -> devices.RuntimeInfo:
        """What runs it."""
        return self._runtime

    def __call__(self, images: NetworkInput) -> base.NumpyOutput:
        """(B, 3, H, W) crops -> the model's output, without tokens."""
        base.check_network_input(images, self.description)
        try:
            values = dict(zip(self._names, self._run(images), strict=True))
        except Exception as error:  # exceptions of runtimes share no base class
            raise base.run_failed(self._path, self._runtime.backend.rsplit(" ", 1)[0], error) from error
        if base.HEATMAP_OUTPUT in values:
            return HeatmapOutput(values[base.HEATMAP_OUTPUT])
        return PoseOutput(values["xy_norm"], values.get("sigma"), values.get("score"))

    def _run(self, images: NetworkInput) -> Iterable[Float32Array]:
        """The outputs in the order of their names."""
        raise NotImplementedError

    def _try_out(self) -> None:
        """Run two black crops, and hold the answer against the description."""
        batch, count = 2, self.description.skeleton.num_keypoints
        crops = np.zeros((batch, *self.description.input_size_hw, 3), np.uint8)
        output = self(network_input(crops, self.description.normalization))
        heatmaps = (batch, count, *self.description.heatmap_size_hw)
        point = (batch, count, 2)
        shapes = {"xy_norm": point, "sigma": point, "score": (batch, count), base.HEATMAP_OUTPUT: heatmaps}
        for name, values in output._asdict().items():
            if values is None or name not in shapes:
                continue
            if values.shape != shapes[name] or values.dtype != np.float32 or not np.isfinite(values).all():
                same = values.shape == shapes[name]
                fault = "numbers that are not finite" if same else f"{values.dtype} {values.shape}"
                raise CheckpointError(
                    f"{self._path} does not do what it says of itself: output {name!r} must be float32 of shape "
                    f"{shapes[name]} and finite on black crops, got {fault}: export it again"
                )


class OnnxRuntimeBackend(ExportedBackend):
    """An exported ``.onnx`` file in ONNX Runtime.

    Args:
        path: written by ``distilpose export``.
        threads: of one run on the CPU; see `default_threads` when None.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``tensorrt``, ``coreml`` or ``directml``.

    Raises:
        ConfigError: onnxruntime is not installed, or lacks the device.
        CheckpointError: the file is missing, broken, damaged, foreign or newer, or does not run.
    """

    def __init__(self, path: str | Path, threads: int | None = None, *, device: str = devices.AUTO) -> None:
        path = base.existing_file(path)
        self._session = open_onnx_session(path, threads, device=device)
        try:
            text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except UnicodeDecodeError as error:  # ONNX Runtime does not check the encoding when it opens a file
            raise base.unreadable(path, "ONNX Runtime", error) from error
        names = [output.name for output in self._session.get_outputs()]
        super().__init__([path], text, names, session_runtime(self._session))

    def _run(self, images: NetworkInput) -> Any:
        return run_session(self._session, self._names, {base.INPUT_NAME: images})


def is_exported(path: Path) -> bool:
    """Whether ``distilpose export`` wrote an ONNX file: its metadata have our key, in protobuf's encoding.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): expected an ONNX file") from error
    return b"\n%c%s\x12" % (len(METADATA_KEY), METADATA_KEY.encode()) in content


def open_onnx_session(
    file: Path | bytes, threads: int | None = None, *, device: str = devices.AUTO, name: Path | None = None
) -> Any:
    """Any ONNX file as a session of ONNX Runtime. Its threads sleep while they wait, to leave the machine to others.

    ``file`` is a path, or content whose ``name`` stands in errors; the rest is that of `OnnxRuntimeBackend`.

    Raises:
        ConfigError: onnxruntime is not installed, or lacks the device.
        CheckpointError: the file is broken.
    """
    path = name if isinstance(file, bytes) else file
    assert path is not None
    require_package("onnxruntime", str(path))
    import onnxruntime

    threads = devices.run_threads(threads)
    wanted = devices.parse_device(device)
    kind = devices.onnx_provider(wanted, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors come as exceptions; warnings are about its own optimizer
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [devices.PROVIDERS["cpu"]]
    if kind != "cpu":
        numbered = kind in ("cuda", "tensorrt", "directml")
        providers.insert(0, (devices.PROVIDERS[kind], {"device_id": str(wanted.number)} if numbered else {}))
    try:
        source = file if isinstance(file, bytes) else os.fspath(file)
        session = onnxruntime.InferenceSession(source, options, providers=providers)
        _ = [tensor.name for tensor in session.get_inputs() + session.get_outputs()]  # may not be UTF-8
    except Exception as error:  # its exceptions share no base class
        raise base.unreadable(path, f"ONNX Runtime on {kind}", error) from error
    if wanted.kind != devices.AUTO and session.get_providers()[0] != devices.PROVIDERS[kind]:
        raise ConfigError(
            f"device {wanted}: ONNX Runtime has {devices.PROVIDERS[kind]} but cannot start it here: install the "
            "driver and libraries that it needs, or say device cpu"
        )
    devices.log_runtime(path, session_runtime(session))
    return session


def run_session(session: Any, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The named outputs of a run; raises whatever the runtime does, `TypeError` for one that is no array of numbers."""
    answers: list[NDArray[Any]] = session.run(list(names), dict(feeds))
    for name, answer in zip(names, answers, strict=True):
        if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "biuf":
            raise TypeError(f"output {name!r} is no array of numbers")
    return answers


def session_runtime(session: Any) -> devices.RuntimeInfo:
    """What runs a session."""
    import onnxruntime

    provider = session.get_providers()[0]
    kind = next((kind for kind, known in devices.PROVIDERS.items() if known == provider), provider)
    number = session.get_provider_options().get(provider, {}).get("device_id")
    threads = session.get_session_options().intra_op_num_threads if kind == "cpu" else None
    device = kind if number is None else f"{kind}:{number}"
    return devices.RuntimeInfo(f"ONNX Runtime {onnxruntime.__version__}", device, threads, "float32")


class OpenVinoBackend(ExportedBackend):
    """An exported file in OpenVINO: ``.xml`` with its ``.bin`` beside it, or ``.onnx``.

    ``threads`` and errors are those of `OnnxRuntimeBackend`. ``device`` is ``auto`` or ``cpu`` for the CPU, or
    ``openvino:GPU``, ``openvino:GPU.1``, ``openvino:NPU``. ``compute`` of ``"bfloat16"`` and ``"float16"`` is faster
    where the processor can, and not the same numbers.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        *,
        device: str = devices.AUTO,
        compute: devices.Compute = "float32",
    ) -> None:
        files = [base.existing_file(path)]
        if files[0].suffix == ".xml":
            weights = files[0].with_suffix(".bin")
            if not weights.is_file():
                raise CheckpointError(f"{path} needs its weights beside it: expected {weights}, which is not there")
            files.append(weights)
        openvino = import_openvino(str(path))
        threads = devices.run_threads(threads, compute)
        core = openvino.Core()
        name = _device_name(device, core.available_devices)
        # Left to itself, OpenVINO rounds to bfloat16 wherever the processor can.
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[compute]}
        used = threads if name == "CPU" else None
        if used is not None:
            settings["INFERENCE_NUM_THREADS"] = used
        try:
            model = core.read_model(files[0])
            text = _description_text(model)
            names = [output.get_any_name() for output in model.outputs]
            self._request = openvino.compile_model(model, name, settings).create_infer_request()
        except Exception as error:  # RuntimeError for some faults, its own types for others
            raise base.unreadable(files[0], f"OpenVINO on {name}", error) from error
        version = openvino.__version__.split("-")[0]
        runtime = devices.RuntimeInfo(f"OpenVINO {version}", f"openvino:{name}", used, compute)
        super().__init__(files, text, names, devices.log_runtime(path, runtime))

    def _run(self, images: NetworkInput) -> Any:
        return self._request.infer({base.INPUT_NAME: images}, share_inputs=True).values()


def import_openvino(what: str) -> Any:
    """The openvino package, imported without its telemetry; ``what`` needs it, the start of the error.

    ``import openvino`` sends an event with a persistent client id to its makers. Without the package
    ``openvino_telemetry`` it uses a stub that sends nothing, so that package is hidden from it (and from NNCF).
    """
    require_package("openvino", what)
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # import raises ImportError
    import openvino

    return openvino


def _device_name(device: str, there: list[str]) -> str:
    wanted = devices.parse_device(device)
    name = wanted.which.upper() or "CPU"
    names = {known.split(".")[0] for known in there} | set(there)
    if wanted.kind not in (devices.AUTO, "cpu", "openvino") or name not in names:
        raise devices.not_there(wanted, "OpenVINO", [f"openvino:{known}" for known in there])
    return name


def _description_text(model: Any) -> str | None:
    """The description in the file: of an ``.xml`` at the top, of an ONNX file among what its framework said."""
    for keys in ([METADATA_KEY], ["framework", METADATA_KEY]):
        if model.has_rt_info(keys):
            return str(model.get_rt_info(keys).value)
    return None


class LiteRtBackend(ExportedBackend):
    """An exported ``.tflite`` file in LiteRT on the CPU; it holds one crop, so that a batch is run one by one.

    ``threads`` and errors are those of `OnnxRuntimeBackend`; ``device`` is ``auto`` or ``cpu``.
    """

    def __init__(self, path: str | Path, threads: int | None = None, *, device: str = devices.AUTO) -> None:
        path = base.existing_file(path)
        require_package("ai_edge_litert", str(path))
        from ai_edge_litert.interpreter import Interpreter

        wanted, used = devices.parse_device(device), devices.run_threads(threads)
        if wanted.kind not in (devices.AUTO, "cpu"):
            raise devices.not_there(wanted, "LiteRT", ["cpu"])
        try:
            text = description_text(path.read_bytes())
            self._run_one = Interpreter(str(path), num_threads=used).get_signature_runner()
            names = list(self._run_one.get_output_details())
        except Exception as error:  # of flatbuffers, struct and LiteRT
            raise base.unreadable(path, "LiteRT", error) from error
        runtime = devices.RuntimeInfo(f"LiteRT {version('ai-edge-litert')}", "cpu", used, "float32")
        super().__init__([path], text, names, devices.log_runtime(path, runtime))

    def _run(self, images: NetworkInput) -> Any:
        parts = [self._run_one(**{base.INPUT_NAME: image[None]}) for image in images]
        return [np.concatenate([part[name] for part in parts]) for name in self._names]


def description_text(content: bytes) -> str | None:
    """The description among the metadata of a file; None without one."""
    from ai_edge_litert.schema_py_generated import Model

    model = Model.GetRootAs(content)
    entries = [model.Metadata(index) for index in range(model.MetadataLength())]
    buffers = [entry.Buffer() for entry in entries if entry.Name() == METADATA_KEY.encode()]
    return model.Buffers(buffers[0]).DataAsNumpy().tobytes().decode() if buffers else None
