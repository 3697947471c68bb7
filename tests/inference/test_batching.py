"""Many images through one predictor: nothing lost, nothing mixed up, memory bounded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilpose.backends.description import ModelDescription
from distilpose.errors import InputError
from distilpose.inference import batching as stream
from distilpose.inference.batching import LocatedImage, predict_stream
from distilpose.inference.predictor import PosePredictor
from distilpose.models.outputs import PoseOutput


class Brightness:
    """An `InferenceBackend` whose score is the brightness of its crop, so that an answer tells whose it is."""

    description = ModelDescription("brightness", "regression", (64, 48), (16, 12), normalization=None)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Any) -> PoseOutput[Any]:
        self.batches.append(len(images))
        score = np.repeat(images[:, 0, 32, 24].astype(np.float32)[:, None], 17, axis=1)
        return PoseOutput(np.full((len(images), 17, 2), 0.5, np.float32), None, score)


def located(value: int, people: int) -> LocatedImage:
    boxes = [[0, 0, 30, 40]] * people
    return LocatedImage(np.full((40, 30, 3), value, np.uint8), boxes)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    people=st.lists(st.integers(0, 7), max_size=30),
    batch_size=st.integers(1, 9),
    threads=st.integers(1, 3),
    keep=st.booleans(),
)
def test_every_image_comes_once_in_order_with_its_own_people(
    people: list[int], batch_size: int, threads: int, keep: bool
) -> None:
    backend = Brightness()
    predictor = PosePredictor(backend, batch_size=batch_size)
    sources = list(enumerate(people))
    located_images = ((source, located(source[0] + 1, source[1])) for source in sources)
    found = list(predict_stream(predictor, located_images, keep_images=keep, threads=threads))
    assert [item.key for item in found] == sources
    for (index, count), item in zip(sources, found, strict=True):
        assert item.error is None
        assert item.result is not None
        assert len(item.result) == count
        assert count == 0 or (item.result.raw_score == index + 1).all()
        assert (item.image is not None) == keep
    assert sum(backend.batches) == sum(people)
    assert max(backend.batches, default=0) <= batch_size


def test_batches_are_full_across_images() -> None:
    backend = Brightness()
    list(predict_stream(PosePredictor(backend, batch_size=8), ((s, located(s, 1)) for s in range(20))))
    assert backend.batches == [8, 8, 4]


def test_an_unreadable_source_does_not_stop_the_rest() -> None:
    located_images = ((s, InputError(f"{s} is broken") if s % 3 == 1 else located(s, 2)) for s in range(10))
    found = list(predict_stream(PosePredictor(Brightness(), batch_size=4), located_images))
    assert [str(item.error) if item.error else len(item.result or ()) for item in found] == [
        f"{source} is broken" if source % 3 == 1 else 2 for source in range(10)
    ]


def test_another_error_is_raised() -> None:
    def located_images() -> Iterator[tuple[int, LocatedImage]]:
        yield 0, located(0, 1)
        raise MemoryError

    with pytest.raises(MemoryError):
        list(predict_stream(PosePredictor(Brightness()), located_images()))


def test_a_failing_network_costs_its_own_batch() -> None:
    backend = Brightness()

    class Failing:
        description = backend.description

        def __call__(self, images: Any) -> PoseOutput[Any]:
            if len(backend.batches) == 1:
                backend.batches.append(len(images))
                raise InputError("out of order")
            return backend(images)

    found = list(predict_stream(PosePredictor(Failing(), batch_size=2), ((s, located(s, 1)) for s in range(6))))
    assert [item.error is None for item in found] == [True, True, False, False, True, True]
    backend.batches.clear()
    found = list(predict_stream(PosePredictor(Failing(), batch_size=2), ((s, located(s, s)) for s in (3, 7, 1))))
    assert [item.error is None for item in found] == [False, False, True]
    assert [len(item.result or ()) for item in found] == [0, 0, 1]


def test_few_images_are_read_ahead_and_kept(monkeypatch: Any) -> None:
    monkeypatch.setattr(stream, "MAX_IMAGE_BYTES", 3 * 40 * 30 * 3)
    taken = 0

    def located_images() -> Iterator[tuple[int, LocatedImage]]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number, located(number, 1)

    most = 0
    for done, _ in enumerate(
        predict_stream(PosePredictor(Brightness(), batch_size=50), located_images(), keep_images=True, threads=1)
    ):
        most = max(most, taken - done)
    assert 3 <= most <= 6


def test_closing_early_closes_the_scenes() -> None:
    closed = []

    def located_images() -> Iterator[tuple[int, LocatedImage]]:
        try:
            for number in range(100):
                yield number, located(number, 1)
        finally:
            closed.append(True)

    stream = predict_stream(PosePredictor(Brightness(), batch_size=2), located_images())
    next(stream)
    stream.close()
    assert closed
