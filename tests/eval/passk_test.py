"""Accuracies and intervals against numbers worked out by hand."""

import itertools

import hypothesis
import hypothesis.strategies as st
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
        (["0.5", r"\frac12", "1/2", "3", "3"], [1, 1, 1, 0, 0], 1.0),  # spellings of the gold
        (["0.5", "1/2", "3", "3"], [1, 1, 0, 0], 0.5),
        (["3", "3", "4", "4", "7"], [0, 0, 0, 0, 1], 0.0),
        (["", "", "", "7", "8"], [0, 0, 0, 1, 0], 0.5),  # an empty box is no vote
        (["a", "b", "c", "7"], [0, 0, 0, 1], 0.25),
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
        "opener": "",
        "spans": [
            {"kind": "prompt", "text": "user\nq"},
            {"kind": "model", "text": f"The answer is \\boxed{{{said}}}.<|im_end|>"},
        ],
        **changes,
    }


CUT = {"end": "deadline", "verdict": "no_answer"}
LOST = {"end": "infrastructure", "verdict": "no_answer"}


def test_summary_by_hand():
    records = [
        record("a", 0, 1.0, calls=3), record("a", 1, 0.0, calls=1, said="9"),
        record("b", 0, 0.0, calls=0, family="mod", end="token_budget"),
        record("b", 1, 0.0, calls=2, family="mod"),
    ]  # fmt: skip
    r = passk.summarise(records, 0)
    assert (r["n_problems"], r["k"], r["masked"], r["cut"]) == (2, 2, 0, 0)
    assert r["avg_at_k"] == r["avg_upper"] == 0.25 and r["pass_at_k"] == 0.5
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
    assert r["pass_curve"] == [[1, 0.8, *passk.wilson(8, 10)]]


def test_the_pass_curve_is_avg_first_and_pass_at_k_last():
    # 4 samples each; 0, 1 and 2 right. pass@2 = 0, 1/2, 1 - 1/6; pass@3 = 0, 3/4, 1.
    right = {"a": 0, "b": 1, "c": 2}
    r = passk.summarise([record(p, s, float(s < n)) for p, n in right.items() for s in range(4)], 0)
    values = [[k, pytest.approx(v)] for k, v in ((1, 0.25), (2, 4 / 9), (3, 7 / 12), (4, 2 / 3))]
    assert [point[:2] for point in r["pass_curve"]] == values
    assert r["pass_curve"][0][1:] == [r["avg_at_k"], r["avg_low"], r["avg_high"]]
    assert r["pass_curve"][3][1:] == [r["pass_at_k"], *passk.wilson(2, 3)]
    assert all(low <= value <= high for _, value, low, high in r["pass_curve"])


def test_what_our_clock_cut_counts_as_wrong_and_beside_it_as_right():
    # One problem, 16 samples: 4 right, 12 cut.
    records = [record("a", s, 1.0) for s in range(4)]
    records += [record("a", s, 0.0, **CUT) for s in range(4, 16)]
    r = passk.summarise(records, 0)
    assert (r["k"], r["masked"], r["cut"]) == (16, 0, 12)
    assert (r["avg_at_k"], r["avg_upper"]) == (0.25, 1.0)
    assert r["pass_curve"][0][1] == 0.25 and r["pass_at_k"] == 1.0
    assert r["maj_at_k"] == 1.0  # nobody else voted
    assert r["end"] == {"answered": 0.25, "deadline": 0.75}
    assert r["by_family"] == {"prod": {"avg_at_k": 0.25, "n": 1}}


def test_what_was_lost_stays_in_the_denominator():
    records = [
        record("a", 0, 1.0), record("a", 1, 0.0, calls=50, **LOST),
        record("b", 0, 0.0, verdict="verifier_timeout"), record("b", 1, 0.0, calls=1),
    ]  # fmt: skip
    r = passk.summarise(records, 0)
    assert (r["n_problems"], r["k"], r["masked"], r["cut"]) == (2, 2, 2, 0)
    assert (r["avg_at_k"], r["avg_upper"], r["pass_at_k"]) == (0.25, 0.75, 0.5)
    assert r["calls_mean"] == 1.5  # of the two that are known
    # A sample that is not there at all is like a lost one.
    r = passk.summarise([r for r in records if r["end"] == "answered"], 0)
    assert (r["k"], r["masked"], r["avg_at_k"], r["avg_upper"]) == (2, 2, 0.25, 0.75)


def test_when_all_are_lost_the_bounds_say_all_that_is_known():
    r = passk.summarise([record(p, 0, 0.0, **LOST) for p in "ab"], 0)
    assert (r["avg_at_k"], r["avg_upper"], r["masked"]) == (0.0, 1.0, 2)
    assert r["calls_mean"] is r["calls_low"] is r["tokens_mean"] is None


def test_a_cut_trajectory_is_no_fault_of_the_verifier():
    assert not passk.is_lost(record("a", 0, 0.0, end="deadline", verdict="verifier_error"))


def test_a_malformed_attempt_is_no_call():
    attempts = [{"status": "malformed"}, {"status": "ok"}, {"status": "malformed"}]
    r = passk.summarise([record("a", 0, 1.0, calls=3) | {"calls": attempts}], 0)
    assert r["calls_mean"] == 1.0
    assert r["call_status"] == {"malformed": pytest.approx(2 / 3), "ok": pytest.approx(1 / 3)}


ASKS_FOR_A_BOX = {"kind": "prompt", "text": "user\nq Put the answer within \\boxed{}.\nassistant\n"}


