"""The host loop of a rollout phase: device <-> tools until every trajectory has ended.

Each trajectory is an append-only list of ids. A turn that parses as a tool call goes to
that trajectory's own interpreter while other rows decode; its result is appended to the
live row. The host may dispatch ahead of what it has read: a row that has stopped is known
as such on the device, so a dispatch that still names it does nothing to it, and what
comes back is given to the slot's owner of that time only.

In lockstep mode results are awaited at a fixed place of the loop, so that the schedule,
and with it every bit of the result, does not depend on how long a tool took. Otherwise
nobody waits for more than he needs: prompts and results are written a chunk at a time
between dispatches, and a result joins the first dispatch after it has come.

What the tool loses is asked for again: a row of its own, the same identity, so that the
same trajectory comes out. Our own deadlines end a trajectory for good.

Every process decides for its own rows only; nothing here is a collective.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable

import jax

from aster_jax import types
from aster_jax.data import chat
from aster_jax.errors import Leaving
from aster_jax.rollout import clock as clocks
from aster_jax.rollout import device, engine, placement, results
from aster_jax.rollout.live import Budgets, Live, Request, check, check_budgets

NO_CALLS_LEFT = "No tool calls are left. Give the final answer now."
LOOK_S = 0.5  # the longest wait for tools between two looks at whether to stop


@dataclasses.dataclass(frozen=True)
class Flight:
    """A dispatched decode: its results to come, their rows, and the slots' owners."""

    drained: engine.Drained
    rows: dict[int, int]
    owners: dict[int, tuple[Live, int]]


