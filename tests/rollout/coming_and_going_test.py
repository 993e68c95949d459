"""Requests that come while others are under way, leave early, and have budgets of their own.

As in `interleaving_test`: a fake device and fake tools under random conditions, and what each
trajectory must be by the rules alone.
"""

import collections
import dataclasses
import math
import random

import pytest

from aster_jax.rollout import episode, live, results
from tests.rollout import fakes
from tests.rollout.interleaving_test import make_case, make_requests

RUNS = 600


@pytest.fixture(autouse=True)
def markup(monkeypatch):
    monkeypatch.setattr(episode, "chat", fakes.MARKUP)
    monkeypatch.setattr(results, "chat", fakes.MARKUP)


def budgets_of(rng, context):
    return live.Budgets(
        turn_tokens=rng.choice((3, 9, 30)), response_tokens=rng.choice((8, 25)),
        context_tokens=context, max_calls=rng.choice((0, 2, 5)), tool_result_tokens=99,
        max_malformed=1, call_s=50.0, trajectory_s=math.inf, deadline_s=math.inf,
    )  # fmt: skip


def play(seed):
    """(request, budgets, what it became, whether it was dropped) of each, and the counters."""
    rng, time = random.Random(seed), fakes.FakeClock()
    case = make_case(rng)
    shared = budgets_of(rng, case.cfg.capacity)
    device, executor = fakes.FakeDevice(case.cfg, case.shards, time), fakes.FakeTools(time, rng)
    seen, ended = collections.defaultdict(list), []

    def came(row):
        seen[row.index] = list(row.tokens)

    loop = episode.Rollout(
        device, executor, None, "", shared, case.lockstep, case.ahead, 0, clock=time.clock(),
        retries=3, on_tokens=came, on_end=lambda i, t: ended.append(i),
    )  # fmt: skip
    loop.begin()
    waiting = make_requests(rng, case.cfg.capacity // 2)
    asked, dropped = {}, set()
    while waiting or loop.is_under_way:
        while waiting and rng.random() < 0.6:
            request = waiting.pop(0)
            own = None
            if rng.random() < 0.5:
                own = budgets_of(rng, rng.randint(len(request.given) + 1, case.cfg.capacity))
                request = dataclasses.replace(request, budgets=own)
            asked[loop.add(request)] = (request, own or shared)
        if asked and rng.random() < 0.15:
            gone = rng.choice(list(asked))
            if gone not in loop.ended:
                dropped.add(gone)
            loop.drop(gone)
        if loop.is_under_way:
            loop.round()
    loop.close()
    assert executor.all_closed and device.pages.used == 0
    assert sorted(ended) == sorted(asked) == sorted(loop.ended)
    for i, tokens in seen.items():  # whoever watches has seen all there is
        made, n = loop.ended[i], min(len(tokens), len(loop.ended[i].tokens))
        assert list(made.tokens[:n]) == tokens[:n], seed
        # But for one that has begun anew and not come as far again.
        assert made.end in ("infrastructure", "dropped") or len(made.tokens) == len(tokens), seed
    return [(*asked[i], loop.ended[i], i in dropped) for i in asked], loop.stats


def test_what_stays_is_as_if_nobody_had_come_or_gone():
    counts = collections.Counter()
    for seed in range(RUNS):
        made, stats = play(seed)
        counts["set aside"] += stats["rows_set_aside"] > 0
        for request, budgets, t, was_dropped in made:
            tokens, mask, end = fakes.expected(request, budgets, episode.NO_CALLS_LEFT, 3)
            if was_dropped:
                assert t.end == "dropped" and list(t.tokens) == tokens[: len(t.tokens)], seed
                counts["dropped late"] += sum(t.loss_mask) > 0
                counts["dropped at once"] += sum(t.loss_mask) == 0
            else:
                assert (list(t.tokens), list(t.loss_mask), t.end) == (tokens, mask, end), seed
                counts["whole"] += 1
    assert min(counts.values()) > RUNS / 20 and len(counts) == 4, counts


def test_a_request_of_one_turn_ends_with_it():
    rng, time = random.Random(1), fakes.FakeClock()
    case = make_case(rng)
    device = fakes.FakeDevice(case.cfg, case.shards, time)
    shared = budgets_of(rng, case.cfg.capacity)
    shared = dataclasses.replace(shared, max_calls=0, turn_tokens=30, response_tokens=25)
    loop = episode.Rollout(device, None, None, "", shared, False, 0, 0, clock=time.clock())
    made = loop.run([dataclasses.replace(r, one_turn=True) for r in make_requests(rng, 9) * 4])
    for t in made:
        assert not t.calls and (t.tokens[-1] == fakes.STOP) == (t.end == "answered")
    assert {t.end for t in made} >= {"answered"}


def test_what_cannot_be_is_refused_and_changes_nothing():
    rng, time = random.Random(2), fakes.FakeClock()
    case = make_case(rng)
    device = fakes.FakeDevice(case.cfg, case.shards, time)
    shared = dataclasses.replace(budgets_of(rng, case.cfg.capacity), max_calls=0)
    loop = episode.Rollout(device, None, None, "", shared, False, 0, 0, clock=time.clock())
    loop.begin()
    request = make_requests(rng, 5)[0]
    wide = dataclasses.replace(shared, context_tokens=case.cfg.capacity + 1)
    calls = dataclasses.replace(shared, max_calls=1)
    long = dataclasses.replace(request, prompt=(1,) * case.cfg.capacity)
    for wrong, text in (
        (dataclasses.replace(request, budgets=wide), "more than the engine's capacity"),
        (dataclasses.replace(request, budgets=calls), "needs a tool executor"),
        (long, "the context is"),
    ):
        with pytest.raises(ValueError, match=text):
            loop.add(wrong)
    loop.drop(17)
    assert not loop.is_under_way and not loop.ended
