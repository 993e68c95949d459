"""A device and a tool made of lists, and the trajectories they must lead to.

The device keeps a number where the real one keeps keys and values: on the pages that the
host's tables name, and made of the token and of the number before it, as keys are made of
all that comes before. What it samples is a function of all numbers that it finds and of
the row's identity, so a page that was given away too early, a write that is missing or
came too late, or a token that is doubled changes what comes out. `expected` computes the
same trajectories one at a time, with no slots, pages, dispatches or clock.
"""

import concurrent.futures
import types as python_types
import zlib

import numpy as np

from aster_jax import tools
from aster_jax.rollout import clock, engine, pages

STOP = 0
VOCABULARY = 23


def key_of(before: int, token: int) -> int:
    """What is kept of a token; `before` is what is kept of the one before it."""
    return hash((before, token))


def next_token(keys: tuple[int, ...], uid: int, sample: int) -> int:
    """What the fake model says; the stop id about every sixth time."""
    number = hash((keys, uid, sample)) % 997
    return STOP if number % 6 == 0 else number % VOCABULARY


def logprob(token: int, position: int) -> float:
    """A number that tells token and position."""
    return -float(token) - position / 1024


def turn_kind(ids) -> str:
    """How the fake markup reads a finished turn."""
    return ("answer", "malformed", "call", "call", "call")[sum(ids) % 5]


def result_ids(text: str) -> list[int]:
    """A tool's text as ids: one to six of them, or as many as it has been cut to."""
    most, bar, whole = text.partition("|")
    if bar:
        return result_ids(whole)[: int(most)]
    number = zlib.crc32(text.encode())
    return [1 + (number >> 3 * i) % (VOCABULARY - 1) for i in range(1 + number % 6)]


def cut(text: str, tokenizer, limit: int) -> str:
    """The text itself, or marked to be its first `limit` ids; nothing where there is no room."""
    if len(result_ids(text)) <= limit:
        return text
    return f"{limit}|{text}" if limit > 0 else ""


MARKUP = python_types.SimpleNamespace(
    parse_turn=lambda ids, tokenizer, style: python_types.SimpleNamespace(
        kind=turn_kind(ids), text=str(sum(ids)), code=str(ids), reason="odd"
    ),
    tool_ids=lambda text, tokenizer, style: result_ids(text),
    cut=cut,
    malformed_text=lambda reason: "malformed: " + reason,
)


def fate(code: str) -> str:
    """What becomes of a call when it is made first: an answer, or a way in which we fail.

    When the same trajectory makes it again, it is answered.
    """
    odd = {0: "infra", 1: "silent", 2: "raises", 3: "refused", 4: "cancelled"}
    return odd.get(zlib.crc32(b"fate" + code.encode()) % 60, "answers")


def opens(seed: int) -> bool:
    """Whether the first session with this seed can be had; later ones can."""
    return seed % 23 > 0


def answer_of(code: str) -> str:
    """The text that the fake tool prints."""
    return f"result of {code}"


class FakeClock:
    """Time that moves when somebody waits or the device works; tools answer when due."""

    def __init__(self):
        self.time_s = 0.0
        self.due: list[tuple[float, int, callable]] = []

    def clock(self) -> clock.Clock:
        return clock.Clock(lambda: self.time_s, self._wait)

    def advance(self, until_s: float) -> None:
        self.time_s = max(self.time_s, until_s)
        for entry in sorted(e for e in self.due if e[0] <= self.time_s):
            self.due.remove(entry)
            entry[2]()

    def _wait(self, futures, timeout_s, first):
        limit_s = self.time_s + max(1e-3, timeout_s)  # time passes in any case
        enough = any if first else all
        while not enough(f.done() for f in futures) and self.time_s < limit_s:
            coming = [e[0] for e in self.due if e[0] <= limit_s]
            self.advance(min(coming, default=limit_s))


class FakeTools:
    """Answers late, out of order, with failures, or never; fails once with every call."""

    def __init__(self, time: FakeClock, rng):
        self._time, self._rng = time, rng
        self._open, self._busy, self._count = {}, set(), 0
        self._failed = set()

    def _first(self, *what) -> bool:
        new = what not in self._failed
        self._failed.add(what)
        return new

    def open(self, seed):
        if not opens(seed) and self._first(seed):
            raise RuntimeError("no supervisor")
        self._count += 1
        self._open[self._count] = seed
        return self._count

    def close(self, session):
        seed = self._open.pop(session)
        self._busy.discard(session)
        if seed % 7 == 0:
            raise BrokenPipeError("nobody listens")

    def submit(self, session, code):
        assert session in self._open and session not in self._busy
        what = fate(code) if self._first(self._open[session], code) else "answers"
        if what == "refused":
            raise OSError("no socket")
        self._busy.add(session)
        future = concurrent.futures.Future()

        def resolve():
            self._busy.discard(session)
            if what == "raises":
                future.set_exception(OSError("lost"))
            elif what == "cancelled":
                future.cancel()
            elif what == "infra":
                future.set_result(tools.ToolResult("infra_lost", "", "lost"))
            else:
                future.set_result(tools.ToolResult("ok", answer_of(code) + "\n", "kept"))

        if what != "silent":
            delay_s = self._rng.choice((0.0, 0.5, 3.0, 20.0))
            self._count += 1
            self._time.due.append((self._time.time_s + delay_s, self._count, resolve))
            self._time.advance(self._time.time_s)
        return future

    @property
    def all_closed(self) -> bool:
        return not self._open


