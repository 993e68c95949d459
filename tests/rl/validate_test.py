"""Accuracy on the validation split: when it is due, and what counts."""

import dataclasses

import pytest

from aster_jax import config, types
from aster_jax.rl import validate


def scored(problem, sample, reward, end="answered", verdict="wrong"):
    made = types.Trajectory(problem, sample, (1,), (0,), (0.0,), (0.0,), (), (), end, "")
    return types.Scored(made, reward, verdict)


def test_numbers_by_hand():
    """Problem a: right once in two; b: cut by the clock, which counts as wrong, and right;
    c: lost by the tool and by the verifier, left out and told."""
    found = validate.numbers([
        scored("a", 0, 1.0), scored("a", 1, 0.0),
        scored("b", 0, 0.0, end="deadline"), scored("b", 1, 1.0),
        scored("c", 0, 0.0, end="infrastructure"), scored("c", 1, 0.0, verdict="verifier_error"),
    ])  # fmt: skip
    assert found["rl/eval_accuracy"] == 0.5 and found["rl/eval_pass"] == 1.0
    assert found["rl/eval_lost_frac"] == pytest.approx(1 / 3)


def test_calls_are_of_what_was_not_lost():
    call = types.CallRecord("1", "ok", "1", 0.0, 0.0)
    kept, lost = scored("a", 0, 1.0), scored("a", 1, 0.0, end="infrastructure")
    lost = dataclasses.replace(lost, trajectory=dataclasses.replace(lost.trajectory, calls=(call,) * 9))
    assert validate.numbers([kept, lost])["rl/eval_calls"] == 0.0


def test_a_measurement_that_was_lost_is_no_accuracy():
    assert validate.numbers([scored("a", 0, 0.0, end="infrastructure")]) == {
        "rl/eval_lost_frac": 1.0
    }


def test_when_it_is_due():
    c = config.default()
    c.rl.eval_every, c.rl1.steps = 4, 10
    stage = config.rl_stage(c, "rl1")
    assert [s for s in range(1, 11) if validate.is_due(stage, s)] == [4, 8, 10]
    c.rl.eval_every = 0
    assert not validate.is_due(config.rl_stage(c, "rl1"), 10)


def test_the_best_is_the_best_so_far_also_after_a_restart():
    c = config.default()
    stage = config.rl_stage(c, "rl1")
    measure = validate.Measure(None, None, None, "rl1", stage, [], 0.5)
    seen = [measure.is_best({"rl/eval_accuracy": x}) for x in (0.4, 0.6, 0.6, 0.7)]
    assert seen == [False, True, False, True]
    assert not measure.is_best({})
