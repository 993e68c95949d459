"""Members of a study at the same time, each in a process of its own.

Where in the flow: `run.py` calls this when `study.at_once` is above 1. A member's process is
`python -m aster_jax.member` with the arguments of the study's own command and `--member`, so it
is the run that the command alone would make of it. Processor cores are dealt out: a member has
its own, and small models that cannot use many do not disturb each other. Its memory is on huge
pages (`huge_pages.py`).

A member's process ends when this one does, however that ended. What it prints is in a file
beside the members, `PLACE.txt`.
"""

import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from aster_jax import errors, huge_pages
from aster_jax.errors import GaveUp, InputError, Leaving
from aster_jax.lifetime import notice

LOOK_S = 0.2
TAIL = 2000  # characters of what a failed member printed last


def cores(at_once: int, present: Sequence[int]) -> list[set[int]]:
    """Which of the cores `present` each of so many processes has: equal shares, or all for all."""
    share = len(present) // at_once
    if share == 0:
        return [set(present)] * at_once
    return [set(present[i * share : (i + 1) * share]) for i in range(at_once)]


def play(
    places: Sequence[str], at_once: int, command: Callable[[str], list[str]],
    path: pathlib.Path, leaving: Callable[[], bool],
) -> Iterator[tuple[str, GaveUp | None]]:
    """Run `command(place)` for every place, so many at once; yields each place as it is done,
    with what it gave up for, if it did.

    `leaving()` says whether this process is to go. Raises `Leaving` then, when the others have
    left too. When the others have been ended (their workdirs are as after any kill), raises
    InputError with the sentence in which a member told what the user has to mend, and
    RuntimeError with the end of what a member printed for any other failure.
    """
    free = cores(at_once, sorted(os.sched_getaffinity(0)))
    waiting, running = list(places), {}
    try:
        while waiting or running:
            if leaving():
                _leave([process for process, _ in running.values()])
                raise Leaving
            while waiting and free:
                place, own = waiting.pop(0), free.pop(0)
                running[place] = _start(command(place), _log(path, place), own), own
            for place, (process, own) in list(running.items()):
                if process.poll() is not None:
                    del running[place]
                    free.append(own)
                    yield place, _ended(place, process.returncode, _log(path, place))
            time.sleep(LOOK_S)
    finally:
        for process, _ in running.values():
            process.kill()
            process.wait()


def _log(path: pathlib.Path, place: str) -> pathlib.Path:
    return path / f"{place.replace('/', '-')}.txt"


def _start(command: list[str], log: pathlib.Path, own: set[int]) -> subprocess.Popen:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=out, env=huge_pages.environment()
        )
    os.sched_setaffinity(process.pid, own)  # before it has threads
    return process


def _leave(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _ended(place: str, code: int, log: pathlib.Path) -> GaveUp | None:
    if code == 0:
        return None
    if code == notice.EXIT_CODE:  # somebody asked it to go
        raise Leaving
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    if code == errors.GAVE_UP:
        return GaveUp(said.rpartition("aster_jax: ")[2])
    last = said.rpartition("\n")[2]
    if code == 1 and last.startswith("aster_jax: "):
        sentence = last.removeprefix("aster_jax: ")
        raise InputError(f"{place}: {sentence}; all it said is in {log}")
    raise RuntimeError(f"{place} ended with exit code {code}; {log} ends with\n{said[-TAIL:]}")
