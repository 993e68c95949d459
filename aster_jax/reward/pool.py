"""The verifier's processes and who gets them: many cheap comparisons first, costly ones apart.

Comparisons that look plain go in batches to processes that are kept, with little processor
time for each; one that uses it up ends its process, and is tried again by itself with the
whole limit, in the slow lane, which has few places. What looks costly goes there at once. So
honest answers never wait behind hostile ones for longer than a batch takes.

The look of a text decides where it waits, never what becomes of it. Infrastructure: a
comparison without a word is run again once, alone, before it is given up; nothing here
raises into the caller, and `troubles` keeps what went wrong.
"""

import collections
import concurrent.futures
import dataclasses
import json
import math
import os
import re
import threading

from aster_jax import tools
from aster_jax.reward import limits

BATCH = 16
QUICK_S = 0.25  # processor time of one comparison in a batch
KEPT_S, LAST_S = 3.0, 8  # processor time after which a process is replaced; and killed
SESSION_CALLS = 1000  # batches that one process serves
BACKSTOP_S = 60.0  # beyond the wall limit: the supervisor itself does not answer
TRIES = 2
# How a computation brings its own process down: limits, the stack, the allocator, arithmetic.
FAULTS = (
    f"exit code {limits.OVER}", "SIGXCPU", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL",
)  # fmt: skip
COSTLY, TIMEOUT, ERROR = "costly", "verifier_timeout", "verifier_error"
PLAIN_LENGTH = 200
_COSTLY_SIGNS = re.compile(
    r"\\(?:sum|prod|int|lim|Gamma)|[!^].*\d{4}|\d{4}.*[!^]|[!^].*[!^].*[!^]|binom|choose"
    r"|factorial|gamma|\*\*.*\d{4}|\*\*.*\*\*.*\*\*"
)


class Job:
    """One comparison on its way: `data` as `judge.run` takes it."""

    def __init__(self, data: tuple):
        self.data, self.tries = data, 0
        self.future: concurrent.futures.Future = concurrent.futures.Future()


@dataclasses.dataclass
class Seat:
    """A process that a worker keeps, and what it has been used for so far."""

    executor: tools.Executor
    session: tools.Session
    calls: int = 0
    cpu_s: float = 0.0

    def is_used_up(self) -> bool:
        """Whether the next batch needs another process."""
        return self.calls >= SESSION_CALLS or self.cpu_s > KEPT_S


