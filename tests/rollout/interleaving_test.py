"""The host loop against a fake device and fake tools: 10,000 random interleavings.

No token is lost or doubled, no result reaches another owner, every trajectory ends with a
reason, whatever the slots, pages, shards, dispatches ahead and the tools' moods.
"""

import collections
import dataclasses
import math
import random
import zlib

import pytest

from aster_jax import errors, types
from aster_jax.rollout import engine, episode, live, placement, results
from tests.rollout import fakes

RUNS = 10_000
PARTS = 10


@dataclasses.dataclass(frozen=True)
class Case:
    """One random interleaving: sizes, schedule and requests."""

    cfg: engine.EngineConfig
    shards: int
    lockstep: bool
    ahead: int


def make_case(rng) -> Case:
    shards = rng.choice((1, 1, 2))
    size = rng.choice((1, 2, 4, 7))
    capacity = rng.choice((24, 40, 56))
    row_pages = -(-capacity // size)
    pool = shards * row_pages * rng.choice((1, 1, 1, 2, 4))
    cfg = engine.EngineConfig(
        slots=shards * rng.choice((1, 2, 3, 5)),
        capacity=capacity,
        page_tokens=size,
        pool_tokens=pool * size,
        steps_per_dispatch=rng.choice((1, 2, 3, 8)),
        prefill_rows=rng.choice((1, 2, 4)),
        prefill_buckets=rng.choice(((4,), (2, 8), (16,))),
        dtype="float32",
        attention="auto",
    )
    return Case(cfg, shards, rng.random() < 0.5, rng.choice((0, 1, 1, 2)))


def make_requests(rng, room) -> list[live.Request]:
    made = []
    for group in range(rng.randint(1, 5)):
        problem = types.Problem(f"p{rng.randint(0, 99)}-{group}", "q", "1", "f")
        prompt = tuple(rng.randint(1, 22) for _ in range(rng.randint(1, room)))
        opener = (5, 6) if rng.random() < 0.1 else ()
        made += [live.Request(problem, i, prompt, opener) for i in range(rng.randint(1, 4))]
    return made


def play(seed, trajectory_s=math.inf, deadline_s=math.inf, time=None, **more):
    """One phase under random conditions, and what must hold of any.

    `more` goes to the loop. Gives what was made, what should be, and the loop's counters.
    """
    rng = random.Random(seed)
    case, time = make_case(rng), time or fakes.FakeClock()
    context = case.cfg.capacity - rng.choice((0, 3))
    budgets = live.Budgets(
        turn_tokens=rng.choice((3, 9, 30)), response_tokens=rng.choice((8, 25)),
        context_tokens=context, max_calls=rng.choice((0, 1, 2, 5)), tool_result_tokens=99,
        max_malformed=rng.choice((0, 1)), call_s=50.0, trajectory_s=trajectory_s,
        deadline_s=deadline_s,
    )  # fmt: skip
    requests = make_requests(rng, context // 2)
    device = fakes.FakeDevice(case.cfg, case.shards, time)
    executor = fakes.FakeTools(time, rng)
    ended, retries = [], rng.choice((0, 0, 1, 3))
    loop = episode.Rollout(
        device, executor, None, "", budgets, case.lockstep, case.ahead, 0,
        on_end=lambda i, t: ended.append(i), clock=time.clock(), retries=retries, **more,
    )  # fmt: skip
    try:
        made = loop.run(requests)
    finally:
        assert executor.all_closed
    assert sorted(ended) == list(range(len(requests)))
    assert device.pages.used == 0
    expected = [fakes.expected(r, budgets, episode.NO_CALLS_LEFT, retries) for r in requests]
    return made, expected, loop.stats


@pytest.fixture(autouse=True)
def markup(monkeypatch):
    monkeypatch.setattr(episode, "chat", fakes.MARKUP)
    monkeypatch.setattr(results, "chat", fakes.MARKUP)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_interleaving_gives_the_same_trajectories(part):
    ends, seen = collections.Counter(), collections.Counter()
    for seed in range(part, RUNS, PARTS):
        made, expected, stats = play(seed)
        for t, (tokens, mask, end) in zip(made, expected, strict=True):
            assert (list(t.tokens), list(t.loss_mask), t.end) == (tokens, mask, end), seed
            for i, token in enumerate(t.tokens):
                said = fakes.logprob(token, i) if t.loss_mask[i] else 0.0
                assert t.logprobs[i] == said, seed
            ends[t.end] += 1
        kept = sum(sum(t.loss_mask) for t in made)
        assert stats["sampled_tokens"] >= kept
        assert stats["sampled_tokens"] == kept or stats["asked_again"], seed
        counters = ("rows_set_aside", "shared_tokens", "tool_calls", "asked_again")
        seen.update({k: stats[k] > 0 for k in counters})
    # The cases are worth something only if they meet what they are about.
    assert min(seen.values()) > RUNS / PARTS / 20, seen
    assert set(ends) == set(types.EndReason.__args__) - {"deadline", "dropped"}, ends
    assert min(ends.values()) >= 5, ends


@pytest.mark.parametrize("which", ["trajectory_s", "deadline_s"])
def test_past_a_deadline_rows_end_and_nothing_is_invented(which):
    """Rows end while the device still decodes them: what comes late reaches nobody."""
    late = 0
    for seed in range(1500):
        limit_s = random.Random(seed).choice((2.0, 9.0, 25.0))
        made, expected, stats = play(seed, **{which: limit_s})
        if which == "deadline_s":  # a round that began before takes a second and its writes
            assert stats["phase_s"] <= limit_s + 5.0, seed
        for t, (tokens, _, end) in zip(made, expected, strict=True):
            assert list(t.tokens) == tokens[: len(t.tokens)], seed
            # What the tool loses when time is up cannot be asked for again.
            lost = "infrastructure" if which == "deadline_s" else end
            assert t.end in (end, "deadline", lost), seed
            late += t.end != end
    assert late > 300


def without_times(stats):
    return {name: count for name, count in stats.items() if not name.endswith("_s")}


def test_looking_up_while_waiting_changes_no_schedule_in_lockstep(monkeypatch):
    """The same rounds with one long wait for tools as with many short ones."""
    compared = 0
    for seed in range(400):
        if not make_case(random.Random(seed)).lockstep:
            continue
        looks, orders, runs = [], [], []
        for look_s in (episode.LOOK_S, 1e9):
            monkeypatch.setattr(episode, "LOOK_S", look_s)
            order = []
            made, _, stats = play(
                seed, stopping=lambda: looks.append(1), on_progress=lambda *a: order.append(a[:2])
            )
            runs.append((made, without_times(stats)))
            orders.append(order)
        monkeypatch.undo()
        monkeypatch.setattr(episode, "chat", fakes.MARKUP)
        monkeypatch.setattr(results, "chat", fakes.MARKUP)
        plain, _, stats = play(seed)
        assert runs[0][1] == runs[1][1] == without_times(stats) and orders[0] == orders[1], seed
        for a, b, c in zip(*(run[0] for run in runs), plain, strict=True):
            assert a.tokens == b.tokens == c.tokens and a.logprobs == b.logprobs == c.logprobs
        compared += stats["tool_calls"] > 0
    assert compared > 100


def test_asked_to_stop_it_leaves_soon_and_closes_its_sessions():
    """In the middle of rounds and of waits for tools, some of which never answer."""
    left = 0
    for seed in range(1500):
        time, at_s = fakes.FakeClock(), random.Random(seed).choice((0.0, 4.0, 15.0, 40.0))
        try:
            play(seed, time=time, stopping=lambda: time.time_s >= at_s)
        except errors.Leaving:
            left += 1
            # A dispatch of the round takes a second, and every write a tenth.
            assert time.time_s <= at_s + episode.LOOK_S + 5.0, seed
        else:
            assert time.time_s < at_s + 5.0, seed
    assert left > 800


def test_admission_learns_to_hold_back_in_a_pool_that_is_too_small(monkeypatch):
    """64 rows that grow to 40 pages on average and 100 at most, and a pool of 320."""
    monkeypatch.setattr(fakes, "fate", lambda code: "answers")
    kinds = {True: "answer", False: "call"}
    monkeypatch.setattr(
        fakes, "turn_kind", lambda ids: kinds[zlib.crc32(str(ids).encode()) % 20 == 0]
    )
    budgets = live.Budgets(60, 400, 400, 99, 99, 1, math.inf, math.inf, math.inf)
    problems = [types.Problem(f"p{i}", "q", "1", "f") for i in range(16)]
    requests = [live.Request(p, i, tuple(range(1, 20))) for p in problems for i in range(4)]
    cfg = engine.EngineConfig(64, 400, 4, 320 * 4, 4, 8, (16,), "float32", "auto")

    def run(lockstep):
        time = fakes.FakeClock()
        device, tool = fakes.FakeDevice(cfg, 1, time), fakes.FakeTools(time, random.Random(0))
        loop = episode.Rollout(
            device, tool, None, "", budgets, lockstep, 1, 0, clock=time.clock(), retries=1
        )
        return [t.tokens for t in loop.run(requests)], loop.stats

    for lockstep in (True, False):
        made, stats = run(lockstep)
        with monkeypatch.context() as before:  # one page per row, whatever happens
            before.setattr(
                placement.Placement, "make_room",
                lambda self, short: self.set_aside(self.last_comer(short)),
            )  # fmt: skip
            again, heedless = run(lockstep)
        assert made == again and max(map(len, made)) > 390
        assert heedless["rows_set_aside"] > 90
        assert stats["rows_set_aside"] < 0.55 * heedless["rows_set_aside"]
        # Prompts and results, and the stop tokens before them, have to be written anyway.
        least = heedless["tool_calls"] + 16 * 18 + sum(map(len, made)) - 64 * 19
        least -= heedless["sampled_tokens"]
        wasted = [s["prefill_tokens"] - least for s in (stats, heedless)]
        assert 0 <= wasted[0] < 0.4 * wasted[1], wasted
