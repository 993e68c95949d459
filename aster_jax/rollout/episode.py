"""The host loop of a rollout phase: engine <-> tools until every trajectory has ended.

Each trajectory is an append-only list of ids. A turn that parses as a tool call goes to
that trajectory's own interpreter while other rows decode; its result is appended to the
live row. In lockstep mode results are awaited at a fixed place of the loop, so that the
schedule, and with it every bit of the result, does not depend on how long a tool took.
"""

import collections
import concurrent.futures
import dataclasses
import time
import zlib
from collections.abc import Callable

import jax
import numpy as np

from aster_jax import types
from aster_jax.data import chat
from aster_jax.rollout import device, scheduler

NO_CALLS_LEFT = "No tool calls are left. Give the final answer now."


@dataclasses.dataclass(frozen=True)
class Budgets:
    """What one trajectory may use.

    turn_tokens and response_tokens count tokens the model writes, per turn and in total;
    context_tokens counts everything; tool_result_tokens is kept of one result (head and
    tail); max_calls counts tool calls, malformed attempts included; max_malformed counts
    attempts in a row; deadline_s ends the whole phase, in seconds.
    """

    turn_tokens: int
    response_tokens: int
    context_tokens: int
    max_calls: int
    tool_result_tokens: int
    max_malformed: int
    deadline_s: float


@dataclasses.dataclass(frozen=True)
class Request:
    """One trajectory to be made.

    `opener` is given text at the start of the first answer (an eval arm that forces an
    answer), part of the prompt for the loss but of the turn for the parser.
    """

    problem: types.Problem
    sample: int
    prompt: tuple[int, ...]
    opener: tuple[int, ...] = ()


@dataclasses.dataclass
class Live:
    """A trajectory under way: its ids so far and what it waits for."""

    request: Request
    slot: int
    epoch: int
    tokens: list[int]
    mask: list[int]
    logprobs: list[float]
    raw_logprobs: list[float]
    spans: list[types.Span]
    calls: list[types.CallRecord] = dataclasses.field(default_factory=list)
    turn_start: int = 0
    malformed_in_row: int = 0
    told_no_calls: bool = False
    session: int | str | None = None
    code: str = ""
    call: concurrent.futures.Future | None = None

    @property
    def written(self) -> int:
        """Tokens the model wrote so far."""
        return sum(s.stop - s.start for s in self.spans if s.kind == "model")


