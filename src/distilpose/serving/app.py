"""The routes."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from distilpose import __version__
from distilpose.backends.base import InferenceBackend, runtime_of
from distilpose.formats.image_ids import image_ids
from distilpose.formats.writers import PoseRecord, prediction_rows
from distilpose.serving import schemas
from distilpose.serving.access_log import CLIENT_LEFT, REQUEST_ID_HEADER, AccessLog, entry_of, error_response
from distilpose.serving.errors import HTTPError
from distilpose.serving.metrics import Metrics
from distilpose.serving.options import MAX_IMAGES, ServeOptions
from distilpose.serving.service import Answer, PoseService
from distilpose.serving.uploads import Part, Upload, check_content_type, one_image, parse_body, several_images

logger = logging.getLogger(__name__)

T = TypeVar("T")

API_KEY_HEADER = "X-API-Key"
STATIC = Path(__file__).parent / "static"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; media-src "
    "'self' blob:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)  # also in index.html, for hosts that send no headers of their own
# Pages get threads and shared memory only when nothing foreign can get into them.
PAGE_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": f"{PAGE_POLICY}; frame-ancestors 'none'",
    "Cache-Control": "no-cache",  # asked for again each time, and not sent again unless `make web` changed it
}
DESCRIPTION = "Send an image, get the people in it with their keypoints. Coordinates are pixels of the upright image."


def create_app(
    service: PoseService,
    card: Mapping[str, Any],
    *,
    api_key: str | None = None,
    hosts: tuple[str, ...] | None = None,
    static: Path = STATIC,
) -> ASGIApp:
    """Build the server as an ASGI application, which warms the service up and closes it.

    ``/v1/model`` says what stands in ``card``; requests to ``/v1`` must carry ``api_key``, None is an open server; for
    ``hosts`` see `AccessLog`. ``static`` is the folder of the page at ``/``; without its ``index.html`` there is none.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        warming = asyncio.create_task(service.warm_up())
        try:
            yield
        finally:
            warming.cancel()
            service.close()

    app = FastAPI(
        title="distilpose",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    _answer_errors(app, service.metrics)
    _add_state(app, service)
    _add_predictions(app, service, card, api_key)
    _add_page(app, static)
    wrapped: ASGIApp = app
    if service.options.cors:
        headers = (API_KEY_HEADER, REQUEST_ID_HEADER)
        wrapped = CORSMiddleware(
            app, service.options.cors, allow_methods=("GET", "POST"), allow_headers=headers, expose_headers=headers[1:]
        )
    return AccessLog(wrapped, service.metrics, list(app.routes), hosts)


def model_card(backend: InferenceBackend, options: ServeOptions) -> dict[str, Any]:
    """What ``/v1/model`` says of a model, of what runs it, and of the server's limits."""
    description, runtime = backend.description, runtime_of(backend)
    skeleton = description.skeleton
    return {
        "model": description.model,
        "precision": description.precision,
        "backend": runtime.backend,
        "device": runtime.device,
        "skeleton": skeleton.name,
        "keypoints": list(skeleton.keypoint_names),
        "edges": [list(edge) for edge in skeleton.edges],
        "flip_pairs": [list(pair) for pair in skeleton.flip_pairs],
        "oks_sigmas": list(skeleton.oks_sigmas),
        "input_size_hw": list(description.input_size_hw),
        "max_bytes": options.max_bytes,
        "max_pixels": options.max_pixels,
        "max_people": options.max_people,
        "max_images": MAX_IMAGES,
    }


def _answer_errors(app: FastAPI, metrics: Metrics) -> None:
    """Every error is a JSON object of the same kind."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            name = HTTPStatus(error.status_code).phrase
            text = f"{name}: {request.method} {request.url.path[:200]} is not served here; /openapi.json lists what is"
            error = HTTPError(error.status_code, name.lower().replace(" ", "-"), text, dict(error.headers or {}))
        elif isinstance(error, ClientDisconnect):
            error = HTTPError(CLIENT_LEFT, "client-left", "the client closed the connection")
        elif not isinstance(error, HTTPError):
            error = HTTPError(500, "internal", "the server failed; its log tells why, under this request_id")
        return error_response(error, entry_of(request.scope), metrics)

    for kind in (HTTPError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, answer)


def _add_state(app: FastAPI, service: PoseService) -> None:
    @app.get("/healthz", response_model=schemas.State, tags=["state"])
    async def healthz() -> Response:
        """The process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", response_model=schemas.State, responses={503: {"model": schemas.State}}, tags=["state"])
    async def readyz() -> Response:
        """The model is loaded and warm, and the server is not about to end."""
        if service.ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "draining" if service.draining else "starting"}, 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, tags=["state"])
    async def prometheus() -> Response:
        """Counts and times, for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_predictions(app: FastAPI, service: PoseService, card: Mapping[str, Any], api_key: str | None) -> None:
    key = APIKeyHeader(name=API_KEY_HEADER, auto_error=False)

    async def check_key(given: str | None = Depends(key)) -> None:
        # Compared in constant time, so that the time of an answer tells nothing of the key.
        if api_key is not None and not hmac.compare_digest((given or "").encode(), api_key.encode()):
            text = f"expected the server's key in the header {API_KEY_HEADER}, got {'another' if given else 'none'}"
            raise HTTPError(401, "unauthorized", text, {"WWW-Authenticate": "ApiKey"})

    common: dict[str, Any] = {"dependencies": [Depends(check_key)] if api_key is not None else [], "tags": ["v1"]}

    @app.get("/v1/model", response_model=schemas.ModelCard, responses=schemas.faults(401), **common)
    async def model() -> Response:
        """What the server runs, and its limits."""
        return JSONResponse(card)

    @app.post(
        "/v1/predict",
        response_model=schemas.Poses,
        responses=schemas.faults(),
        openapi_extra=schemas.ONE_REQUEST,
        **common,
    )
    async def predict(request: Request) -> Response:
        """Find the people of an image, or the poses of the people in given boxes."""
        async with _received(request, service) as parts:
            upload = one_image(parts, service.options)
            with service.accept(1) as due:
                answer = await _unless_left(request, service.predict(upload, due))
        return _json_response(request, card, _poses(request, upload, answer, *image_ids([upload.filename])))

    @app.post(
        "/v1/predict/batch",
        response_model=schemas.SeveralPoses,
        responses=schemas.faults(),
        openapi_extra=schemas.SEVERAL_REQUEST,
        **common,
    )
    async def predict_batch(request: Request) -> Response:
        """The same for several images; one that cannot be used does not spoil the others."""
        async with _received(request, service) as parts:
            uploads = several_images(parts, service.options, MAX_IMAGES)
            with service.accept(len(uploads)) as due:
                work = asyncio.gather(*(_attempt(service, upload, due) for upload in uploads))
                answers = await _unless_left(request, work)
        entry, results = entry_of(request.scope), []
        entry.people = 0
        names = ["" if isinstance(upload, HTTPError) else upload.filename for upload in uploads]
        for name, image_id, upload, answer in zip(names, image_ids(names), uploads, answers, strict=True):
            if isinstance(answer, HTTPError):
                entry.failed.append(answer.code)
                service.metrics.rejected.labels(answer.code).inc()
                found = {"status": answer.status, "error": answer.code, "message": answer.message}
            else:
                assert isinstance(upload, Upload)
                found = {"status": 200, **_poses(request, upload, answer, image_id)}
            results.append({"image": name, **found})
        return _json_response(request, card, {"results": results})


@asynccontextmanager
async def _received(request: Request, service: PoseService) -> AsyncGenerator[list[Part]]:
    """The fields of a request, whose memory is held until its answer."""
    with service.request():
        boundary = check_content_type(request)
        async with service.upload_reader.body(request) as content:
            yield await parse_body(request, content, boundary)


def _json_response(request: Request, card: Mapping[str, Any], found: dict[str, Any]) -> Response:
    content = {"request_id": entry_of(request.scope).request_id, "model": card["model"], **found}
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")


async def _unless_left(request: Request, work: Awaitable[T]) -> T:
    """Wait for the work; drop it as soon as nobody waits for its answer any more."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _attempt(service: PoseService, upload: Upload | HTTPError, due: float) -> Answer | HTTPError:
    if isinstance(upload, HTTPError):
        return upload
    try:
        return await service.predict(upload, due)
    except HTTPError as http_error:
        return http_error
    except Exception:
        logger.exception("an image failed")
        return HTTPError(500, "internal", "the server failed on this image; its log tells why")


def _poses(request: Request, upload: Upload, answer: Answer, image_id: int) -> dict[str, Any]:
    entry = entry_of(request.scope)
    entry.people = (entry.people or 0) + len(answer.result)
    entry.batches += answer.batches
    rows = prediction_rows(PoseRecord(upload.filename, answer.result, answer.size_hw, image_id))
    return {"size_hw": answer.size_hw, "people": rows}


class _Page(StaticFiles):
    """The page's files with `PAGE_HEADERS`. It is mounted last, as it takes every path."""

    def __init__(self, folder: Path, app: FastAPI) -> None:
        super().__init__(directory=folder, html=True)
        routes = [route for route in app.routes if isinstance(route, Route)]
        self._methods = {route.path: route.methods for route in routes if route.methods}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._methods:  # a path of ours with a method that it has not
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self._methods[scope["path"]]))})
        whole = [(name, value) for name, value in scope["headers"] if name != b"range"]  # no part of a file is sent
        await super().__call__({**scope, "headers": whole}, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response


def _add_page(app: FastAPI, static: Path) -> None:
    if (static / "index.html").is_file():
        app.mount("/", _Page(static, app))
        return

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return JSONResponse({"name": "distilpose", "version": __version__, "openapi": "/openapi.json"})
