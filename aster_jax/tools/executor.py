"""The trainer's end: open sessions, submit cells from any thread, get futures.

The trainer runs JAX with many threads, so it never forks: it execs the supervisor and
talks to it over one socket (`channel.py`). If the supervisor dies or goes silent, every open
call resolves as infra_lost and the next `open` starts a new one; a cell is never sent twice.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import sys
import threading
import time
import weakref

from aster_jax.tools.channel import Channel
from aster_jax.tools.config import ToolConfig
from aster_jax.tools.result import NOTES, ToolResult

RESTARTS = 3  # attempts to replace a supervisor, with a second more between each two


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
        self._generation, self._closed, self._open = 0, False, set()
        self._connect()

    def _connect(self) -> None:
        """Execs a supervisor and waits until it serves."""
        self._generation += 1
        self._open.clear()
        self._channel = Channel(self.config)
        self._finalizer = weakref.finalize(self, self._channel.close)
        self._report = self._channel.start()

    def _reconnect(self) -> None:
        """Replaces a supervisor that is gone. Raises RuntimeError after `RESTARTS` failures."""
        for attempt in range(RESTARTS):
            time.sleep(attempt)
            self._finalizer()
            try:
                self._connect()
                return
            except (RuntimeError, OSError) as error:
                problem = error
        raise RuntimeError(f"the tool executor did not come back in {RESTARTS} starts: {problem}")

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

        Blocks for a new supervisor where the last one is gone. `seed` fixes every random
        stream. Raises ValueError for a seed that is no whole number in [0, 2**63),
        RuntimeError when closed or when several supervisors in a row could not start.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number in [0, 2**63), got {seed!r}")
        with self._lock:
            if self._closed:
                raise RuntimeError("this Executor is closed; make a new one")
            if self._channel.lost:
                self._reconnect()
            session = Session(self._generation, next(self._numbers), seed)
            self._open.add(session)
            self._channel.send({"op": "open", "session": session.number, "seed": seed})
        return session

    def submit(self, session: Session, code: str) -> "concurrent.futures.Future[ToolResult]":
        """Queues one cell; the future always resolves, misuse and loss included."""
        future, channel = self._request(session, code)
        channel.attend()
        return future

    def run(self, session: Session, code: str) -> ToolResult:
        """Runs one cell and waits for its result, which always comes: see `submit`."""
        future, channel = self._request(session, code)
        return channel.wait(future)

    def _request(self, session, code) -> tuple[concurrent.futures.Future, Channel]:
        """Sends one cell, or answers it here if it must not be sent."""
        with self._lock:
            problem = self._find_problem(session, code)
            if problem is None:
                message = {"op": "call", "session": session.number, "code": code}
                return self._channel.request(message), self._channel
            future = concurrent.futures.Future()
            future.set_result(problem)
            return future, self._channel

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
            channel, answer = self._channel, None
            alive = not self._closed and not channel.lost
            future = channel.request({"op": "report"}) if alive else None
        if alive:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                answer = channel.wait(future, self.config.start_limit_s)
        alive = isinstance(answer, dict)  # or it died or was silent meanwhile
        return {**(answer if alive else self._report), "alive": alive}

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
        note = NOTES[status].format(detail=detail) + "\n"
        return ToolResult(status, note, "kept" if status == "usage_error" else "lost",
                          error_message=detail)

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *exception) -> None:
        self.close()
