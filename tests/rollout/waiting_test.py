"""Who waits for whom, and how long: time passes only when the host waits.

A device that works through what it was given while the host goes on, as a real one does,
and a tool with a fixed pace: 1 s a dispatch, 0.1 s a prefill call, 0.3 s a result.
"""

import concurrent.futures
import math
import types as python_types

import numpy as np
import pytest

from aster_jax import tools, types
from aster_jax.rollout import engine, episode, live, results
from tests.rollout import fakes

RESULT_S = 0.3


class Marker(np.ndarray):
    """An array that is there at a time; whoever waits for it waits until then."""

    def block_until_ready(self):
        self.wait()
        return self


class Device(fakes.FakeDevice):
    """Calls return at once and run one after the other; `log` has (time called, what)."""

    def __init__(self, cfg, time, log):
        super().__init__(cfg, 1, python_types.SimpleNamespace(time_s=0.0, advance=lambda s: None))
        self._real, self._log, self._free_at = time, log, 0.0

    def _called(self, value, seconds, *what):
        self._log.append((round(self._real.time_s, 3), *what))
        self._free_at = at = max(self._free_at, self._real.time_s) + seconds
        marker = np.asarray(value).view(Marker)
        marker.wait = lambda: self._real.advance(at)
        return marker

    def prefill(self, plan, starts):
        what = {c.slot: len(c.tokens) for c in plan.chunks}
        return self._called(super().prefill(plan, starts), 0.1, "prefill", what)

    def decode(self, slots):
        drained, rows = super().decode(slots)
        drained = engine.Drained(
            drained.tokens_AK, drained.logprobs_AK, drained.entropies_AK, drained.count_A,
            drained.stopped_A, self._called(drained.steps, 1.0, "decode", tuple(slots)),
        )  # fmt: skip
        return drained, rows


class Tool:
    """Answers every call after RESULT_S, or as `answers` says: each its result, or None."""

    def __init__(self, time, answers=()):
        self._time, self._answers, self._count = time, list(answers), 0

    def open(self, seed):
        return seed

    def close(self, session):
        pass

    def submit(self, session, code):
        future, self._count = concurrent.futures.Future(), self._count + 1
        result = self._answers.pop(0) if self._answers else tools.ToolResult("ok", "r\n", "kept")
        if result is not None:
            due = self._time.time_s + RESULT_S
            self._time.due.append((due, self._count, lambda: future.set_result(result)))
        return future


@pytest.fixture(autouse=True)
def talk(monkeypatch):
    """Sample 0 calls the tool with its first three tokens, and goes on; others only talk."""
    ends = (7,)  # positions of stop tokens
    monkeypatch.setattr(
        fakes, "next_token",
        lambda keys, uid, sample: fakes.STOP if sample == 0 and len(keys) in ends else 5,
    )  # fmt: skip
    markup = python_types.SimpleNamespace(
        parse_turn=lambda ids, *a: python_types.SimpleNamespace(kind="call", code="c"),
        tool_ids=lambda text, *a: [1, 2, 3], cut=fakes.cut,
    )  # fmt: skip
    monkeypatch.setattr(episode, "chat", markup)
    monkeypatch.setattr(results, "chat", markup)


def play(prompts, lockstep=False, ahead=0, answers=(), slots=2, most=40, retries=3, **times):
    """(trajectories, log, clock) of one request per prompt; sample i is request i.

    A prompt is its length, or (problem, sample, length).
    """
    time, log = fakes.FakeClock(), []
    cfg = engine.EngineConfig(slots, 512, 4, 4096, 4, 2, (8,), "float32", "auto")
    limits = {"call_s": math.inf, "trajectory_s": math.inf, "deadline_s": math.inf} | times
    budgets = live.Budgets(most, most, 512, 5, 99, 1, **limits)
    loop = episode.Rollout(
        Device(cfg, time, log), Tool(time, answers), None, "", budgets, lockstep, ahead, 0,
        clock=time.clock(), retries=retries,
    )  # fmt: skip
    asked = [p if isinstance(p, tuple) else (i, i, p) for i, p in enumerate(prompts)]
    made = loop.run([
        live.Request(types.Problem(f"p{name}", "q", "1", "f"), sample, (3,) * length)
        for name, sample, length in asked
    ])  # fmt: skip
    return made, log, time


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_result_that_came_while_the_device_was_waited_for_joins_the_next_dispatch(ahead):
    _, log, _ = play([4, 4], ahead=ahead)
    at = log.index((2.1, "prefill", {0: 3}))
    assert log[at + 1] == (2.1, "decode", (0, 1))
    # Called at 1.1, answered at 1.4: one dispatch went without it, and with one ahead two.
    assert sum(what[1:] == ("decode", (1,)) for what in log[:at]) == 1
    assert not any(what[1:] == ("decode", (1,)) for what in log[at : at + 6])


