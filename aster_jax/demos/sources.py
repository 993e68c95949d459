"""Where a run's demonstrations come from, by `demos.source`: four teachers, one result.

    expert          the scripted one, on generated problems
    run:WORKDIR     episodes of another run (or of its evaluation)
    endpoint        a model behind an OpenAI-compatible server, with this run's tool
    a file          in any format of demos/tables.py
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import threading

from aster_jax import pools, settings, tools, weights, workdir
from aster_jax.data import chat
from aster_jax.demos import collect, crowd, curate, endpoint, episodes, ledger, tables, talk
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import GaveUp, InputError
from aster_jax.lifetime import changes

# Keys beside demos.teacher that determine what a conversation with a teacher is.
_TOOL = ("wall_limit_s", "memory_limit_mib", "last_value")


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What a source gave: transcripts, rows that are none, and what a teacher cost."""

    name: str
    transcripts: list[Transcript]
    dropped: list[curate.Dropped]
    account: crowd.Account | None = None

    def left_out(self) -> dict[str, int]:
        """How many rows were no transcript, for a file."""
        counts = collections.Counter(d.rule for d in self.dropped)
        return {"unusable_row": counts["row"]} if counts["row"] else {}


def name(config) -> str:
    """The source in words."""
    d = config.demos
    if d.source == "expert":
        return f"expert, {d.style}"
    if d.source == "endpoint":
        return f"{d.teacher.model or 'the model'} at {d.teacher.url}"
    return d.source


def gather(run: workdir.Run) -> Gathered:
    """Everything that the source has, before any rule."""
    d = run.config.demos
    if d.source == "expert":
        return _expert(run)
    if d.source == "endpoint":
        return _endpoint(run)
    if d.source.startswith(episodes.SOURCE):
        path = d.source.removeprefix(episodes.SOURCE)
        patterns = (d.episodes,) if isinstance(d.episodes, str) else tuple(d.episodes)
        made = episodes.load(path, patterns, d.min_step)
        run.say("demos", f"{len(made)} episodes read from {path}")
        return Gathered(d.source, made, [])
    made, skipped = tables.load(d.source)
    if skipped and d.bad_rows == "refuse":
        first = skipped[0]
        raise InputError(
            f"{d.source} row {first.row} is no usable demonstration: {first.reason}; remove it, "
            "or leave such rows out with demos.bad_rows=skip"
        )
    stem = pathlib.Path(d.source).name
    dropped = [curate.Dropped(f"{stem} row {s.row}", "", "row", s.reason) for s in skipped]
    return Gathered(d.source, made, dropped)


def _expert(run) -> Gathered:
    c = run.config
    asked = pools.demos(c, c.demos.count)
    with tools.Executor(settings.tool(c)) as executor:
        run.say("demos", f"tool ready, isolation tier {executor.tier}")
        made = collect.collect(
            asked, c.demos.style, executor, c.demos.slip_share, c.seed,
            think=c.model.style != "chatml",
        )
    return Gathered("expert", made, [])


def _endpoint(run) -> Gathered:
    c, t = run.config, run.config.demos.teacher
    asked = pools.taught(c, changes.left_out(c), t.problems or c.demos.count)
    server = settings.teacher_server(c)
    endpoint.check_key(server)
    how, budgets = settings.teacher_how(c), settings.teacher_budgets(c)
    caps = settings.teacher_caps(c)
    path = pathlib.Path(t.journal) if t.journal else run.directory("demos") / "journal.jsonl"
    run.say("demos", f"{len(asked)} problems x {t.samples} samples, {t.at_once} at once; what is "
            f"paid is in {path}")  # fmt: skip
    with tools.Executor(settings.tool(c)) as executor, ledger.opened(path, caps) as book:
        run.say("demos", f"tool ready, isolation tier {executor.tier}")
        room = talk.Room(
            how, budgets, server, book, executor, _cut(c), threading.Event(), c.seed
        )
        made, account = crowd.collect(
            asked, t.samples, _digest(c, how, budgets), room, t.at_once,
            run.notice.is_given, lambda text: run.say("demos", text),
        )  # fmt: skip
    for reason, why in sorted(account.whys.items()):
        run.say("demos", f"{account.reasons[reason]} conversations ended by {reason}, such as: {why}")
    _check_answers(account, t.url)
    return Gathered(name(c), made, [], account)


def _check_answers(account, url):
    """Raise GaveUp where the server gave no conversation a single turn. Whether one can do
    without those that stand still is known later (demos/run.py)."""
    still = [r for r in ("trouble", "refused", "garbage", "tool") if r in account.reasons]
    if still and not account.turns:
        number = sum(account.reasons[reason] for reason in still)
        raise GaveUp(
            f"{number} of {account.asked} conversations with the teacher at {url} stand still: "
            f"{account.whys[still[0]]}. What is paid is in the journal; the same command goes on "
            "with them"
        )


def _digest(c, how, budgets) -> str:
    """Of everything that determines a conversation beside its problem and sample."""
    parts = {
        "how": dataclasses.asdict(how), "budgets": dataclasses.asdict(budgets), "seed": c.seed,
        "tool": {k: c.tools[k] for k in _TOOL}, "shown": c.rollout.tool_result_tokens,
        "words": c.model.source,
    }  # fmt: skip
    if not how.model:  # then nothing but the address says which model it is
        parts["url"] = c.demos.teacher.url
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _cut(c):
    """Cuts a tool's result as rollouts will. A vocabulary that is yet to be learned has at
    least one character to a token, so there characters stand for tokens."""
    limit = c.rollout.tool_result_tokens
    words = _Characters() if c.model.source == "scratch" else weights.describe(c.model.source).tokenizer
    return lambda text: chat.cut(text, words, limit)


class _Characters:
    """The part of a tokenizer that cutting needs, with a token to a character."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))
