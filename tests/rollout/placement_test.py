"""Who is where: sharing, making room, coming back; and memory that follows the tokens."""

import collections
import random

import pytest

from aster_jax import types
from aster_jax.rollout import clock, engine, live, placement
from tests.rollout import fakes

BUDGETS = live.Budgets(5000, 5000, 4096, 4, 64, 1, 60.0, 60.0, 60.0)


def rows_of(
    groups, slots, pool_tokens, page_tokens=64, capacity=4096, budgets=BUDGETS, shards=1
):
    """A placement over a fake device; `groups` are (prompt length, members)."""
    time = fakes.FakeClock()
    cfg = engine.EngineConfig(
        slots=slots, capacity=capacity, page_tokens=page_tokens, pool_tokens=pool_tokens,
        steps_per_dispatch=16, prefill_rows=4, prefill_buckets=(64,), dtype="float32",
        attention="auto",
    )  # fmt: skip
    asked = [
        live.Request(types.Problem(f"p{g}", "q", "1", "f"), i, tuple(range(1, length + 1)))
        for g, (length, members) in enumerate(groups)
        for i in range(members)
    ]
    stats = collections.Counter()
    device = fakes.FakeDevice(cfg, shards, time)
    line = clock.Timeline(time.clock(), stats)
    return placement.Placement(device, asked, budgets, line, stats), device, stats


def test_memory_follows_the_live_tokens():
    """64 ragged rows of 200 to 4,000 tokens in groups of 8: at most 1.25 times their tokens."""
    rng = random.Random(3)
    prompts = [rng.randint(100, 190) for _ in range(8)]
    rows, device, _ = rows_of([(n, 8) for n in prompts], 64, 64 * 4096)
    rows.admit(0.0)
    rows.write()
    for x in rows.live.values():
        x.extend("model", [1] * (rng.randint(200, 4000) - len(x.tokens)), [0.0], [0.0])
        assert rows.short_of_pages() is None
    lengths = [len(x.tokens) for x in rows.live.values()]
    live_tokens = sum(lengths) - 7 * sum(prompts)
    assert len(lengths) == 64 and min(lengths) < 500 and max(lengths) > 3500
    assert device.pages.used * 64 <= 1.1 * live_tokens
    # A dense cache would hold 64 rows of the longest.
    assert device.pages.used * 64 < 0.6 * 64 * max(lengths)


def test_a_prompt_is_there_once_per_group():
    rows, device, stats = rows_of([(130, 4)], 8, 8 * 4096)
    rows.admit(0.0)
    rows.write()
    held = [device.pages.held(slot) for slot in rows.live]
    # 129 tokens before the pending one: two whole pages by all, the third each their own.
    assert len({tuple(pages[:2]) for pages in held}) == 1
    assert len({pages[2] for pages in held}) == 4 and device.pages.used == 6
    assert stats["shared_tokens"] == 3 * 129 and stats["prefill_tokens"] == 129


def test_a_group_is_on_one_device_when_it_has_the_room():
    """Four groups of four on four devices: each prompt is computed once, not on every device."""
    rows, device, stats = rows_of([(130, 4)] * 4, 16, 16 * 4096, shards=4)
    rows.admit(0.0)
    rows.write()
    shards = {}
    for slot, x in rows.live.items():
        shards.setdefault(x.request.problem.id, set()).add(device.pages.shard(slot))
    assert sorted(map(tuple, shards.values())) == [(0,), (1,), (2,), (3,)]
    assert stats["prefill_tokens"] == 4 * 129 and stats["shared_tokens"] == 12 * 129


def test_the_last_comer_makes_room_and_comes_back_behind_the_shared_prompt():
    rows, device, stats = rows_of([(130, 3)], 3, 9 * 64, capacity=512, budgets=BUDGETS)
    rows.admit(5.0)
    rows.write()
    first, second, third = rows.live.values()
    for x in (first, second, third):
        x.extend("model", [1] * 60, [0.0], [0.0])
    assert rows.short_of_pages() is None
    first.extend("model", [1] * 200, [0.0], [0.0])
    assert rows.short_of_pages() is first and rows.last_comer(first) is third
    rows.set_aside(third)
    assert rows.short_of_pages() is None and third.slot is None
    rows.admit(6.0)  # no room yet
    assert third.slot is None and rows.under_way()[-1] is third
    rows.leave(first)
    rows.admit(7.0)
    before = stats["prefill_tokens"]
    rows.write()
    # The two whole pages of the prompt are still held by the second row.
    assert third.slot is not None and third.since == 5.0
    assert stats["prefill_tokens"] - before == len(third.tokens) - 1 - 128
    assert device.pages.held(third.slot)[:2] == device.pages.held(second.slot)[:2]