def lost(times):
    return [tools.ToolResult("infra_lost", "", "lost")] * times


def test_a_trajectory_has_its_time_once_however_often_the_tool_loses_it():
    """Calls that are never answered, given up after 50 s, of a trajectory that has 60 s."""
    made, log, time = play([4], answers=[None] * 9, call_s=50.0, trajectory_s=60.0)
    assert made[0].end == "deadline" and 60.0 <= time.time_s < 62.0
    assert sum(what[1] == "prefill" for what in log) == 2  # begun anew, once
    # Lost by both limits at once: it is out of time.
    for call_s in (58.9, 70.0):
        made, _, time = play([4], answers=[None] * 9, call_s=call_s, trajectory_s=60.0)
        assert made[0].end == "deadline" and time.time_s < 62.0
    made, _, _ = play([4], answers=lost(9), retries=3)
    assert made[0].end == "infrastructure"


def test_time_goes_on_from_the_first_slot_where_a_trajectory_begins_anew():
    (whole,), _, _ = play([4])
    (again,), _, _ = play([4], answers=lost(1))
    assert again.tokens == whole.tokens and again.end == whole.end
    ends_s = [[s.end_s for s in t.spans[1:]] for t in (whole, again)]
    # Its prompt, its first dispatch and the result that was no result.
    assert np.allclose(np.subtract(*ends_s[::-1]), 0.1 + 1.0 + RESULT_S)


def between_decodes(log):
    """How many prefill calls stand between one dispatch and the next."""
    counts = [0]
    for _, what, _ in log:
        counts[-1:] = [counts[-1], 0] if what == "decode" else [counts[-1] + 1]
    return counts[:-1]


LONG = (1, 1, 200)  # in chunks of 8: 25 calls


def test_a_row_that_can_decode_does_not_wait_for_a_long_prompt_beside_it():
    _, log, _ = play([(0, 1, 4), LONG], most=70)
    assert between_decodes(log)[:19] == [1] * 18 + [7]
    # 70 tokens, four in a second and a tenth for the chunk.
    beside = [at for at, what, which in log if what == "decode" and which == (0,)]
    assert len(beside) == 18 and np.allclose(np.diff(beside), 1.1)


def test_in_lockstep_all_is_written_before_the_next_dispatch():
    _, log, _ = play([(0, 1, 4), LONG], lockstep=True)
    assert between_decodes(log)[0] == 25 and log[25][1:] == ("decode", (0, 1))


def test_a_result_that_comes_while_only_prompts_are_written_goes_in_between():
    """The call of the first row is answered after three of the chunks that follow it."""
    _, log, _ = play([4, LONG])
    called = next(i for i, (_, what, which) in enumerate(log) if what == "decode") + 1
    result = next(i for i, (_, _, which) in enumerate(log) if i > called and 0 in which)
    assert log[result] == (1.4, "prefill", {0: 3, 1: 8})
    assert log[result + 1][1:] == ("decode", (0,))


def test_a_group_gets_its_long_prompt_once_when_all_of_it_is_there():
    group = [(1, sample, 200) for sample in (1, 2, 3)]
    made, log, _ = play([(0, 1, 4), *group], slots=4, most=120)
    written = sum(sum(which.values()) for _, what, which in log if what == "prefill")
    assert written == 3 + 199
    first = next(which for _, what, which in log if what == "decode" and len(which) > 1)
    assert first == (0, 1, 2, 3) and {t.end for t in made} == {"token_budget"}
