"""The viewer's web application: a page, and the panels and scores of a `View` by index.

Only GET is answered, and only to the host names of this machine: a web page elsewhere whose name resolves to
127.0.0.1 gets nothing. No part of a request is used as a path. Errors are JSON with one sentence.
"""

import re
from collections.abc import Callable
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distill.errors import UserError
from distill.viewer.view import DRAWINGS, View

PAGE = {
    "/": ("index.html", "text/html"),
    "/view.css": ("view.css", "text/css"),
    "/view.js": ("view.js", "text/javascript"),
}
"""Path -> file in the folder `page` and its type: all files that are served."""

HOSTS = ["127.0.0.1", "localhost"]

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response: nothing is cached, and no other page may read or embed the pictures."""

Endpoint = Callable[[Request], Response]


def make_app(view: View) -> Starlette:
    """Return the application that serves a view."""

    def about(request: Request) -> Response:
        return JSONResponse(view.describe())

    def video(request: Request) -> Response:
        return JSONResponse(view.describe_video(_index(request, "video", len(view.videos))))

    def scores(request: Request) -> Response:
        return JSONResponse(view.describe_scores(_index(request, "video", len(view.videos))))

    def at(request: Request) -> Response:
        number = _index(request, "video", len(view.videos))
        view.want(number, _index(request, "place", len(view.videos[number].frames)))
        return Response(status_code=204)

    def panel(request: Request) -> Response:
        number = _index(request, "video", len(view.videos))
        place = _index(request, "place", len(view.videos[number].frames))
        index = _index(request, "panel", len(view.panels))
        draw = request.query_params.get("draw", "overlay")
        if draw not in DRAWINGS:
            raise HTTPException(400, f"draw: expected one of {', '.join(DRAWINGS)}")
        gaze = request.query_params.get("gaze") == "1"
        picture = view.picture(number, place, index, draw=draw, gaze=gaze)
        if picture is None:
            return JSONResponse({"waiting": True}, 202)
        return Response(picture, media_type="image/jpeg")

    def worst(request: Request) -> Response:
        metrics, series = (view.scores.metrics, view.scores.series) if view.scores else ((), [])
        metric, index = _index(request, "metric", len(metrics)), _index(request, "series", len(series))
        return JSONResponse(view.worst(metric, index))

    routes = [Route(path, _file(name, kind)) for path, (name, kind) in PAGE.items()]
    routes += [
        Route("/api/view", about),
        Route("/api/videos/{video}", video),
        Route("/api/videos/{video}/scores", scores),
        Route("/api/videos/{video}/frames/{place}/viewed", at),
        Route("/api/videos/{video}/frames/{place}/panels/{panel}", panel),
        Route("/api/worst/{metric}/{series}", worst),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(FixedHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        ],
        exception_handlers={HTTPException: _http_error, UserError: _user_error, Exception: _bug},
    )


class FixedHeaders:
    """Middleware that adds HEADERS to every response, and answers GET only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        if scope["type"] == "http" and scope["method"] != "GET":
            refusal = _error(405, f"{scope['method'][:20]}: only GET is answered")
            await refusal(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)


def _file(name: str, kind: str) -> Endpoint:
    """Return the endpoint of one file of the page."""
    content = files("distill.viewer").joinpath("page", name).read_bytes()
    return lambda request: Response(content, media_type=kind)


def _index(request: Request, name: str, count: int) -> int:
    """Return an index of the request's path that is below a count."""
    text = request.path_params[name]
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= count:
        raise HTTPException(404, f"{name}: expected an integer from 0 to {count - 1}" if count else f"no {name}")
    return int(text)


def _error(code: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, code)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unknown = error.status_code == 404 and error.detail == "Not Found"
    return _error(error.status_code, "there is nothing at this address" if unknown else error.detail)


async def _user_error(request: Request, error: Exception) -> Response:
    return _error(404, str(error))


async def _bug(request: Request, error: Exception) -> Response:
    return _error(500, "the viewer failed; the terminal shows the reason")
