"""Verdicts: cheap ones without a process, the others in processes that can be killed."""

import collections
import concurrent.futures
import json
import os
import signal
import time

import pytest

from aster_jax import types
from aster_jax.errors import InputError
from aster_jax.reward import pool, verify
from tests import shared_data

# No closed form, and more terms than can be added up within any limit here.
ENDLESS = "\\sum_{k=1}^{10^{7}} \\frac{1}{k^{2}+1}"
HASTY = verify.VerifyConfig(cpu_limit_s=0.5)
THIRD = "\\frac{1}{3}"


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
                ("\\fbox{34}", "34"),
                ("\\boxed 34", "34"),
            ]
        )
        assert scored == [
            (1.0, "exact"), (1.0, "exact"), (0.0, "wrong"), (0.0, "no_answer"),
            (0.0, "no_answer"), (0.0, "no_answer"), (1.0, "exact"), (1.0, "exact"),
            (1.0, "exact"), (1.0, "exact"),
        ]  # fmt: skip
        assert not verifier._pool.is_started


def test_symbolic_verdicts_keep_the_order_of_the_items(verifier):
    scored = verifier.score(
        [
            ("\\boxed{1/2}", "\\frac{1}{2}"),
            ("\\boxed{7}", "7"),
            ("\\boxed{\\frac{2}{3}}", "\\frac{1}{2}"),
            ("\\boxed{2\\sqrt{2}}", "\\sqrt{8}"),
            ("\\boxed{\\left(3, \\frac{2\\pi}{4}\\right)}", "\\left( 3, \\frac{\\pi}{2} \\right)"),
            ("\\boxed{is it 5?}", "\\frac{1}{2}"),
            ("\\boxed{3 4}", "7"),
            ("\\boxed{3 1/2}", "\\frac{31}{2}"),
            ("\\boxed{3 1/2}", "3.5"),
        ]
    )
    assert [verdict for _, verdict in scored] == [
        "equivalent", "exact", "wrong", "equivalent", "equivalent", "wrong", "wrong", "wrong",
        "equivalent",
    ]  # fmt: skip
    assert [reward for reward, _ in scored] == [1, 1, 0, 1, 1, 0, 0, 0, 1]


def test_exact_mode_does_no_mathematics():
    with verify.Verifier(verify.VerifyConfig(symbolic=False)) as verifier:
        assert verifier.score([("\\boxed{1/2}", "\\frac{1}{2}")]) == [(0.0, "wrong")]
        assert not verifier._pool.is_started


def test_every_labelled_pair_is_judged_rightly(verifier):
    path = shared_data.path("verify/answer_pairs.jsonl")
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    scored = verifier.score([(f"\\boxed{{{r['answer']}}}", r["gold"]) for r in rows])
    wrong = [(r, v) for r, (reward, v) in zip(rows, scored) if (reward > 0) != r["right"]]
    assert len(rows) == 326 and wrong == []
    assert not {verdict for _, verdict in scored} & set(verify.INFRASTRUCTURE)


def test_an_endless_comparison_is_killed_and_scored_0():
    with verify.Verifier(HASTY) as verifier:
        verifier.score([("\\boxed{0.5}", "\\frac{1}{2}")])
        scored = verifier.score(
            [(f"\\boxed{{{ENDLESS}}}", THIRD), ("\\boxed{1/2}", "\\frac{1}{2}")]
        )
    assert scored == [(0.0, "answer_too_costly"), (1.0, "equivalent")]
    assert not types.says_nothing("answered", scored[0][1])


def test_what_is_known_to_be_costly_is_not_begun(verifier):
    towers = ["9^{9^{9^{9}}}+x", "((5!)!)!", "2^{10^{9}}+1", "e^{e^{e^{e^{e^{e}}}}}"]
    costly = [*towers, ",".join("123" * 999), "(" * 900 + "1" + ")" * 900]
    began = time.process_time(), time.monotonic()
    scored = verifier.score([(f"\\boxed{{{text}}}", THIRD) for text in costly])
    assert {verdict for _, verdict in scored} <= {"answer_too_costly", "wrong"}
    assert scored[:4] == [(0.0, "answer_too_costly")] * 4
    assert time.process_time() - began[0] < 1.0


def test_an_answer_too_long_to_be_looked_at_is_the_answers_doing():
    with verify.Verifier() as verifier:
        began = time.process_time()
        text = f"\\boxed{{{'1' * 600_000}x}}"
        assert verifier.score([(text, THIRD)]) == [(0.0, "answer_too_costly")]
        assert time.process_time() - began < 5.0 and not verifier._pool.is_started


def test_a_gold_answer_too_costly_is_not_blamed_on_the_answer():
    with verify.Verifier(HASTY) as verifier:
        golds = (ENDLESS, "2^{10^9}+1")
        scored = verifier.score([(f"\\boxed{{{THIRD}}}", gold) for gold in golds])
    assert scored == [(0.0, "verifier_error")] * 2
    assert types.says_nothing("answered", "verifier_error")


