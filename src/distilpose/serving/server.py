"""A server from start to end: port, model, requests, and an end that loses none of them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

import uvicorn

from distilpose.backends.loading import as_backend
from distilpose.detection.detectors import check_detector_fits, create_detector
from distilpose.errors import CheckpointError, ConfigError, InputError
from distilpose.inference.predictor import PosePredictor
from distilpose.serving.access_log import JsonFormatter, is_loopback
from distilpose.serving.app import create_app, model_card
from distilpose.serving.metrics import Metrics
from distilpose.serving.options import MAX_CONNECTIONS, MAX_HEAD_BYTES, ServeOptions, check_api_key, read_api_key
from distilpose.serving.service import PoseService

logger = logging.getLogger(__name__)

BACKLOG = 1024
CLOSING_SECONDS = 3  # that connections get to take their last answer
STARTING_SECONDS = 120  # that a `BackgroundServer` gets to warm up
STUCK_SECONDS = 10  # beyond all limits: a model that never returns must not keep the process


class PoseServer:
    """A server that is bound to its port and has its model; `run` serves until it is told to end.

    Args:
        options: what it runs, where, and its limits.
        api_key: that requests to ``/v1`` must carry; None for an open server. ``options.api_key_file`` is read by
            `serve` alone.

    Attributes:
        address: such as ``http://127.0.0.1:8000``.
        service: that finds the poses.
        hosts: names besides loopback names that the Host header may give; None for any.

    Raises:
        InputError: the port is in use.
        ConfigError: host, port, detector or an option is impossible.
        CheckpointError: the model file is unusable.
    """

    def __init__(self, options: ServeOptions, api_key: str | None = None) -> None:
        if api_key is not None:
            check_api_key(api_key)
        self._options = options
        self._socket = _listen(options.host, options.port)  # first: it fails fast
        try:
            backend = as_backend(options.model, options.device, threads=options.threads)
            skeleton = backend.description.skeleton
            detector = options.detector or ("auto" if skeleton.is_person else "whole-image")
            if isinstance(detector, str):
                check_detector_fits(detector, skeleton)
                detector = create_detector(detector)
            metrics = Metrics()
            predictor = PosePredictor(backend, batch_size=options.batch_size)
            self.service = PoseService(predictor, detector, options, metrics)
            bound, number = self._socket.getsockname()[:2]
            self.hosts = options.allow_host or (() if api_key is None and is_loopback(bound) else None)
            card = model_card(backend, options)
            app = create_app(self.service, card, options, metrics, api_key=api_key, hosts=self.hosts)
        except BaseException:
            self._socket.close()
            raise
        self.address = f"http://{f'[{bound}]' if ':' in bound else bound}:{number}"
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
        self._server = _DrainingServer(config, self.service, options.deadline + CLOSING_SECONDS)

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `end`; then finish what was accepted, and return within a bounded time.

        Raises:
            CheckpointError: the model failed on its first crops.
        """
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._server.forget_last_resort()
        failure = self.service.failure
        if failure is not None:
            text = " ".join(str(failure).split())[:500]
            raise CheckpointError(f"the model failed on its first crops ({text}): export it again") from failure

    def end(self) -> None:
        """Ask for the end, from any thread."""
        self._server.drain_soon()

    def close(self) -> None:
        """Give port and threads back without having run; `run` does so by itself."""
        self._socket.close()
        self.service.close()

    @property
    def started(self) -> bool:
        """Whether it answers."""
        return self._server.started


class _DrainingServer(uvicorn.Server):
    """Goes on listening while it finishes, so that whoever comes late is told to ask elsewhere."""

    def __init__(self, config: uvicorn.Config, service: PoseService, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._last_resort: threading.Timer | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal. The base class would raise it again in the end, and so end with another exit code than 0."""
        if self._service.draining and sig == signal.SIGINT:  # twice: at once
            self.force_exit = self.should_exit = True
            return
        if self._last_resort is None:
            self._last_resort = _end_if_stuck(self._drain_seconds + CLOSING_SECONDS + STUCK_SECONDS)
        self.drain_soon()

    def forget_last_resort(self) -> None:
        """The end came by itself: the process may go on with something else."""
        if self._last_resort is not None:
            self._last_resort.cancel()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end."""
        return await super().on_tick(counter) or self._service.failure is not None

    def drain_soon(self) -> None:
        if self._loop is None or self._loop.is_closed():
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        if self._draining is None:
            self._service.drain()
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        logger.info("ending: %d images in work", self._service.accepted)
        end = time.monotonic() + self._drain_seconds
        while self._service.in_flight and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.should_exit = True


def _end_if_stuck(seconds: float) -> threading.Timer:
    """End the process then, unless the timer is cancelled."""

    def give_up() -> None:
        logger.error("the model or a detector did not return within %g seconds: ending without it", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    return timer


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(
            f"host must be an address or name of this machine, got {host!r} ({error.strerror})"
        ) from error
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


class BackgroundServer:
    """A `PoseServer` in a thread, for tests and measurements; entering waits until it is ready.

    Raises:
        CheckpointError: on entering, the model failed on its first crops, or they took two minutes. Whatever else ends
            the server before it is ready is raised as it is.
    """

    def __init__(self, server: PoseServer) -> None:
        self.server = server
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server")

    def _run(self) -> None:
        try:
            self.server.run()
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> Self:
        self._thread.start()
        end = time.monotonic() + STARTING_SECONDS
        while self._thread.is_alive() and not (self.server.started and self.server.service.ready):
            if time.monotonic() > end:
                self.server.end()
                raise CheckpointError(f"the model did not answer its first crops within {STARTING_SECONDS} seconds")
            time.sleep(0.01)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.server.end()
        self._thread.join()


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Run a server in this process, its log as lines of JSON on the standard error stream.

    Args:
        options: of the server.
        announce: told the address.

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
