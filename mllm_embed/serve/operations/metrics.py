"""What a service counts of itself, in the form that Prometheus reads."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client adds up several processes: it reads this when it is imported, and takes it no other way."""
CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts of one service, and of its other workers where it has some.

    No label holds anything that a client made up: a path is the template of a route, so that nobody fills the memory
    with names.
    """

    def __init__(self) -> None:
        """Count from nothing."""
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "mllm_embed_requests", "Answered requests", ["method", "path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "mllm_embed_request_seconds",
            "From a request's head to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._running = Gauge(
            "mllm_embed_requests_running",
            "Requests without an answer yet",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._queue = Gauge(
            "mllm_embed_queue_inputs", "Inputs that wait to be computed", registry=registry, multiprocess_mode="livesum"
        )
        self._documents = Gauge(
            "mllm_embed_queue_documents",
            "Documents that wait to be judged",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._batch_inputs = Histogram(
            "mllm_embed_batch_inputs", "Inputs that are computed together", buckets=_SIZES, registry=registry
        )
        self._batch_seconds = Histogram(
            "mllm_embed_batch_seconds", "Computing of one batch", buckets=_SECONDS, registry=registry
        )
        self._inputs = Counter("mllm_embed_inputs", "Embedded inputs", registry=registry)
        self._tokens = Counter(
            "mllm_embed_tokens", "Tokens of embedded inputs, prompts and pictures included", registry=registry
        )
        self._fetched = Counter("mllm_embed_pictures_fetched", "Pictures fetched from allowed hosts", registry=registry)
        if SHARED_FOLDER not in os.environ:  # several processes have no memory in common that could be told here
            ProcessCollector(registry=registry)

    def begun(self) -> None:
        """Count a request that comes in."""
        self._running.inc()

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request that `begun` counted; `path` is the template of its route."""
        self._running.dec()
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def queued(self, inputs: int) -> None:
        """Say how many inputs wait."""
        self._queue.set(inputs)

    def documents(self, waiting: int) -> None:
        """Say how many documents wait to be judged."""
        self._documents.set(waiting)

    def batch(self, inputs: int, tokens: int, seconds: float) -> None:
        """Count a batch that was computed."""
        self._batch_inputs.observe(inputs)
        self._batch_seconds.observe(seconds)
        self._inputs.inc(inputs)
        self._tokens.inc(tokens)

    def fetched(self) -> None:
        """Count a picture that was fetched from its address."""
        self._fetched.inc()

    def text(self) -> bytes:
        """Return what Prometheus reads, all workers added up."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)
        return generate_latest(everyone)
