"""The data of a run: annotation files to loaders and to a validation set, and the files that must be there before."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from distilpose.backends.description import ModelDescription
from distilpose.data.coco import PersonSample, load_person_samples
from distilpose.data.dataset import Batch, MixedSampler, PersonDataset, TrainingItem, build_loader
from distilpose.data.labels import skeleton_of_file
from distilpose.data.preprocess import Normalization
from distilpose.errors import ConfigError
from distilpose.evaluation.evaluate import EvaluationSet
from distilpose.skeletons import COCO_17, KeypointMapping, Skeleton, find_skeleton, map_keypoints
from distilpose.training.config import DataConfig, DatasetConfig, TrainConfig
from distilpose.types import ImageArray

logger = logging.getLogger(__name__)

_SHOWN = 4  # crops that are drawn, the same ones each time, so that heatmaps can be watched growing
CONFIGS = Path("configs")  # where commands that write a missing file are looked for
Files = Iterable[tuple[Path, str]]  # each with what it is used for


def find_model_skeleton(data: DataConfig) -> Skeleton:
    """The keypoints of the model to train: named in the configuration, or what the first training set says it has.

    Raises:
        ConfigError: there is no such skeleton, or it cannot be read.
        DatasetError: the first training set has several kinds of keypoints.
    """
    first = data.train[0]
    if named := data.skeleton or first.skeleton:
        return find_skeleton(named, data.root)
    return skeleton_of_file(Path(data.root) / first.annotations, first.category) or COCO_17


def _mapping(dataset: DatasetConfig, skeleton: Skeleton, root: str) -> KeypointMapping | None:
    """From the set's own keypoints to the model's; None where they are the same."""
    if dataset.skeleton is None:
        return None
    mapping = map_keypoints(find_skeleton(dataset.skeleton, root, only_labels=True), skeleton, dataset.mapping)
    if mapping.missing_names:
        lacking = ", ".join(mapping.missing_names)
        logger.warning("%s does not label %s: neither learned from it nor compared", dataset.annotations, lacking)
    return mapping


class TrainingData:
    """Training people of a run, read and checked once, for the model of a description.

    ``skip_invalid`` reports invalid annotations and images and goes on without them.

    Raises:
        DatasetError: an annotation file or, with ``data.check_images``, an image is unusable.
    """

    def __init__(self, config: TrainConfig, description: ModelDescription, skip_invalid: bool = False) -> None:
        self._config = config
        samples: list[PersonSample] = []
        self.set_sizes: list[int] = []
        root = Path(config.data.root)
        skeleton, augment = description.skeleton, config.augment
        least, halves = augment.half_body_min_keypoints, skeleton.upper_body or skeleton.lower_body
        if augment.half_body_prob > 0 and halves and skeleton.num_keypoints <= least:
            logger.warning(
                "%s has %d keypoints, and crops of half a body are drawn where more than %d are labeled: never. Set "
                "augment.half_body_min_keypoints lower, or augment.half_body_prob to 0.",
                skeleton.name, skeleton.num_keypoints, least,
            )  # fmt: skip
        for dataset in config.data.train:
            loaded = load_person_samples(
                root / dataset.annotations,
                root / dataset.images,
                skeleton=skeleton,
                mapping=_mapping(dataset, skeleton, config.data.root),
                unannotated=dataset.unannotated,
                zero_means_unknown=dataset.zero_means_unknown,
                category=dataset.category,
                keep_unlabeled=dataset.unlabeled,
                check_images=config.data.check_images,
                skip_invalid=skip_invalid,
            )
            for problem in loaded.problems:
                logger.warning("skipped: %s", problem)
            samples.extend(loaded.samples)
            self.set_sizes.append(len(loaded.samples))
        # Built once: it may hold every decoded image.
        self._dataset = PersonDataset(
            samples,
            description.input_size_hw,
            skeleton=skeleton,
            augment=augment,
            normalization=description.normalization or Normalization(),
            seed=config.seed,
            variants=config.data.variants,
            cache_images=config.data.cache_images,
        )

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def samples(self) -> tuple[PersonSample, ...]:
        """The people, in the order of `Batch.sample_index`."""
        return self._dataset.samples

    def train_loader(self, rank: int, world_size: int) -> DataLoader[TrainingItem]:
        """Augmented batches of one process; incomplete last batches are left out."""
        return build_loader(
            self._dataset,
            batch_size=self._config.data.batch_size,
            sampler=self._sampler(rank, world_size),
            num_workers=self._config.data.workers,
            drop_last=True,
        )

    def first(self, count: int = _SHOWN) -> tuple[ImageArray, Batch]:
        """The run's first ``count`` crops, (N, H, W, 3) uint8, and the same as a batch."""
        items = [self._dataset[key] for key in islice(self._sampler(rank=0, world_size=1), count)]
        return np.stack([item.crop for item in items]), self._dataset.collate(items)

    def _sampler(self, rank: int, world_size: int) -> MixedSampler:
        weights = [dataset.weight for dataset in self._config.data.train]
        return MixedSampler(
            self.set_sizes,
            weights=None if weights[0] is None else [weight or 0.0 for weight in weights],
            samples_per_epoch=self._config.data.samples_per_epoch,
            seed=self._config.seed,
            rank=rank,
            world_size=world_size,
        )


