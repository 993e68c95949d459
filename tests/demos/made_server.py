"""A teacher behind a real HTTP server on loopback, who solves sums with the tool, and may misbehave.

It knows nothing but what a request holds, as a server does: the question is "What is A plus
B, doubled?", so its first call adds, its second doubles the variable of the first, and the
answer is the tool's last word. `mischief` says what to do instead of answering, by the
number of the request; `paid` holds every request that was answered with a price.
"""

import http.server
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable

from aster_jax import types

USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


def problems(count: int) -> list[types.Problem]:
    return [
        types.Problem(f"p{i}", f"What is {i} plus {2 * i + 1}, doubled?", str(2 * (3 * i + 1)), "sum")
        for i in range(count)
    ]


def solve(request: dict) -> dict:
    """The next message of the teacher, from the conversation so far."""
    messages = request["messages"]
    a, b = re.findall(r"\d+", next(m["content"] for m in messages if m["role"] == "user"))
    results = [m["content"] for m in messages if m["role"] == "tool"]
    if len(results) < 2:
        code = f"x = {a} + {b}; x" if not results else "x = x * 2; x"
        return calls(code, reasoning=f"Step {len(results) + 1}.")
    return {"role": "assistant", "content": f"It is \\boxed{{{results[-1]}}}."}


def calls(*codes: str, reasoning: str = "", name: str = "code_interpreter") -> dict:
    made = [
        {"id": f"c{i}", "type": "function",
         "function": {"name": name, "arguments": json.dumps({"code": code})}}
        for i, code in enumerate(codes)
    ]  # fmt: skip
    thought = {"reasoning_content": reasoning} if reasoning else {}
    return {"role": "assistant", "content": None, "tool_calls": made, **thought}


def raw(request: dict) -> str:
    """The same teacher, asked with text."""
    results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", request["prompt"], re.DOTALL)
    said = [{"role": "user", "content": re.search(r"What is[^?]*\?", request["prompt"])[0]}]
    message = solve({"messages": [*said, *({"role": "tool", "content": r} for r in results)]})
    if not message.get("tool_calls"):
        return message["content"]
    call = message["tool_calls"][0]["function"]
    body = json.dumps({"name": call["name"], "arguments": json.loads(call["arguments"])})
    return f"<think>\n{message['reasoning_content']}\n</think>\n\n<tool_call>\n{body}\n</tool_call>"


class Server:
    """`with Server() as server:`; `url` is what a client is given."""

    def __init__(
        self, mischief: Callable[[int], object] = lambda n: None, answer: Callable = solve,
        usage: dict | None = USAGE, pause_s: float = 0.0,
    ):  # fmt: skip
        self.mischief, self.answer, self.usage, self.pause_s = mischief, answer, usage, pause_s
        self.lock, self.number = threading.Lock(), 0
        self.paid: list[dict] = []
        self.seen: list[dict] = []
        self.headers: list[dict] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                outer._serve(self)

            def log_message(self, *_):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            number, self.number = self.number, self.number + 1
            self.seen.append(request)
            self.headers.append(dict(handler.headers))
        time.sleep(self.pause_s)
        what = self.mischief(number)
        if what is not None:
            try:
                MISCHIEF[what](handler) if isinstance(what, str) else what(handler)
            except OSError:
                pass  # the client has gone
            return
        if handler.path.endswith("/chat/completions"):
            message = self.answer(request)
            choice = {"message": message, "finish_reason": "stop"}
        else:
            choice = {"text": raw(request), "finish_reason": "stop"}
        with self.lock:
            self.paid.append(request)
        send(handler, 200, {"choices": [choice], **({"usage": self.usage} if self.usage else {})})


def send(handler, status: int, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def reset(handler):
    """The connection breaks: the client reads ECONNRESET."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def stall(handler):
    """Nothing, for longer than any client of these tests waits."""
    time.sleep(1.5)


def drip(handler):
    """A byte now and then: alive, and never done."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    for _ in range(75):
        handler.wfile.write(b"X")
        handler.wfile.flush()
        time.sleep(0.02)


def cut_off(handler):
    """Less than was announced."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def choice(**fields):
    return lambda handler: send(handler, 200, {"choices": [fields], "usage": USAGE})


MISCHIEF = {
    "error": lambda h: send(h, 500, {"error": "no"}),
    "busy": lambda h: send(h, 429, {"error": "later"}, Retry_After="0.05"),
    "reset": reset,
    "stall": stall,
    "drip": drip,
    "cut_off": cut_off,
    "no_http": lambda h: h.wfile.write(b"what?\r\n\r\n"),
    "html": lambda h: send(h, 200, b"<html>hello</html>"),
    "list": lambda h: send(h, 200, b"[1, 2]"),
    "deep": lambda h: send(h, 200, b"[" * 100_000),
    "nested": lambda h: send(h, 200, b'{"choices": [{"x": %s}]}' % (b"[" * 975 + b"]" * 975)),
    "failed": lambda h: send(h, 200, {"error": {"message": "the model is away", "code": 502}}),
    "binary": lambda h: send(h, 200, bytes(range(256))),
    "no_choices": lambda h: send(h, 200, {"usage": USAGE}),
    "no_message": choice(finish_reason="stop"),
    "odd_content": choice(message={"content": 3}),
    "odd_calls": choice(message={"content": "", "tool_calls": {"a": 1}}),
    "refused": lambda h: send(h, 400, {"error": "the context is too long"}),
    "huge": lambda h: send(h, 200, b'{"a": "' + b"x" * 200_000 + b'"}'),
}  # fmt: skip
