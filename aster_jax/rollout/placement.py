"""Where the trajectories of a phase are: who has a slot, who waits, whose prompt is shared.

Decides and keeps account; the programs that follow from it (writes, forks) are handed to
the device in `write`. Whoever came last makes room when pages lack: it is set aside and
computed again from its tokens when there is room, with the same result. Where that happens
often, newcomers have to leave more pages free, so that a small pool is not spent on
computing rows again and again.
"""

import collections

from aster_jax.rollout import device, scheduler
from aster_jax.rollout.clock import Timeline
from aster_jax.rollout.live import Budgets, Live, Request, fresh

# Rows set aside for every row that ends, which admission puts up with: holding rows back
# has its price too, as decoding few rows takes about as long as decoding many.
PUT_UP_WITH = 0.5


class Placement:
    """Slots and pages of one phase.

    Args:
      dev: with this phase's weights.
      requests: in the order in which they are admitted; more may come (`add`).
      budgets: bound what a row may write, and so what it may need, if it has none of its own.
      timeline: is told of the programs dispatched here.
      stats: counters of the phase.
      at_once: whether `write` writes all that waits, or one chunk of each row, so that rows
        which can decode do not wait for somebody else's long prompt.
    """

    def __init__(
        self,
        dev: device.Device,
        requests: list[Request],
        budgets: Budgets,
        timeline: Timeline,
        stats: collections.Counter,
        at_once: bool = True,
    ):
        self._device, self._budgets = dev, budgets
        self.requests = dict(enumerate(requests))  # those that have not ended
        self._timeline, self._stats, self._at_once = timeline, stats, at_once
        self._table = scheduler.SlotTable(dev.config.slots, len(requests), dev.shards)
        self.live: dict[int, Live] = {}  # by slot, in the order of admission
        self.aside: dict[int, Live] = {}  # by request
        self._pressed = 0.0  # rows set aside for want of room, beyond what is put up with
        self._writes: dict[int, int] = {}  # slot -> first position that is not in the cache
        self._forks: dict[int, tuple[int, device.Fork]] = {}  # slot -> source, until it is there

    def add(self, i: int, request: Request) -> None:
        """One more request, under a number of its own, behind all that are there."""
        self.requests[i] = request
        self._table.enqueue(i)

    def under_way(self) -> list[Live]:
        """All that have begun and not ended."""
        return [*self.live.values(), *self.aside.values()]

    def find(self, i: int) -> Live:
        """A request that has not ended, as far as it has come."""
        begun = next((live for live in self.under_way() if live.index == i), None)
        return begun or fresh(self.requests[i], i, self._budgets)

    def ready(self) -> list[int]:
        """Slots of rows that may have a token to decode, given what is in flight."""
        K = self._device.config.steps_per_dispatch
        return [
            slot for slot, live in self.live.items()
            if live.call is None and live.left() > K * live.flying
            and slot not in self._writes and slot not in self._forks
        ]  # fmt: skip

    @property
    def is_writing(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._writes)

    def epoch(self, slot: int) -> int:
        """The number of the slot's owner; a later owner has another one."""
        return self._table.epoch(slot)

    def is_current(self, slot: int, epoch: int) -> bool:
        """Whether the owner of that number still has the slot."""
        return self._table.is_current(slot, epoch)

    # Room.

    def _reach(self, live) -> int:
        """Tokens in the cache when the host looks at the next dispatch, at most."""
        K = self._device.config.steps_per_dispatch
        steps = min(K * (live.flying + 1), live.left())
        return len(live.tokens) - 1 + steps

    def short_of_pages(self) -> Live | None:
        """See that rows have pages for what the next dispatch may write; the first that lacks them."""
        pages = self._device.pages
        for live in self.live.values():
            if live.call is None and not pages.reserve(live.slot, self._reach(live)):
                return live
        return None

    def last_comer(self, live: Live) -> Live:
        """Of the rows on the same device, the one that was admitted last."""
        return self._near(live.slot)[-1]

    def make_room(self, live: Live) -> None:
        """Set a row aside because this one lacks pages; nothing may be in flight."""
        self._pressed += 1
        self.set_aside(self.last_comer(live))

    def set_aside(self, live: Live) -> None:
        """Take a row's slot and pages; nothing of it may be in flight."""
        self.leave(live)
        self.aside[live.index] = live
        if live.call is None:
            self._table.requeue(live.index)
        self._stats["rows_set_aside"] += 1

    def end(self, live: Live) -> None:
        """A row has become a trajectory, or a request has ended before it had a slot."""
        self.leave(live)
        del self.requests[live.index]
        self._pressed = max(0.0, self._pressed - PUT_UP_WITH)

    def ask_again(self, live: Live) -> None:
        """Forget what a row has become; its request begins anew, before all others.

        It has no more time than if nothing had been lost: it goes on from its first slot.
        """
        self.leave(live)
        again = fresh(live.request, live.index, self._budgets)
        again.since = live.since
        self.aside[live.index] = again
        self._table.requeue(live.index)

    def call_returned(self, live: Live) -> None:
        """A row that was set aside during its call may come back."""
        if live.index in self.aside:
            self._table.requeue(live.index)

    def leave(self, live: Live) -> None:
        """Give up slot and pages, or the place among those set aside."""
        if live.slot is None:
            self.aside.pop(live.index, None)
            self._table.withdraw(live.index)
            return
        slot, live.slot = live.slot, None
        del self.live[slot]
        self._writes.pop(slot, None)
        self._forks.pop(slot, None)
        # Those that wait for a prompt which nobody goes on writing come in anew.
        for heir in [heir for heir, (source, _) in self._forks.items() if source == slot]:
            self.set_aside(self.live[heir])
        self._device.pages.release(slot)
        self._table.release(slot)

    # Admission: a prompt is there once per group and device.

    def admit(self, now: float) -> None:
        """Give free slots to waiting requests while there are pages for them."""
        for slot, _ in self._table.admit(self._place, self._shards):
            live = self.live[slot]
            live.since = now if live.since is None else live.since

    def _near(self, slot) -> list[Live]:
        """The rows on the same device."""
        shard = self._device.pages.shard
        return [x for x in self.live.values() if shard(x.slot) == shard(slot)]

    def _shards(self, i) -> set[int]:
        """Where the prompt of request `i` is in the cache for others of its group."""
        asked, shard = self.requests[i], self._device.pages.shard
        return {shard(slot) for slot, x in self.live.items() if x.request.shares(asked)}

    def _place(self, slot, i) -> bool:
        """Give request `i` the slot if there are pages for it; nothing is computed yet."""
        pages = self._device.pages
        live = self.aside.get(i) or fresh(self.requests[i], i, self._budgets)
        near = self._near(slot)
        reach, spare = self._reach(live), self._spare(live, near)
        given = live.request.given
        # The last page of one that is still to be forked is not there yet.
        same = [x for x in near if x.request.shares(live.request) and x.slot not in self._forks]
        if same and len(live.tokens) == len(given):
            copies = pages.fork(same[0].slot, slot, len(given) - 1, reach, spare)
            if copies is None:
                return False
            fork = device.Fork(slot, len(given) - 1, tuple(copies))
            self._forks[slot] = same[0].slot, fork
            shared = len(given) - 1
        else:
            # One that comes back goes on behind the whole pages of its prompt, if they are
            # in the cache already: it is written in the same call as prompts are.
            size = self._device.config.page_tokens
            shared = (len(given) - 1) // size * size
            source = next((x for x in same if x.slot not in self._writes), None)
            if source is None or not shared:
                shared = 0
                placed = pages.reserve(slot, reach, spare)
            else:
                placed = pages.fork(source.slot, slot, shared, reach, spare) is not None
            if not placed:
                return False
            self._writes[slot] = shared
        self._stats["shared_tokens"] += shared
        self.aside.pop(i, None)
        live.slot, self.live[slot] = slot, live
        return True

    def _spare(self, live, near) -> int:
        """Pages that have to stay free when `live` joins the rows `near`.

        One for each row that is there already, as a row that comes in must not be set aside
        again at once. Then one more per row, the new one included, for every row that had to
        make room and was not put up with, but no more than they all can still need. A row
        that is alone always fits: what it can need is no more than a pool holds.
        """
        pages = self._device.pages
        need = pages.count(live.budgets.context_tokens) - pages.count(self._reach(live))
        need += sum(
            pages.count(x.budgets.context_tokens) - len(pages.held(x.slot)) for x in near
        )
        return len(near) + min(int(self._pressed) * (len(near) + 1), need)

    # What has to be written before the next decode.

    def append(self, live: Live, start: int) -> None:
        """The row's tokens from `start` on have to be written, if it is in a slot."""
        if live.slot is not None:
            self._writes[live.slot] = start

    def write(self) -> None:
        """Write given tokens that wait, except each row's newest one; then share.

        All of them, or the next chunk of each row (`at_once`); who has all can decode.
        """
        self._stats["pages_peak"] = max(self._stats["pages_peak"], self._device.pages.used)
        d = self._device
        writes = [
            (slot, start, self.live[slot].tokens[start:-1])
            for slot, start in sorted(self._writes.items())
        ]
        starts = {slot: self._start(self.live[slot]) for slot in self._writes}
        plans = scheduler.chunk_rounds(
            writes, d.prefill_rows, d.config.prefill_buckets, d.pages.shard
        )
        if not self._at_once:  # a round has first chunks or later ones, never both
            firsts = dict(self._writes)
            plans = [p for p in plans if p.chunks[0].start == firsts[p.chunks[0].slot]]
        for plan in plans:
            called = self._timeline.now()
            self._timeline.dispatched("prefill", d.prefill(plan, starts), called)
            self._stats["prefill_calls"] += 1
            for chunk in plan.chunks:
                self._stats["prefill_tokens"] += len(chunk.tokens)
                self._writes[chunk.slot] = chunk.start + len(chunk.tokens)
                if chunk.last:
                    del self._writes[chunk.slot]
        self._share()

    def _share(self):
        """Give prompts that are there to the rows that wait for them."""
        forks = [
            fork for source, fork in self._forks.values()
            if self._writes.get(source, fork.length) >= fork.length
        ]  # fmt: skip
        starts = {fork.slot: self._start(self.live[fork.slot]) for fork in forks}
        called = self._timeline.now()
        for marker in self._device.share(forks, starts):
            self._timeline.dispatched("prefill", marker, called)
        for fork in forks:
            del self._forks[fork.slot]

    def _start(self, live) -> device.Start:
        r = live.request
        return device.Start(live.tokens[-1], live.left(), r.uid, r.sample, r.how)
