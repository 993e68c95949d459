"""The cell of a comparison: what runs in the verifier's processes, job after job.

Answers come in as data and are never run. Every job has its own limit of processor time,
which the kernel enforces by ending the process (a timer of processor time to the
millisecond, and the resource limit behind it): the trainer's side sees which job had no
word. Nothing that a job computes is kept for the next one.
"""

import json
import math
import resource
import signal
from collections.abc import Sequence

from aster_jax.reward import compare, prose, read

FAILED = "failed"  # an error of the reader itself, on this gold answer


def run(jobs: Sequence[tuple], cpu_limit_s: float, alone: bool) -> None:
    """Prints a line for each job as soon as it is done: its number, what it came to as JSON.

    Jobs: ("answer", gold, answer, decimals), ("prose", gold, answer, targets), ("gold",
    gold, decimals). `alone`: no other job will run here, so the limit is for good.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default ends the process
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    for number, (kind, *arguments) in enumerate(jobs):
        limit(cpu_limit_s, alone)
        found = KINDS[kind](*arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(number, json.dumps(found), flush=True)
    if not alone:
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2)


def limit(cpu_limit_s: float, alone: bool) -> None:
    """From now on so many seconds of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + cpu_limit_s) + 1
    hard = seconds + 1 if alone else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)


def judge_answer(gold: str, answer: str, decimals: int) -> str:
    """The verdict for the content of a box; an error of the reader is no reward."""
    try:
        return compare.compare(gold, answer, decimals)
    except Exception:  # whatever an answer makes the reader do is the answer's doing
        return FAILED if judge_gold(gold, decimals).startswith("reading") else compare.WRONG


def judge_gold(gold: str, decimals: int) -> str:
    """Why a gold answer cannot be compared with what is spelled otherwise, or ""."""
    try:
        reading = read.read(gold)[0]
        if isinstance(reading, read.Opaque) and not reading.calculus:
            return "it is not read as mathematics: only its own spelling will be right"
        verdict = compare.compare(gold, gold, decimals)
    except Exception as error:
        return f"reading it fails: {type(error).__name__}"
    if verdict == compare.COSTLY_GOLD:
        return "comparing it exceeds a limit"
    return "" if verdict == compare.EQUIVALENT else "it is not found equal to itself"


KINDS = {"answer": judge_answer, "prose": prose.compare, "gold": judge_gold}
