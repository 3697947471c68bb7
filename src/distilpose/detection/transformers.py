"""People by an object detection model in the layout of transformers: a folder or a hub id."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distilpose.backends import hub
from distilpose.backends.base import first_line
from distilpose.detection.filtering import keep_people
from distilpose.errors import ConfigError, InputError, require_package
from distilpose.formats.boxes import PersonBoxes
from distilpose.types import ImageArray

KIND = "an object detection model"
HF_THRESHOLD = 0.5
HF_NMS_IOU = 0.7
PERSON_LABELS = frozenset({"person", "people", "human", "pedestrian"})

_BATCH_SIZE = 8  # bounds the memory; more at once is not faster on a CPU


class HfDetector:
    """A transformers model for object detection, such as RT-DETRv2 or D-FINE; torchvision is not needed.

    Calls from several threads take turns.

    Args:
        id_or_folder: a folder written by ``save_pretrained`` (model and image processor), or a hub id, whose files are
            taken from the local cache and downloaded if they are not there.
        threshold: least score.
        nms_iou: of two boxes that overlap by more, the weaker one goes.
        device: where torch runs the model; the CPU when None.

    Raises:
        ConfigError: transformers is not installed, or none of the model's labels is a person.
        InputError: the folder or the hub id cannot be found, or does not hold a complete detection model.
    """

    def __init__(
        self,
        id_or_folder: str,
        *,
        threshold: float = HF_THRESHOLD,
        nms_iou: float = HF_NMS_IOU,
        device: str | None = None,
    ) -> None:
        name = f"detector hf:{id_or_folder}"
        require_package("transformers", name)
        folder = hub.find_model_folder(id_or_folder, name, "PekingU/rtdetr_v2_r18vd")
        self._processor, self._model = _load(folder)
        self._person_ids = _person_ids(self._model.config.id2label, id_or_folder)
        self._model.to(device or "cpu")
        self._threshold = threshold
        self._nms_iou = nms_iou
        self._lock = threading.Lock()  # models keep tables for the last input size in themselves

    def __call__(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        """(H, W, 3) uint8 RGB each, of any sizes -> for each N >= 0 boxes in its pixels, best score first."""
        chunks = [images[start : start + _BATCH_SIZE] for start in range(0, len(images), _BATCH_SIZE)]
        return [people for chunk in chunks for people in self._find(chunk)]

    def _find(self, images: Sequence[ImageArray]) -> list[PersonBoxes]:
        import torch

        sizes_hw = [(image.shape[0], image.shape[1]) for image in images]
        with self._lock, torch.inference_mode():
            inputs = self._processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
            outputs = self._model(**inputs.to(self._model.device))
            found = self._processor.post_process_object_detection(
                outputs, threshold=self._threshold, target_sizes=sizes_hw
            )
        kept = []
        for result, size_hw in zip(found, sizes_hw, strict=True):
            boxes, score, label = (result[key].float().cpu().numpy() for key in ("boxes", "scores", "labels"))
            people = np.isin(label, self._person_ids)
            limits = {"threshold": self._threshold, "nms_iou": self._nms_iou}
            kept.append(keep_people(boxes[people], score[people], size_hw, **limits))
        return kept


def _load(folder: Path) -> tuple[Any, Any]:
    """The image processor and the model, complete and in evaluation mode."""
    hub.check_complete(folder, KIND, InputError)
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    # Without it, transformers would ask on the terminal whether to run code from the folder.
    safe = {"trust_remote_code": False}
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, **safe)  # type: ignore[no-untyped-call]
    except Exception as error:  # json and transformers each have their own
        raise InputError(f"{folder} cannot be read as {KIND}: {first_line(error, 0)}") from error
    model = hub.load_whole(AutoModelForObjectDetection, folder, KIND, InputError, **safe)
    return processor, model.eval()


def _person_ids(id2label: Mapping[int, str], model: str) -> list[int]:
    person_ids = [index for index, label in id2label.items() if label.strip().lower() in PERSON_LABELS]
    if not person_ids:
        raise ConfigError(
            f"detector hf:{model} finds no people: expected a label {', '.join(sorted(PERSON_LABELS))}, got "
            f"{', '.join(id2label.values())[:300]}: choose a model that was trained on people, such as on COCO"
        )
    return person_ids
