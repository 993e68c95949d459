"""Slots and chunks under many interleavings: pure bookkeeping, checked against a model."""

import random

import pytest

from aster_jax.rollout import scheduler

BUCKETS = (2, 4, 8)


def replayed(rounds, rows):
    """What the rounds write, per slot and position; checks each round's own rules."""
    written, armed = {}, {}
    for plan in rounds:
        slots = [c.slot for c in plan.chunks]
        assert 1 <= len(slots) <= rows and len(set(slots)) == len(slots)
        assert plan.bucket in BUCKETS
        assert all(len(c.tokens) <= plan.bucket for c in plan.chunks)
        for c in plan.chunks:
            assert c.slot not in armed, "written after it was armed"
            mine = written.setdefault(c.slot, {})
            for i, token in enumerate(c.tokens):
                assert c.start + i not in mine, "written twice"
                assert not mine or c.start + i == max(mine) + 1, "out of order"
                mine[c.start + i] = token
            if c.last:
                armed[c.slot] = c.start + len(c.tokens)
    return written, armed


@pytest.mark.parametrize("length", range(0, 26))
@pytest.mark.parametrize("start", [0, 5])
def test_every_length_is_covered_once_in_order(length, start):
    tokens = list(range(100, 100 + length))
    rounds = scheduler.chunk_rounds([(3, start, tokens)], 4, BUCKETS)
    written, armed = replayed(rounds, 4)
    assert [written[3][p] for p in sorted(written[3])] == tokens
    assert armed == {3: start + length}
    assert len(rounds) == max(1, -(-length // 8))
    # The smallest bucket that holds the remainder.
    rest = length % 8 or min(length, 8)
    assert rounds[-1].bucket == min(b for b in BUCKETS if b >= rest)


def test_many_rows_of_random_lengths():
    rng = random.Random(0)
    for _ in range(100):
        rows = rng.randint(1, 5)
        writes = [
            (slot, rng.randint(0, 9), [rng.randint(0, 99) for _ in range(rng.randint(0, 20))])
            for slot in rng.sample(range(20), rng.randint(1, 12))
        ]
        written, armed = replayed(scheduler.chunk_rounds(writes, rows, BUCKETS), rows)
        for slot, start, tokens in writes:
            assert [written[slot][p] for p in sorted(written[slot])] == tokens
            assert armed[slot] == start + len(tokens)
            assert not tokens or min(written[slot]) == start


def test_short_writes_do_not_share_a_long_bucket():
    writes = [(0, 0, [1] * 8), (1, 0, [1]), (2, 0, [1] * 7), (3, 0, [1] * 2)]
    rounds = scheduler.chunk_rounds(writes, 2, BUCKETS)
    assert [(r.bucket, [c.slot for c in r.chunks]) for r in rounds] == [(2, [1, 3]), (8, [0, 2])]


def test_nothing_to_write_gives_no_round():
    assert scheduler.chunk_rounds([], 4, BUCKETS) == []


def test_lowest_slot_first_and_requests_in_order():
    table = scheduler.SlotTable(3, 5)
    assert table.admit() == [(0, 0), (1, 1), (2, 2)]
    table.release(2)
    table.release(0)
    assert table.admit() == [(0, 3), (2, 4)]
    assert table.occupied == 3 and not table.done


def test_shards_are_filled_evenly_and_the_first_that_fits_nowhere_waits():
    table = scheduler.SlotTable(4, 6, shards=2)
    assert table.admit(lambda slot, request: request < 3) == [(0, 0), (2, 1), (1, 2)]
    assert table.admit(lambda slot, request: slot != 3) == []
    table.release(2)
    table.requeue(1)
    assert table.admit() == [(2, 1), (3, 3)]


def test_a_request_goes_where_its_prompt_is_and_elsewhere_when_that_is_full():
    """Three requests of one group after one of another, on two shards of two slots."""
    table, group, where = scheduler.SlotTable(4, 4, shards=2), [0, 1, 1, 1], {}

    def place(slot, request):
        where.setdefault(group[request], set()).add(slot // 2)
        return True

    admitted = table.admit(place, lambda request: where.get(group[request], set()))
    assert admitted == [(0, 0), (2, 1), (3, 2), (1, 3)]


def test_a_round_has_rows_of_every_shard():
    writes = [(slot, 0, [1]) for slot in range(6)]
    rounds = scheduler.chunk_rounds(writes, 1, BUCKETS, lambda slot: slot // 3)
    assert [[c.slot for c in r.chunks] for r in rounds] == [[0, 3], [1, 4], [2, 5]]


def test_a_result_for_an_earlier_owner_is_not_current():
    table = scheduler.SlotTable(1, 2)
    table.admit()
    asked = table.epoch(0)
    assert table.is_current(0, asked)
    table.release(0)
    assert not table.is_current(0, asked)
    table.admit()
    assert not table.is_current(0, asked) and table.is_current(0, table.epoch(0))


def test_random_interleavings_never_share_a_slot_or_lose_a_request():
    rng = random.Random(1)
    for _ in range(200):
        slots, requests = rng.randint(1, 6), rng.randint(0, 20)
        table = scheduler.SlotTable(slots, requests)
        owner, served, stale = {}, [], []
        while not table.done:
            for slot, request in table.admit() if rng.random() < 0.7 or not owner else []:
                assert slot not in owner and 0 <= slot < slots
                owner[slot] = (request, table.epoch(slot))
                served.append(request)
            for slot in [s for s in owner if rng.random() < 0.4]:
                stale.append((slot, owner.pop(slot)[1]))
                table.release(slot)
            assert table.occupied == len(owner)
            assert all(table.is_current(s, epoch) for s, (_, epoch) in owner.items())
            assert not any(table.is_current(s, epoch) for s, epoch in stale)
        assert served == list(range(requests))
