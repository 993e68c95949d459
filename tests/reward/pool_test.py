"""Whose doing an end without a word is, who waits where, and the limits inside a process."""

import json
import resource
import subprocess
import sys

import pytest

from aster_jax import tools
from aster_jax.reward import judge, limits, pool


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"status": "ok", "stdout": ""}, pool.ERROR),
        ({"status": "timeout", "cpu_s": 5.1}, pool.COSTLY),
        ({"status": "timeout", "cpu_s": 4.9}, pool.TIMEOUT),
        ({"status": "memory_limit"}, pool.COSTLY),
        ({"status": "error", "error_type": "RecursionError"}, pool.COSTLY),
        ({"status": "crashed", "error_message": f"exit code {limits.OVER}"}, pool.COSTLY),
        ({"status": "crashed", "error_message": "SIGSEGV"}, pool.COSTLY),
        ({"status": "crashed", "error_message": "SIGKILL", "cpu_s": 4.9}, pool.COSTLY),
        ({"status": "crashed", "error_message": "SIGKILL", "cpu_s": 0.9}, pool.ERROR),
        ({"status": "crashed", "error_message": "exit code 70"}, pool.ERROR),
        ({"status": "infra_lost", "cpu_s": 9.0}, pool.ERROR),
        ({"status": "infra_overload"}, pool.ERROR),
    ],
)
def test_whose_fault_a_comparison_without_a_word_is(values, verdict):
    assert pool.blame(tools.ToolResult(text="", **values), 5.0) == verdict


def test_words_are_read_up_to_where_the_process_ended():
    said = '0 "equivalent"\n1 "wrong"\n2 "equi'
    assert pool.answers(tools.ToolResult("crashed", "", stdout=said)) == {
        0: "equivalent",
        1: "wrong",
    }


def test_what_looks_costly_waits_elsewhere():
    for text in ("\\frac{3}{4}", "x^2+1", "5!", "\\sqrt{2}, 3", "2\\pi"):
        assert not pool.looks_costly(text)
    for text in ("9^{9^{9^9}}", "\\sum_k k", "10000!", "1" * 999, "2^{2024}"):
        assert pool.looks_costly(text)


def run(jobs: list, job_s: float, process_s: int) -> subprocess.CompletedProcess:
    code = f"from aster_jax.reward import judge; judge.run({jobs!r}, {job_s}, {process_s})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_a_job_that_uses_up_its_time_ends_the_process_and_keeps_the_words_before():
    endless = ("answer", "1", "\\sum_{k=1}^{10^{7}} \\frac{1}{k^2+1}", 10)
    done = run([("answer", "\\frac12", "0.5", 10), ("gold", "7", 10), endless], 0.5, 60)
    assert done.returncode == limits.OVER
    assert [json.loads(line[2:]) for line in done.stdout.split("\n")[:-1]] == ["equivalent", ""]


def test_calculus_that_nobody_asked_for_has_less_time():
    endless = "\\sum_{k=1}^{10^{7}} \\frac{1}{k^2+1}"
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run([("answer", "1", endless, 10)], 60, 100).returncode == limits.OVER
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime - began.ru_utime < 30  # importing sympy takes most of it


def test_the_kernel_ends_a_process_that_is_lost_inside_one_step():
    code = (
        "from aster_jax.reward import judge; judge.KINDS['answer'] = lambda: sum(range(10 ** 12)); "
    )
    code += "judge.run([('answer',)], 0.2, 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == -9


def test_errors_of_the_reader_are_no_reward(monkeypatch):
    def broken(gold, answer, decimals):
        if answer == "bad" or gold == "bad":
            raise KeyError("a mistake of the reader")
        return judge.compare.WRONG

    monkeypatch.setattr(judge.compare, "compare", broken)
    assert judge.judge_answer("5", "bad", 10) == judge.compare.WRONG
    assert judge.judge_answer("bad", "5", 10) == judge.FAILED
