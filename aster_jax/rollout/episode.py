"""The host loop of a rollout phase: engine <-> tools until every trajectory has ended.

Each trajectory is an append-only list of ids. A turn that parses as a tool call goes to
that trajectory's own interpreter while other rows decode; its result is appended to the
live row. In lockstep mode results are awaited at a fixed place of the loop, so that the
schedule, and with it every bit of the result, does not depend on how long a tool took.
"""

import collections
import concurrent.futures
import time
import zlib
from collections.abc import Callable

import jax
import numpy as np

from aster_jax import types
from aster_jax.data import chat
from aster_jax.rollout import device, scheduler
from aster_jax.rollout.live import Budgets, Live, Request, fresh

NO_CALLS_LEFT = "No tool calls are left. Give the final answer now."


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
        self._live: dict[int, Live] = {}  # by slot, in the order of admission
        self._aside: dict[int, Live] = {}  # by request
        self._writes: dict[int, int] = {}
        self._forks: list[device.Fork] = []
        self._table = scheduler.SlotTable(
            self._engine.config.slots, len(requests), self._engine.shards
        )
        try:
            while len(self._ended) < len(requests):
                self._make_room()
                self._table.admit(self._place)
                self._prefill()
                slots = [slot for slot, live in self._live.items() if live.call is None]
                drained, rows = self._engine.decode(slots) if slots else (None, {})
                self._collect_results(block=drained is None or self._lockstep)
                if drained is not None:
                    self._read(jax.device_get(drained), rows)
                if time.monotonic() - began > self._budgets.deadline_s:
                    self._abandon()
                if self._on_progress:
                    self._on_progress(len(self._ended), len(requests), self.stats)
        finally:
            for live in [*self._live.values(), *self._aside.values()]:
                self._close(live)
        self.stats["phase_s"] += time.monotonic() - began
        return [self._ended[i] for i in range(len(requests))]

    # Memory and admission: who comes last makes room; a prompt is there once per group.

    def _reach(self, live) -> int:
        """Tokens in the cache when the host looks again, at most."""
        steps = min(self._engine.config.steps_per_dispatch, live.left(self._budgets))
        return len(live.tokens) - 1 + steps

    def _make_room(self):
        """Pages for what each row is about to write; where they lack, rows are set aside."""
        pages = self._engine.pages
        for live in list(self._live.values()):
            while live.slot is not None and live.call is None:
                if pages.reserve(live.slot, self._reach(live)):
                    break
                shard = pages.shard(live.slot)
                self._set_aside([x for x in self._live.values() if pages.shard(x.slot) == shard][-1])

    def _set_aside(self, live):
        """Take a row's pages; it is computed again from its tokens when there is room."""
        self._leave(live)
        self._aside[live.index] = live
        if live.call is None:
            self._table.requeue(live.index)
        self.stats["rows_set_aside"] += 1

    def _leave(self, live):
        """Give up the slot and its pages."""
        del self._live[live.slot]
        self._writes.pop(live.slot, None)
        self._engine.pages.release(live.slot)
        self._table.release(live.slot)
        live.slot = None

    def _place(self, slot, i) -> bool:
        """Give request `i` the slot if there are pages for it; nothing is computed yet.

        One page is left for each row that is there already: a row that comes in must not
        be set aside again at once.
        """
        pages = self._engine.pages
        known = i in self._aside
        live = self._aside[i] if known else fresh(self._requests[i], i, self._budgets)
        near = [x for x in self._live.values() if pages.shard(x.slot) == pages.shard(slot)]
        same = [x for x in near if _given(x.request) == _given(live.request) and not known]
        if same:
            length = len(live.tokens) - 1
            copies = pages.fork(same[0].slot, slot, length, self._reach(live), len(near))
            if copies is None:
                return False
            self._forks.append(device.Fork(slot, length, tuple(copies)))
            self.stats["shared_tokens"] += length
        elif not pages.reserve(slot, self._reach(live), len(near)):
            return False
        else:
            self._writes[slot] = 0
        self._aside.pop(i, None)
        live.slot, self._live[slot] = slot, live
        return True

    def _start(self, live) -> device.Start:
        uid = zlib.crc32(live.request.problem.id.encode())
        return device.Start(live.tokens[-1], live.left(self._budgets), uid, live.request.sample)

    def _prefill(self):
        """Write all given tokens that wait, except each row's newest one; then share."""
        self.stats["pages_peak"] = max(self.stats["pages_peak"], self._engine.pages.used)
        writes = []
        for slot, start in sorted(self._writes.items()):
            writes.append((slot, start, self._live[slot].tokens[start:-1]))
            self.stats["prefill_tokens"] += len(writes[-1][2])
        starts = {slot: self._start(self._live[slot]) for slot in self._writes}
        self._writes.clear()
        e = self._engine
        for plan in scheduler.chunk_rounds(
            writes, e.prefill_rows, e.config.prefill_buckets, e.pages.shard
        ):
            e.prefill(plan, starts)
            self.stats["prefill_calls"] += 1
        e.share(self._forks, {f.slot: self._start(self._live[f.slot]) for f in self._forks})
        self._forks.clear()

    # Reading what was sampled.

    def _read(self, drained, rows):
        self.stats["decode_calls"] += 1
        self.stats["decode_steps"] += int(drained.steps.max())
        per_shard = len(drained.count_A) // len(drained.steps)
        self.stats["slot_steps"] += int(drained.steps.sum()) * per_shard
        for slot, row in sorted(rows.items()):
            count = int(drained.count_A[row])
            live = self._live[slot]
            if not count:
                continue
            self.stats["sampled_tokens"] += count
            live.extend(
                "model",
                drained.tokens_AK[row, :count].tolist(),
                drained.logprobs_AK[row, :count].tolist(),
                drained.raw_logprobs_AK[row, :count].tolist(),
            )
            if drained.stopped_A[row]:
                self._end_turn(live)
            elif (reason := live.exhausted(self._budgets)) is not None:
                self._finish(live, reason, "")

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
        under_way = [*self._live.values(), *self._aside.values()]
        waiting = [live for live in under_way if live.call is not None]
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
        if live.index in self._aside:
            self._table.requeue(live.index)

    def _append_result(self, live, text):
        text = chat.cut(text, self._tokenizer, self._budgets.tool_result_tokens)
        ids = chat.tool_ids(text, self._tokenizer, self._style)
        if len(live.tokens) + len(ids) >= self._budgets.context_tokens:
            self._finish(live, "context_budget", "")
            return
        if live.written >= self._budgets.response_tokens:
            self._finish(live, "token_budget", "")
            return
        if live.slot is not None:
            # The pending token (a stop id) is not in the cache yet.
            self._writes[live.slot] = len(live.tokens) - 1
        live.extend("tool", ids)
        live.turn_start = len(live.tokens)

    # Endings.

    def _finish(self, live, reason: types.EndReason, final_text: str):
        self._ended[live.index] = live.trajectory(reason, final_text)
        self._close(live)
        if live.slot is None:
            self._aside.pop(live.index, None)
        else:
            self._leave(live)

    def _close(self, live):
        if live.session is not None:
            self._executor.close(live.session)
            live.session = None

    def _abandon(self):
        """Past the deadline: end what is left as our fault, and admit nothing more."""
        for live in [*self._live.values(), *self._aside.values()]:
            self._finish(live, "infrastructure", "")
        for i, request in enumerate(self._requests):
            if i not in self._ended:
                self._finish(fresh(request, i, self._budgets), "infrastructure", "")
        self._engine.reset()


def _given(request):
    return request.prompt, request.opener
