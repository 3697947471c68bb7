import copy
import pickle
from itertools import combinations

import cv2
import numpy as np
import pytest
import torch

from distilpose.data.augment import AugmentOptions
from distilpose.data.coco import load_person_samples
from distilpose.data.dataset import MixedSampler, PersonDataset, SampleKey, build_loader
from distilpose.data.preprocess import Normalization, preprocess
from distilpose.errors import ConfigError, DatasetError
from distilpose.geometry import CropTransform
from distilpose.skeletons import COCO_17, Skeleton

SIZE_HW = (64, 48)
COLORS = [(40 + 100 * (i % 3), 40 + 100 * (i // 3 % 3), 60 + 90 * (i // 9)) for i in range(17)]  # RGB, all different


@pytest.fixture
def dots(make_sample):
    """An image whose keypoint i is a disc of COLORS[i], and its sample."""

    def _draw(**changes):
        sample = make_sample(**changes)
        image = np.zeros((*sample.image_hw, 3), dtype=np.uint8)
        for (x, y), color in zip(sample.xy_img, COLORS, strict=True):
            cv2.circle(image, (round(x), round(y)), 7, color, -1)
        cv2.imwrite(str(sample.image_path), image[..., ::-1])
        return sample

    return _draw


@pytest.fixture
def drawn_samples(drawn_set):
    return load_person_samples(drawn_set, drawn_set.parent / "images").samples


def batches(samples, *, workers=0, epoch=0, rank=0, world_size=1, batch_size=4, **options):
    dataset = PersonDataset(samples, SIZE_HW, augment=AugmentOptions(color_jitter=0.3), seed=7, **options)
    sampler = MixedSampler([len(samples)], seed=7, rank=rank, world_size=world_size)
    sampler.set_epoch(epoch)
    return list(build_loader(dataset, batch_size=batch_size, sampler=sampler, num_workers=workers))


def assert_equal(some, others):
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_targets_lie_on_the_image_whatever_the_augmentation(dots):
    """Oracle: the color found at a target tells which keypoint was drawn there; a mirror swaps left and right."""
    dataset = PersonDataset([dots()], (256, 192), augment=AugmentOptions(half_body_prob=0.5), seed=1)
    plain = flipped = 0
    for position in range(60):
        item = dataset[SampleKey(0, 0, position)]
        inside = np.flatnonzero(item.target_weight)
        pixels = np.rint(item.xy_norm[inside] * [192, 256]).astype(int)
        keep = ((pixels > 2) & (pixels < [189, 253])).all(axis=1)
        found = np.array([item.crop[y, x] for x, y in pixels[keep]], dtype=int)
        expected = np.array(COLORS)[inside[keep]]
        mirrored = np.array(COLORS)[COCO_17.flip_index[inside[keep]]]
        is_plain, is_flipped = (np.abs(found - colors).max() < 25 for colors in (expected, mirrored))
        assert is_plain != is_flipped
        plain, flipped = plain + is_plain, flipped + is_flipped
    assert min(plain, flipped) > 15


def test_only_labels_inside_the_crop_count(dots):
    visibility = np.full(17, 2)
    visibility[[3, 4]] = 0, 1
    sample = dots(visibility=visibility, box_xyxy=np.array([20.0, 15.0, 80.0, 95.0]))
    item = PersonDataset([sample], SIZE_HW)[SampleKey(0, 0, 0)]
    x1, y1, x2, y2 = 50 - 37.5, 55 - 50, 50 + 37.5, 55 + 50  # 60 x 80, already 3:4, padded 1.25
    inside = ((sample.xy_img >= [x1, y1]) & (sample.xy_img <= [x2, y2])).all(axis=1)
    assert 5 < inside.sum() < 15
    assert item.target_weight.tolist() == (inside & (visibility > 0)).astype(float).tolist()
    assert not item.xy_norm[item.target_weight == 0].any()
    expected = (sample.xy_img[0] - [x1, y1]) / [x2 - x1, y2 - y1]
    assert item.xy_norm[0] == pytest.approx(expected)


def test_mirror_swaps_what_is_annotated(dots):
    annotated = np.arange(17) != 5  # left shoulder unknown
    sample = dots(annotated=annotated, visibility=np.where(annotated, 2, 0))
    flip = AugmentOptions(flip_prob=1, half_body_prob=0, rotation_prob=0, scale_std=0, shift_prob=0)
    item = PersonDataset([sample], SIZE_HW, augment=flip)[SampleKey(0, 0, 0)]
    assert np.flatnonzero(~item.annotated).tolist() == [6]
    assert item.target_weight[6] == 0


def test_without_augmentation_batches_are_what_prediction_sees(dots):
    sample = dots()
    normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    dataset = PersonDataset([sample, sample], SIZE_HW, normalization=normalization)
    (batch,) = build_loader(dataset, batch_size=8)
    image = cv2.imread(str(sample.image_path))[..., ::-1]
    expected = preprocess(image, [CropTransform.from_box(sample.box_xyxy, SIZE_HW)], normalization)
    assert batch.images.shape == (2, 3, *SIZE_HW)
    assert torch.equal(batch.images, torch.from_numpy(np.concatenate([expected, expected])))
    assert [values.dtype for values in batch] == [torch.float32] * 3 + [
        torch.bool,
        torch.int64,
        torch.int64,
        torch.float32,
    ]
    assert batch.sample_index.tolist() == [0, 1]
    assert batch.variant.tolist() == [0, 0]


def test_a_pool_of_variants_repeats_over_epochs_and_not_over_people(drawn_samples):
    def crop(epoch: int, index: int = 0, seed: int = 0, position: int = 0):
        pool = PersonDataset(drawn_samples, SIZE_HW, augment=AugmentOptions(), seed=seed, variants=3)
        return pool[SampleKey(index, epoch, position)]

    first = crop(0)
    again = crop(3, seed=9, position=5)  # whatever seed and place in the epoch
    assert np.array_equal(first.crop, again.crop)
    assert np.array_equal(first.xy_norm, again.xy_norm)
    assert [crop(epoch).variant for epoch in range(4)] == [0, 1, 2, 0]
    assert not np.array_equal(first.crop, crop(1).crop)
    assert not np.array_equal(first.crop, crop(0, index=1).crop)


def test_same_seed_same_batches_whatever_the_workers(drawn_samples):
    alone = batches(drawn_samples)
    assert_equal(alone, batches(drawn_samples))
    assert_equal(alone, batches(drawn_samples, workers=2))
    assert_equal(alone, batches(drawn_samples, cache_images=True))


def test_epochs_differ(drawn_samples):
    first, second = batches(drawn_samples), batches(drawn_samples, epoch=1)
    assert not torch.equal(first[0].sample_index, second[0].sample_index)
    dataset = PersonDataset(drawn_samples, SIZE_HW, augment=AugmentOptions())
    crops = [dataset[SampleKey(0, epoch, position)].crop for epoch, position in ((0, 0), (1, 0), (0, 1))]
    assert all(not np.array_equal(one, other) for one, other in combinations(crops, 2))


def test_ranks_together_are_the_one_process_batch(drawn_samples):
    together = batches(drawn_samples[:12], batch_size=4)
    ranks = [batches(drawn_samples[:12], batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(together, *ranks, strict=True):
        for field, *pieces in zip(whole, *parts, strict=True):
            assert torch.equal(field, torch.stack(pieces, dim=1).flatten(0, 1))  # dealt out in turn


def test_dataset_travels_to_spawned_workers(drawn_samples):
    dataset = PersonDataset(drawn_samples, SIZE_HW, augment=AugmentOptions(), cache_images=True)
    key = SampleKey(2, 3, 4)
    assert np.array_equal(pickle.loads(pickle.dumps(dataset))[key].crop, dataset[key].crop)  # noqa: S301


def test_cache_keeps_what_fits_and_reads_the_rest(dots, make_sample, tmp_path):
    first = dots()
    second = dots(image_path=tmp_path / "other.png")
    size = 3 * 200 * 160
    kept = PersonDataset([first, first, second], SIZE_HW, cache_images=True, cache_limit_bytes=size)
    first.image_path.unlink()
    assert kept[SampleKey(1, 0, 0)].crop.any()
    assert kept[SampleKey(2, 0, 0)].crop.any()
    second.image_path.unlink()
    with pytest.raises(DatasetError, match=r"annotation 42: .*other\.png"):
        kept[SampleKey(2, 0, 0)]


@pytest.mark.parametrize("cache_images", [False, True])
def test_image_of_another_size_is_refused(dots, cache_images):
    sample = dots()
    cv2.imwrite(str(sample.image_path), np.zeros((160, 200, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"annotation 42: .*width \(160, 200\).* are of \(200, 160\)"):
        PersonDataset([sample], SIZE_HW, cache_images=cache_images)[SampleKey(0, 0, 0)]


def test_samples_must_fit_the_skeleton(make_sample):
    with pytest.raises(DatasetError, match="17 keypoints, got none"):
        PersonDataset([], SIZE_HW)
    with pytest.raises(DatasetError, match=r"17 keypoints, got \[3\]"):
        PersonDataset([make_sample(visibility=np.zeros(3, dtype=int))], SIZE_HW)


@pytest.mark.parametrize(
    ("pairs", "flip_prob", "is_told"), [((), 0.5, True), ((), 0.0, False), (((0, 1),), 0.5, False)]
)
def test_mirroring_without_flip_pairs_is_told(make_sample, caplog, pairs, flip_prob, is_told):
    sample = make_sample(xy_img=np.full((2, 2), 30.0), visibility=np.full(2, 2), annotated=np.ones(2, dtype=bool))
    skeleton = Skeleton("wing", ("a", "b"), pairs, (), (), (), (0.1, 0.1))
    PersonDataset([sample], SIZE_HW, skeleton=skeleton, augment=AugmentOptions(flip_prob=flip_prob))
    assert ("wing has no flip_pairs, and crops are mirrored" in caplog.text) == is_told


def test_one_set_is_a_permutation_each_epoch():
    sampler = MixedSampler([10], seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert sorted(key.sample_index for key in keys) == list(range(10))
        assert [(key.epoch, key.position) for key in keys] == [(epoch, position) for position in range(10)]
        orders.append(tuple(key.sample_index for key in keys))
    assert len(set(orders)) == 3


def test_weights_share_the_epoch_and_no_sample_repeats_within_a_pass():
    sampler = MixedSampler([5, 40], weights=[1, 3], samples_per_epoch=13, seed=1)
    assert sampler.quotas == (3, 10)  # 3.25 and 9.75
    assert len(sampler) == 13
    draws = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        indices = [key.sample_index for key in sampler]
        assert sum(index < 5 for index in indices) == 3
        draws += indices
    small = [index for index in draws if index < 5]
    large = [index for index in draws if index >= 5]
    assert max(np.bincount(small)) - min(np.bincount(small)) <= 1
    assert max(np.bincount(large)[5:]) - min(np.bincount(large)[5:]) <= 1


def test_a_set_drawn_several_times_an_epoch_is_drawn_evenly():
    sampler = MixedSampler([4, 4], weights=[5, 1], samples_per_epoch=24)
    counts = np.bincount([key.sample_index for key in sampler], minlength=8)
    assert counts.tolist() == [5] * 4 + [1] * 4


def test_resuming_at_an_epoch_draws_the_same():
    running, resumed = MixedSampler([7, 9], seed=2), MixedSampler([7, 9], seed=2)
    for epoch in range(4):
        running.set_epoch(epoch)
        keys = list(running)
    resumed.set_epoch(3)
    assert list(copy.deepcopy(resumed)) == list(resumed) == keys


def test_ranks_share_the_epoch_evenly():
    ranks = [list(MixedSampler([11], rank=rank, world_size=3)) for rank in range(3)]
    assert [len(keys) for keys in ranks] == [3, 3, 3]
    assert sorted(key.position for keys in ranks for key in keys) == list(range(9))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sizes": []}, "each set needs a sample"),
        ({"sizes": [3, 0]}, "each set needs a sample"),
        ({"sizes": [3], "weights": [1, 1]}, "each set needs a sample and a weight > 0"),
        ({"sizes": [3, 3], "weights": [1, 0]}, "each set needs a sample and a weight > 0"),
        ({"sizes": [3, 3], "weights": [1000, 1], "samples_per_epoch": 10}, "samples_per_epoch 10 leaves a set without"),
        ({"sizes": [3], "rank": 2, "world_size": 2}, "got rank 2 of 2"),
    ],
)
def test_sampler_refuses(arguments, text):
    with pytest.raises(ConfigError, match=text):
        MixedSampler(**arguments)
