"""Requests to a server that speaks OpenAI's protocol; whatever it does comes back as a value.

    ask -> Reply: ok | trouble | refused | garbage

Asked again, with growing pauses, is only what the server cannot have answered: no
connection, one that broke, silence up to the deadline, a status that says "later" (408, 409,
425, 429 and 5xx). What is left of that is trouble, and so is a status that is about us and
not about the request (no key, no money, no such model). A refusal of the request itself
(400, 413, 422) and an answer that is none are final: asking again would be paid again. The
key for the server is read from the environment, goes into one header, and stands in no error
text. Once the word to stop is given, an answer has `GRACE_S` to arrive; what comes later is
lost, and may be paid twice.
"""

import contextlib
import dataclasses
import email.utils
import http.client
import json
import os
import re
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
LONGEST_S = 86_400.0  # that a key may ask to wait
CONNECT_S = 30.0  # for a connection, which nothing cuts off
GRACE_S = 5.0  # for an answer that is on its way when the word to stop comes
LOOK_S = 0.2  # between two looks at whether it has come
MOST_NESTED = 100  # levels of an answer; much deeper, it could be read but not written again
_CHUNK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of a request: `body` of an ok one, `why` of any other; `attempts` made. Of
    garbage the body has the price, where the server has named one."""

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
        try:
            parts = urllib.parse.urlsplit(self.url)
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
            wrong = wrong or parts.query or parts.fragment or "@" in parts.netloc
        except ValueError:
            wrong = True
        if wrong or not re.fullmatch("[!-~]+", self.url):
            raise InputError(
                f"demos.teacher.url={self.url!r} is no address of a server; give one like "
                "http://127.0.0.1:8000/v1 (a key goes into the variable demos.teacher.key_env)"
            )
        if not re.fullmatch(r"([A-Za-z_]\w*)?", self.key_env, re.ASCII):
            raise InputError(
                "demos.teacher.key_env is no name of an environment variable; give the name of "
                "one that holds the key, and not the key"
            )
        for name, least in (("timeout_s", 1e-3), ("pause_s", 0.0)):
            if not least <= getattr(self, name) <= LONGEST_S:
                raise InputError(
                    f"demos.teacher.{name}={getattr(self, name)} must be between {least:g} and "
                    f"{LONGEST_S:g} seconds"
                )


def check_key(endpoint: Endpoint) -> None:
    """Raise an InputError when the server's key is not in the environment, or none."""
    key = _key(endpoint)
    if endpoint.key_env and not key:
        raise InputError(
            f"the environment variable {endpoint.key_env} (demos.teacher.key_env) holds no key"
        )
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"the key in the environment variable {endpoint.key_env} (demos.teacher.key_env) has "
            "characters that no header can hold; give printable ASCII in one line"
        )


def _key(endpoint) -> str:
    """As it is sent: a line end that a shell or a file has left is none of it."""
    return os.environ.get(endpoint.key_env, "").strip() if endpoint.key_env else ""


def _shown(endpoint, text: str) -> str:
    """What an error text may show of something that may hold the key."""
    if key := _key(endpoint):
        for form in (key, json.dumps(key)[1:-1]):
            text = text.replace(form, "[key]")
    return " ".join(text.split())[:SHOWN]


def ask(endpoint: Endpoint, path: str, request: dict, stop: threading.Event) -> Reply:
    """POST a JSON object; once `stop` is set there are no retries, and `GRACE_S` for an answer."""
    body = json.dumps(request).encode()
    for attempt in range(endpoint.retries + 1):
        reply, pause_s = _attempt(endpoint, path, body, attempt + 1, stop)
        if pause_s is None or attempt == endpoint.retries or stop.is_set():
            break
        # Spread out: what failed together must not come back together.
        spread = 0.75 + 0.5 * zlib.crc32(body + bytes([attempt % 256])) / 2**32
        grown_s = endpoint.pause_s * 2**attempt * spread
        stop.wait(min(max(pause_s, grown_s), max(LONGEST_PAUSE_S, endpoint.pause_s)))
    return reply


def _attempt(endpoint, path, body, attempts, stop) -> tuple[Reply, float | None]:
    """One request; the reply, and the seconds that the server asks to wait before another,
    None where there is to be none."""
    with contextlib.ExitStack() as stack:
        began, late = time.monotonic(), threading.Event()
        try:
            connection = _connect(endpoint, stack, late, stop)
            status, told, text = _exchange(endpoint, connection, path, body)
            if late.is_set():  # cut off, a body without a length looks whole
                raise TimeoutError
        except (OSError, http.client.HTTPException, ValueError) as e:
            why = _shown(endpoint, f"{type(e).__name__}: {e}" if str(e) else type(e).__name__)
            if late.is_set():
                why = f"no whole answer within {endpoint.timeout_s:g} s"
            elapsed_s = time.monotonic() - began
            return Reply("trouble", {}, f"{why} (after {elapsed_s:.1f} s)", attempts), 0.0
    if text is None:
        return Reply("garbage", {}, f"an answer of more than {MAX_BYTES} bytes", attempts), None
    shown = _shown(endpoint, text.decode("utf-8", "replace"))
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
    price = {"usage": found["usage"]} if "usage" in found else {}
    if _nested(found) > MOST_NESTED:
        return Reply("garbage", price, f"nested deeper than {MOST_NESTED}: {shown}", attempts), None
    if "choices" not in found and "error" in found and found["error"]:
        return Reply("garbage", price, f"status 200 with an error: {shown}", attempts), None
    return Reply("ok", found, "", attempts), None


def _nested(value) -> int:
    """How many lists and objects stand within one another; without recursion, for it is the
    answer of a stranger."""
    levels, inside = 0, [value]
    while inside := [v for v in inside if isinstance(v, list | dict)]:
        levels += 1
        inside = [part for v in inside for part in (v.values() if isinstance(v, dict) else v)]
    return levels


def _connect(endpoint, stack, late, stop) -> http.client.HTTPConnection:
    """A connection that is cut off at the deadline, whatever it is doing then."""
    parts = urllib.parse.urlsplit(endpoint.url)
    until, patience_s = time.monotonic() + endpoint.timeout_s, min(endpoint.timeout_s, CONNECT_S)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=patience_s, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=patience_s)
    stack.callback(connection.close)
    connection.connect()
    connection.sock.settimeout(endpoint.timeout_s)
    over = threading.Event()
    stack.callback(over.set)
    watched = (connection.sock, until, over, late, stop)
    threading.Thread(target=_watch, args=watched, daemon=True).start()
    return connection


def _watch(raw, until, over, late, stop):
    """Cut a connection off at the time `until`, or `GRACE_S` after the word to stop."""
    heard = False
    while not over.wait(max(0.0, min(LOOK_S, until - time.monotonic()))):
        if stop.is_set() and not heard:
            heard, until = True, min(until, time.monotonic() + GRACE_S)
        if time.monotonic() >= until:
            late.set()
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)
            return


def _exchange(endpoint, connection, path, body) -> tuple[int, str, bytes | None]:
    """(status, its Retry-After, the body); None for a body that is too long."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key_env:
        headers["Authorization"] = f"Bearer {_key(endpoint)}"
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
    """Of a Retry-After: seconds, or a date; 0 for anything else."""
    try:
        wait_s = float(told)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
        except (ValueError, IndexError, OverflowError):
            return 0.0
    return max(0.0, min(wait_s, LONGEST_PAUSE_S))
