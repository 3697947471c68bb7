"""What is installed here, what it runs on, and what installs the rest."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from distilpose import __version__
from distilpose.cli.command import Command, NoOptions
from distilpose.errors import ConfigError, install_command

# Extras in the order of the report, with what needs them.
PURPOSES = {
    "torch": "checkpoints, hub ids", "train": "train, ablate, label", "evaluate": "evaluate, reports",
    "export": "export to ONNX", "openvino": "OpenVINO, int8", "video": "videos, cameras",
    "detect": "transformers detectors, ViTPose", "serve": "HTTP server", "interop": "pandas, Parquet, supervision",
    "bulk": "predict-bulk", "litert": "running .tflite files", "litert-export": "export to LiteRT",
    "coreml": "export to Core ML", "imagenet": "ImageNet start weights",
}  # fmt: skip


def missing_packages(extra: str) -> list[str]:
    """Packages of an extra that are not installed."""
    missing = set()
    for line in metadata("distilpose").get_all("Requires-Dist") or []:
        requirement, _, condition = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)
        if name and re.search(rf"extra == ['\"]{extra}['\"]", condition) and installed(name[0]) is None:
            missing.add(name[0])
    return sorted(missing)


def installed(package: str) -> str | None:
    """Version of a package without importing it; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def report() -> Iterator[tuple[str, str]]:
    """Pairs of what and its state; a package that is installed and fails is told, torch is imported last."""
    from distilpose.backends.device import default_threads, usable_cores

    yield "distilpose", f"{__version__}, {Path(__file__).parents[1]}"
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "cores", f"{usable_cores()} usable, {default_threads()} threads for one run"
    weights = sorted((Path(__file__).parents[1] / "weights").glob("*.onnx"))
    yield "shipped networks", ", ".join(file.name for file in weights) or "missing: install distilpose again"
    for package in ("numpy", "opencv-python-headless", "transformers", "ray"):
        yield package, installed(package) or "not installed"
    for package, devices in {"onnxruntime": _onnxruntime, "openvino": _openvino, "torch": _torch}.items():
        try:
            found = installed(package)
            yield package, "not installed" if found is None else f"{found}: {', '.join(devices())}"
        except Exception as error:  # a broken library raises anything
            yield package, f"broken, install it again: {type(error).__name__}: {error}"


def _onnxruntime() -> list[str]:
    from onnxruntime import get_available_providers

    from distilpose.backends.device import PROVIDERS

    return [device for device, provider in PROVIDERS.items() if provider in get_available_providers()]


def _openvino() -> list[str]:
    from distilpose.backends.exported import import_openvino

    return [f"openvino:{device}" for device in import_openvino("doctor").Core().available_devices]


def _torch() -> list[str]:
    import torch

    gpus = [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _doctor(_: NoOptions) -> int:
    for what, state in report():
        print(f"{what:<24}{state}", flush=True)
    try:
        lacking = {extra: missing_packages(extra) for extra in PURPOSES}
    except PackageNotFoundError as error:
        raise ConfigError("distilpose runs from a folder and is not installed: pip install . in the clone") from error
    print()
    for extra, purpose in PURPOSES.items():
        state = f"missing {', '.join(lacking[extra])}: {install_command(extra)}" if lacking[extra] else "ok"
        print(f"{extra:<14}{purpose:<34}{state}")
    return 0


DOCTOR = Command(
    "say what is installed, which devices there are, and what installs the rest",
    ("",),
    "distilpose.cli.command:NoOptions",
    _doctor,
)
