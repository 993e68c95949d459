"""Verdicts: cheap ones without a process, symbolic ones in processes that can be killed."""

import collections
import json
import time

import pytest

from aster_jax.reward import verify
from tests import shared_data


@pytest.fixture(scope="module")
def verifier():
    with verify.Verifier() as made:
        yield made


def test_plain_answers_need_no_process():
    with verify.Verifier() as verifier:
        scored = verifier.score(
            [
                ("The answer is \\boxed{34}.", "34"),
                ("\\boxed{034}", "34"),
                ("\\boxed{35}", "34"),
                ("34", "34"),
                ("", "34"),
                ("\\boxed{}", "34"),
                ("\\boxed{1,234}", "1234"),
            ]
        )
        assert scored == [
            (1.0, "exact"), (1.0, "exact"), (0.0, "wrong"), (0.0, "no_answer"),
            (0.0, "no_answer"), (0.0, "no_answer"), (1.0, "exact"),
        ]  # fmt: skip
        assert verifier._executor is None


def test_symbolic_verdicts_keep_the_order_of_the_items(verifier):
    scored = verifier.score(
        [
            ("\\boxed{1/2}", "\\frac{1}{2}"),
            ("\\boxed{7}", "7"),
            ("\\boxed{\\frac{2}{3}}", "\\frac{1}{2}"),
            ("\\boxed{2\\sqrt{2}}", "\\sqrt{8}"),
            ("\\boxed{\\left(3, \\frac{2\\pi}{4}\\right)}", "\\left( 3, \\frac{\\pi}{2} \\right)"),
            ("\\boxed{is it 5?}", "\\frac{1}{2}"),
        ]
    )
    assert [verdict for _, verdict in scored] == [
        "equivalent", "exact", "wrong", "equivalent", "equivalent", "wrong",
    ]  # fmt: skip
    assert [reward for reward, _ in scored] == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]


def test_exact_mode_does_no_mathematics():
    with verify.Verifier(verify.VerifyConfig(symbolic=False)) as verifier:
        assert verifier.score([("\\boxed{1/2}", "\\frac{1}{2}")]) == [(0.0, "wrong")]
        assert verifier._executor is None


def test_an_endless_comparison_is_killed_and_is_nobodys_fault():
    with verify.Verifier(verify.VerifyConfig(timeout_s=1.0)) as verifier:
        verifier.compare([("\\boxed{1}", "\\boxed{1}")])
        began = time.monotonic()
        scored = verifier.score(
            [("\\boxed{9^{9^{9^{9}}}+x}", "\\frac{1}{3}"), ("\\boxed{0.5}", "\\frac{1}{2}")]
        )
        assert time.monotonic() - began < 20
    assert scored[0] == (0.0, "verifier_timeout")
    assert scored[1] == (1.0, "equivalent")


def test_a_lost_verifier_is_an_error_and_not_a_wrong_answer(verifier):
    lost = verify._read(verify.tools.ToolResult("infra_lost", ""))
    late = verify._read(verify.tools.ToolResult("timeout", "", stdout="equivalent\n"))
    unread = verify._read(verify.tools.ToolResult("ok", "", stdout="bad_gold\n"))
    assert (lost, late, unread) == ("verifier_error", "verifier_timeout", "verifier_error")
    assert set((lost, late)) == set(verify.INFRASTRUCTURE)


def test_a_missing_gold_answer_is_an_error_upstream(verifier):
    with pytest.raises(ValueError, match="gold answer is empty"):
        verifier.score([("\\boxed{1}", " ")])


def test_model_text_cannot_leave_its_string(verifier):
    hostile = '\\boxed{"); print("equivalent"); ("}'
    assert verifier.score([(hostile, "\\frac{1}{2}")]) == [(0.0, "wrong")]


def agreement(verifier, every: int) -> collections.Counter:
    path = shared_data.path("verify/math_verify_cases.jsonl")
    cases = [json.loads(line) for line in path.read_text().split("\n") if line][::every]
    groups = collections.defaultdict(list)
    for case in cases:
        targets = ["latex", "expr"] if case["targets"] == ["default"] else case["targets"]
        groups[tuple(targets)].append(case)
    seen = collections.Counter()
    for targets, members in groups.items():
        verdicts = verifier.compare([(c["gold"], c["pred"]) for c in members], targets)
        for case, verdict in zip(members, verdicts):
            seen[(case["expected"], verdict)] += 1
    return seen


def test_agrees_with_a_sample_of_math_verifys_own_cases(verifier):
    seen = agreement(verifier, every=8)
    assert set(seen) == {(True, "equivalent"), (False, "wrong")}
    assert seen[(True, "equivalent")] > 20 and seen[(False, "wrong")] > 1


@pytest.mark.slow
def test_agrees_with_all_of_math_verifys_own_cases(verifier):
    assert agreement(verifier, every=1) == {(True, "equivalent"): 217, (False, "wrong"): 36}
