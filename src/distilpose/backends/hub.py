"""Folders of models in the layout of transformers: on disk, in the hub's local cache, or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distilpose.backends.base import first_line
from distilpose.errors import DistilPoseError, InputError

MODEL_CONFIG = "config.json"
PROCESSOR_CONFIG = "preprocessor_config.json"
CONNECT_SECONDS = 3.0  # without it, a hub that cannot be reached is tried for half a minute and longer
_FILES = (MODEL_CONFIG, PROCESSOR_CONFIG, "model*.safetensors", "model.safetensors.index.json")


def find_model_folder(id_or_folder: str, what: str, example: str) -> Path:
    """The folder of a model: itself, or the hub's files in the local cache, downloaded if they are not there.

    ``what`` it is for starts the errors; ``example`` is a hub id of such a model.

    Raises:
        InputError: it is neither a folder nor a hub id whose files can be had; a silent hub is given up after seconds.
    """
    folder = Path(id_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or id_or_folder.startswith((".", "~")) or len(folder.parts) != 2:
        raise InputError(
            f"{what}: expected a folder written by save_pretrained or a hub id such as {example}, got neither: there "
            f"is no folder {folder}"
        )
    return _cached(id_or_folder) or _downloaded(id_or_folder, what)


def missing_files(folder: Path) -> list[str]:
    """What a folder lacks of a model and its image processor."""
    return [name for name in (MODEL_CONFIG, PROCESSOR_CONFIG, "model*.safetensors") if not any(folder.glob(name))]


def check_complete(folder: Path, kind: str, failure: type[DistilPoseError]) -> None:
    """Raise ``failure`` if a folder does not hold a model of ``kind`` (with its article) and its image processor."""
    if missing := missing_files(folder):
        raise failure(
            f"{folder} lacks {', '.join(missing).replace('*', '')}: expected a folder into which save_pretrained wrote "
            f"{kind} and its image processor"
        )


def load_whole(architecture: Any, folder: Path, kind: str, failure: type[DistilPoseError], **options: Any) -> Any:
    """A model of transformers with all of its weights in float32, whatever they are kept in, from a folder alone.

    ``architecture`` is a class with ``from_pretrained``, which ``options`` go to. ``failure`` is raised when the folder
    cannot be read as a model of ``kind`` (with its article), or lacks weights.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, loading = architecture.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # json, safetensors, transformers and torch each have their own
        raise failure(f"{folder} cannot be read as {kind}: {first_line(error, 0)}") from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if loading["missing_keys"]:  # transformers fills them with random numbers and goes on
        raise failure(
            f"{folder}: its weights lack {len(loading['missing_keys'])} of the model's arrays, such as "
            f"{min(loading['missing_keys'])}: broken, or not {kind}; copy it again"
        )
    return model.float()


def _cached(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except Exception:  # not there, or not an id: the download says which
        return None
    return folder if not missing_files(folder) else None


def _downloaded(hub_id: str, what: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        HfApi().model_info(hub_id, timeout=CONNECT_SECONDS)  # snapshot_download takes no such limit
        return Path(snapshot_download(hub_id, allow_patterns=list(_FILES)))
    except Exception as error:  # requests', httpx's or the hub's own, by version
        raise InputError(
            f"{what}: there is no such folder, the model is not in the local cache, and it cannot be downloaded "
            f"({first_line(error, 0)}): check the name and the network, or copy the model's folder from a machine that "
            "has it and pass its path"
        ) from error
