"""The routes of the server: OpenAI's models, chat completions and completions."""

import asyncio
import contextlib
import dataclasses
import ipaddress
import time
import urllib.parse
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aster_jax.serve import answering, asked, replies
from aster_jax.serve.desk import Desk
from aster_jax.serve.limits import Limits, Rate
from aster_jax.serve.refusal import Refusal, bad

GONE = 499  # nobody reads the answer any more; the number is nginx's


@dataclasses.dataclass(frozen=True)
class Served:
    """A model behind the routes: `name` as clients give it, its engine and desk."""

    name: str
    engine: object
    desk: Desk
    limits: Limits
    is_local: bool


def build(served: Served) -> Starlette:
    """The application; its desk runs from start-up to shutdown."""
    rate = Rate(served.limits.requests_per_minute)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        served.desk.start()
        yield
        await served.desk.stop()

    def route(path: str, is_chat: bool) -> Route:
        read = asked.chat if is_chat else asked.text

        async def answer(request: Request) -> Response:
            try:
                _check_rate(rate)
                body = await _body(request, served)
                found = asked.parse(body)
                _check_model(found, served)
                what = read(found, served.limits)
                return await _answer(request, what, len(body), served, is_chat)
            except Refusal as e:
                return refused(e)
            except ClientDisconnect:
                return Response(status_code=GONE)

        return Route(path, answer, methods=["POST"])

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_card(served)]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != served.name:
            return refused(_no_model(request.path_params["name"], served))
        return JSONResponse(_card(served))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def unknown(request: Request, e: Exception) -> Response:
        status = getattr(e, "status_code", 500)
        return refused(Refusal(status, f"{request.method} {request.url.path}: {e}", "not_found"))

    return Starlette(
        routes=[
            route("/v1/chat/completions", True), route("/v1/completions", False),
            Route("/v1/models", models), Route("/v1/models/{name:path}", model),
            Route("/health", health),
        ],
        lifespan=lifespan, exception_handlers={404: unknown, 405: unknown, 500: unknown},
    )  # fmt: skip


def refused(e: Refusal) -> Response:
    """The answer to a request that is not served."""
    again = {"Retry-After": str(max(1, round(e.retry_s)))} if e.retry_s else {}
    return JSONResponse(e.body, e.status, again)


def _card(served) -> dict:
    return {
        "id": served.name, "object": "model", "created": 0, "owned_by": "aster_jax",
        "max_model_len": served.engine.sizes.capacity,
    }  # fmt: skip


def _no_model(name, served) -> Refusal:
    return Refusal(404, f"the model {name!r:.80} is not here, only {served.name!r}",
                   "model_not_found", "model")  # fmt: skip


def _check_rate(rate):
    if wait_s := rate.wait_s(time.monotonic()):
        raise Refusal(429, f"too many requests; try again in {wait_s:.1f} s",
                      "rate_limit_exceeded", retry_s=wait_s)  # fmt: skip


def _check_model(body, served):
    if "model" not in body or not isinstance(body["model"], str):
        raise bad("model", f"model is missing; {served.name!r} is served here")
    if body["model"] != served.name:
        raise _no_model(body["model"], served)


async def _body(request: Request, served: Served) -> bytes:
    """The body, in time and size. A page that a browser shows cannot send one from elsewhere."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        raise Refusal(415, f"content-type {kind!r:.60}: send application/json")
    if served.is_local and not is_loopback(request.headers.get("host", "")):
        raise Refusal(403, "this server answers to names of this machine only", "wrong_host")
    most, found = served.limits.body_bytes, bytearray()
    try:
        async with asyncio.timeout(served.limits.body_s):
            async for part in request.stream():
                found += part
                if len(found) > most:
                    raise Refusal(413, f"the body is larger than {most} bytes", "body_too_large")
    except TimeoutError as e:
        raise Refusal(408, f"the body took longer than {served.limits.body_s:g} s") from e
    return bytes(found)


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine as seen from itself."""
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost"


async def _answer(request, what, size, served, is_chat) -> Response:
    reply = replies.reply(int(time.time()), served.name, is_chat)
    answer = await answering.begin(what, size, served.engine, served.desk, reply)
    if what.stream:
        events = _in_time(answer.events, served.limits.request_s)
        return StreamingResponse(events(), media_type="text/event-stream",
                                 headers={"Cache-Control": "no-cache"})  # fmt: skip
    making = asyncio.ensure_future(answer.whole())
    leaving = asyncio.ensure_future(_gone(request))
    try:
        done, _ = await asyncio.wait(
            {making, leaving}, timeout=served.limits.request_s,
            return_when=asyncio.FIRST_COMPLETED,
        )  # fmt: skip
        if making in done:
            return JSONResponse(making.result())
        if leaving in done:
            return Response(status_code=GONE)
        raise _late(served.limits.request_s)
    finally:
        making.cancel()  # which drops its rows
        leaving.cancel()
        await asyncio.gather(making, leaving, return_exceptions=True)


def _in_time(events: Callable, limit_s: float) -> Callable:
    """The events of an answer, the last of them an error where it is not whole in time."""

    async def limited():
        until = asyncio.get_running_loop().time() + limit_s
        made = events()
        try:
            while True:
                async with asyncio.timeout_at(until):
                    one = await anext(made)
                yield one
        except StopAsyncIteration:
            return
        except TimeoutError:
            yield replies.event(_late(limit_s).body)
        finally:
            await made.aclose()

    return limited


def _late(limit_s) -> Refusal:
    return Refusal(504, f"the answer was not whole after {limit_s:g} s", "timeout")


async def _gone(request: Request) -> None:
    """Until the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