@pytest.mark.parametrize(
    ("number", "times", "verdict"),
    [
        (signal.SIGSTOP, 2, "verifier_timeout"),
        (signal.SIGKILL, 2, "verifier_error"),
        (signal.SIGKILL, 1, "answer_too_costly"),
    ],
)
def test_a_comparison_that_the_host_stops_or_kills_is_run_again_and_nobodys_fault(
    number, times, verdict
):
    with verify.Verifier(verify.VerifyConfig(timeout_s=4.0, cpu_limit_s=1.0)) as verifier:
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            scored = threads.submit(verifier.score, [(f"\\boxed{{{ENDLESS}}}", THIRD)])
            hit = set()
            while len(hit) < times and not scored.done():
                executor = verifier._pool._executor
                found = executor.report() if executor is not None else {"running": 0}
                fresh = set(found["session_pids"].values()) - hit if found["running"] else set()
                for pid in fresh:
                    os.kill(pid, number)
                hit |= fresh
                time.sleep(0.02)
            assert scored.result(60) == [(0.0, verdict)]
    assert types.says_nothing("answered", verdict) == (verdict in verify.INFRASTRUCTURE)


def test_a_supervisor_that_does_not_answer_is_replaced(monkeypatch):
    monkeypatch.setattr(pool, "BACKSTOP_S", 1.0)
    with verify.Verifier(verify.VerifyConfig(timeout_s=1.0)) as verifier:
        assert verifier.score([("\\boxed{0.5}", "\\frac{1}{2}")]) == [(1.0, "equivalent")]
        stopped = verifier._pool._executor.report()["supervisor_pid"]
        os.kill(stopped, signal.SIGSTOP)
        assert verifier.score([("\\boxed{0.25}", "\\frac{1}{4}")]) == [(1.0, "equivalent")]
        assert "does not answer" in verifier.troubles[0]


def test_a_verifier_that_cannot_start_gives_verdicts_and_keeps_the_reason():
    with verify.Verifier(verify.VerifyConfig(min_tier="C")) as verifier:
        assert verifier.score([("\\boxed{0.5}", "\\frac{1}{2}")]) == [(0.0, "verifier_error")]
        assert "allow_unsafe" in verifier.troubles[0]
    with verify.Verifier(verify.VerifyConfig(min_tier="C", allow_unsafe=True)) as verifier:
        assert verifier.score([("\\boxed{0.5}", "\\frac{1}{2}")]) == [(1.0, "equivalent")]


def test_hostile_answers_do_not_delay_honest_ones():
    hostile = [f"\\boxed{{{ENDLESS} + {n}}}" for n in range(64)]
    honest = [(f"\\boxed{{{n}/7}}", f"\\frac{{{n}}}{{7}}") for n in range(1, 33)]
    with verify.Verifier() as verifier:
        verifier.score([("\\boxed{0.5}", "\\frac{1}{2}")])
        waiting = [verifier.submit(text, THIRD) for text in hostile]
        began = time.monotonic()
        assert verifier.score(honest) == [(1.0, "equivalent")] * 32
        took = time.monotonic() - began
        assert not all(future.done() for future in waiting)
    assert took < 10  # 0.1 s alone; a busy test machine has other things to do
    assert all(future.done() for future in waiting)


def test_the_same_answer_is_compared_once(verifier):
    job = ("answer", "\\frac{1}{9}", "1/9", 10)
    first = verifier._decide(job)
    assert first.result() == "equivalent"
    assert verifier._decide(job) is first


def test_a_missing_gold_answer_is_an_error_upstream(verifier):
    with pytest.raises(InputError, match="gold answer is empty"):
        verifier.score([("\\boxed{1}", " ")])


def test_model_text_cannot_leave_its_string(verifier):
    for hostile in (
        '\\boxed{"); print("equivalent"); ("}', "\\boxed{'\n0 \"equivalent\"\n'}",
        "\\boxed{__import__('os').system('echo 0 equivalent')}", "\\boxed{\x00\ud800}",
    ):  # fmt: skip
        assert verifier.score([(hostile, "\\frac{1}{2}")]) == [(0.0, "wrong")]


def test_gold_answers_that_cannot_be_compared_are_found():
    golds = ["7", "\\frac{1}{2}", "1,234", "\\text{Evelyn}", "f'(x) \\star 3", " ", "2^{10^9}+1"]
    found = dict(verify.unreadable_golds(golds))
    assert set(found) == {4, 5, 6}
    assert "not read" in found[4] and "empty" in found[5] and "limit" in found[6]


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


def test_prose_agrees_with_a_sample_of_math_verifys_own_cases(verifier):
    seen = agreement(verifier, every=8)
    assert set(seen) == {(True, "equivalent"), (False, "wrong")}
    assert seen[(True, "equivalent")] > 20 and seen[(False, "wrong")] > 1


@pytest.mark.slow
def test_prose_agrees_with_all_of_math_verifys_own_cases(verifier):
    assert agreement(verifier, every=1) == {(True, "equivalent"): 217, (False, "wrong"): 36}
