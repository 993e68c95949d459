"""The trainer's end: open sessions, submit cells from any thread, get futures.

The trainer runs JAX with many threads, so it never forks: it execs the supervisor and
talks to it over one socket. A reader thread resolves futures. If the supervisor dies,
every open call resolves as infra_lost and the next `open` starts a new one; a cell is
never sent twice.
"""

import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import socket
import subprocess
import sys
import sysconfig
import threading
import weakref

from aster_jax.tools import frames
from aster_jax.tools.config import ToolConfig
from aster_jax.tools.result import ToolResult

ROOT = str(pathlib.Path(__file__).resolve().parents[2])
START = "import sys; sys.path.append({root!r}); from aster_jax.tools import supervisor; "


@dataclasses.dataclass(frozen=True)
class Session:
    """A handle of one session: which executor run it belongs to, its number, its seed."""

    generation: int
    number: int
    seed: int


class Executor:
    """A pool of live, isolated Python interpreters. Resource: use `with`, or `close`.

    All methods may be called from any thread. The constructor blocks until the libraries
    are loaded (about two seconds) and raises RuntimeError if no allowed tier works here.
    """

    def __init__(self, config: ToolConfig = ToolConfig()):
        if sys.platform != "linux":
            raise RuntimeError(
                f"the tool executor isolates with Linux calls and cannot run on {sys.platform}; "
                "use a Linux host, virtual machine or container"
            )
        self.config = config
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._generation = 0
        self._closed = False
        self._channel = None
        self._open = set()
        self._connect()

    def _connect(self) -> None:
        """Execs a supervisor and waits until it serves."""
        self._generation += 1
        self._open.clear()
        self._channel = Channel(self.config)
        self._finalizer = weakref.finalize(self, self._channel.close)
        self._report = self._channel.start()

    @property
    def tier(self) -> str:
        """The isolation tier in force, "A1" (best) to "D"."""
        return self._report["tier"]

    @property
    def banner(self) -> str:
        """One line for the log: what is enforced here and with which libraries."""
        layers = (f"{name} {state}" if isinstance(state, str) else name
                  for name, state in self._report["layers"].items() if state)
        versions = " ".join(f"{name} {text}" for name, text in self._report["versions"].items())
        return f"tools: tier {self.tier} ({', '.join(layers)}); {versions}"

    def open(self, seed: int = 0) -> Session:
        """A new session; returns at once, the fork goes on behind it.

        `seed` fixes the streams of random, numpy.random and sympy. Raises ValueError for
        a seed that is no whole number in [0, 2**63), RuntimeError when closed.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number in [0, 2**63), got {seed!r}")
        with self._lock:
            if self._closed:
                raise RuntimeError("this Executor is closed; make a new one")
            if self._channel.lost:
                self._finalizer()
                self._connect()
            session = Session(self._generation, next(self._numbers), seed)
            self._open.add(session)
            self._channel.send({"op": "open", "session": session.number, "seed": seed})
        return session

    def submit(self, session: Session, code: str) -> "concurrent.futures.Future[ToolResult]":
        """Queues one cell; the future always resolves, misuse and loss included."""
        with self._lock:
            problem = self._find_problem(session, code)
            if problem is None:
                return self._channel.request(
                    {"op": "call", "session": session.number, "code": code}
                )
        future = concurrent.futures.Future()
        future.set_result(problem)
        return future

    def run(self, session: Session, code: str) -> ToolResult:
        """Runs one cell and waits for its result."""
        settings = self.config
        patience_s = settings.queue_limit_s + settings.wall_limit_s + settings.grace_s
        try:
            return self.submit(session, code).result(patience_s + settings.start_limit_s)
        except concurrent.futures.TimeoutError:
            return ToolResult("infra_lost", "[tool unavailable]\n", "lost",
                              error_message="the supervisor does not answer")

    def close(self, session: Session | None = None) -> None:
        """Ends one session, or with no argument the executor and all of them."""
        with self._lock:
            if session is None:
                self._closed = True
                self._finalizer()
            elif session in self._open:
                self._open.discard(session)
                if not self._channel.lost:
                    self._channel.send({"op": "close", "session": session.number})

    def report(self) -> dict:
        """For run metadata: tier and why, library versions, counters, process numbers."""
        with self._lock:
            if self._closed or self._channel.lost:
                return {**self._report, "alive": False}
            future = self._channel.request({"op": "report"})
        answer = future.result(self.config.start_limit_s)
        if isinstance(answer, ToolResult):  # the supervisor died while it was asked
            return {**self._report, "alive": False}
        return {**answer, "alive": True}

    def _find_problem(self, session, code) -> ToolResult | None:
        """The result of a call that must not be sent, or None."""
        status, detail = "usage_error", ""
        if self._closed:
            detail = "the executor is closed"
        elif not isinstance(session, Session):
            detail = f"not a session: {session!r:.80}"
        elif not isinstance(code, str):
            detail = f"code must be a string, got {type(code).__name__}"
        elif session.generation != self._generation or self._channel.lost:
            status, detail = "infra_lost", "its supervisor is gone; open a new session"
        elif session not in self._open:
            detail = "no such session, or it is closed"
        elif len(code.encode("utf-8", "surrogatepass")) > self.config.code_limit_bytes:
            message = f"the cell is longer than {self.config.code_limit_bytes} bytes"
            return ToolResult("syntax_error", f"SyntaxError: {message}\n", tier=self.tier,
                              stderr=f"SyntaxError: {message}\n", error_type="SyntaxError",
                              error_message=message, session_id=session.number)
        if not detail:
            return None
        note = f"[tool misused: {detail}]\n" if status == "usage_error" else "[tool unavailable]\n"
        return ToolResult(status, note, "kept" if status == "usage_error" else "lost",
                          error_message=detail)

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class Channel:
    """One supervisor process, its socket, the reader thread and the open futures."""

    def __init__(self, config: ToolConfig):
        self.config = config
        self.lost = False
        self.lock = threading.Lock()
        self.futures, self.numbers = {}, itertools.count(1)
        self.first = concurrent.futures.Future()
        self.socket, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        number = remote.fileno()
        code = START.format(root=ROOT) + f"supervisor.main({number})"
        with remote:
            self.child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", code],
                stdin=subprocess.DEVNULL, pass_fds=(number,), env={}, cwd="/",
                start_new_session=True,
            )
        self.thread = threading.Thread(target=self.read, name="aster-tools", daemon=True)

    def start(self) -> dict:
        """Sends the settings; returns the supervisor's report once it serves."""
        self.thread.start()
        self.send({
            **dataclasses.asdict(self.config), "root": ROOT, "libraries": find_libraries(),
        })
        try:
            message = self.first.result(6 * self.config.start_limit_s)
        except concurrent.futures.TimeoutError:
            message = {"op": "failed", "error": "the supervisor did not start in time"}
        if message["op"] != "ready":
            self.close()
            raise RuntimeError(f"the tool executor cannot start: {message['error']}")
        return message["report"]

    def send(self, message: dict) -> None:
        """Sends one frame; a dead supervisor shows at the reader, not here."""
        data = frames.pack(message)
        with self.lock:
            try:
                self.socket.sendall(data)
            except OSError:
                pass

    def request(self, message: dict) -> concurrent.futures.Future:
        """Sends a message that has an answer."""
        future = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        number = next(self.numbers)
        self.futures[number] = future
        self.send({**message, "call": number})
        if self.lost:
            self.fail_all()
        return future

    def read(self) -> None:
        """The reader thread: resolves futures until the supervisor is gone."""
        decoder = frames.Decoder(64 << 20)
        while True:
            try:
                data = self.socket.recv(frames.READ_BYTES)
            except OSError:
                data = b""
            if not data:
                break
            for message in decoder.feed(data):
                self.take(message)
        self.lost = True
        if not self.first.done():
            self.first.set_result({"op": "failed", "error": "the supervisor died at start"})
        self.fail_all()

    def take(self, message: dict) -> None:
        """One answer."""
        if message["op"] in ("ready", "failed"):
            self.first.set_result(message)
            return
        future = self.futures.pop(message["call"], None)
        if future is None:
            return
        if message["op"] == "report":
            future.set_result(message["report"])
        else:
            future.set_result(ToolResult(**message["values"]))

    def fail_all(self) -> None:
        """Every open call was lost with the supervisor."""
        while self.futures:
            try:
                _, future = self.futures.popitem()
            except KeyError:
                return
            if not future.done():
                future.set_result(ToolResult(
                    "infra_lost", "[tool unavailable]\n", "lost",
                    error_message="the supervisor is gone",
                ))

    def close(self) -> None:
        """Ends the supervisor and, with it, all sessions."""
        self.lost = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        if self.thread.is_alive() and self.thread is not threading.current_thread():
            self.thread.join(5)
        self.socket.close()


def find_libraries() -> list[str]:
    """Directories the interpreters import from: the standard library and site packages.

    Not the working directory, PYTHONPATH or anything a .pth file adds.
    """
    paths = sysconfig.get_paths()
    names = [name for name in sys.path if os.path.basename(name).startswith("lib-dynload")]
    found = [paths["stdlib"], paths["platstdlib"], *names]
    found += [name for name in sys.path if os.path.basename(name).endswith("-packages")]
    found += [paths["purelib"], paths["platlib"]]
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]
