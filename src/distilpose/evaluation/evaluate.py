"""Evaluate models, teachers and results files: data set -> model -> COCO results -> the numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from distilpose.backends.base import InferenceBackend
from distilpose.backends.loading import DEFAULT_MODEL, as_backend
from distilpose.data.labels import skeleton_of_file
from distilpose.errors import ConfigError, require_package
from distilpose.evaluation import comparison
from distilpose.evaluation.evaluation_set import EvaluationSet
from distilpose.evaluation.metrics.coco_ap import coco_keypoint_curves
from distilpose.evaluation.metrics.pck import check_measurable, default_metrics, measure_protocols, pck
from distilpose.evaluation.options import EvaluateOptions
from distilpose.evaluation.report.report import write_report
from distilpose.evaluation.result import SIZE_CLASSES, EvaluationResult, metrics_table, write_evaluation
from distilpose.files import make_folder
from distilpose.geometry.oks import OKS_NMS_THRESHOLD, oks_nms
from distilpose.inference import decoding
from distilpose.inference.decoding import FlipTest
from distilpose.inference.people import open_detector
from distilpose.inference.predictor import PosePredictor
from distilpose.inference.result import PoseResult
from distilpose.skeletons import COCO_17, Skeleton, find_skeleton, map_keypoints

if TYPE_CHECKING:
    from torch import nn

    from distilpose.detection.detectors import Detector

logger = logging.getLogger(__name__)

# How the numbers came about, as ``metrics.json`` puts it.
BOX_SCORE = "box score"
RESCORED = f"box score x mean keypoint score above {decoding.KEYPOINT_SCORE_THRESHOLD}"
OWN_BOX = "prediction in the person's own box"
MOST_SIMILAR = "most similar result of the image"

__all__ = [
    "EvaluateOptions", "EvaluationResult", "EvaluationSet", "evaluate_files", "evaluate_model", "evaluate_predictions",
    "evaluate_set", "metrics_table", "write_evaluation",
]  # fmt: skip


def evaluate_files(options: EvaluateOptions, *, progress: bool = False) -> EvaluationResult:
    """Evaluate a model or a teacher, or a results file alone, against a COCO keypoint file.

    Args:
        options: what to evaluate, on what, and what to write.
        progress: show a progress bar on the error stream.

    Raises:
        ConfigError: the options do not fit together, or a package is not installed.
        CheckpointError: the model cannot be loaded.
        DatasetError: the annotations or results are unusable, or do not belong together.
        InputError: the boxes, an image or the output folder are unusable.
    """
    needed = ["faster_coco_eval", *(() if options.report is None else ("jinja2", "matplotlib"))]
    for package in needed:  # told now, not after minutes
        require_package(package, "distilpose evaluate")
    for folder in (options.out, options.report):
        if folder is not None:
            make_folder(folder)
    annotations, images = Path(options.annotations), None if options.images is None else Path(options.images)
    is_model = options.predictions is None
    skeleton = None if options.skeleton is None else find_skeleton(options.skeleton, only_labels=is_model)
    if options.predictions is not None:
        file = Path(options.predictions)
        result = evaluate_predictions(file, annotations, skeleton=skeleton, metrics=options.metrics)
    else:
        assert images is not None  # the options have checked it
        result = evaluate_model(
            _backend(options),
            annotations,
            images,
            detections=None if options.detections is None else Path(options.detections),
            detector=options.detector,
            flip_test=options.flip_test,
            metrics=options.metrics,
            skeleton=skeleton,
            batch_size=options.batch_size,
            progress=progress,
        )
    if options.out is not None:
        write_evaluation(result, Path(options.out))
    if options.report is not None:
        write_report(result, Path(options.report), images)
    return result


def evaluate_model(
    model: nn.Module | InferenceBackend,
    annotations: Path,
    images: Path,
    *,
    detections: Path | None = None,
    detector: Detector | str | None = None,
    flip_test: FlipTest = "off",
    nms_threshold: float = OKS_NMS_THRESHOLD,
    metrics: Sequence[str] | None = None,
    skeleton: Skeleton | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> EvaluationResult:
    """Evaluate a model on a data set; see `EvaluationSet.load` and `evaluate_set`.

    A file with another ``skeleton`` than the model's is mapped to the model's by name (`map_keypoints`). With a
    ``detector`` the boxes are those that it finds, and `EvaluationResult.with_true_boxes` is evaluated beside.
    """
    backend = as_backend(model)
    description = backend.description
    mapping = None if skeleton is None else map_keypoints(skeleton, description.skeleton)
    if mapping is not None and mapping.missing_names:
        logger.warning("%s does not label %s: not compared", annotations, ", ".join(mapping.missing_names))
    finder = None if detector is None else open_detector(detector, PosePredictor(backend, flip_test=flip_test))
    people = EvaluationSet.load(
        annotations,
        images,
        description,
        detections=detections,
        detector=finder,
        detector_name=detector if isinstance(detector, str) else None,
        mapping=mapping,
    )
    evaluated = partial(
        evaluate_set,
        backend,
        flip_test=flip_test,
        nms_threshold=nms_threshold,
        metrics=metrics,
        batch_size=batch_size,
        progress=progress,
    )
    result = evaluated(people)
    return result if detector is None else replace(result, with_true_boxes=evaluated(people.with_true_boxes()))


def evaluate_set(
    backend: InferenceBackend,
    evaluation_set: EvaluationSet,
    *,
    flip_test: FlipTest = "off",
    nms_threshold: float = OKS_NMS_THRESHOLD,
    metrics: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> EvaluationResult:
    """Evaluate a model on crops made before, such as those of a validation set once per epoch.

    Heatmaps are read by DARK. A person's score is the box score times the mean of its keypoint scores above 0.2;
    near-copies within an image are suppressed by OKS. PCK compares each labeled person with the prediction in
    its own box, or, given detections, with the most similar result of the image.

    Args:
        backend: the model.
        evaluation_set: built for the model's input size and skeleton.
        flip_test: see `run_with_flip`.
        nms_threshold: see `oks_nms`.
        metrics: names of `pck.METRICS`; those usual for the skeleton without it.
        batch_size: crops per run of the model.
        progress: show a progress bar on the error stream.

    Raises:
        ConfigError: ``flip_test`` or a metric is unknown or impossible, or the set was built for another model.
        DatasetError: an image does not fit its annotations.
        InputError: an image cannot be read, or the model returns numbers that are not finite.
    """
    decoding.check_flip_test(flip_test)
    _check_fits(backend, evaluation_set)
    boxes, truth = evaluation_set.boxes, evaluation_set.ground_truth
    check_measurable(metrics or (), truth.people)
    everybody = _predict(backend, evaluation_set, flip_test, batch_size, progress)
    kept, results = _suppress(everybody, evaluation_set, nms_threshold)
    if boxes.person is None:
        predicted = everybody.filter(kept)
        rows = comparison.match_people(truth.people, boxes.image_id[kept], predicted.xy)
    else:
        predicted = everybody
        rows = np.full(len(truth.people), comparison.NOBODY, dtype=np.intp)
        rows[boxes.person] = np.arange(len(boxes.person))
    people = truth.people.compared(rows, predicted.xy, predicted.raw_score, predicted.sigma)
    protocol = {
        "model": backend.description.model,
        "boxes": boxes.source,
        "flip_test": flip_test,
        "oks_nms": nms_threshold,
        "pose_score": BOX_SCORE if everybody.raw_score is None else RESCORED,
        "pck_compares": OWN_BOX if boxes.person is not None else MOST_SIMILAR,
        **({} if boxes.person is not None else {"people_with_a_box": boxes.people_with_a_box(truth)}),
    }
    return _summarize(truth, results, people, protocol, metrics)


def evaluate_predictions(
    predictions: Path, annotations: Path, *, skeleton: Skeleton | None = None, metrics: Sequence[str] | None = None
) -> EvaluationResult:
    """Evaluate a COCO results file of any model alone, as it is: no new scores, no suppression.

    Without a ``skeleton`` both files have the keypoints that the annotation file names, else COCO's. ``metrics`` are
    names of `pck.METRICS`, those usual for the skeleton when None.

    Raises:
        ConfigError: a metric is unknown or impossible.
        DatasetError: a file is unusable, or they do not belong together.
    """
    skeleton = skeleton or skeleton_of_file(annotations) or COCO_17
    truth = comparison.load_ground_truth(annotations, skeleton)
    check_measurable(metrics or (), truth.people)
    results = comparison.load_results(predictions, truth)
    image_id = np.array([result["image_id"] for result in results], dtype=np.int64)
    keypoints = np.array([result["keypoints"] for result in results]).reshape(-1, skeleton.num_keypoints, 3)
    xy_img, score = keypoints[..., :2], keypoints[..., 2]
    # The layout asks for a score: a model without one writes the same number everywhere.
    raw_score = score if len(np.unique(score)) > 1 else None
    people = truth.people.compared(comparison.match_people(truth.people, image_id, xy_img), xy_img, raw_score)
    protocol = {"predictions": predictions.name, "pck_compares": MOST_SIMILAR}
    return _summarize(truth, results, people, protocol, metrics)


def _backend(options: EvaluateOptions) -> InferenceBackend:
    if options.teacher is None:
        return as_backend(options.model or DEFAULT_MODEL, options.device, threads=options.threads)
    from distilpose.teachers.build import TeacherBackend
    from distilpose.teachers.config import read_teacher_file

    values, flip = read_teacher_file(options.teacher)
    return TeacherBackend(values, flip=flip, device=options.device, threads=options.threads)


def _check_fits(backend: InferenceBackend, evaluation_set: EvaluationSet) -> None:
    (size_hw, skeleton), (own_hw, own) = (
        (known.input_size_hw, known.skeleton) for known in (backend.description, evaluation_set.description)
    )
    if size_hw != own_hw or skeleton.keypoint_names != own.keypoint_names:
        raise ConfigError(
            f"the model reads crops of (H, W) {size_hw} and has the keypoints of {skeleton.name}, the evaluation set "
            f"was loaded for {own_hw} and {own.name}: load it for this model"
        )


def _predict(
    backend: InferenceBackend, evaluation_set: EvaluationSet, flip_test: FlipTest, batch_size: int, progress: bool
) -> PoseResult:
    """Everybody in every image, in the order of the boxes."""
    boxes, skeleton = evaluation_set.boxes, evaluation_set.ground_truth.people.skeleton
    if len(evaluation_set) == 0:
        return PoseResult.empty(skeleton)
    batches = track(
        evaluation_set.batches(batch_size, backend.description.normalization),
        description="evaluating",
        total=math.ceil(len(evaluation_set) / batch_size),
        console=Console(stderr=True),
        disable=not progress,
    )
    udp, map_hw = backend.description.udp, backend.description.heatmap_size_hw
    keypoints = decoding.join_keypoints(
        [decoding.decode(decoding.run_with_flip(backend, images, flip_test), udp=udp) for images in batches]
    )
    xy_img, sigma_img = decoding.keypoints_to_image(keypoints, evaluation_set.transforms, map_hw)
    return PoseResult(
        xy=xy_img,
        box=boxes.xyxy,
        box_score=boxes.score,
        pose_score=decoding.pose_score(boxes.score, keypoints.raw_score),
        raw_score=keypoints.raw_score,
        sigma=sigma_img,
        skeleton=skeleton,
    )


def _suppress(
    everybody: PoseResult, evaluation_set: EvaluationSet, threshold: float
) -> tuple[comparison.Rows, list[dict[str, Any]]]:
    """Rows and COCO results of the people left after suppression, image by image, best first."""
    area = np.array([math.prod(transform.box_wh) for transform in evaluation_set.transforms])
    left: list[int] = []
    results: list[dict[str, Any]] = []
    for image_id, rows in comparison.rows_by_image(evaluation_set.boxes.image_id):
        people = everybody.filter(rows)
        kept = oks_nms(people.xy, people.pose_score, area[rows], everybody.skeleton.oks_sigmas, threshold)
        left += rows[kept].tolist()
        results += people.filter(kept).to_coco(image_id)
    return np.array(left, dtype=np.intp), results


def _summarize(
    truth: comparison.GroundTruth,
    results: list[dict[str, Any]],
    people: comparison.ComparedPeople,
    protocol: Mapping[str, Any],
    metrics: Sequence[str] | None,
) -> EvaluationResult:
    """Compare results, and for PCK the predictions of the labeled people, with the ground truth."""
    skeleton, area = people.skeleton, people.area
    chosen = default_metrics(skeleton) if metrics is None else metrics
    average = coco_keypoint_curves(truth.coco, results, skeleton)
    constants = list(skeleton.oks_sigmas)  # numbers under other constants are others
    oks_facts = {"skeleton": skeleton.name, "oks_constants": constants[0] if len(set(constants)) == 1 else constants}
    return EvaluationResult(
        metrics=average.metrics,
        per_joint=pck(people),
        people_by_size={
            size: int(((area >= low) & (area <= high)).sum()) for size, (low, high) in SIZE_CLASSES.items()
        },
        counts={"images": len(truth.images), "people": len(people), "results": len(results)},
        protocol={**protocol, **oks_facts},
        results=tuple(results),
        precision=average.precision,
        people=people,
        protocols=measure_protocols(chosen, truth, results, people),
        with_coco="coco" in chosen,
    )
