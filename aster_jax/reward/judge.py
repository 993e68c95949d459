"""The cell of a comparison: what runs in the verifier's processes, job after job.

Answers come in as data and are never run. Every job has its own limit of processor time: a
timer of it ends the process between two of Python's steps, to the millisecond, and the
resource limit behind it makes the kernel kill a process that is lost inside one step. The
trainer's side sees which job had no word. Nothing that a job computes is kept for the next.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence

from aster_jax.reward import compare, gym, limits, prose, read, readings

HARMLESS = "1"  # an answer that costs nothing
FAILED = "failed"  # an error of the reader itself, on this gold answer


def run(jobs: Sequence[tuple], job_s: float, process_s: int) -> None:
    """Writes a line for each job as soon as it is done: its number, what it came to as JSON.

    Jobs: ("answer", gold, answer, decimals), ("prose", gold, answer, targets), ("gold",
    gold, decimals), ("gym", scorer, answer), ("gym_gold", scorer). `job_s`: seconds of processor time of each; `process_s`: of the process
    in all its life, at which the kernel kills it.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (process_s, process_s))
    signal.signal(signal.SIGPROF, _end)
    for number, (kind, *arguments) in enumerate(jobs):
        signal.setitimer(signal.ITIMER_PROF, job_s)
        found = KINDS[kind](*arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(f"{number} {json.dumps(found)}\n")
        sys.stdout.flush()


def _end(number, frame) -> None:
    # Not the signal's default action: the first process of a PID namespace is spared by it.
    os._exit(limits.OVER)


def judge_answer(gold: str, answer: str, decimals: int) -> str:
    """The verdict for the content of a box; an error of the reader is no reward."""
    try:
        return compare.compare(gold, answer, decimals)
    except Exception:  # whatever an answer makes the reader do is the answer's doing
        return FAILED if judge_gold(gold, decimals).startswith("reading") else compare.WRONG


def judge_gold(gold: str, decimals: int) -> str:
    """Why a gold answer cannot be compared with what is spelled otherwise, or ""."""
    try:
        reading = read.read(gold, is_gold=True)[0]
        if isinstance(reading, readings.Opaque) and not reading.calculus:
            return "it is not read as mathematics: only its own spelling will be right"
        verdict = compare.compare(gold, gold, decimals)
        compare.compare(gold, HARMLESS, decimals)  # where spelling does not decide
    except Exception as error:
        return f"reading it fails: {type(error).__name__}"
    if verdict == compare.COSTLY_GOLD:
        return "comparing it exceeds a limit"
    return "" if verdict == compare.EQUIVALENT else "it is not found equal to itself"


KINDS = {
    "answer": judge_answer, "prose": prose.compare, "gold": judge_gold,
    "gym": gym.judge, "gym_gold": gym.judge_gold,
}  # fmt: skip