def test_one_that_ends_while_aside_is_not_admitted_again():
    rows, _, _ = rows_of([(10, 1), (20, 1)], 2, 8192)
    rows.admit(0.0)
    rows.write()
    first, second = rows.live.values()
    rows.set_aside(second)
    rows.leave(second)
    rows.admit(1.0)
    assert list(rows.live.values()) == [first] and rows.under_way() == [first]


@pytest.mark.parametrize("flying, expected", [(0, True), (1, True), (2, False)])
def test_rows_that_must_have_ended_are_not_asked_again(flying, expected):
    budgets = live.Budgets(20, 5000, 4096, 4, 64, 1, 60.0, 60.0, 60.0)
    rows, _, _ = rows_of([(10, 1)], 1, 8192, budgets=budgets)
    rows.admit(0.0)
    assert rows.ready() == []  # nothing is written yet
    rows.write()
    rows.live[0].flying = flying  # of 16 steps each, 20 tokens allowed
    assert rows.ready() == ([0] if expected else [])


TIGHT = live.Budgets(5000, 5000, 512, 4, 64, 1, 60.0, 60.0, 60.0)


def tight(rows=6):
    """Rows of 100 tokens and 16 steps, two of 64 each; eight when full; a pool of 12 pages."""
    return rows_of([(100, 1)] * rows, rows, 12 * 64, capacity=512, budgets=TIGHT)


def test_after_a_row_made_room_newcomers_leave_more_pages_free():
    rows, device, _ = tight()
    rows.admit(0.0)
    # Two pages each and one free per row that was there: 2, 2 + 1, 2 + 2, 2 + 3 of 12, 10, 8, 6.
    first, second, third, last = rows.live.values()
    rows.make_room(first)
    assert last.slot is None and device.pages.used == 6
    rows.admit(1.0)  # 2 + 3 would do; 2 + 3 + 4 is more than the 6 there are
    assert last.slot is None
    rows.leave(second)  # lost: it says nothing about the room there is
    rows.admit(2.0)  # 2 + 2 + 3 of 8; then 2 + 3 + 4 of 6
    assert last.slot is not None and len(rows.live) == 3
    rows.end(third)  # half of the row set aside is put up with, and no half pages are asked for
    rows.admit(3.0)  # 2 + 2 of 8, 2 + 3 of 6; then 2 + 4 of 4
    assert len(rows.live) == 4


def test_no_more_pages_stay_free_than_rows_can_need():
    """However often rows made room: one that is alone fits, and all do where none can lack."""
    rows, device, _ = tight(2)
    rows._pressed = 1e6
    rows.admit(0.0)
    first, *others = rows.live.values()
    assert not others and device.pages.used == 2  # 2 + 1 + (8 - 2) + (8 - 2) of 10 for the next
    rows.end(first)
    rows.admit(1.0)
    assert len(rows.live) == 1
    roomy, device, _ = rows_of([(100, 1)] * 2, 2, 17 * 64, capacity=512, budgets=TIGHT)
    roomy._pressed = 1e6
    roomy.admit(0.0)  # of 15 after the first
    assert len(roomy.live) == 2


def chunked(groups, slots):
    """As `rows_of`, written a chunk at a time."""
    rows, device, stats = rows_of(groups, slots, slots * 4096)
    rows._at_once = False
    return rows, device, stats


def test_chunk_by_chunk_a_row_is_ready_when_all_of_it_is_written():
    rows, _, stats = chunked([(40, 1), (200, 3), (65, 1)], 5)
    rows.admit(0.0)
    ready, calls = [], []
    for _ in range(5):
        rows.write()
        ready.append(rows.ready())
        calls.append(stats["prefill_calls"])
    # 39, 199 and 64 tokens in chunks of 64; two more hold the prompt of the second.
    assert ready == [[0, 4], [0, 4], [0, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert calls == [1, 2, 3, 4, 4] and not rows.is_writing
    assert stats["prefill_tokens"] == 39 + 199 + 64 and stats["shared_tokens"] == 2 * 199


def test_whoever_waits_for_a_prompt_that_is_given_up_comes_in_anew():
    rows, device, stats = chunked([(200, 3)], 3)
    rows.admit(5.0)
    rows.write()
    first, second, third = rows.live.values()
    rows.end(first)
    assert [x.slot for x in (second, third)] == [None, None] and device.pages.used == 0
    rows.admit(6.0)
    while rows.is_writing:
        rows.write()
    assert sorted(rows.ready()) == sorted(x.slot for x in (second, third))
    assert stats["prefill_tokens"] == 64 + 199 and second.since == third.since == 5.0
    rows.end(third)  # and one that waits may go
    rows.end(second)
    assert device.pages.used == 0 and not rows.requests
