"""The HTTP interface: routes, parameters, and how errors become answers."""

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from common.console import plural
from common.errors import UserError, unknown_name
from engine.inference.prediction import TOP
from engine.serving.limits import ClientDisconnected, Refused
from engine.serving.page import load_page
from engine.serving.schema import Answer, Health, ModelInfo, Problem, RequestLimits
from engine.serving.service import Job, Question, Service
from engine.serving.uploads import FIELD, Body, client_name, megabytes, receive_upload, stored

LINGER = 5.0, 32 << 20  # seconds and bytes for which a refused upload is still read
PARAMETERS = ("top", "threshold", "stride", "pictures")
PROBLEMS = {
    400: "the form is damaged, or has no file",
    403: "a web page of another site sent the request",
    408: "the upload was too slow",
    413: "the file is too large",
    415: "the file is not a video, or cannot be decoded",
    422: "a parameter is wrong, or the video too long or its pictures too large",
    500: "an error in the server",
    503: "too many requests are waiting; Retry-After has the seconds to wait",
    504: "the prediction took too long",
}
FORM = {
    "type": "object",
    "required": [FIELD],
    "properties": {FIELD: {"type": "string", "format": "binary", "description": "the video"}},
}
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": FORM},
        "video/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


def create_app(service: Service, about: dict, folder: Path, origins: Sequence[str] = ()) -> FastAPI:
    """Builds the app. about: the answer of GET /model; folder: uploads while they are worked on; origins: of other
    sites whose pages may use it."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what is wrong with a form is said in our own words
    title = "Video action recognition"
    # addresses are relative, since a proxy may serve all of it below a path that it does not tell
    app = FastAPI(
        title=title,
        version="1",
        description="Recognises actions in videos.",
        servers=[{"url": "."}],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    page = load_page()

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="openapi.json", title=title)

    @app.get("/", include_in_schema=False)
    def index() -> HTMLResponse:
        return HTMLResponse(page.html, headers=page.headers)

    @app.get("/health", response_model=Health, responses={503: {"model": Health, "description": "it is failing"}})
    async def health(response: Response) -> dict:
        working = len(service.working)
        response.status_code = 503 if service.is_failing else 200
        return {
            "status": "failing" if service.is_failing else "ok",
            "there": service.num_there,
            "working": working,
            "waiting": max(service.num_there - working, 0),
            "queue": service.max_waiting,
            "decoders": service.num_decoders,
            "answered": service.num_answered,
            "refused": service.num_refused,
            "failed": service.num_failed,
        }

    @app.get("/model", response_model=ModelInfo)
    async def model() -> dict:
        limits = asdict(service.limits) | {"queue": service.max_waiting}
        return {**about, "limits": {name: limits[name] for name in RequestLimits.model_fields}}

    @app.post(
        "/predict",
        response_model=Answer,
        responses={status: {"model": Problem, "description": text} for status, text in PROBLEMS.items()},
        openapi_extra={"requestBody": BODY},
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=10_000, description="number of classes in the response")] = TOP,
        threshold: Annotated[float, Query(ge=0, le=1, description="below it the label is 'uncertain'")] = 0.0,
        stride: Annotated[int | None, Query(ge=1, le=1_000_000, description="frames between windows")] = None,
        pictures: Annotated[int, Query(ge=0, le=200, description="largest number of frames to return")] = 0,
    ) -> Response:
        """The actions in a video: on the whole, over time, and for each window."""
        for name in request.query_params:
            if name not in PARAMETERS:
                raise Refused(422, unknown_name("parameter", client_name(name), PARAMETERS))
        is_own = request.headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        if not is_own and request.headers.get("origin") not in origins:
            raise Refused(403, "A web page of another site sent this request; only the service's own page may.")
        body, start = request.scope["body"], time.monotonic()
        with service.place(), stored(folder) as path:
            upload = await receive_upload(body, path, service.limits)
            question = Question(path, upload.name, stride or service.network.stride, top, threshold, pictures)
            job = service.submit(question)
            answer = await finished(job, body)
        service.num_answered += 1
        seconds = time.monotonic() - start
        say(f"200 {upload.name}: {megabytes(upload.num_bytes)}, {plural(job.num_frames, 'frame')}, {seconds:.2f} s")
        return Response(answer, media_type="application/json")

    @app.exception_handler(UserError)
    async def refused(request: Request, error: UserError) -> Response:
        """The answer to a request that is refused; an error without a status is the network's."""
        status = error.status if isinstance(error, Refused) else 500
        retry = getattr(error, "retry_after", None)
        return problem(request, status, str(error), {"Retry-After": str(retry)} if retry else None)

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        where = NOT_THERE.get(error.status_code)
        text = where.format(request.method, path_of(request)) if where else str(error.detail)
        return problem(request, error.status_code, text, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(request, 422, f"{first['loc'][-1]}: {first['msg']}, but is {first['input']!r:.80}.")

    @app.exception_handler(ClientDisconnected)
    async def gone(request: Request, error: ClientDisconnected) -> Response:
        say(f"499 {path_of(request)}: the client went away")
        return Response(status_code=499)  # to nobody

    def problem(request: Request, status: int, text: str, headers: dict | None = None) -> Response:
        if status >= 500 and status not in (503, 504):
            service.num_failed += 1
        else:
            service.num_refused += 1
        say(f"{status} {path_of(request)}: {text}")
        return LastWord({"detail": text}, status, headers)

    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    app.add_middleware(Guard, failed=lambda scope: problem(Request(scope), 500, OUR_FAULT))
    return app


NOT_THERE = {
    404: "'{1}' does not exist. The service has POST /predict, GET /model, /health and /docs, and a page at /.",
    405: "{0} is not for '{1}'. A video goes to POST /predict: curl -F video=@clip.mp4; all else is GET.",
}
OUR_FAULT = "Something went wrong in the server. Its log has the reason."
ENDING = "The server is being stopped."


def path_of(request: Request) -> str:
    """For a line of the log, in which a client is not to write lines of its own."""
    return client_name(request.scope["path"])


async def finished(job: Job, body: Body) -> bytes:
    """Waits for the answer; the work ends when the client disconnects, but not before the file is closed."""
    gone, answer = asyncio.ensure_future(body.gone()), asyncio.wrap_future(job.answer)
    try:
        await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnected
        return answer.result()
    finally:
        gone.cancel()
        job.stop(ClientDisconnected())
        await asyncio.wait({answer})
        answer.cancelled() or answer.exception()  # looked at, or asyncio would say that nobody did


class LastWord(JSONResponse):
    """An answer that may come before the client has sent everything. The connection ends with it."""

    async def __call__(self, scope: dict, receive: object, send: object) -> None:
        if scope["body"].is_complete:
            await super().__call__(scope, receive, send)
            return
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await scope["body"].drain(*LINGER)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Guard:
    """Around the whole application: knows of each request what came of its body, lets no traceback out, and takes HEAD
    wherever GET is taken (the server leaves the content of such an answer away)."""

    def __init__(self, app: object, failed: object):
        self.app, self.failed = app, failed

    async def __call__(self, scope: dict, receive: object, send: object) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "method": method, "body": Body(scope, receive)}
        is_begun = False

        async def noting(message: dict) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except asyncio.CancelledError:  # a second Ctrl-C, or the end of the time for what is there
            if not is_begun:
                await JSONResponse({"detail": ENDING}, 503)(scope, receive, send)
        except Exception:
            traceback.print_exc()
            if not is_begun:
                await self.failed(scope)(scope, receive, send)


def say(text: str) -> None:
    """A line of the log."""
    with contextlib.suppress(OSError):  # its reader may be gone, as in `... | head`; the service goes on
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
