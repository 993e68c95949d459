"""A study: its members, one after the other or several at once, and the comparison of all there are.

Every member is a run like any other, in a directory of its own, so all that holds for a run
holds for it: it is locked, resumes from its newest checkpoint and has its own report. The
same command goes on wherever it was stopped; what is finished is skipped. Writes
`study.md`, `study.json` and `study.png` beside the members' directories.
"""

import dataclasses
import difflib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax

from aster_jax import export, together
from aster_jax.errors import GaveUp, InputError, Leaving
from aster_jax.lifetime import notice
from aster_jax.report import records
from aster_jax.studies import beside, findings, measures, plan, plots
from aster_jax.train import metrics

BASE = "base"  # in place of a member: what they all start from


def run(c, path: pathlib.Path, play: Callable, command: Callable) -> None:
    """Make every member of the study at `path` and compare them.

    `c` is the study's config; `play(config, workdir)` is one run, from its start or from where
    it was stopped; `command(place)` the command line that makes one member, for `study.at_once`.
    Raises InputError for a study or a member that cannot work, before anything is run.
    """
    members = plan.members(c)
    if together.count() > 1 < c.study.at_once:
        raise InputError("study.at_once must be 1 where several processes share every run")
    for member in [*plan.bases(c), *members]:
        plan.config_of(c, member)
    _make_bases(c, path, play)
    made, failed = {}, {}
    for member, gave_up in _played(c, path, members, play, command):
        if gave_up:  # what its training came to is a result, and no reason to stop
            failed[member.path] = str(gave_up)
            _say(f"left out: {gave_up}")
        else:
            made[member] = together.once("study", lambda: _measure(path / member.path))
            # In the members' order, whichever was done first.
            so_far = {m: made[m] for m in members if m in made}
            together.once("study", lambda: write(c, path, so_far, failed))
    if not together.is_first() or not made:
        return
    print((path / "study.md").read_text(encoding="utf-8"), flush=True)
    _say(f"see {path / 'study.md'} and {path / 'study.png'}")


def run_one(c, path: pathlib.Path, place: str, play: Callable) -> None:
    """Make one member of the study at `path`, or with "base" what they all start from.

    What a job array does, each job with a place of its own; the study's own command compares
    them afterwards. Raises InputError for a place that the study does not have, and for a
    member whose base is not there.
    """
    members = {member.path: member for member in plan.members(c)}
    if place == BASE:
        _make_bases(c, path, play)
        return
    if place not in members:
        near = difflib.get_close_matches(place, members, n=1)
        known = f"{next(iter(members))} to {list(members)[-1]}"
        raise InputError(
            f"--member={place} is none of this study"
            + (f"; did you mean {near[0]}?" if near else f"; there are {known}, and {BASE}")
        )
    play(plan.config_of(c, members[place], _base_weights(c, path)), path / place)


def _played(c, path, members, play, command) -> Iterator[tuple[plan.Member, GaveUp | None]]:
    """Every member when it is done, with what it gave up for, if it did."""
    weights = _base_weights(c, path)
    alone = c.study.at_once == 1
    done = [m for m in members if alone or (path / m.path / "report" / "DONE.json").exists()]
    for i, member in enumerate(done, 1):
        _say(f"member {i} of {len(members)}: {member.variant}, seed {member.seed}")
        try:
            play(plan.config_of(c, member, weights), path / member.path)
        except GaveUp as e:
            yield member, e
        else:
            yield member, None
        jax.clear_caches()  # programs of a member are its own; on disk they are kept
    left = {m.path: m for m in members if m not in done}
    if not left:
        return
    told = notice.Notice()
    with told.heard(c.notice_s):
        _say(f"{len(left)} of {len(members)} members, {c.study.at_once} at once; see {path}/*.txt")
        try:
            for place, e in beside.play(left, c.study.at_once, command, path, told.is_given):
                _say(f"{place} is done")
                yield left[place], e
        except Leaving:
            _say("left on SIGTERM; the same command goes on")
            sys.exit(notice.EXIT_CODE)


def _make_bases(c, path: pathlib.Path, play: Callable) -> None:
    weights = ""
    for base in plan.bases(c):
        _say(f"base {base.variant}")
        play(plan.config_of(c, base, weights), path / base.variant)
        weights = together.once("base", lambda: _weights(path / base.variant))


def _base_weights(c, path: pathlib.Path) -> str:
    """The directory that members start from; "" for a study without a base."""
    bases = plan.bases(c)
    if not bases:
        return ""
    weights = path / bases[-1].variant / plan.EXPORT
    if not (weights / "config.json").exists():
        raise InputError(
            f"{weights} is not there, and all members start from it; --member={BASE} makes it"
        )
    return str(weights)


def write(c, path: pathlib.Path, made: dict, failed: dict[str, str]) -> None:
    """The comparison of the members made so far: study.md, study.json and study.png.

    `made` has the `measures.Measures` of each `plan.Member`; `failed` says by directory why one
    was left out.
    """
    grouped = findings.group({m: measures.Measures(**numbers) for m, numbers in made.items()})
    text = findings.to_markdown(c.name, c.study.question, grouped, failed)
    metrics.replace(path / "study.md", text)
    found = json.dumps(findings.to_json(c.name, grouped, failed), indent=1) + "\n"
    metrics.replace(path / "study.json", found)
    picture = path / "study.png.partial"
    picture.write_bytes(plots.figure(grouped))
    picture.replace(path / "study.png")


def _measure(member: pathlib.Path) -> dict:
    """The measures of a finished member, as plain values that all processes can be told."""
    return dataclasses.asdict(measures.measure(records.read(member)))


def _weights(base: pathlib.Path) -> str:
    """The base's last checkpoint as a directory that members start from; made once."""
    out = base / plan.EXPORT
    if not (out / "config.json").exists():
        stages = json.loads((base / "config.json").read_text())["stages"]
        last = [s for s in ("sft", "rl1", "rl2") if s in stages][-1]
        export.export(base, last, out, None, "float32")
    return str(out)


def _say(text: str) -> None:
    if together.is_first():
        print(f"[study] {text}", flush=True)