class FakeDevice:
    """Same interface as `device.Device`, tokens instead of keys and values."""

    is_warm, compiles_after_warm_up = True, 0

    def __init__(self, cfg: engine.EngineConfig, shards: int, time: FakeClock):
        self.config, self.shards, self._time = cfg, shards, time
        self.prefill_rows = max(1, cfg.prefill_rows // shards)
        self.reset()

    def reset(self):
        c = self.config
        total = c.pool_pages(self.shards) * self.shards
        self.pages = pages.Pages(c.slots, total, c.page_tokens, self.shards)
        self._cells = {}
        self._rows = {}

    def _cell(self, slot, position):
        size = self.config.page_tokens
        return self.pages.shard(slot), self.pages.held(slot)[position // size], position % size

    def _put(self, slot, position, token):
        before = self._cells.get(self._cell(slot, position - 1)) if position else 0
        self._cells[self._cell(slot, position)] = key_of(before, token)

    def _get(self, slot, length):
        return tuple(self._cells.get(self._cell(slot, position)) for position in range(length))

    def prefill(self, plan, starts):
        self._time.advance(self._time.time_s + 0.1)
        assert len({c.slot for c in plan.chunks}) == len(plan.chunks)
        for c in plan.chunks:
            assert len(c.tokens) <= plan.bucket
            for i, token in enumerate(c.tokens):
                self._put(c.slot, c.start + i, token)
            if c.last:
                self._arm(c.slot, c.start + len(c.tokens), starts[c.slot])
        return np.zeros(1)

    def share(self, forks, starts):
        size = self.config.page_tokens
        for fork in forks:
            shard = self.pages.shard(fork.slot)
            for source, target in fork.copies:
                for i in range(size):
                    self._cells[shard, target, i] = self._cells.get((shard, source, i))
        for fork in forks:
            self._arm(fork.slot, fork.length, starts[fork.slot])
        return [np.zeros(1)]

    def _arm(self, slot, length, start):
        self._rows[slot] = [length, start.pending, start.left, (start.problem_uid, start.sample)]

    def decode(self, slots):
        self._time.advance(self._time.time_s + 1.0)
        K, n = self.config.steps_per_dispatch, len(slots)
        tokens, logprobs = np.zeros((n, K), np.int32), np.zeros((n, K))
        count, stopped = np.zeros(n, np.int32), np.zeros(n, bool)
        for row, slot in enumerate(slots):
            while slot in self._rows and count[row] < K:
                length, pending, left, identity = self._rows[slot]
                self._put(slot, length, pending)
                token = next_token(self._get(slot, length + 1), *identity)
                tokens[row, count[row]] = token
                logprobs[row, count[row]] = logprob(token, length + 1)
                count[row] += 1
                self._rows[slot] = [length + 1, token, left - 1, identity]
                stopped[row] = token == STOP
                if stopped[row] or left == 1:
                    del self._rows[slot]
        steps = np.array([count.max()])
        drained = engine.Drained(tokens, logprobs, logprobs - 1, count, stopped, steps)
        return drained, {slot: row for row, slot in enumerate(slots)}


def expected(request, budgets, no_calls_left, retries=0) -> tuple[list[int], list[int], str]:
    """(tokens, loss mask, end) of one trajectory, from the rules alone.

    What is lost up to `retries` times comes to the same place again, and goes on from there.
    """
    tokens, mask, keys = list(request.given), [0] * len(request.given), []
    written = calls = malformed = 0
    told, opener = False, list(request.opener)  # read as part of the first turn
    seed = zlib.crc32(f"0/{request.problem.id}/{request.sample}".encode())
    lost = set()
    while True:
        turn = []
        while True:
            for token in tokens[len(keys) :]:
                keys.append(key_of(keys[-1] if keys else 0, token))
            token = next_token(tuple(keys), request.uid, request.sample)
            turn.append(token)
            tokens.append(token)
            mask.append(1)
            written += 1
            if token == STOP:
                break
            if written >= budgets.response_tokens:
                return tokens, mask, "token_budget"
            if len(tokens) >= budgets.context_tokens:
                return tokens, mask, "context_budget"
            if len(turn) >= budgets.turn_tokens:
                return tokens, mask, "turn_budget"
        turn, opener = opener + turn, []
        kind = turn_kind(turn)
        if kind == "answer":
            return tokens, mask, "answered"
        if calls >= budgets.max_calls:
            if told or (request.opener and not budgets.max_calls):
                return tokens, mask, "call_budget"
            told, text = True, no_calls_left
        elif kind == "malformed":
            calls, malformed = calls + 1, malformed + 1
            if malformed > budgets.max_malformed:
                return tokens, mask, "malformed"
            text = MARKUP.malformed_text("odd")
        else:
            calls, malformed = calls + 1, 0
            lost |= {"open"} if not opens(seed) else set()
            if len(lost) <= retries and fate(str(turn)) != "answers":
                lost.add(str(turn))
            if len(lost) > retries:
                return tokens, mask, "infrastructure"
            text = answer_of(str(turn))
        ids = result_ids(text)[: max(0, budgets.context_tokens - len(tokens) - 1)]
        if not ids:
            return tokens, mask, "context_budget"
        if written >= budgets.response_tokens:
            return tokens, mask, "token_budget"
        tokens += ids
        mask += [0] * len(ids)
