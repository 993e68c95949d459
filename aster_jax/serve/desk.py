"""The engine behind a server: a thread goes round its host loop, requests come and go.

All that is asked for shares the slots of one engine (`rollout.episode`), as a training
phase does. Requests are handed in and dropped from the event loop of the server; what
comes of them is handed back there once a round, so that neither waits for the other.
"""

import asyncio
import collections
import dataclasses
import math
import queue
import threading
import traceback
from collections.abc import Callable

from aster_jax.errors import InputError
from aster_jax.rollout import generate, live
from aster_jax.serve.refusal import Refusal


@dataclasses.dataclass(frozen=True)
class News:
    """What came to the answer `choice` of a call: tokens with log-probs, and how it ended.

    `end` is None while it goes on, else an `types.EndReason`; `refusal` ends it too.
    """

    choice: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    end: str | None = None
    refusal: Refusal | None = None


class Call:
    """All answers of one request under way; `news` is read on the event loop."""

    def __init__(self, desk: "Desk", requests: list[live.Request]):
        self._desk = desk
        self.requests = requests
        self.news: asyncio.Queue[News] = asyncio.Queue()

    def drop(self, choice: int | None = None) -> None:
        """Free the slot of one answer, or of all; nothing where it has ended."""
        chosen = range(len(self.requests)) if choice is None else [choice]
        self._desk.drop([(self, i) for i in chosen])


class Desk:
    """Runs an engine in a thread of its own.

    Args:
      engine: with `how` None, so that every request samples in its own way.
      queue_rows: rows that may wait beyond the slots.
      on_failure: called on the event loop when the engine has failed; nothing is served then.
      seed: of the randomness of all requests, beside their own.
    """

    def __init__(
        self, engine: generate.Engine, queue_rows: int, on_failure: Callable[[str], None],
        seed: int = 0,
    ):  # fmt: skip
        self._engine, self._most = engine, engine.sizes.slots + queue_rows
        self._on_failure, self._seed = on_failure, seed
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._rows = 0  # asked for and not ended, as the event loop knows
        self._numbers: dict[tuple[Call, int], int] = {}
        self._askers: dict[int, tuple[Call, int]] = {}  # by the loop's number
        self._told = collections.Counter()  # tokens handed back, by the loop's number
        self._news: list[tuple[Call, News]] = []
        self._failure = ""
        self._thread = threading.Thread(target=self._work, name="aster-engine", daemon=True)

    # On the event loop.

    def start(self) -> None:
        """Begin to serve; from the event loop that will hand requests in."""
        capacity = self._engine.sizes.capacity
        budgets = live.Budgets(
            turn_tokens=capacity, response_tokens=capacity, context_tokens=capacity, max_calls=0,
            tool_result_tokens=1, max_malformed=0, call_s=math.inf, trajectory_s=math.inf,
            deadline_s=math.inf,
        )  # fmt: skip
        self._events = asyncio.get_running_loop()
        self._rounds = self._engine.begin(
            budgets, seed=self._seed, on_tokens=self._tokens, on_end=self._end
        )
        self._rounds.begin()
        self._thread.start()

    def ask(self, requests: list[live.Request]) -> Call:
        """Hand requests in. Refusal where too many wait, or the engine has failed."""
        if self._failure:
            raise Refusal(503, f"nothing is served: {self._failure}", "engine_failed")
        if self._rows + len(requests) > self._most:
            raise Refusal(503, f"{self._rows} answers are under way or wait, and with {len(requests)} "
                          f"more there would be over {self._most}; try again later", "overloaded",
                          retry_s=1.0)  # fmt: skip
        call = Call(self, requests)
        self._rows += len(requests)
        self._inbox.put(("ask", call))
        return call

    @property
    def under_way(self) -> int:
        """Answers that were asked for and have not ended."""
        return self._rows

    def drop(self, answers: list[tuple[Call, int]]) -> None:
        """Free the slots of answers nobody waits for."""
        self._inbox.put(("drop", answers))

    async def stop(self) -> None:
        """Drop what is under way, and give the device memory back."""
        self._inbox.put(("stop", None))
        await asyncio.to_thread(self._thread.join)

    def _hand_out(self, news: list[tuple[Call, News]]):
        for call, one in news:
            self._rows -= one.end is not None or one.refusal is not None
            call.news.put_nowait(one)

    # In the thread.

    def _work(self):
        try:
            while self._take_in():
                if self._rounds.is_under_way:
                    self._rounds.round()
                self._send()
        except Exception as e:  # whatever it was, those who wait have to be told
            traceback.print_exc()
            self._failure = repr(e)[:200]
            self._events.call_soon_threadsafe(self._on_failure, self._failure)
        finally:
            self._refuse_all()
            self._rounds.close()
            self._engine.end()

    def _take_in(self) -> bool:
        """What has been handed in, waiting for it where nothing is under way."""
        wait = not (self._rounds.is_under_way or self._news)
        while wait or not self._inbox.empty():
            what, given = self._inbox.get()
            wait = False
            if what == "stop":
                return False
            if what == "ask":
                for i, request in enumerate(given.requests):
                    self._add(given, i, request)
            else:
                for answer in given:
                    if answer in self._numbers:
                        self._rounds.drop(self._numbers[answer])
        return True

    def _add(self, call, i, request):
        try:
            number = self._rounds.add(request)
        except InputError as e:
            self._news.append((call, News(i, refusal=Refusal(400, str(e)))))
            return
        self._numbers[call, i] = number
        self._askers[number] = (call, i)

    def _tokens(self, row: live.Live):
        start = len(row.request.given) + self._told[row.index]
        new, logprobs = tuple(row.tokens[start:]), tuple(row.logprobs[start:])
        self._told[row.index] += len(new)
        call, i = self._askers[row.index]
        self._news.append((call, News(i, new, logprobs)))

    def _end(self, number, made):
        del self._rounds.ended[number]
        call, i = self._askers.pop(number)
        del self._numbers[call, i]
        self._told.pop(number, None)
        self._news.append((call, News(i, end=made.end)))

    def _send(self):
        if self._news:
            news, self._news = self._news, []
            self._events.call_soon_threadsafe(self._hand_out, news)

    def _refuse_all(self):
        """Tell whoever waits, also in the inbox, that there will be no answer."""
        self._failure = why = self._failure or "the server stops"
        gone = list(self._askers.values())
        while not self._inbox.empty():
            what, given = self._inbox.get()
            gone += [(given, i) for i in range(len(given.requests))] if what == "ask" else []
        refusal = Refusal(503, f"no answer: {why}", "engine_stopped")
        self._news += [(call, News(i, refusal=refusal)) for call, i in gone]
        self._send()
