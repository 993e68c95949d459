"""Accuracies and intervals against numbers worked out by hand."""

import itertools

import numpy as np
import pytest

from aster_jax.eval import passk


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n, correct in ((5, 0), (5, 2), (6, 6), (4, 1)):
        right = [1] * correct + [0] * (n - correct)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(right, k))
            expected = sum(any(s) for s in subsets) / len(subsets)
            assert passk.pass_at(k, n, correct) == pytest.approx(expected)
    assert passk.pass_at(2, 4, 1) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="pass@5 from 1 of 4"):
        passk.pass_at(5, 4, 1)


def test_wilson_by_hand():
    # 8 of 10: centre (0.8 + 3.8415/20) / 1.38415, half width 1.96 * sqrt(...) / 1.38415.
    low, high = passk.wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    low, high = passk.wilson(0, 20)
    assert low == 0.0 and high == pytest.approx(3.8415 / (20 + 3.8415), abs=1e-4)


def test_bootstrap_is_near_the_normal_interval_and_repeats():
    values = np.random.Generator(np.random.Philox(5)).normal(3.0, 1.0, 400)
    low, high = passk.bootstrap(values, 0)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert passk.bootstrap(values, 0) == (low, high) != passk.bootstrap(values, 1)


def test_samples_of_one_problem_are_not_independent():
    # 20 problems, 8 equal samples each: as uncertain as 20 samples, not as 160.
    records = [
        record(f"p{i}", s, float(i < 10)) for i in range(20) for s in range(8)
    ]
    result = passk.summarise(records, 0)
    assert (result["avg_low"], result["avg_high"]) == passk.wilson(10, 20)
    low, high = passk.wilson(80, 160)
    assert result["avg_high"] - result["avg_low"] > 2 * (high - low)


@pytest.mark.parametrize(
    "answers, rewards, expected",
    [
        (["7", "7", "8"], [1, 1, 0], 1.0),
        (["8", "8", "7"], [0, 0, 1], 0.0),
        (["7", "8"], [1, 0], 0.5),
        ([None, None, "7"], [0, 0, 1], 1.0),
        ([None, None], [0, 0], 0.0),
    ],
)
def test_majority(answers, rewards, expected):
    assert passk.majority(answers, rewards) == expected


def record(problem, sample, reward, calls=2, said="5", family="prod", **changes):
    return {
        "problem_id": problem,
        "family": family,
        "sample": sample,
        "reward": reward,
        "verdict": "exact" if reward else "wrong",
        "end": "answered",
        "num_calls": calls,
        "num_tokens": 100,
        "calls": [{"status": "ok"}] * calls,
        "spans": [
            {"kind": "prompt", "text": "user\nq"},
            {"kind": "model", "text": f"The answer is \\boxed{{{said}}}.<|im_end|>"},
        ],
        **changes,
    }


def test_summary_by_hand():
    records = [
        record("a", 0, 1.0, calls=3), record("a", 1, 0.0, calls=1, said="9"),
        record("b", 0, 0.0, calls=0, family="mod", end="token_budget"),
        record("b", 1, 0.0, calls=2, family="mod", calls_=None),
    ]  # fmt: skip
    r = passk.summarise(records, 0)
    assert (r["n_problems"], r["k"], r["masked"]) == (2, 2, 0)
    assert r["avg_at_k"] == 0.25 and r["pass_at_k"] == 0.5
    assert r["maj_at_k"] == 0.25  # a tie in "a", nobody right in "b"
    assert r["calls_mean"] == 1.5
    assert r["by_family"] == {
        "mod": {"avg_at_k": 0.0, "n": 1}, "prod": {"avg_at_k": 0.5, "n": 1},
    }  # fmt: skip
    assert r["end"] == {"answered": 0.75, "token_budget": 0.25}
    assert r["call_status"] == {"ok": 1.0} and r["tokens_mean"] == 100
    assert r["avg_low"] <= 0.25 <= r["avg_high"] and r["calls_low"] <= 1.5 <= r["calls_high"]


def test_one_sample_each_uses_wilson():
    records = [record(str(i), 0, float(i < 8)) for i in range(10)]
    r = passk.summarise(records, 0)
    assert (r["avg_low"], r["avg_high"]) == passk.wilson(8, 10)
    assert r["avg_at_k"] == r["pass_at_k"] == r["maj_at_k"] == 0.8


def test_our_own_failures_count_nowhere_but_in_masked():
    records = [
        record("a", 0, 1.0),
        record("a", 1, 0.0, end="infrastructure", calls=50),
        record("b", 0, 0.0, verdict="verifier_timeout"),
    ]
    r = passk.summarise(records, 0)
    assert (r["n_problems"], r["masked"], r["avg_at_k"], r["calls_mean"]) == (1, 2, 1.0, 2.0)
    with pytest.raises(ValueError, match="all 1 trajectories were lost"):
        passk.summarise(records[1:2], 0)


def test_a_malformed_attempt_is_no_call():
    attempts = [{"status": "malformed"}, {"status": "ok"}, {"status": "malformed"}]
    r = passk.summarise([record("a", 0, 1.0, calls=3) | {"calls": attempts}], 0)
    assert r["calls_mean"] == 1.0
    assert r["call_status"] == {"malformed": pytest.approx(2 / 3), "ok": pytest.approx(1 / 3)}


def test_a_forced_opener_belongs_to_the_answer():
    spans = [
        {"kind": "prompt", "text": "user\nq\nassistant\nThe answer is \\boxed{"},
        {"kind": "model", "text": "5}.<|im_end|>"},
    ]
    assert passk._answer_of(record("a", 0, 1.0, spans=spans)) == "5"
