"""What there is of one arm: its file, and the parts that phases have added to it since.

The file (`Arm.file`) is written when an arm is over, whole and in the order asked. Until
then every phase keeps its episodes in a journal of its own beside it (`NAME.parts/`), as
they end; a killed process loses those under way and no other. The same holds when a
finished arm is asked for more samples, or once more for what the tool had lost.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterable

from aster_jax import types
from aster_jax.eval import passk
from aster_jax.rollout import journal, live

Key = tuple[str, int]  # problem id and sample


class Episodes:
    """The newest useful record of every trajectory of an arm.

    Args:
      path: the arm's file.
      limits_s: the limits of time that hold now, as in `Arm.limits_s`: what a shorter one
        has cut does not count.
    """

    def __init__(self, path: pathlib.Path, limits_s: list[float]):
        self._final, self._parts = journal.Journal(path), path.with_suffix(".parts")
        self._limits_s = limits_s
        self._known: dict[Key, dict] = {}
        self._in_order = [_key(r) for r in self._take(self._final.read())]
        self._filed = {key for key in self._known if self._is_there(key)}
        for number in self._numbers():
            self._take(journal.Journal(self._part(number)).read())

    def unfiled(self, asked: list[live.Request]) -> list[live.Request]:
        """Of the requests, those that the arm's file has nothing of: what the parts are about.

        The same until the file is written anew, however often the process is killed.
        """
        return [r for r in asked if _asked(r) not in self._filed]

    def missing(self, asked: list[live.Request]) -> list[live.Request]:
        """Of the requests, those that have no episode at all."""
        return [r for r in asked if not self._is_there(_asked(r))]

    def lost(self, asked: list[live.Request]) -> list[live.Request]:
        """Of the requests, those whose episode the tool lost (`types.EndReason`)."""
        return [r for r in asked if self._ended(r) == "infrastructure"]

    def unjudged(self, asked: list[live.Request]) -> list[dict]:
        """The records of those requests that ended and that the verifier failed to judge."""
        there = [self._known[_asked(r)] for r in asked if self._is_there(_asked(r))]
        return [r for r in there if passk.is_lost(r) and r["end"] != "infrastructure"]

    def is_complete(self, asked: list[live.Request]) -> bool:
        """Whether every request has an episode that counts."""
        return not (self.missing(asked) or self.lost(asked) or self.unjudged(asked))

    def new_part(self) -> journal.Journal:
        """The journal of a phase that is about to begin; give its records to `add`."""
        return journal.Journal(self._part(max(self._numbers(), default=0) + 1))

    def add(self, part: journal.Journal, records: list[dict]) -> None:
        """What a phase has made: on disk for good, and in place of what it supersedes."""
        part.seal(records)
        self._take(records)

    def seal(self, asked: list[live.Request]) -> list[dict]:
        """Write the file, by problem in the order asked and by sample; problems and samples
        that are there and not asked for stay, the problems last.

        Returns the records of what is asked.
        """
        known = [*self._in_order, *self._known]
        problems = dict.fromkeys([r.problem.id for r in asked] + [problem for problem, _ in known])
        rank = {problem: i for i, problem in enumerate(problems)}
        order = sorted(self._known, key=lambda key: (rank[key[0]], key[1]))
        if order != self._in_order or self._numbers():
            self._final.seal([self._known[k] for k in order])
            for number in self._numbers():
                journal.Journal(self._part(number)).discard()
            with contextlib.suppress(OSError):
                self._parts.rmdir()
        self._in_order = order
        return [self._known[k] for k in map(_asked, asked) if k in self._known]

    def _take(self, records: Iterable[dict]) -> list[dict]:
        """A later record supersedes an earlier one unless it knows less."""
        for record in records:
            key = _key(record)
            if key not in self._known or _worth(record) >= _worth(self._known[key]):
                self._known[key] = record
        return records

    def _is_there(self, key: Key) -> bool:
        if key not in self._known:
            return False
        record = self._known[key]
        pairs = zip(self._limits_s, record["limits_s"], strict=True)
        return not (passk.is_cut(record) and any(is_longer(*pair) for pair in pairs))

    def _ended(self, request) -> types.EndReason | None:
        return self._known[_asked(request)]["end"] if _asked(request) in self._known else None

    def _part(self, number: int) -> pathlib.Path:
        return self._parts / f"{number:06d}.jsonl"

    def _numbers(self) -> list[int]:
        """The parts there are, sealed or not."""
        return sorted({int(p.name.split(".")[0]) for p in self._parts.glob("*.jsonl*")})


def chunks(asked: list[live.Request], size: int) -> list[list[live.Request]]:
    """The requests in pieces of so many, in order; in one where size is 0."""
    size = size or max(len(asked), 1)
    return [asked[at : at + size] for at in range(0, len(asked), size)]


def is_longer(now_s: float, before_s: float) -> bool:
    """Whether a limit of time leaves more than another; 0 is no limit."""
    return (now_s or math.inf) > (before_s or math.inf)


def _worth(record: dict) -> int:
    """How much a record says: nothing (lost), that our clock came first, what came of it."""
    return 0 if passk.is_lost(record) else 1 if passk.is_cut(record) else 2


def _key(record: dict) -> Key:
    return record["problem_id"], record["sample"]


def _asked(request: live.Request) -> Key:
    return request.problem.id, request.sample