class Rollout:
    """One phase: requests in, trajectories out, in the order of the requests.

    Args:
      engine: with this phase's weights (`Engine.begin` done).
      executor: the tool (`aster_jax.tools.Executor`), or None when max_calls is 0.
      tokenizer, style: for parsing turns and rendering results.
      budgets: per trajectory.
      lockstep: see the module docstring.
      seed: seeds the interpreters, with the trajectory's identity.
      on_progress: called after every dispatch with (ended, total, stats).
    """

    def __init__(
        self,
        engine: device.Engine,
        executor,
        tokenizer,
        style: str,
        budgets: Budgets,
        lockstep: bool,
        seed: int,
        on_progress: Callable[[int, int, dict], None] | None = None,
    ):
        if budgets.context_tokens > engine.config.capacity:
            raise ValueError(
                f"context_tokens={budgets.context_tokens} is more than the engine's capacity "
                f"of {engine.config.capacity} tokens per row; raise rollout.capacity"
            )
        if executor is None and budgets.max_calls:
            raise ValueError(f"max_calls={budgets.max_calls} needs a tool executor; none given")
        self._engine, self._executor = engine, executor
        self._tokenizer, self._style = tokenizer, style
        self._budgets, self._lockstep, self._seed = budgets, lockstep, seed
        self._on_progress = on_progress
        self.stats = collections.Counter()

    def run(self, requests: list[Request]) -> list[types.Trajectory]:
        """Make every trajectory; each ends with a reason, none is dropped."""
        began = time.monotonic()
        self._requests = requests
        self._ended: dict[int, types.Trajectory] = {}
        self._live: dict[int, Live] = {}
        self._index: dict[int, int] = {}
        self._writes: dict[int, list[int]] = {}
        self._table = scheduler.SlotTable(self._engine.config.slots, len(requests))
        try:
            while not self._table.done:
                self._admit()
                self._prefill()
                drained = self._engine.decode() if self._decoding() else None
                self._collect_results(block=drained is None or self._lockstep)
                if drained is not None:
                    self._read(jax.device_get(drained))
                if time.monotonic() - began > self._budgets.deadline_s:
                    self._abandon()
                if self._on_progress:
                    self._on_progress(len(self._ended), len(requests), self.stats)
        finally:
            for live in self._live.values():
                self._close(live)
        self.stats["phase_s"] += time.monotonic() - began
        return [self._ended[i] for i in range(len(requests))]

    # Admission: prompts are computed once per problem and shared with its group.

    def _admit(self):
        leaders: dict[tuple[int, ...], int] = {}
        followers = collections.defaultdict(list)
        for slot, i in self._table.admit():
            given = self._enter(slot, i).tokens
            if tuple(given) in leaders:
                followers[leaders[tuple(given)]].append(slot)
            else:
                leaders[tuple(given)] = slot
                self._writes[slot] = list(given)
        if leaders:
            self._prefill()
            for leader, slots in followers.items():
                starts = {s: self._start(self._live[s]) for s in slots}
                length = len(self._live[leader].tokens) - 1
                self._engine.share(leader, slots, length, starts)
                self.stats["shared_tokens"] += length * len(slots)

    def _enter(self, slot, i) -> Live:
        """Give request `i` the slot; nothing is computed yet."""
        request = self._requests[i]
        given = [*request.prompt, *request.opener]
        if len(given) >= self._budgets.context_tokens:
            raise ValueError(
                f"the prompt of problem {request.problem.id} has {len(given)} tokens, the "
                f"context is {self._budgets.context_tokens}; filter long prompts first"
            )
        nothing = [0.0] * len(given)
        span = types.Span("prompt", 0, len(given))
        live = Live(
            request, slot, self._table.epoch(slot), given, [0] * len(given), nothing,
            list(nothing), [span], turn_start=len(given),
        )
        self._live[slot], self._index[slot] = live, i
        return live

    def _start(self, live: Live) -> device.Start:
        b = self._budgets
        left = min(
            b.turn_tokens, b.response_tokens - live.written, b.context_tokens - len(live.tokens)
        )
        uid = zlib.crc32(live.request.problem.id.encode())
        return device.Start(live.tokens[-1], left, uid, live.request.sample)

    def _prefill(self):
        """Write all given tokens that wait, except each row's newest one."""
        writes, starts = [], {}
        for slot, tokens in sorted(self._writes.items()):
            live = self._live[slot]
            # The pending token before this write (a stop id) is not in the cache yet.
            start = len(live.tokens) - len(tokens)
            given = live.tokens[max(start - 1, 0) : -1]
            writes.append((slot, max(start - 1, 0), given))
            starts[slot] = self._start(live)
            self.stats["prefill_tokens"] += len(given)
        self._writes.clear()
        cfg = self._engine.config
        for plan in scheduler.chunk_rounds(writes, cfg.prefill_rows, cfg.prefill_buckets):
            self._engine.prefill(plan, starts)
            self.stats["prefill_calls"] += 1

    def _decoding(self):
        return any(live.call is None for live in self._live.values())

    # Reading what was sampled.

    def _read(self, drained):
        steps = int(drained.steps)
        self.stats["decode_calls"] += 1
        self.stats["decode_steps"] += steps
        self.stats["slot_steps"] += steps * self._engine.config.slots
        for slot in sorted(self._live):
            count = int(drained.count_B[slot])
            live = self._live[slot]
            if not count:
                continue
            self.stats["sampled_tokens"] += count
            live.tokens += drained.tokens_BK[slot, :count].tolist()
            live.mask += [1] * count
            live.logprobs += drained.logprobs_BK[slot, :count].tolist()
            live.raw_logprobs += drained.raw_logprobs_BK[slot, :count].tolist()
            self._extend_span(live, "model", count)
            if drained.stopped_B[slot]:
                self._end_turn(live)
            elif (reason := self._exhausted(live)) is not None:
                self._finish(live, reason, "")

    def _extend_span(self, live, kind, count):
        last = live.spans[-1]
        if last.kind == kind:
            live.spans[-1] = types.Span(kind, last.start, last.stop + count)
        else:
            live.spans.append(types.Span(kind, last.stop, last.stop + count))

    def _exhausted(self, live) -> types.EndReason | None:
        if live.written >= self._budgets.response_tokens:
            return "token_budget"
        if len(live.tokens) >= self._budgets.context_tokens:
            return "context_budget"
        if len(live.tokens) - live.turn_start >= self._budgets.turn_tokens:
            return "turn_budget"
        return None

    def _end_turn(self, live):
        opener = live.request.opener if live.turn_start == live.spans[0].stop else ()
        ids = [*opener, *live.tokens[live.turn_start :]]
        turn = chat.parse_turn(ids, self._tokenizer, self._style)
        if turn.kind == "answer":
            self._finish(live, "answered", turn.text)
        elif len(live.calls) >= self._budgets.max_calls:
            if live.told_no_calls or not self._budgets.max_calls:
                self._finish(live, "call_budget", "")
            else:
                live.told_no_calls = True
                self._append_result(live, NO_CALLS_LEFT)
        elif turn.kind == "malformed":
            live.malformed_in_row += 1
            live.calls.append(types.CallRecord("", "malformed", turn.reason, 0.0, 0.0))
            if live.malformed_in_row > self._budgets.max_malformed:
                self._finish(live, "malformed", "")
            else:
                self._append_result(live, chat.malformed_text(turn.reason))
        else:
            live.malformed_in_row = 0
            if live.session is None:
                live.session = self._executor.open(seed=self._tool_seed(live))
            live.code = turn.code
            live.call = self._executor.submit(live.session, turn.code)

    def _tool_seed(self, live) -> int:
        name = f"{self._seed}/{live.request.problem.id}/{live.request.sample}"
        return zlib.crc32(name.encode())

    # Tool results.

    def _collect_results(self, block: bool):
        waiting = [live for live in self._live.values() if live.call is not None]
        if not waiting:
            return
        began = time.monotonic()
        calls = [live.call for live in waiting]
        if self._lockstep:
            concurrent.futures.wait(calls, timeout=self._budgets.deadline_s)
        elif block:
            first = concurrent.futures.FIRST_COMPLETED
            concurrent.futures.wait(calls, timeout=self._budgets.deadline_s, return_when=first)
        self.stats["tool_wait_s"] += time.monotonic() - began
        for live in waiting:
            if live.call.done():
                result, live.call = live.call.result(), None
                self._deliver(live, result)

    def _deliver(self, live, result):
        text = result.text.removesuffix("\n")  # the markup brings its own line end
        record = types.CallRecord(live.code, result.status, text, result.wall_s, result.queue_s)
        live.calls.append(record)
        self.stats["tool_calls"] += 1
        if result.is_infra:
            self._finish(live, "infrastructure", "")
        else:
            self._append_result(live, text)

    def _append_result(self, live, text):
        text = chat.cut(text, self._tokenizer, self._budgets.tool_result_tokens)
        ids = chat.tool_ids(text, self._tokenizer, self._style)
        if len(live.tokens) + len(ids) >= self._budgets.context_tokens:
            self._finish(live, "context_budget", "")
            return
        if live.written >= self._budgets.response_tokens:
            self._finish(live, "token_budget", "")
            return
        live.tokens += ids
        for known in (live.mask, live.logprobs, live.raw_logprobs):
            known += [0] * len(ids)
        self._extend_span(live, "tool", len(ids))
        live.turn_start = len(live.tokens)
        self._writes[live.slot] = ids

    # Endings.

    def _finish(self, live, reason: types.EndReason, final_text: str):
        self._ended[self._index.pop(live.slot)] = types.Trajectory(
            problem_id=live.request.problem.id,
            sample=live.request.sample,
            tokens=tuple(live.tokens),
            loss_mask=tuple(live.mask),
            logprobs=tuple(float(x) for x in live.logprobs),
            raw_logprobs=tuple(float(x) for x in live.raw_logprobs),
            spans=tuple(live.spans),
            calls=tuple(live.calls),
            end=reason,
            final_text=final_text,
        )
        self._close(live)
        del self._live[live.slot]
        self._writes.pop(live.slot, None)
        self._table.release(live.slot)

    def _close(self, live):
        if live.session is not None:
            self._executor.close(live.session)
            live.session = None

    def _abandon(self):
        """Past the deadline: end what is left as our fault, and admit nothing more."""
        while not self._table.done:
            for live in list(self._live.values()):
                self._finish(live, "infrastructure", "")
            for slot, i in self._table.admit():
                self._enter(slot, i)
        self._engine.reset()