class Pool:
    """Runs jobs in killable processes; starts them with the first job.

    `make` starts an executor; `cpu_limit_s` and `timeout_s` are of one comparison; `places`
    is the number of processes at work. All methods may be called from any thread.
    """

    def __init__(self, make, cpu_limit_s: float, timeout_s: float, places: int):
        self._make, self._cpu_limit_s, self._timeout_s = make, cpu_limit_s, timeout_s
        self._places = places or os.cpu_count() or 1
        self._changed = threading.Condition()
        self._plain, self._slow = collections.deque(), collections.deque()
        self._executor: tools.Executor | None = None
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self.troubles: collections.deque[str] = collections.deque(maxlen=50)

    @property
    def is_started(self) -> bool:
        """Whether there are processes."""
        return self._executor is not None

    def submit(self, data: tuple) -> "concurrent.futures.Future[str]":
        """Queues a job; its future gets what the job came to, COSTLY, TIMEOUT or ERROR."""
        job = Job(data)
        texts = [text for text in data if isinstance(text, str)]
        with self._changed:
            self._closing = False
            (self._slow if any(map(looks_costly, texts)) else self._plain).append(job)
            if not self._threads:
                self._start_threads()
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Ends the processes; jobs that still wait come to ERROR."""
        with self._changed:
            self._closing = True
            threads, self._threads = self._threads, []
            waiting = [*self._plain, *self._slow]
            self._plain.clear()
            self._slow.clear()
            self._changed.notify_all()
        for job in waiting:
            job.future.set_result(ERROR)
        executor = self._executor
        if self._detach(executor):
            executor.close()
        for thread in threads:
            thread.join()

    # Workers.

    def _start_threads(self) -> None:
        """Workers of both lanes; the slow one has a quarter of the places."""
        slow = workers(self._places) - self._places
        lanes = [self._serve_plain] * self._places + [self._serve_slow] * slow
        self._threads = [threading.Thread(target=lane, daemon=True) for lane in lanes]
        for thread in self._threads:
            thread.start()

    def _take(self, lane: collections.deque, most: int) -> list[Job]:
        """The next jobs of a lane; waits for one. Empty: the pool is closing."""
        with self._changed:
            while not lane and not self._closing:
                self._changed.wait()
            if self._closing:
                return []
            share = min(most, -(-len(lane) // self._places))
            return [lane.popleft() for _ in range(max(share, 1))]

    def _serve_plain(self) -> None:
        seat = None
        while jobs := self._take(self._plain, BATCH):
            try:
                seat, result = self._run(seat, jobs, min(QUICK_S, self._cpu_limit_s), False)
                self._settle(jobs, result)
            except Exception as error:  # the tool's, not the answers': the jobs must end
                self._trouble(f"{type(error).__name__}: {error}")
                self._again([job for job in jobs if not job.future.done()])
                seat = None
        self._leave(seat)

    def _serve_slow(self) -> None:
        while jobs := self._take(self._slow, 1):
            (job,) = jobs
            try:
                seat, result = self._run(None, jobs, self._cpu_limit_s, True)
                self._leave(seat)
                found = answers(result).get(0, blame(result, self._cpu_limit_s))
            except Exception as error:
                self._trouble(f"{type(error).__name__}: {error}")
                found = ERROR
            if found in (TIMEOUT, ERROR):
                self._again([job], found)
            else:
                job.future.set_result(found)

    def _run(self, seat, jobs: list[Job], limit_s: float, alone: bool):
        """One cell in the process of `seat`, or in a new one.

        Returns (the seat, None where its process ended; the result).
        """
        executor = self._running()
        if seat is not None and (seat.executor is not executor or seat.is_used_up()):
            self._leave(seat)
            seat = None
        if seat is None:
            seat = Seat(executor, executor.open(seed=0))
        process_s = math.ceil(limit_s) if alone else LAST_S
        code = "from aster_jax.reward import judge\njudge.run({!r}, {!r}, {!r})".format(
            [job.data for job in jobs], min(limit_s, process_s - 0.1), process_s
        )
        future = executor.submit(seat.session, code)
        try:
            result = future.result(self._timeout_s + BACKSTOP_S)
        except concurrent.futures.TimeoutError:
            self._trouble("the comparison's supervisor does not answer; a new one is started")
            if self._detach(executor):  # ending it takes seconds: not while others wait
                threading.Thread(target=executor.close, daemon=True).start()
            return None, tools.ToolResult("timeout", "", "lost")
        if result.is_infra:
            self._trouble(f"{result.status}: {result.error_message}")
        if result.status != "ok":
            self._leave(seat)
            return None, result
        seat.calls += 1
        seat.cpu_s += result.cpu_s
        return seat, result

    def _settle(self, jobs: list[Job], result: tools.ToolResult) -> None:
        """Gives a batch its verdicts; the job that ended the process goes to the slow lane."""
        found = answers(result)
        rest = []
        for number, job in enumerate(jobs):
            if number in found:
                job.future.set_result(found[number])
            else:
                rest.append(job)
        if not rest:
            return
        if blame(result, QUICK_S) == COSTLY and result.status != "syntax_error":
            self._requeue(rest[:1], rest[1:])
        else:
            self._again(rest)

    def _again(self, jobs: list[Job], found: str = ERROR) -> None:
        """Each of them once more, alone; then it is given up."""
        slow = []
        for job in jobs:
            job.tries += 1
            if job.tries < TRIES and not self._closing:
                slow.append(job)
            else:
                job.future.set_result(found)
        self._requeue(slow, [])

    def _requeue(self, slow: list[Job], plain: list[Job]) -> None:
        with self._changed:
            self._slow.extend(slow)
            self._plain.extendleft(reversed(plain))
            lost = [*slow, *plain] if self._closing else []
            self._changed.notify_all()
        for job in lost:
            if not job.future.done():
                job.future.set_result(ERROR)

    # The executor.

    def _running(self) -> tools.Executor:
        with self._starting:
            if self._closing:
                raise RuntimeError("the verifier is closed")
            if self._executor is None:
                self._executor = self._make()
            return self._executor

    def _leave(self, seat) -> None:
        if seat is not None and seat.executor is self._executor:
            seat.executor.close(seat.session)

    def _detach(self, executor) -> bool:
        """The next job starts another executor; whether this one was still in use."""
        with self._starting:
            if executor is None or executor is not self._executor:
                return False
            self._executor = None
            return True

    def _trouble(self, text: str) -> None:
        self.troubles.append(text)


def workers(places: int) -> int:
    """Processes at work at once for so many places (0: one for each processor)."""
    places = places or os.cpu_count() or 1
    return places + max(1, places // 2)


def looks_costly(text: str) -> bool:
    """Whether a text should not stand in the way of others."""
    return len(text) > PLAIN_LENGTH or _COSTLY_SIGNS.search(text) is not None


def answers(result: tools.ToolResult) -> dict[int, str]:
    """What a cell printed before it ended: number of the job -> what it came to."""
    found = {}
    for line in result.stdout.split("\n")[: result.stdout.count("\n")]:
        number, _, said = line.partition(" ")
        if number.isdigit():
            found[int(number)] = json.loads(said)
    return found


def blame(result: tools.ToolResult, cpu_limit_s: float) -> str:
    """Whose doing it is that a process ended without a word."""
    if result.is_infra:
        return ERROR
    if result.status == "timeout":  # wall time decides nothing, unless it was all used
        return COSTLY if result.cpu_s > cpu_limit_s else TIMEOUT
    if result.status == "crashed" and result.error_message not in FAULTS:
        if result.error_message == "SIGKILL" and result.cpu_s > 0.8 * cpu_limit_s:
            return COSTLY  # by the kernel, at the limit
        return ERROR  # killed from outside (the host is out of memory), or ended
    if result.status == "ok":
        return ERROR
    return COSTLY  # in time, memory, depth or length
