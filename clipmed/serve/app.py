"""The application: a page, and the JSON API under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

import clipmed
from clipmed.api import ClipModel
from clipmed.errors import ClipmedError
from clipmed.serve import answers
from clipmed.serve.guard import Guard, failure
from clipmed.serve.limits import Limits, RefusedError
from clipmed.serve.pictures import open_picture, preview_jpeg
from clipmed.serve.questions import read_classes, read_number
from clipmed.serve.uploads import IMAGE_FIELD, Form, read_form
from clipmed.serve.workbench import Workbench

if TYPE_CHECKING:
    from PIL import Image

    from clipmed.search import SearchIndex

T = TypeVar("T")
DEFAULT_HITS = 8
_PAGE = "page.html"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def app(
    models: Mapping[str, ClipModel],
    index: SearchIndex | None = None,
    *,
    limits: Limits | None = None,
    names: Iterable[str] = ("localhost",),
    any_address: bool = False,
) -> ASGIApp:
    """Return the application that serves a page and an API.

    Args:
        models: checkpoints by the names to show, in their order.
        index: images to look for similar ones in, built by one of `models`.
        limits: what requests may hold.
        names: the names, besides addresses of loopback, that requests may ask for in their Host header.
        any_address: whether they may also ask for any address.

    Raises:
        ConfigError: the index was built by another checkpoint.
    """
    service = Service(models, index, limits or Limits())
    served = FastAPI(
        title="clipmed serve",
        version=clipmed.__version__,
        description="Zero-shot classification by medical CLIP checkpoints. Research only, not a medical device.",
        docs_url=None,  # FastAPI's pages of documentation load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=service.lifespan,
    )
    served.add_exception_handler(ClipmedError, _say)
    served.add_exception_handler(HTTPException, _say_status)
    served.add_exception_handler(RequestValidationError, _say_invalid)
    served.add_exception_handler(Exception, lambda _request, _error: failure())
    served.include_router(service.routes())
    return Guard(served, names, any_address=any_address)


class Service:
    """Answers requests by the checkpoints and the index."""

    def __init__(self, models: Mapping[str, ClipModel], index: SearchIndex | None, limits: Limits) -> None:
        self.models = dict(models)
        self.index = index
        self.limits = limits
        self.builder = answers.builder_of(index, models) if index is not None else ""
        self.facts = answers.facts(self.models, index, self.builder, limits)
        self.bench = Workbench(limits)
        self.files = _page_files()

    def routes(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/", self.page, include_in_schema=False)
        router.add_api_route("/static/{name}", self.file, include_in_schema=False)
        router.add_api_route("/api/checkpoints", self.checkpoints)
        router.add_api_route(
            "/api/classify", self.classify, methods=["POST"], openapi_extra=_form("labels", "prompts", "frame")
        )
        router.add_api_route("/api/similar", self.similar, methods=["POST"], openapi_extra=_form("k", "frame"))
        router.add_api_route(
            "/api/preview", self.preview, methods=["POST"], openapi_extra=_form("frame"), response_class=Response
        )
        router.add_api_route("/api/thumbnails/{row}", self.thumbnail, response_class=Response)
        return router

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Begin no further work once the server stops."""
        yield
        self.bench.close()

    async def page(self) -> Response:
        """Return the page."""
        return await self.file(_PAGE)

    async def file(self, name: str) -> Response:
        """Return one of the page's files."""
        if name not in self.files:
            raise HTTPException(404)
        return Response(self.files[name], media_type=_MEDIA_TYPES[name[name.rindex(".") :]])

    async def checkpoints(self) -> answers.Facts:
        """Return what is served, and within which limits."""
        return self.facts

    async def classify(self, request: Request) -> answers.Classified:
        """Return what each checkpoint says of an image over the labels given."""

        def work(form: Form) -> answers.Classified:
            classes = read_classes(form.fields, self.limits)
            return answers.classified(self.models, self._picture(form), classes)

        return await self._worked(request, work)

    async def similar(self, request: Request) -> answers.Similar:
        """Return the index's images most like an image."""
        index = self.index
        if index is None:
            raise RefusedError(404, "no index is served; start the server with --index FOLDER")

        def work(form: Form) -> answers.Similar:
            count = read_number(form.fields, "k", range(1, self.limits.hits + 1)) or DEFAULT_HITS
            return answers.similar(self.builder, self.models[self.builder], index, self._picture(form), count)

        return await self._worked(request, work)

    async def preview(self, request: Request) -> Response:
        """Return an image as JPEG, for what browsers do not show, such as DICOM and TIFF."""
        shown = await self._worked(request, lambda form: preview_jpeg(self._picture(form)))
        return Response(shown, media_type="image/jpeg")

    def thumbnail(self, row: int) -> Response:
        """Return a small JPEG of one image of the index."""
        if self.index is None or not self.index.has_thumbnails or not 0 <= row < len(self.index):
            raise HTTPException(404)
        return Response(self.index.thumbnail(row), media_type="image/jpeg")

    def _picture(self, form: Form) -> Image.Image:
        frame = read_number(form.fields, "frame", range(self.limits.frames))
        return open_picture(form.image, self.limits, frame)

    async def _worked(self, request: Request, work: Callable[[Form], T]) -> T:
        """Read a form and return what `work` makes of it in a thread; given up when the client is gone."""
        with self.bench.admitted():
            form = await read_form(request.headers, request.stream(), self.limits)
            working = asyncio.create_task(self.bench.run(lambda: work(form)))
            gone = asyncio.create_task(_disconnected(request))
            try:
                await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    raise ClientDisconnect
                return await working
            finally:
                gone.cancel()
                working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _say(_request: Request, error: Exception) -> Response:
    """Answer an error of the input with its message."""
    if not isinstance(error, RefusedError):
        return JSONResponse({"error": str(error)}, 422)
    content: dict[str, Any] = {"error": str(error)}
    if error.num_frames is not None:
        content["frames"] = error.num_frames
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return JSONResponse(content, error.status, headers)


def _say_status(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _say_invalid(_request: Request, error: Exception) -> Response:
    """Answer a part of an address, such as a row, that is of a wrong form."""
    assert isinstance(error, RequestValidationError)
    wrong = error.errors()[0]
    return JSONResponse({"error": f"{wrong['loc'][-1]}: got {str(wrong['input'])[:40]!r}; {wrong['msg']}"}, 422)


def _page_files() -> dict[str, bytes]:
    folder = resources.files("clipmed.serve") / "static"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


def _form(*fields: str) -> dict[str, Any]:
    """Describe a form in OpenAPI's terms."""
    properties: dict[str, Any] = {IMAGE_FIELD: {"type": "string", "format": "binary"}}
    properties |= {name: {"type": "string"} for name in fields}
    schema = {"type": "object", "required": [IMAGE_FIELD], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