class Rollout:
    """One phase: requests in, trajectories out.

    `run` takes all requests at once. Where they come and go (chat, a server): `begin`, then
    `add` and `drop` between calls of `round` while anything `is_under_way`, and `close`; who
    adds takes what has ended out of `ended`.

    Args:
      dev: with this phase's weights (`Device.begin` done).
      executor: the tool (`aster_jax.tools.Executor`), or None when max_calls is 0.
      tokenizer, style: for parsing turns and rendering results.
      budgets: per trajectory, where its request has none of its own.
      lockstep: see the module docstring.
      ahead: decode dispatches that may be under way when the host dispatches another.
      seed: seeds the interpreters, with the trajectory's identity.
      on_end: called with every trajectory as it ends, and its place among the requests.
      on_progress: called after every round with (ended, total, stats).
      on_tokens: called with a trajectory under way whenever tokens have come to it.
      clock: time; another one for tests.
      retries: times that a trajectory lost to the tool is asked for again while time is left.
      stopping: looked at in every round and at least every `LOOK_S` while waiting for tools;
        once it is true, `run` closes its sessions and raises `Leaving`.
    """

    def __init__(
        self,
        dev: device.Device,
        executor,
        tokenizer,
        style: str,
        budgets: Budgets,
        lockstep: bool,
        ahead: int,
        seed: int,
        on_end: Callable[[int, types.Trajectory], None] | None = None,
        on_progress: Callable[[int, int, dict], None] | None = None,
        on_tokens: Callable[[Live], None] | None = None,
        clock: clocks.Clock = clocks.REAL,
        retries: int = 0,
        stopping: Callable[[], bool] | None = None,
    ):
        self._device, self._executor = dev, executor
        check_budgets(budgets, dev.config.capacity, executor, tokenizer)
        self._tokenizer, self._style = tokenizer, style
        self._budgets, self._lockstep = budgets, lockstep
        self._ahead, self._seed = ahead, seed
        self._on_end, self._on_progress, self._clock = on_end, on_progress, clock
        self._on_tokens = on_tokens or (lambda live: None)
        self._retries, self._stopping = retries, stopping
        self.stats = collections.Counter()

    def run(self, requests: list[Request]) -> list[types.Trajectory]:
        """Make every trajectory, in the order of the requests; each ends with a reason.

        Raises a ValueError, before anything is computed, where a prompt fills the context,
        and `Leaving` when asked to stop.
        """
        check(requests, self._budgets)
        self.begin()
        try:
            asked = [self.add(request) for request in requests]
            while self.is_under_way:
                self.round()
                if self._on_progress:
                    self._on_progress(len(self.ended), len(requests), self.stats)
        finally:
            self.close()
        self.stats["pool_pages"] = self._device.pages.total
        if self._device.is_warm:
            self.stats["compiles_after_warmup"] = self._device.compiles_after_warm_up
        return [self.ended.pop(i) for i in asked]

    def begin(self) -> None:
        """Start with no requests; the clock of the phase runs from here."""
        self._looked = self._began = self._clock.now()
        self.ended: dict[int, types.Trajectory] = {}
        self._numbers = itertools.count()
        self._retried = collections.Counter()  # by request
        self._flights: collections.deque[Flight] = collections.deque()
        self._timeline = clocks.Timeline(self._clock, self.stats)
        self._rows = placement.Placement(
            self._device, [], self._budgets, self._timeline, self.stats, at_once=self._lockstep
        )

    def add(self, request: Request) -> int:
        """Queue a request; its number. ValueError where it cannot be, and nothing changes."""
        check([request], self._budgets)
        own = request.budgets or self._budgets
        check_budgets(own, self._device.config.capacity, self._executor, self._tokenizer)
        number = next(self._numbers)
        self._rows.add(number, request)
        return number

    def drop(self, number: int) -> None:
        """End a request as "dropped", wherever it is; nothing where it has ended."""
        if number in self._rows.requests:
            self._finish(self._rows.find(number), "dropped", "")

    @property
    def is_under_way(self) -> bool:
        """Whether a request has not ended."""
        return bool(self._rows.requests)

    def round(self) -> None:
        """Once around: room, admission, writing, a dispatch, results, what has been decoded."""
        self._look_up()
        if not self._lockstep:  # what came while the device was waited for joins this dispatch
            self._collect_results(block=False)
        self._make_room()
        self._rows.admit(self._clock.now())
        self._rows.write()
        dispatched, unwritten = self._dispatch(), self._rows.is_writing  # that never in lockstep
        self._collect_results(block=self._lockstep or not (self._flights or unwritten))
        while len(self._flights) > (self._ahead if dispatched else 0):
            self._read()
        if unwritten and not dispatched:  # a result that comes meanwhile goes in between
            self._timeline.wait()
        self._expire()
        self.stats["phase_s"] = self._clock.now() - self._began

    def close(self) -> None:
        """Close the sessions of what is under way."""
        for live in self._rows.under_way():
            self._close(live)

    def _look_up(self):
        if self._stopping is not None and self._stopping():
            raise Leaving("asked to stop in the middle of a phase")

    def _make_room(self):
        """Pages for what each row is about to write; where they lack, rows are set aside."""
        while (short := self._rows.short_of_pages()) is not None:
            if self._flights:
                self._read()  # it may end rows or turns
            else:
                self._rows.make_room(short)

    # Decoding.

    def _dispatch(self) -> bool:
        """Enqueue one decode of all rows that may have something to say."""
        slots = self._rows.ready()
        if not slots:
            return False
        called = self._timeline.now()
        drained, rows = self._device.decode(slots)
        self._timeline.dispatched("decode", drained.steps, called)
        owners = {slot: (self._rows.live[slot], self._rows.epoch(slot)) for slot in slots}
        for live, _ in owners.values():
            live.flying += 1
        self._flights.append(Flight(drained, rows, owners))
        self.stats["decode_calls"] += 1
        self.stats["rows_asked"] += len(slots)
        self.stats["slots_offered"] += self._device.config.slots
        return True

    def _read(self):
        """Wait for the oldest dispatch and give every owner its tokens."""
        flight = self._flights.popleft()
        self._timeline.wait(flight.drained.steps)
        drained = jax.device_get(flight.drained)
        self.stats["decode_steps"] += int(drained.steps.max())
        per_shard = len(drained.count_A) // len(drained.steps)
        self.stats["row_steps"] += int(drained.steps.sum()) * per_shard
        for slot, row in sorted(flight.rows.items()):
            live, epoch = flight.owners[slot]
            live.flying -= 1
            if self._rows.is_current(slot, epoch):
                self._take(live, drained, row)

    def _take(self, live, drained, row):
        count = int(drained.count_A[row])
        if not count:
            return
        self.stats["sampled_tokens"] += count
        live.extend(
            "model",
            drained.tokens_AK[row, :count].tolist(),
            drained.logprobs_AK[row, :count].tolist(),
            drained.entropies_AK[row, :count].tolist(),
            now=self._clock.now(),
        )
        self._on_tokens(live)
        if drained.stopped_A[row]:
            self._end_turn(live)
        elif (reason := live.exhausted()) is not None:
            self._finish(live, reason, "")

    def _end_turn(self, live):
        if live.request.one_turn:
            self._finish(live, "answered", "")
            return
        opener = live.request.opener if live.turn_start == live.spans[0].stop else ()
        ids = [*opener, *live.tokens[live.turn_start :]]
        turn = chat.parse_turn(ids, self._tokenizer, self._style)
        if turn.kind == "answer":
            self._finish(live, "answered", turn.text)
        elif len(live.calls) >= live.budgets.max_calls:
            # One that was made to begin its answer has no use for the word.
            if live.told_no_calls or (live.request.opener and not live.budgets.max_calls):
                self._finish(live, "call_budget", "")
            else:
                live.told_no_calls = True
                self._append_result(live, NO_CALLS_LEFT)
        elif turn.kind == "malformed":
            live.malformed_in_row += 1
            live.calls.append(types.CallRecord("", "malformed", turn.reason, 0.0, 0.0))
            if live.malformed_in_row > live.budgets.max_malformed:
                self._finish(live, "malformed", "")
            else:
                self._append_result(live, chat.malformed_text(turn.reason))
        else:
            live.malformed_in_row = 0
            self._submit(live, turn.code)

    def _submit(self, live, code):
        live.code, live.called = code, self._clock.now()
        try:
            if live.session is None:
                live.session = self._executor.open(seed=live.request.tool_seed(self._seed))
            live.call = self._executor.submit(live.session, code)
        except Exception as e:  # whatever it is, there is no tool for this trajectory
            self._fail_call(live, repr(e))

    # Tool results.

    def _collect_results(self, block: bool):
        """Deliver what tools have answered; `block` waits for them where deadlines allow."""
        waiting = [live for live in self._rows.under_way() if live.call is not None]
        if waiting and block:
            if self._flights:  # what is waited for after this, the device waits for too
                self._timeline.wait(self._flights[-1].drained.steps)
            began = self._clock.now()
            self._wait(waiting)
            self.stats["tool_exposed_s"] += self._clock.now() - began
        now = self._clock.now()
        if waiting:
            since = max(self._looked, min(live.called for live in waiting))
            self.stats["tool_under_way_s"] += now - since
        self._looked = now
        for live in waiting:
            if live.call.done():
                call, live.call = live.call, None
                self._deliver(live, call)
                self._rows.call_returned(live)

    def _wait(self, waiting):
        """Until all calls have been answered, or (not in lockstep) one, or a deadline has come."""
        calls = [live.call for live in waiting]
        enough = all if self._lockstep else any
        until = self._next_deadline(waiting)
        while True:
            left_s = until - self._clock.now()
            self._clock.wait(calls, min(left_s, LOOK_S), not self._lockstep)
            if left_s <= LOOK_S or enough(call.done() for call in calls):
                return
            self._look_up()

    def _next_deadline(self, waiting) -> float:
        """When the first of these calls, of all trajectories, or the phase is out of time."""
        return min(
            min(live.called + live.budgets.call_s for live in waiting),
            min(live.since + live.budgets.trajectory_s for live in self._rows.under_way()),
            self._began + self._budgets.deadline_s,
        )

    def _deliver(self, live, call):
        self.stats["tool_calls"] += 1
        if call.cancelled() or call.exception() is not None:
            self._fail_call(live, "cancelled" if call.cancelled() else repr(call.exception()))
            return
        result = call.result()
        text = result.text.removesuffix("\n")  # the markup brings its own line end
        record = types.CallRecord(live.code, result.status, text, result.wall_s, result.queue_s)
        live.calls.append(record)
        if result.is_infra:
            self._lose(live)
        else:
            self._append_result(live, text)

    def _fail_call(self, live, why):
        """The executor broke its promise to answer."""
        waited_s = self._clock.now() - live.called
        live.calls.append(types.CallRecord(live.code, "infra_lost", why, 0.0, waited_s))
        self._lose(live)

    def _lose(self, live):
        """The tool lost a trajectory: begin it anew while that may help, else end it."""
        now = self._clock.now()
        in_time = now - self._began < self._budgets.deadline_s
        if now - live.since >= live.budgets.trajectory_s:
            self._finish(live, "deadline", "")
        elif in_time and self._retried[live.index] < self._retries:
            self._retried[live.index] += 1
            self.stats["asked_again"] += 1
            self._close(live)
            self._rows.ask_again(live)
        else:
            self._finish(live, "infrastructure", "")

    def _append_result(self, live, text):
        # At least one token must be left to write.
        room = live.budgets.context_tokens - len(live.tokens) - 1
        limit = live.budgets.tool_result_tokens
        ids = results.fitted(text, limit, room, self._tokenizer, self._style)
        if ids is None:
            self._finish(live, "context_budget", "")
            return
        if live.written >= live.budgets.response_tokens:
            self._finish(live, "token_budget", "")
            return
        self._rows.append(live, len(live.tokens) - 1)  # the stop id is not in the cache yet
        live.extend("tool", ids, now=self._clock.now())
        live.turn_start = len(live.tokens)
        self._on_tokens(live)

    # Endings.

    def _finish(self, live, reason: types.EndReason, final_text: str):
        self.ended[live.index] = live.trajectory(reason, final_text)
        self._close(live)
        self._rows.end(live)
        self._retried.pop(live.index, None)
        self.stats["ended"] += 1
        if self._on_end:
            self._on_end(live.index, self.ended[live.index])

    def _close(self, live):
        session, live.session = live.session, None
        if session is not None:
            try:
                self._executor.close(session)
            except Exception:  # a tool that cannot be told has ended already, or soon will
                self.stats["sessions_not_closed"] += 1

    def _expire(self):
        """End what is past a deadline of ours; a tool that is late has lost its trajectory."""
        now = self._clock.now()
        if now - self._began >= self._budgets.deadline_s:
            self._abandon()
        for live in self._rows.under_way():
            if now - live.since >= live.budgets.trajectory_s:
                self._finish(live, "deadline", "")
            elif live.call is not None and now - live.called >= live.budgets.call_s:
                self._fail_call(live, f"no answer within {live.budgets.call_s} s")

    def _abandon(self):
        """Past the deadline of the phase: end what is left, and admit nothing more."""
        for live in self._rows.under_way():
            self._finish(live, "deadline", "")
        for i in list(self._rows.requests):
            self._finish(self._rows.find(i), "deadline", "")
        self._flights.clear()
        self._device.reset()