def test_the_prompts_own_box_is_no_vote():
    silent = {"spans": [ASKS_FOR_A_BOX, {"kind": "model", "text": "I do not know.<|im_end|>"}]}
    empty = {"spans": [ASKS_FOR_A_BOX, {"kind": "model", "text": "\\boxed{}<|im_end|>"}]}
    records = [record("a", s, 1.0) for s in range(2)]
    records += [record("a", s, 0.0, verdict="no_answer", **silent) for s in range(2, 5)]
    records += [record("a", s, 0.0, **empty) for s in range(5, 8)]
    assert passk.summarise(records, 0)["maj_at_k"] == 1.0


def test_a_forced_opener_belongs_to_the_first_turn_only():
    opened = {"opener": "The answer is \\boxed{"}
    first = [ASKS_FOR_A_BOX, {"kind": "model", "text": "5}.<|im_end|>"}]
    wrong = [
        record("a", 0, 0.0, spans=first, **opened),
        record("a", 1, 0.0, said="5"),
        record("a", 2, 1.0, said="7"),
    ]
    assert passk.summarise(wrong, 0)["maj_at_k"] == 0.0  # "5" twice
    # A turn after a call that was refused is the model's own.
    later = [*first, {"kind": "tool", "text": "none left"}, {"kind": "model", "text": "6}"}]
    wrong[0] = record("a", 0, 0.0, spans=later, **opened)
    assert passk.summarise(wrong, 0)["maj_at_k"] == 0.5


def test_spellings_of_the_gold_are_one_vote():
    said = ["0.5", "\\frac{1}{2}", "1/2", "3", "3"]
    records = [record("a", s, float(s < 3), said=text) for s, text in enumerate(said)]
    assert passk.summarise(records, 0)["maj_at_k"] == 1.0


def test_equal_values_are_not_certain():
    # Each of 20 problems is solved in 1 of 2 samples; by Wilson at most w = 16.1 % of all are not.
    w = passk.wilson(0, 20)[1]
    assert passk.interval([0.5] * 20, 0) == (
        pytest.approx(0.5 - w / 2), pytest.approx(0.5 + w / 2),
    )  # fmt: skip
    # For 0 and 1 this is Wilson's interval itself.
    for value in (0.0, 1.0):
        assert passk.bounded([value] * 20, 0, 0.0, 1.0) == pytest.approx(
            passk.wilson(20 * value, 20)
        )


def test_a_difference_is_paired():
    # 40 problems: 10 always solved, 10 never, 16 gained, 4 lost: +30 points.
    before = [record(str(i), 0, float(i < 10 or i >= 36)) for i in range(40)]
    after = [record(str(i), 0, float(i < 26)) for i in range(40)]
    found = passk.difference(before, after, 0)
    assert (found["delta"], found["n"]) == (pytest.approx(0.3), 40)
    # Per problem -1, 0 or 1: variance 20/40 - 0.09, so half an interval is 1.96 * 0.1012.
    half = 1.96 * (0.41 / 40) ** 0.5
    assert found["low"] == pytest.approx(0.3 - half, abs=0.03)
    assert found["high"] == pytest.approx(0.3 + half, abs=0.03)
    back = passk.difference(after, before, 0)
    assert back["delta"] == -found["delta"]
    # Unpaired, the same shares would be far less certain.
    unpaired = 1.96 * (0.35 * 0.65 / 40 + 0.65 * 0.35 / 40) ** 0.5
    assert found["high"] - found["low"] < 2 * unpaired


def test_a_difference_counts_common_problems_and_lower_bounds():
    before = [record("a", 0, 0.0), record("a", 1, 1.0), record("b", 0, 1.0)]
    after = [record("a", 0, 1.0), record("a", 1, 0.0, **CUT), record("c", 0, 1.0)]
    found = passk.difference(before, after, 0)
    assert (found["delta"], found["n"]) == (0.0, 1)
    w = passk.wilson(0, 1)[1]
    assert (found["low"], found["high"]) == (-w, w)
    with pytest.raises(ValueError, match="no problem is in both"):
        passk.difference(before[2:], after, 0)


SAID = st.one_of(
    st.sampled_from(["\\boxed{5}", "\\boxed{05}", "\\boxed{}", "\\boxed{7", "5", "<think>"]),
    st.text(max_size=20),
)


@hypothesis.given(
    st.lists(st.tuples(SAID, SAID, st.booleans(), st.sampled_from(["", "\\boxed{"])), min_size=1),
    st.randoms(use_true_random=False),
)
@hypothesis.settings(deadline=None, max_examples=100)
def test_any_text_is_a_vote_or_none_in_any_order_and_whatever_was_asked(samples, random):
    records = [
        record("a", i, float(is_right), opener=opener, spans=[
            {"kind": "prompt", "text": given}, {"kind": "model", "text": written},
        ])
        for i, (given, written, is_right, opener) in enumerate(samples)
    ]  # fmt: skip
    first = passk.summarise(records, 0)
    assert 0 <= first["maj_at_k"] <= 1
    assert first["avg_at_k"] <= first["avg_upper"] and first["maj_at_k"] <= first["pass_at_k"]
    asked_otherwise = [{**r, "spans": [ASKS_FOR_A_BOX, r["spans"][1]]} for r in records]
    random.shuffle(asked_otherwise)
    assert passk.summarise(asked_otherwise, 0)["maj_at_k"] == first["maj_at_k"]
