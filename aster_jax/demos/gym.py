"""Families of reasoning-gym: "rg:NAME", or "rg:NAME?KEY=VALUE&..." with options of its own.

An optional source of generated problems beside ours, about a hundred kinds
(`pip install "aster_jax[reasoning_gym]"`). The library runs in a process of its own, which is asked for
some problems and ends; who judges the answers to them is `reward/gym.py`. Numbers count a
family's problems from 0, and which one a number is follows from the family and the seed.
"""

import difflib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys

from aster_jax import types
from aster_jax.errors import InputError
from aster_jax.reward import gym

PREFIX = gym.PREFIX
EXTRA = "reasoning_gym"
FIRST = 64  # problems that a family is asked for at least; then as many again as there are
START_S, EACH_S = 120.0, 2.0  # limits of a request, in seconds: for its start, and each problem
_START = "import sys; sys.path[:] = {path!r}; from aster_jax.reward import gym; gym.main()"


def is_own(family: str) -> bool:
    """Whether a family is one of reasoning-gym's, by its name."""
    return family.startswith(PREFIX)


def version() -> str:
    """The version of reasoning-gym that is installed, "" without one: another version makes
    other problems."""
    try:
        return importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        return ""


class Drawn:
    """The problems of one family and seed, made when they are first asked for."""

    def __init__(self, family: str, seed: int):
        self._family, self._seed = family, seed
        self._made: list[types.Problem] = []
        self._asked = 0

    def problem(self, number: int) -> types.Problem:
        """Problem `number`. Raises InputError where the family cannot be used."""
        while number >= len(self._made):
            seeds = self.until(max(FIRST, 2 * self._asked))
            self.add(seeds, _make({self._family: seeds})[self._family])
        return self._made[number]

    def until(self, number: int) -> list[tuple[int, int]]:
        """(seed, index) of the problems below `number` that have not been asked for."""
        return [self._at(n) for n in range(self._asked, number)]

    def add(self, seeds: list[tuple[int, int]], found: list[list[str]]) -> None:
        """Take the problems that were made of the next seeds."""
        self._asked += len(seeds)
        self._made += [_problem(self._family, *values) for values in found]

    def _at(self, number: int) -> tuple[int, int]:
        """(the library's seed, index) of the problem that is drawn as number `number`."""
        name = f"{self._family}/{self._seed}/{number // gym.SIZE}"
        digest = hashlib.sha256(name.encode()).digest()
        return int.from_bytes(digest[:4]) >> 1, number % gym.SIZE  # numpy's seeds have 32 bits


@functools.lru_cache(maxsize=None)
def drawn(family: str, seed: int) -> Drawn:
    """The problems of a family: one object for all splits, so that each is made once."""
    return Drawn(family, seed)


def prepare(families: list[str], seed: int, number: int) -> None:
    """Make the first `number` problems of all of these at once, where they are not made yet:
    it costs the start of one process."""
    wanted = {family: drawn(family, seed).until(number) for family in families}
    wanted = {family: seeds for family, seeds in wanted.items() if seeds}
    if wanted:
        for family, found in _make(wanted).items():
            drawn(family, seed).add(wanted[family], found)


def check(family: str) -> None:
    """Raises InputError for a name that cannot be one, and without the package."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise InputError(
            f"family {family!r} needs the package reasoning-gym, which is not installed; "
            f'install it with `pip install "aster_jax[{EXTRA}]"` (or `pip install reasoning-gym`)'
        )
    try:
        name, own = gym.options(family)
    except ValueError as error:
        raise InputError(f"family {family!r} is not {gym.PREFIX}NAME?KEY=VALUE&...: {error}") from error
    if any(c.isspace() for c in family) or not name:
        raise InputError(
            f"family {family!r} must be {gym.PREFIX}NAME, or {gym.PREFIX}NAME?KEY=VALUE&... with "
            "spaces in values as %20"
        )
    if fixed := {"seed", "size"} & set(own):
        raise InputError(f"family {family!r} must not set {min(fixed)}, which follows from `seed`")


def _make(wanted: dict[str, list[tuple[int, int]]]) -> dict[str, list[list[str]]]:
    """What `reward/gym.py` makes of each family's seeds, by a process of its own."""
    for family in wanted:
        check(family)
    asked, names = json.dumps(wanted), ", ".join(map(repr, wanted))
    count = sum(map(len, wanted.values()))
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # as the verifier's processes have it
    try:
        done = subprocess.run(
            [sys.executable, "-c", _START.format(path=sys.path)], input=asked, env=environment,
            capture_output=True, text=True, timeout=START_S + EACH_S * count,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{count} problems of {names} are not made after {error.timeout:.0f} s; choose other "
            "families, or easier options"
        ) from error
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise InputError(f"no problems of {names} are made (exit code {done.returncode}): {last}")
    said = json.loads(done.stdout.rpartition("\n")[2])
    if "fault" in said:
        raise InputError(_reason(said))
    return said


def _reason(said: dict) -> str:
    family = said["family"]
    if said["fault"] == "unknown":
        name = gym.options(family)[0]
        near = difflib.get_close_matches(name, said["near"], n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(said['near'])}"
        return f"family {family!r} is unknown: {said['why']}; {hint}"
    if said["fault"] == "options":
        return f"family {family!r}: {said['why']}; its options are {', '.join(said['near'])}"
    return f"family {family!r} cannot be used: {said['why']}; choose another"


def _problem(family: str, question: str, answer: str, scorer: str) -> types.Problem:
    digest = hashlib.sha256(question.encode()).hexdigest()
    return types.Problem(f"{family}-{digest[:12]}", question, answer, family, scorer)
