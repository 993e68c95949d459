"""Requests to a server that speaks OpenAI's protocol; whatever it does comes back as a value.

    ask -> Reply: ok | trouble | refused | garbage

Asked again, with growing pauses, is only what the server cannot have answered: no
connection, one that broke, silence up to the deadline, a status that says "later" (408, 409,
425, 429 and 5xx). What is left of that is trouble, and so is a status that is about us and
not about the request (no key, no money, no such model). A refusal of the request itself
(400, 413, 422) and an answer that is none are final: asking again would be paid again. The key for the server is read from the environment, goes into one
header, and stands in no error text.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import socket
import ssl
import threading
import time
import urllib.parse
import zlib
from typing import Literal

from aster_jax.errors import InputError

LATER = (408, 409, 425, 429)
REFUSED = (400, 413, 422)
MAX_BYTES = 1 << 26  # of an answer's body
LONGEST_PAUSE_S = 60.0
SHOWN = 300  # characters of a body in error texts
_CHUNK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of a request: `body` of an ok one, `why` of any other; `attempts` made."""

    kind: Literal["ok", "trouble", "refused", "garbage"]
    body: dict
    why: str
    attempts: int


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where the server is and how patiently it is asked.

    `url` is what comes before /chat/completions, as in http://127.0.0.1:8000/v1. `key_env`
    names the environment variable with the key, "" for a server without. `timeout_s`: of one
    attempt, from its start to the last byte. `retries` after the first attempt; the pause
    before the n-th is `pause_s` times 2^(n-1), or what the server asks for.
    """

    url: str
    key_env: str = ""
    timeout_s: float = 600.0
    retries: int = 5
    pause_s: float = 1.0

    def __post_init__(self):
        parts = urllib.parse.urlsplit(self.url)
        try:
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            wrong = True
        if wrong or parts.query or parts.fragment or "@" in parts.netloc:
            raise InputError(
                f"demos.teacher.url={self.url!r} is no address of a server; give one like "
                "http://127.0.0.1:8000/v1 (a key goes into the variable demos.teacher.key_env)"
            )


def check_key(endpoint: Endpoint) -> None:
    """Raise an InputError when the server's key is not in the environment."""
    if endpoint.key_env and not os.environ.get(endpoint.key_env, "").strip():
        raise InputError(
            f"the environment variable {endpoint.key_env} (demos.teacher.key_env) holds no key"
        )


def ask(endpoint: Endpoint, path: str, request: dict, stop: threading.Event) -> Reply:
    """POST a JSON object; retries end early once `stop` is set."""
    body = json.dumps(request).encode()
    for attempt in range(endpoint.retries + 1):
        reply, pause_s = _attempt(endpoint, path, body, attempt + 1)
        if pause_s is None or attempt == endpoint.retries or stop.is_set():
            break
        # Spread out: what failed together must not come back together.
        spread = 0.75 + 0.5 * zlib.crc32(body + bytes([attempt % 256])) / 2**32
        grown_s = endpoint.pause_s * 2**attempt * spread
        stop.wait(min(max(pause_s, grown_s), max(LONGEST_PAUSE_S, endpoint.pause_s)))
    return reply


def _attempt(endpoint, path, body, attempts) -> tuple[Reply, float | None]:
    """One request; the reply, and the seconds that the server asks to wait before another,
    None where there is to be none."""
    with contextlib.ExitStack() as stack:
        began, late = time.monotonic(), threading.Event()
        try:
            connection = _connect(endpoint, stack, late)
            status, told, text = _exchange(endpoint, connection, path, body)
            if late.is_set():  # cut off, a body without a length looks whole
                raise TimeoutError
        except (OSError, http.client.HTTPException, ValueError) as e:
            why = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
            if late.is_set():
                why = f"no whole answer within {endpoint.timeout_s:g} s"
            elapsed_s = time.monotonic() - began
            return Reply("trouble", {}, f"{why} (after {elapsed_s:.1f} s)", attempts), 0.0
    if text is None:
        return Reply("garbage", {}, f"an answer of more than {MAX_BYTES} bytes", attempts), None
    shown = " ".join(text.decode("utf-8", "replace").split())[:SHOWN]
    key = os.environ.get(endpoint.key_env, "") if endpoint.key_env else ""
    shown = shown.replace(key, "[key]") if key else shown
    if status in LATER or status >= 500:
        return Reply("trouble", {}, f"status {status}: {shown}", attempts), _seconds(told)
    if status != 200:
        kind = "refused" if status in REFUSED else "trouble"
        return Reply(kind, {}, f"status {status}: {shown}", attempts), None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Reply("garbage", {}, f"no JSON object: {shown}", attempts), None
    return Reply("ok", found, "", attempts), None


def _connect(endpoint, stack, late) -> http.client.HTTPConnection:
    """A connection that is cut off at the deadline, whatever it is doing then."""
    parts = urllib.parse.urlsplit(endpoint.url)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=endpoint.timeout_s,
            context=ssl.create_default_context(),
        )  # fmt: skip
    else:
        connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=endpoint.timeout_s
        )
    stack.callback(connection.close)
    connection.connect()
    raw = connection.sock

    def cut():
        late.set()
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(endpoint.timeout_s, cut)
    timer.daemon = True
    timer.start()
    stack.callback(timer.cancel)
    return connection


def _exchange(endpoint, connection, path, body) -> tuple[int, str, bytes | None]:
    """(status, its Retry-After, the body); None for a body that is too long."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key_env:
        headers["Authorization"] = f"Bearer {os.environ[endpoint.key_env].strip()}"
    base = urllib.parse.urlsplit(endpoint.url).path.rstrip("/")
    connection.request("POST", f"{base}{path}", body, headers)
    answer = connection.getresponse()
    parts, size = [], 0
    while part := answer.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            return answer.status, "", None
    if answer.length:  # the connection ended before what it had announced
        raise http.client.IncompleteRead(b"", answer.length)
    return answer.status, answer.headers.get("Retry-After", ""), b"".join(parts)


def _seconds(told: str) -> float:
    try:
        return max(0.0, min(float(told), LONGEST_PAUSE_S))
    except ValueError:
        return 0.0
