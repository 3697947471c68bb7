"""What Prometheus reads at ``/metrics``. Each server has a registry of its own: nothing is global."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("distilpose_requests", "Requests answered.", ("path", "code"), **of)
        text = "From the first header to the last byte of the answer."
        self._seconds = Histogram("distilpose_request_seconds", text, ("path",), buckets=_SECONDS, **of)
        text = "Images and requests refused, by the code of the answer."
        self._rejected = Counter("distilpose_rejected", text, ("reason",), **of)
        self._queue = Gauge("distilpose_queue_length", "Images accepted and not answered yet.", **of)
        self._held = Gauge("distilpose_uploads_bytes", "Bytes of requests in work, as announced.", **of)
        self._ready = Gauge("distilpose_ready", "1 when /readyz says so.", **of)
        self._crops = Histogram("distilpose_batch_crops", "Crops in one run of the model.", buckets=_SIZES, **of)
        self._model_seconds = Histogram("distilpose_model_seconds", "Of one run of the model.", buckets=_SECONDS, **of)
        self._people = Counter("distilpose_people", "People in answers.", **of)
        self._images = Counter("distilpose_images", "Images answered with poses.", **of)

    def watch(self, queue_length: Callable[[], float], held: Callable[[], float], ready: Callable[[], bool]) -> None:
        """Say where the gauges are read."""
        self._queue.set_function(queue_length)
        self._held.set_function(held)
        self._ready.set_function(ready)

    def request(self, path: str, code: int, seconds: float) -> None:
        """Count a request; ``path`` is that of a route, not what the client wrote."""
        self._requests.labels(path, str(code)).inc()
        self._seconds.labels(path).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a problem."""
        self._rejected.labels(reason).inc()

    def batch(self, crops: int, seconds: float) -> None:
        """Count a run of the model."""
        self._crops.observe(crops)
        self._model_seconds.observe(seconds)

    def image(self, people: int) -> None:
        """Count an image that was answered."""
        self._images.inc()
        self._people.inc(people)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
