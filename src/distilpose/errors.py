"""Every error a user can cause. Catch `DistilPoseError` to catch them all."""

from __future__ import annotations

from importlib.util import find_spec

_LINE = 2000  # characters of a line of an error: a name or value of a file may have any number


class DistilPoseError(Exception):
    """Base of all errors raised on bad input; the text says what was expected, what came and what to do.

    Of a line of more than 2,000 characters the middle is left out.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(shorten(each) if isinstance(each, str) else each for each in args))


class InputError(DistilPoseError):
    """An image, a box, an array or a file handed in is unusable."""


class ConfigError(DistilPoseError):
    """An option or a configuration file asks for something that does not exist or does not fit together."""


class CheckpointError(DistilPoseError):
    """A model file is missing, broken, foreign, or does not match its model."""


class DatasetError(DistilPoseError):
    """An annotation file or its images are unusable; the text names file, annotation and remedy."""


class TrainingDivergedError(DistilPoseError):
    """A loss became NaN or infinite; the text names the term and the batch."""


class UnforeseenError(InputError):
    """One image, frame or model call raised something that is not an error of ours: ``__cause__`` says what."""


def as_failure(error: Exception) -> DistilPoseError:
    """What one image, frame or model call did wrong, as an error of ours: one input never ends a run."""
    if isinstance(error, DistilPoseError):
        return error
    lines = str(error).strip().splitlines()
    reason = lines[-1].strip()[:300] if lines else "no reason given"
    failure = UnforeseenError(f"failed with {type(error).__name__}: {reason}")
    failure.__cause__ = error
    return failure


def naming(source: object, error: DistilPoseError) -> str:
    """The error's text with the name of its source, once; the bare text where the source has no name."""
    return str(error) if str(source) in str(error) else f"{source}: {error}"


def shorten(text: str) -> str:
    """A text without the middle of its longest lines."""
    lines = text.split("\n")
    half = _LINE // 2
    return "\n".join(line if len(line) <= _LINE else f"{line[:half]} ... {line[-half:]}" for line in lines)


def printable(text: object) -> str:
    """A text without control characters, which a file's name could send to the terminal; its lines are shortened."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in shorten(str(text)))


# Extra of the package (pyproject.toml) that installs an optional import.
EXTRAS = {
    "ai_edge_litert": "litert",
    "ai_edge_quantizer": "litert-export",
    "av": "video",
    "coremltools": "coreml",
    "fastapi": "serve",
    "faster_coco_eval": "evaluate",
    "huggingface_hub": "torch",
    "jinja2": "evaluate",
    "litert_torch": "litert-export",
    "matplotlib": "evaluate",
    "nncf": "openvino",
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "pandas": "interop",
    "pyarrow": "interop",
    "ray": "bulk",
    "safetensors": "torch",
    "scipy": "video",
    "supervision": "interop",
    "tensorboard": "train",
    "torch": "torch",
    "transformers": "detect",
    "uvicorn": "serve",
}


def install_command(extra: str) -> str:
    """What installs an extra of this package: from an index, or in a clone of its repository."""
    return f'pip install "distilpose[{extra}]", or in a clone pip install ".[{extra}]"'


def missing_package(package: str, what: str, extra: str | None = None) -> ConfigError:
    """The error for an optional package that is not installed, with the command that installs it.

    Args:
        package: name of the import.
        what: needs it, the start of the sentence.
        extra: of this package that installs all that ``what`` needs; the one in `EXTRAS` when None.
    """
    extra = extra or EXTRAS.get(package.split(".")[0])
    command = f"pip install {package}" if extra is None else install_command(extra)
    return ConfigError(f"{what} needs {package}, which is not installed: {command}")


def require_package(package: str, what: str, extra: str | None = None) -> None:
    """Raise `missing_package` if an import of this name would find nothing."""
    try:
        found = find_spec(package) is not None
    except (ImportError, ValueError):  # sys.modules has None in its place
        found = False
    if not found:
        raise missing_package(package, what, extra)
