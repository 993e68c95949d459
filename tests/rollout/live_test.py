"""One trajectory's own bookkeeping: spans without gaps, and what its budgets leave."""

import dataclasses
import math

import pytest

from aster_jax import types
from aster_jax.rollout import live

BUDGETS = live.Budgets(4, 6, 12, 2, 8, 1, 60.0, 60.0, 60.0)
REQUEST = live.Request(types.Problem("p", "q", "1", "f"), 0, (1, 2, 3), (4,), "The answer is")


def test_spans_and_budgets():
    one = live.fresh(REQUEST, 5, BUDGETS)
    assert one.tokens == [1, 2, 3, 4] and one.left() == 4
    one.extend("model", [7, 8], [-1.0, -2.0], [0.5, 1.5])
    one.extend("model", [9], [-3.0], [2.5])
    assert (one.written, one.left(), one.exhausted()) == (3, 1, None)
    one.since = 10.0
    one.extend("tool", [5, 5], now=12.5)
    one.turn_start = len(one.tokens)
    assert one.left() == 3
    one.extend("model", [6, 6, 6], [0.0] * 3, [0.0] * 3)
    assert one.exhausted() == "token_budget"
    made = one.trajectory("token_budget", "")
    assert made.entropies == (0, 0, 0, 0, 0.5, 1.5, 2.5, 0, 0, 0, 0, 0)
    assert made.opener == "The answer is"
    assert made.loss_mask == (0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1)
    assert [(s.kind, s.start, s.stop) for s in made.spans] == [
        ("prompt", 0, 4), ("model", 4, 7), ("tool", 7, 9), ("model", 9, 12),
    ]  # fmt: skip
    assert [s.end_s for s in made.spans] == [0.0, 0.0, 2.5, 0.0]


def test_a_prompt_that_fills_the_context_is_refused():
    with pytest.raises(ValueError, match="has 13 tokens, the context is 12"):
        live.check([REQUEST, live.Request(REQUEST.problem, 0, (1,) * 13)], BUDGETS)
    with pytest.raises(ValueError, match="has 12 tokens"):
        live.check([live.Request(REQUEST.problem, 0, (1,) * 8, (1,) * 4)], BUDGETS)
    with pytest.raises(ValueError, match="has 0 tokens"):
        live.check([live.Request(REQUEST.problem, 0, ())], BUDGETS)


@pytest.mark.parametrize("name", ["turn_tokens", "response_tokens", "context_tokens"])
def test_a_row_that_may_write_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        dataclasses.replace(BUDGETS, **{name: 0})


@pytest.mark.parametrize("name", ["call_s", "trajectory_s", "deadline_s"])
def test_limits_of_time_may_be_infinite_but_must_be_times(name):
    assert getattr(dataclasses.replace(BUDGETS, **{name: math.inf}), name) == math.inf
    for value in (float("nan"), -1.0, -math.inf):
        with pytest.raises(ValueError, match=f"{name}=.* must be a time of at least 0 s"):
            dataclasses.replace(BUDGETS, **{name: value})


def test_only_the_same_ids_of_the_same_problem_are_shared():
    assert REQUEST.shares(live.Request(REQUEST.problem, 1, (1, 2), (3, 4)))
    assert not REQUEST.shares(live.Request(REQUEST.problem, 1, (1, 2, 3)))
    other = types.Problem("other", "q", "1", "f")
    assert not REQUEST.shares(dataclasses.replace(REQUEST, problem=other))
