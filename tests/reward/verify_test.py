"""Verdicts: cheap ones without a process, symbolic ones in processes that can be killed."""

import collections
import concurrent.futures
import json
import os
import signal
import time

import pytest

from aster_jax import tools, types
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
                ("\\boxed{1\\,234}", "1234"),
                ("\\boxed{3 4}", "34"),
                ("\\boxed{3 4}", "7"),  # math-verify would read the sum
                ("\\boxed{3 1/2}", "\\frac{31}{2}"),
                ("\\boxed{3 1/2}", "2"),
            ]
        )
        assert scored == [
            (1.0, "exact"), (1.0, "exact"), (0.0, "wrong"), (0.0, "no_answer"),
            (0.0, "no_answer"), (0.0, "no_answer"), (1.0, "exact"), (1.0, "exact"),
            (0.0, "wrong"), (0.0, "wrong"), (0.0, "wrong"), (0.0, "wrong"),
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


TOWER = "9^{9^{9^{9}}}+x"
# Short clocks: a comparison that uses the processor has used half a second of it by then,
# unless a host gives it less than a twelfth of a core.
HASTY = verify.VerifyConfig(timeout_s=6.0, cpu_limit_s=0.5)


def test_an_endless_comparison_is_killed_and_scored_0():
    with verify.Verifier(HASTY) as verifier:
        verifier.compare([("\\boxed{1}", "\\boxed{1}")])
        began = time.monotonic()
        scored = verifier.score(
            [(f"\\boxed{{{TOWER}}}", "\\frac{1}{3}"), ("\\boxed{0.5}", "\\frac{1}{2}")]
        )
        assert time.monotonic() - began < 40
    assert scored == [(0.0, "answer_too_costly"), (1.0, "equivalent")]
    assert not types.says_nothing("answered", scored[0][1])


def test_an_answer_too_long_to_be_sent_is_the_answers_doing(verifier):
    text = f"\\boxed{{{'1' * 600_000}x}}"
    assert verifier.score([(text, "\\frac{1}{3}")]) == [(0.0, "answer_too_costly")]


def test_a_gold_answer_too_costly_is_not_blamed_on_the_answer():
    with verify.Verifier(HASTY) as verifier:
        scored = verifier.score([("\\boxed{\\frac{1}{3}}", TOWER)])
    assert scored == [(0.0, "verifier_error")]
    assert types.says_nothing("answered", scored[0][1])


@pytest.mark.parametrize(
    ("number", "verdict"),
    [(signal.SIGSTOP, "verifier_timeout"), (signal.SIGKILL, "verifier_error")],
)
def test_a_comparison_that_the_host_stops_or_kills_is_nobodys_fault(number, verdict):
    """The same endless answer, but it gets no processor time, or its process is lost."""
    with verify.Verifier(verify.VerifyConfig(timeout_s=3.0)) as verifier:
        verifier.compare([("\\boxed{1}", "\\boxed{1}")])
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            scored = pool.submit(verifier.score, [(f"\\boxed{{{TOWER}}}", "\\frac{1}{3}")])
            while not (found := verifier._executor.report())["running"]:
                time.sleep(0.01)
            time.sleep(0.3)
            os.kill(*found["session_pids"].values(), number)
            assert scored.result(30) == [(0.0, verdict)]
    assert types.says_nothing("answered", verdict)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"status": "ok", "stdout": "equivalent\n"}, "equivalent"),
        ({"status": "ok", "stdout": "equivalent\n", "cpu_s": 5.1}, "answer_too_costly"),
        ({"status": "ok", "stdout": "bad_gold\n"}, "verifier_error"),
        ({"status": "timeout", "cpu_s": 5.1}, "answer_too_costly"),
        ({"status": "timeout", "cpu_s": 4.9, "stdout": "equivalent\n"}, "verifier_timeout"),
        ({"status": "memory_limit"}, "answer_too_costly"),
        ({"status": "error", "error_type": "RecursionError"}, "answer_too_costly"),
        ({"status": "crashed", "error_message": "SIGSEGV"}, "answer_too_costly"),
        ({"status": "crashed", "error_message": "SIGKILL"}, "verifier_error"),
        ({"status": "crashed", "error_message": "exit code 70"}, "verifier_error"),
        ({"status": "infra_lost", "cpu_s": 9.0}, "verifier_error"),
        ({"status": "infra_overload"}, "verifier_error"),
    ],
)
def test_whose_fault_a_comparison_without_a_word_is(values, verdict):
    assert verify._read(tools.ToolResult(text="", **values), 5.0) == verdict
    assert types.says_nothing("answered", verdict) == (verdict in verify.INFRASTRUCTURE)


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
