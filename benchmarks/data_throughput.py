"""How many training crops one core makes ready per second."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from distilpose.data.augment import AugmentOptions
from distilpose.data.coco import load_person_samples
from distilpose.data.dataset import MixedSampler, PersonDataset, build_loader
from distilpose.data.synthetic import write_synthetic_dataset


class DataThroughput(NamedTuple):
    """Augmented, normalized crops of 256 x 192 per second of processor time, so per core.

    Attributes:
        from_files: each image is decoded from a JPEG file of about 0.08 megapixels.
        from_cache: images are decoded already (``PersonDataset(cache_images=True)``).
    """

    from_files: float
    from_cache: float


def measure_data_throughput(seconds: float = 2.0, num_images: int = 64) -> DataThroughput:
    """Load batches of drawn people with the paper's augmentation and color jitter.

    Args:
        seconds: processor time to spend on each figure.
        num_images: size of the drawn set.
    """
    with tempfile.TemporaryDirectory() as folder:
        annotations = write_synthetic_dataset(Path(folder), num_images)
        samples = load_person_samples(annotations, annotations.parent / "images").samples
        augment = AugmentOptions(color_jitter=0.3)
        from_files, from_cache = (
            _crops_per_second(PersonDataset(samples, (256, 192), augment=augment, cache_images=cached), seconds)
            for cached in (False, True)
        )
    return DataThroughput(from_files, from_cache)


def _crops_per_second(dataset: PersonDataset, seconds: float) -> float:
    sampler = MixedSampler([len(dataset)])
    loader = build_loader(dataset, batch_size=32, sampler=sampler)
    next(iter(loader))  # warm up
    crops, epoch, start = 0, 0, time.process_time()
    while time.process_time() - start < seconds:
        sampler.set_epoch(epoch)
        crops += sum(len(batch.images) for batch in loader)
        epoch += 1
    return crops / (time.process_time() - start)


def main() -> None:
    """Print training crops per second and core."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = measure_data_throughput()
    print(f"training crops per second and core: {found.from_files:.0f} from files, {found.from_cache:.0f} from memory")


if __name__ == "__main__":
    main()
