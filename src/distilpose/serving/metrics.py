"""What Prometheus reads at ``/metrics``. Each server has a registry of its own: nothing is global."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("distilpose_requests", "Requests answered.", ("path", "code"), **of)
        text = "From the first header to the last byte of the answer."
        self.seconds = Histogram("distilpose_request_seconds", text, ("path",), buckets=_SECONDS, **of)
        text = "Images and requests refused, by the code of the answer."
        self.rejected = Counter("distilpose_rejected", text, ("reason",), **of)
        self.queue = Gauge("distilpose_queue_length", "Images accepted and not answered yet.", **of)
        self.held = Gauge("distilpose_uploads_bytes", "Bytes of requests in work, as announced.", **of)
        self.ready = Gauge("distilpose_ready", "1 when /readyz says so.", **of)
        self.crops = Histogram("distilpose_batch_crops", "Crops in one run of the model.", buckets=_SIZES, **of)
        self.model_seconds = Histogram("distilpose_model_seconds", "Of one run of the model.", buckets=_SECONDS, **of)
        self.people = Counter("distilpose_people", "People in answers.", **of)
        self.images = Counter("distilpose_images", "Images answered with poses.", **of)
