"""Person samples -> crops and targets -> batches: the same batches for the same seed, however many workers or ranks."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from distilpose.data.augment import AugmentOptions, draw_crop_transform, jitter_colors
from distilpose.data.check import size_conflict
from distilpose.data.coco import PersonSample
from distilpose.data.images import read_image
from distilpose.data.prefetch import map_in_threads
from distilpose.data.preprocess import Normalization, crop_image, normalize
from distilpose.errors import ConfigError, DatasetError, DistilPoseError, InputError
from distilpose.geometry import CropTransform
from distilpose.skeletons import COCO_17, Skeleton
from distilpose.types import Float32Array, ImageArray, IntArray

logger = logging.getLogger(__name__)

_CACHE_LIMIT_BYTES = 4 * 1024**3
_READER_THREADS = 4
# First number after the seed, so that the streams of chance never meet; the pool is the same for every seed.
_PASS_STREAM, _ORDER_STREAM, _CROP_STREAM, _POOL_STREAM = range(4)


class SampleKey(NamedTuple):
    """What a sampler asks a `PersonDataset` for."""

    sample_index: int  # of the sample in the dataset
    epoch: int  # of the training
    position: int  # of the draw within the epoch, over all ranks. With seed and epoch it fixes the augmentation.


class TrainingItem(NamedTuple):
    """One crop with its labels; see `Batch`, which stacks them. ``crop`` is (H, W, 3) uint8 RGB."""

    crop: ImageArray
    xy_norm: Float32Array
    target_weight: Float32Array
    annotated: NDArray[np.bool_]
    sample_index: int
    variant: int
    image_to_crop: Float32Array


class Batch(NamedTuple):
    """B crops with their labels."""

    images: Tensor  # (B, 3, H, W) float32, normalized
    xy_norm: Tensor  # (B, K, 2) float32 fractions of the crop; 0 where ``target_weight`` is 0
    target_weight: Tensor  # (B, K) float32, 1 where labeled and inside the crop, else 0
    annotated: Tensor  # (B, K) bool, False where nothing is known of the keypoint: no loss may read it
    sample_index: Tensor  # (B,) int64 indices of the samples in the dataset
    variant: Tensor  # (B,) int64, which of a sample's augmented crops, where they are a fixed pool; else 0
    # (B, 2, 3) float32 affine matrices, image pixels -> crop pixels; None for crops of unknown origin
    image_to_crop: Tensor | None = None


class PersonDataset(Dataset[TrainingItem]):
    """People as crops (H, W) with targets; several sets are joined by joining their samples, at least one.

    Without ``augment`` a person has the plain evaluation crop. With ``variants`` only this many augmented crops of each
    sample are drawn, the same for every seed, and epochs go through them; None draws anew each time. ``cache_images``
    decodes every image now and keeps it, shared with forked workers, up to ``cache_limit_bytes``.

    Raises:
        DatasetError: there are no samples, their keypoints do not fit the skeleton, or an image is unreadable.
    """

    def __init__(
        self,
        samples: Sequence[PersonSample],
        size_hw: tuple[int, int],
        *,
        skeleton: Skeleton = COCO_17,
        augment: AugmentOptions | None = None,
        normalization: Normalization = Normalization(),  # noqa: B008 - frozen
        seed: int = 0,
        variants: int | None = None,
        cache_images: bool = False,
        cache_limit_bytes: int = _CACHE_LIMIT_BYTES,
    ) -> None:
        counts = {len(sample.visibility) for sample in samples}
        if counts != {skeleton.num_keypoints}:
            raise DatasetError(
                f"expected samples of {skeleton.num_keypoints} keypoints, got {sorted(counts) or 'none'}"
            )
        if augment is not None and augment.flip_prob > 0 and skeleton.num_keypoints > 1 and not skeleton.flip_pairs:
            logger.warning(
                "%s has no flip_pairs, and crops are mirrored in training: left and right become one. Name "
                "the pairs (docs/custom_skeleton.md), or set augment.flip_prob to 0 if keypoints have sides.",
                skeleton.name,
            )
        self.samples, self.size_hw, self.skeleton = tuple(samples), size_hw, skeleton
        self.augment, self.normalization, self.seed, self.variants = augment, normalization, seed, variants
        self._flip_index = skeleton.flip_index
        self._cache = _read_all(self.samples, cache_limit_bytes) if cache_images else {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> TrainingItem:
        """The crop of a key, equal for equal keys; a `DatasetError` for an unreadable image or one of another size."""
        sample = self.samples[key.sample_index]
        image = self._cache[sample.image_path] if sample.image_path in self._cache else _read(sample)
        if self.augment is None:
            transform = CropTransform.from_box(sample.box_xyxy, self.size_hw)
            return self._item(crop_image(image, transform), transform, key.sample_index)
        if self.variants is None:
            variant = 0
            rng = np.random.default_rng((self.seed, _CROP_STREAM, key.epoch, key.position))
        else:
            variant = key.epoch % self.variants
            rng = np.random.default_rng((_POOL_STREAM, variant, key.sample_index))
        transform = draw_crop_transform(sample, self.size_hw, self.skeleton, self.augment, rng)
        crop = jitter_colors(crop_image(image, transform), self.augment, rng)
        return self._item(crop, transform, key.sample_index, variant)

    def collate(self, items: Sequence[TrainingItem]) -> Batch:
        """Stack items and normalize their pixels, all crops at once."""
        crops, *labels = (np.stack(values) for values in zip(*items, strict=True))
        return Batch(torch.from_numpy(normalize(crops, self.normalization)), *map(torch.from_numpy, labels))

    def _item(self, crop: ImageArray, transform: CropTransform, index: int, variant: int = 0) -> TrainingItem:
        sample = self.samples[index]
        xy_norm = transform.to_norm(sample.xy_img)
        usable = (sample.visibility > 0) & ((xy_norm >= 0) & (xy_norm <= 1)).all(axis=1)
        xy_norm[~usable] = 0
        order = self._flip_index if transform.flip else slice(None)
        return TrainingItem(
            crop,
            xy_norm[order].astype(np.float32),
            usable[order].astype(np.float32),
            sample.annotated[order],
            index,
            variant,
            transform.matrix.astype(np.float32),
        )


class MixedSampler(Sampler[SampleKey]):
    """Draws from several sets by weight; a function of seed and epoch alone, so a resumed run draws the same.

    Each set fills a fixed share of every epoch and is gone through in shuffled passes that run on from epoch to
    epoch: no sample comes again before the rest of its set has come. Rank r takes positions r, r + world_size, ...
    of the epoch, so the ranks' batches together are the one-process batch of their joint size.

    ``sizes`` are those of the sets, in the order in which the dataset joins them; ``weights`` (> 0, in any unit) their
    shares, by size when None. An epoch has ``samples_per_epoch`` over all ranks, all samples once when None; what does
    not divide by ``world_size`` is left out at the end.

    Raises:
        ConfigError: sizes, weights and samples_per_epoch do not fit together.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        samples_per_epoch: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must lie in 0..world_size - 1, got rank {rank} of {world_size}")
        total = sum(sizes) if samples_per_epoch is None else samples_per_epoch
        self.quotas = _quotas(sizes, sizes if weights is None else weights, total)
        self._sizes, self._seed, self._epoch = tuple(sizes), seed, 0
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        """Draws of this rank in one epoch."""
        return sum(self.quotas) // self._world_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration goes through."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[SampleKey]:
        """The keys of this rank in the chosen epoch."""
        epoch = self._epoch
        starts = np.cumsum((0, *self._sizes[:-1]))
        picks = np.concatenate([start + self._draws(number) for number, start in enumerate(starts)])
        np.random.default_rng((self._seed, _ORDER_STREAM, epoch)).shuffle(picks)
        for position in range(self._rank, len(self) * self._world_size, self._world_size):
            yield SampleKey(int(picks[position]), epoch, position)

    def _draws(self, number: int) -> IntArray:
        """(quota,) indices within set ``number`` for one epoch: a stretch of its endless run of shuffled passes."""
        size, quota, epoch = self._sizes[number], self.quotas[number], self._epoch
        first_pass, offset = divmod(epoch * quota, size)
        passes = [
            np.random.default_rng((self._seed, _PASS_STREAM, number, first_pass + i)).permutation(size)
            for i in range(-(-(offset + quota) // size))
        ]
        return np.concatenate(passes)[offset : offset + quota]


def build_loader(
    dataset: PersonDataset,
    *,
    batch_size: int,
    sampler: MixedSampler | None = None,
    num_workers: int = 0,
    drop_last: bool = False,
) -> DataLoader[TrainingItem]:
    """Batches (`Batch`) of a dataset, which do not depend on the number of loading processes, 0 for this one.

    Without a ``sampler``, whose ``set_epoch`` is called before each epoch, every sample comes once, in order. With
    ``drop_last`` an incomplete last batch is left out.
    """
    keys = [SampleKey(index, 0, index) for index in range(len(dataset))] if sampler is None else sampler
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=keys,
        num_workers=num_workers,
        collate_fn=dataset.collate,
        drop_last=drop_last,
        worker_init_fn=_begin_worker,
        persistent_workers=num_workers > 0,
    )


@contextmanager
def ended_workers(loader: DataLoader[TrainingItem]) -> Iterator[None]:
    """End the loading processes of a loader, after an error too.

    The traceback of an error that somebody keeps would keep them, and at its end this process would wait for them.
    """
    try:
        yield
    finally:
        if loader._iterator is not None:  # of `persistent_workers`
            loader._iterator._shutdown_workers()  # type: ignore[attr-defined]


def error_of_worker(error: DistilPoseError) -> DistilPoseError:
    """What a loading process raised, without the traceback that torch writes before its message."""
    kind = type(error)
    before, _, message = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")
    return kind(message.strip()) if "in DataLoader worker process" in before else error


def _begin_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # one process per core already
    for number in (signal.SIGINT, signal.SIGTERM):  # of the whole group: the process that reads the batches ends them
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What a thread of a loader raised; not that the process which takes its batches was interrupted meanwhile."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _quotas(sizes: Sequence[int], weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Draws per set and epoch: shares of ``total`` by largest remainder."""
    if not sizes or min(sizes) < 1 or len(weights) != len(sizes) or not all(0 < weight < np.inf for weight in weights):
        raise ConfigError(
            f"each set needs a sample and a weight > 0, got sizes {list(sizes)} and weights {list(weights)}"
        )
    exact = total * np.array(weights, dtype=np.float64) / sum(weights)
    quotas = np.floor(exact).astype(np.int64)
    most_cut_off = np.argsort(quotas - exact, kind="stable")
    quotas[most_cut_off[: total - quotas.sum()]] += 1
    if quotas.min() < 1:
        raise ConfigError(
            f"samples_per_epoch {total} leaves a set without a draw at weights {list(weights)}: raise it or the weight"
        )
    return tuple(int(quota) for quota in quotas)


def _read(sample: PersonSample) -> ImageArray:
    try:
        image = read_image(sample.image_path)
    except InputError as error:
        raise DatasetError(
            f"annotation {sample.annotation_id}: {error}: replace the file or take its annotations out"
        ) from error
    if problem := size_conflict(sample.image_path, (image.shape[0], image.shape[1]), sample.image_hw):
        raise DatasetError(f"annotation {sample.annotation_id}: {problem}")
    return image


def _read_all(samples: Sequence[PersonSample], limit_bytes: int) -> dict[Path, ImageArray]:
    """Decoded images by path, in sample order, as many as fit into the limit."""
    wanted: dict[Path, PersonSample] = {}
    used = 0
    for sample in samples:
        size = 3 * sample.image_hw[0] * sample.image_hw[1]
        if sample.image_path not in wanted and used + size <= limit_bytes:
            wanted[sample.image_path] = sample
            used += size
    images = map_in_threads(_read, wanted.values(), threads=_READER_THREADS, ahead=4 * _READER_THREADS)
    return dict(zip(wanted, images, strict=True))
