"""Several processes of one run: what is decided once, what all tell each other, where they meet.

The processes of a run (hosts of a pod) make the same calls here in the same order, from
their main threads. Small things go through the key-value store of JAX's coordinator, which
lives in process 0; bytes of any size go through the devices. With one process everything
here gives back what it was given. Every wait has a deadline; a process that dies ends the
others long before it (`lifetime/watch.py`).
"""

import contextlib
import json
import pickle
from collections.abc import Callable

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from aster_jax import errors

# For whatever process 0 does meanwhile: demonstrations, a download, a disk that is full.
DEADLINE_S = 24 * 3600
ROUND_BYTES = 1 << 26  # of one process, in one round through the devices
# Told, and raised everywhere; the first that fits.
_RAISED = (errors.InputError, errors.GaveUp, errors.Leaving, OSError, ValueError)


class _Place:
    """Where this process stands in the sequence of calls that all processes make."""

    def __init__(self):
        self.alone = 0  # how many `once` of process 0 are under way
        self.meetings = self.calls = 0
        self.hosts: list[str] = []


_place = _Place()


def count() -> int:
    """How many processes the run has; 1 inside of what process 0 does for all."""
    return 1 if _place.alone else jax.process_count()


def index() -> int:
    """Which of them this one is."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this is process 0, which decides, writes and speaks for all."""
    return index() == 0


def once(name: str, make: Callable):
    """What `make()` gives in process 0, in every process; the others do not call it.

    The value goes through JSON where there are others. Errors that say what the user has to
    mend, and those of values and files, are raised in every process. `name` is for what goes wrong.
    """
    if count() == 1:
        return make()
    key = _next(name)
    if not is_first():
        told = _wait(key, name)
        if "error" in told:
            kind, text = told["error"]
            raise {e.__name__: e for e in _RAISED}[kind](text)
        return told["value"]
    try:
        with _by_itself():
            text = json.dumps({"value": make()})
    except _RAISED as e:
        kind = next(k for k in _RAISED if isinstance(e, k)).__name__
        _set(key, name, json.dumps({"error": [kind, str(e)]}))
        raise
    _set(key, name, text)
    return json.loads(text)["value"]


def everybody(name: str, value) -> list:
    """The value of every process, by index, through JSON; returns when all have come."""
    if count() == 1:
        return [value]
    key = _next(name)
    _set(f"{key}/{index()}", name, json.dumps({"value": value}))
    found = [_wait(f"{key}/{i}", name)["value"] for i in range(count())]
    _place.meetings += 1
    if is_first() and _place.meetings > 1:  # all have read what was there before this meeting
        _client().key_value_delete(f"aster/{_place.meetings - 2}/")
    return found


def meet(name: str) -> None:
    """Wait until all processes are here."""
    everybody(name, None)


def first_then_rest(name: str, make: Callable):
    """`make()` in every process, in process 0 before the others: for what leaves files behind."""
    made = make() if is_first() or count() == 1 else None
    meet(name)
    return made if is_first() or count() == 1 else make()


def exchange(name: str, mine: list) -> list[list]:
    """The lists of all processes, by index. Made for many records of any length: they are
    pickled and go through the devices, in rounds of at most `ROUND_BYTES` a process."""
    if count() == 1:
        return [mine]
    data = np.frombuffer(pickle.dumps(mine, pickle.HIGHEST_PROTOCOL), np.uint8)
    sizes = everybody(name, len(data))
    longest, parts = max(sizes), []
    # Sizes are powers of two: each is a program that is compiled once.
    step = min(ROUND_BYTES, 1 << max(longest - 1, 1).bit_length())
    for at in range(0, longest, step):
        part = np.zeros(step, np.uint8)
        here = data[at : at + step]
        part[: len(here)] = here
        parts.append(multihost_utils.process_allgather(part))
    whole = np.concatenate(parts, axis=1)
    return [pickle.loads(whole[i, :size].tobytes()) for i, size in enumerate(sizes)]


def gather(x: jax.Array) -> np.ndarray:
    """A global array as a whole on every host."""
    if x.is_fully_addressable:
        return jax.device_get(x)
    return multihost_utils.process_allgather(x, tiled=True)


def deal(groups: list, processes: int) -> list[int]:
    """For each entry of a list in which equals stand for one group, the process it is dealt to:
    whole groups in turn."""
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return [order[group] % processes for group in groups]


def know_hosts(names: list[str]) -> None:
    """Keep on which host each process runs."""
    _place.hosts = names


def beside() -> int:
    """How many processes of the run share this host's processors, this one included."""
    return _place.hosts.count(_place.hosts[index()]) if _place.hosts else 1


@contextlib.contextmanager
def _by_itself():
    _place.alone += 1
    try:
        yield
    finally:
        _place.alone -= 1


def _client():
    return distributed.global_state.client


def _next(name: str) -> str:
    _place.calls += 1
    return f"aster/{_place.meetings}/{_place.calls}"


def _set(key, name, text):
    _client().key_value_set(key, json.dumps([name, text]))


def _wait(key, name):
    """What another process has set; RuntimeError where that is about something else."""
    there, text = json.loads(_client().blocking_key_value_get(key, DEADLINE_S * 1000))
    if there != name:
        raise RuntimeError(
            f"the processes have come apart: this one is at {name!r}, another one at {there!r}"
        )
    return json.loads(text)
