"""Rules over the curves by hand: each rule where it holds, and nowhere else."""

import pytest

from aster_jax.report import rules


def lines(key, values, stage="rl1"):
    return [{"stage": stage, "step": i, "time_s": 1.0, key: v} for i, v in enumerate(values, 1)]


def raised(key, values):
    return [(a["alarm"], a["steps"], a["worst_step"]) for a in rules.of_run(lines(key, values))]


@pytest.mark.parametrize(
    "key, values, expected",
    [
        ("rollout/at_most_one_call_frac", [0.1, 0.5, 0.6, 0.9], ("interaction collapse", [3, 4], 4)),
        ("rollout/calls_mean", [4.0, 2.0, 1.9, 3.0], ("calls fall", [3], 3)),
        ("rollout/calls_mean", [2.0, 4.0, 4.1, 2.0], ("calls rise", [3], 3)),
        ("tool/only_verifies_frac", [0.5, 0.6], ("only verifies", [2], 2)),
        ("tool/void_turn_frac", [0.1, 0.3], ("void turns", [2], 2)),
        ("tool/turn_collapsed_frac", [0.1, 0.3], ("format breaks", [2], 2)),
        ("tool/repeated_call_frac", [0.6, 0.8, 0.95], ("repeats itself", [3], 3)),
        ("tool/opening_logprob", [-0.1, -4.0], ("calls are unlikely", [2], 2)),
        ("rollout/entropy_mean", [1.0, 0.5, 0.05], ("entropy collapse", [3], 3)),
        ("rollout/end_turn_budget_frac", [0.1, 0.3], ("truncation", [2], 2)),
        ("rl/informative_frac", [0.5, 0.05], ("little to learn from", [2], 2)),
        ("rl/grad_norm", [1.0, 1.0, 1.0, 11.0], ("gradient spike", [4], 4)),
        ("rl/skipped_nonfinite", [0, 1], ("not finite", [2], 2)),
        ("rollout/call_error_frac", [1.0], ("calls fail", [1], 1)),
    ],
)
def test_each_rule(key, values, expected):
    assert raised(key, values) == [expected]


def test_calls_are_of_the_first_step_of_rl_in_both_stages():
    both = [*lines("rollout/calls_mean", [4.0, 3.0]), *lines("rollout/calls_mean", [1.9], "rl2")]
    assert [(a["alarm"], a["stage"]) for a in rules.of_run(both)] == [("calls fall", "rl2")]


def test_missing_numbers_and_other_stages_raise_nothing():
    assert raised("rollout/entropy_mean", [None, None]) == []
    assert rules.of_run(lines("rollout/masked_frac", [1.0], stage="sft")) == []


def test_the_table_says_where_there_is_none():
    calm = lines("rollout/masked_frac", [0.0])
    assert rules.table([], calm).rows[0][0] == "none"
    assert rules.table([], []).rows == ()
    found = rules.of_run(lines("rollout/masked_frac", [0.2, 0.3, 0.0, 0.1]))
    assert rules.table(found, calm).rows[0][:4] == ("episodes lost", "rl1", "1-2, 4", "0.3 at step 2")


def test_many_spans_are_cut():
    assert rules.spans(range(1, 20, 2)) == "1, 3, 5, 7, 9, 11 and 4 more"
