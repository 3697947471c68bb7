"""A server from start to end: port, model, requests, and an end that loses none of them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from distilpose.backends.base import InferenceBackend, NumpyOutput
from distilpose.backends.loading import as_backend
from distilpose.data.preprocess import NetworkInput
from distilpose.errors import CheckpointError, ConfigError, DistilPoseError, InputError, as_failure
from distilpose.inference.people import open_detector
from distilpose.inference.predictor import PosePredictor
from distilpose.serving.access_log import JsonFormatter, is_loopback
from distilpose.serving.app import create_app, model_card
from distilpose.serving.options import MAX_CONNECTIONS, MAX_HEAD_BYTES, ServeOptions, check_api_key, read_api_key
from distilpose.serving.service import PoseService

logger = logging.getLogger(__name__)

BACKLOG = 1024
CLOSING_SECONDS = 3  # that connections get to take their last answer
STUCK_SECONDS = 10  # beyond all limits: a model that never returns must not keep the process


class PoseServer(uvicorn.Server):
    """A server that is bound to its port and has its model; `run` serves until it is told to end.

    It goes on listening while it finishes, so that whoever comes late is told to ask elsewhere. Requests to ``/v1``
    must carry ``api_key``; None is an open server. `serve` alone reads ``options.api_key_file``.

    Raises:
        InputError: the port is in use.
        ConfigError: host, port, detector or an option is impossible.
        CheckpointError: the model file is unusable.
    """

    def __init__(self, options: ServeOptions, api_key: str | None = None) -> None:
        if api_key is not None:
            check_api_key(api_key)
        self._socket = _listen(options.host, options.port)  # first: it fails fast
        try:
            backend = as_backend(options.model, options.device, threads=options.threads)
            skeleton = backend.description.skeleton
            predictor = PosePredictor(_OneAtATime(backend), batch_size=options.batch_size)
            named = options.detector or ("auto" if skeleton.is_person else "whole-image")
            detector = open_detector(
                named,
                predictor,
                threshold=options.detection_threshold,
                threads=options.threads,
                tile=options.tile,
            )
            self.service = PoseService(predictor, detector, options)
            bound, number = self._socket.getsockname()[:2]
            self.hosts = options.allow_host or (() if api_key is None and is_loopback(bound) else None)
            app = create_app(self.service, model_card(backend, options), api_key=api_key, hosts=self.hosts)
        except BaseException:
            self._socket.close()
            raise
        self.address = f"http://{f'[{bound}]' if ':' in bound else bound}:{number}"  # such as http://127.0.0.1:8000
        if api_key is None and not is_loopback(bound):
            logger.warning("%s can be reached by other machines, and no API key is asked for", self.address)
        config = uvicorn.Config(
            app,
            http="h11",  # reads bodies behind an Upgrade header and refuses other transfer codings than chunked
            loop="asyncio",
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,  # nothing here depends on who asks
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
        super().__init__(config)
        self._drain_seconds = options.deadline + CLOSING_SECONDS
        self._drain_until: float | None = None  # time.monotonic()
        self._last_resort: threading.Timer | None = None
        self._ending = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGTERM, SIGINT or `end`; then finish what was accepted, and return within a bounded time.

        Raises:
            CheckpointError: the model failed on its first crops.
        """
        try:
            super().run(sockets or [self._socket])
        finally:
            if self._last_resort is not None:  # the process may go on with something else
                self._last_resort.cancel()
        failure = self.service.failure
        if failure is not None:
            text = " ".join(str(failure).split())[:500]
            raise CheckpointError(f"the model failed on its first crops ({text}): export it again") from failure

    def end(self) -> None:
        """Ask for the end, from any thread."""
        self._ending = True

    def close(self) -> None:
        """Give port and threads back without having run; `run` does so by itself."""
        self._socket.close()
        self.service.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal. The base class would raise it again in the end, and so end with another exit code than 0."""
        if self.service.draining and sig == signal.SIGINT:  # twice: at once
            self.force_exit = self.should_exit = True
            return
        if self._last_resort is None:
            seconds = self._drain_seconds + CLOSING_SECONDS + STUCK_SECONDS
            self._last_resort = threading.Timer(seconds, _give_up, [seconds])
            self._last_resort.daemon = True
            self._last_resort.start()
        self._ending = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if self._ending and self._drain_until is None:
            self.service.drain()
            logger.info("ending: %d images in work", self.service.accepted)
            self._drain_until = time.monotonic() + self._drain_seconds
        drained = self._drain_until is not None and (
            not self.service.in_flight or time.monotonic() >= self._drain_until
        )
        return await super().on_tick(counter) or drained or self.service.failure is not None


class _OneAtATime:
    """An `InferenceBackend` for two threads, that of the batches and that in which ``whole-image`` fits its box."""

    def __init__(self, backend: InferenceBackend) -> None:
        self.description = backend.description
        self._backend, self._lock = backend, threading.Lock()

    def __call__(self, images: NetworkInput) -> NumpyOutput:
        with self._lock:
            try:
                return self._backend(images)
            except DistilPoseError:
                raise
            except Exception as error:  # each runtime has exceptions of its own
                raise as_failure(error) from error


def _give_up(seconds: float) -> None:
    logger.error("the model or a detector did not return within %g seconds: ending without it", seconds)
    os._exit(1)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # the latter of a name with an empty part
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"host must be an address or name of this machine, got {host!r} ({reason})") from error
    # asyncio sets TCP_NODELAY only where the protocol is named; without it an answer waits 40 ms behind its head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # now, as two may be bound to a port but only one can listen
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen at {host}:{port} ({error.strerror}): choose another --port") from error
    return listener


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Run a server in this process, its log as lines of JSON on the standard error stream; announces its address.

    Raises:
        CheckpointError: the model failed on its first crops.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)  # lines of JSON as well
    server = PoseServer(options, read_api_key(options.api_key_file))
    announce(f"{server.address} (ends on Ctrl-C)")
    server.run()
