"""Which row does what next: slots, their owners, and how given tokens become chunks.

Plain host bookkeeping, no arrays and no clock, so it is tested without a device. Slots
carry an epoch that grows with every new owner: a result is delivered only when the epoch
it was asked under is still the slot's.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Given tokens of one slot to write from position `start`; `last` arms the row."""

    slot: int
    start: int
    tokens: tuple[int, ...]
    last: bool


@dataclasses.dataclass(frozen=True)
class Round:
    """Chunks of distinct slots that go through one prefill call of length `bucket`."""

    bucket: int
    chunks: tuple[Chunk, ...]


class SlotTable:
    """Owners of slots, requests in order; the lowest free slot of a shard first.

    A request goes to a shard that holds its prompt already, else to the emptiest.
    """

    def __init__(self, slots: int, requests: int, shards: int = 1):
        per_shard = slots // shards
        self._free = [list(range(i * per_shard, (i + 1) * per_shard)) for i in range(shards)]
        self._queue = collections.deque(range(requests))
        self._epochs = [0] * slots
        self._owner: dict[int, int] = {}

    def admit(
        self,
        place: Callable[[int, int], bool] = lambda slot, request: True,
        shards: Callable[[int], Collection[int]] = lambda request: (),
    ) -> list[tuple[int, int]]:
        """(slot, request) for as many queued requests as there are places.

        `place(slot, request)` says whether the slot can take it (has the memory for it),
        `shards(request)` where its prompt is already; the queue waits behind the first
        request that no free slot can take.
        """
        admitted = []
        while self._queue:
            request = self._queue[0]
            there = shards(request)
            free = [(i, slots) for i, slots in enumerate(self._free) if slots]
            order = sorted((i not in there, -len(slots), slots[0]) for i, slots in free)
            slot = next((slot for _, _, slot in order if place(slot, request)), None)
            if slot is None:
                break
            self._queue.popleft()
            self._shard(slot).remove(slot)
            self._epochs[slot] += 1
            self._owner[slot] = request
            admitted.append((slot, request))
        return admitted

    def enqueue(self, request: int) -> None:
        """Put a request behind all others."""
        self._queue.append(request)

    def release(self, slot: int) -> None:
        """Give a slot back; it is the next one of its shard handed out."""
        del self._owner[slot]
        self._shard(slot).append(slot)
        self._shard(slot).sort()

    def requeue(self, request: int) -> None:
        """Put a request that lost its slot before all others, unless it waits already."""
        if request not in self._queue:
            self._queue.appendleft(request)

    def withdraw(self, request: int) -> None:
        """Take a request out of the queue, if it is there."""
        if request in self._queue:
            self._queue.remove(request)

    def _shard(self, slot):
        return self._free[slot * len(self._free) // len(self._epochs)]

    def epoch(self, slot: int) -> int:
        """The current owner's number at this slot."""
        return self._epochs[slot]

    def is_current(self, slot: int, epoch: int) -> bool:
        """Whether the owner that was there at `epoch` still holds the slot."""
        return slot in self._owner and self._epochs[slot] == epoch

    @property
    def occupied(self) -> int:
        """Number of slots with an owner."""
        return len(self._owner)

    @property
    def done(self) -> bool:
        """No owner and nothing queued."""
        return not self._owner and not self._queue


def chunk_rounds(
    writes: list[tuple[int, int, list[int]]],
    rows: int,
    buckets: tuple[int, ...],
    shard: Callable[[int], int] = lambda slot: 0,
) -> list[Round]:
    """Split (slot, start, tokens) writes into prefill calls of at most `rows` per shard.

    Long writes become several chunks in consecutive rounds, in order. Writes of similar
    length share a round, so that a short tool result is not padded to a long prompt. An
    empty write (a prompt of one token) still gives one chunk: it arms its row.
    """
    largest = buckets[-1]
    stages: dict[int, list[Chunk]] = collections.defaultdict(list)
    for slot, start, tokens in writes:
        pieces = [tokens[i : i + largest] for i in range(0, len(tokens), largest)] or [[]]
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1
            stages[i].append(Chunk(slot, start + i * largest, tuple(piece), last))
    rounds = []
    for i in sorted(stages):
        groups: dict[int, list[Chunk]] = collections.defaultdict(list)
        seen = collections.Counter()
        for c in sorted(stages[i], key=lambda c: (_bucket(len(c.tokens), buckets), c.slot)):
            groups[seen[shard(c.slot)] // rows].append(c)
            seen[shard(c.slot)] += 1
        for group in groups.values():
            longest = max(len(c.tokens) for c in group)
            rounds.append(Round(_bucket(longest, buckets), tuple(group)))
    return rounds


def _bucket(length: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds `length` tokens."""
    return next(b for b in buckets if b >= length)