def load_validation_set(
    config: TrainConfig, description: ModelDescription, skip_invalid: bool = False
) -> EvaluationSet | None:
    """The validation people, cut once and kept; None when the run has none. Options are those of `TrainingData`."""
    dataset = config.data.validation
    if dataset is None:
        return None
    root = Path(config.data.root)
    return EvaluationSet.load(
        root / dataset.annotations,
        root / dataset.images,
        description,
        mapping=_mapping(dataset, description.skeleton, config.data.root),
        category=dataset.category,
        keep_crops=True,
        check_images=config.data.check_images,
        skip_invalid=skip_invalid,
    )


def check_files(runs: Mapping[str, Files], made: Path | None = None) -> None:
    """Refuse runs, by name, that need files which are not there; those below ``made`` they write themselves.

    A file that one run of several needs is left to that run: it fails, and the others are done.

    Raises:
        ConfigError: a file is missing for the only run or for several; the text says which, and what to run first.
    """
    missing: dict[Path, str] = {}
    lacking: dict[Path, set[str]] = defaultdict(set)
    for name, files in runs.items():
        for path, use in files:
            if not path.exists() and (made is None or made not in path.parents):
                missing[path] = use
                lacking[path].add(name)
    if not any(len(names) > 1 or len(runs) == 1 for names in lacking.values()):
        return
    waiting = set().union(*lacking.values())
    who = "the run needs" if len(runs) == 1 else f"{len(waiting)} of {len(runs)} runs need"
    lines = [f"  {path} ({use}){_command(path)}" for path, use in missing.items()]
    raise ConfigError(
        f"{who} files that are not there:\n" + "\n".join(lines) + "\nThe first lines of the configuration say what has "
        "to be done before. Options name other files: --data.root FOLDER, --teacher FILE (of ablate: --base.data.root, "
        "--base.teacher); docs/datasets.md builds the data sets"
    )


def files_of(config: TrainConfig, checkpoint: Path | None = None) -> Files:
    """Annotation files, teacher and start weights of a run; of weights that are only measured, these and their data."""
    sets = [config.data.validation] if config.data.validation else []
    if checkpoint is not None:
        yield checkpoint, "weights to measure"
    else:
        sets = [*config.data.train, *sets]
    yield from ((_annotations(Path(config.data.root) / dataset.annotations), "annotations") for dataset in sets)
    if checkpoint is not None:
        return
    yield from ((path, "teacher") for path in _teacher_files(config.teacher))
    if config.init is not None and Path(config.init).suffix:  # others are names: "imagenet", a hub id
        yield Path(config.init), "start weights"


def _annotations(path: Path) -> Path:
    """Without the name of a split, as in ``birds/data.yaml:test``."""
    file, colon, _ = path.name.partition(":")
    return path.with_name(file) if colon and not path.exists() else path


def _teacher_files(teacher: str | Mapping[str, Any] | None) -> Iterator[Path]:
    if isinstance(teacher, str):
        yield Path(teacher)
    elif isinstance(teacher, Mapping):
        for key in ("file", "folder"):
            if isinstance(teacher.get(key), str):
                yield Path(teacher[key])
        members = teacher.get("members")
        for member in members if isinstance(members, list) else ():
            yield from _teacher_files(member)


def _command(path: Path) -> str:
    """What writes the weights of a run, if a configuration below ``configs`` has its folder as ``out``."""
    for config in sorted(CONFIGS.rglob("*.yaml")):
        try:
            lines = config.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # of another program
            continue
        if f"out: {path.parent.as_posix()}" in lines:
            return f": run first  distilpose train {config.as_posix()}"
    return ""
