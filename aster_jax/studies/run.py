"""A study: its members, one after the other or several at once, and the comparison of all there are.

Every member is a run like any other, in a directory of its own, so all that holds for a run
holds for it: it is locked, resumes from its newest checkpoint and has its own report. The
same command goes on wherever it was stopped; what is finished is skipped. What members would
make alike is made once (`bases.py`, `share.py`). Writes `study.md`, `study.json` and `study.png`
beside the members' directories.
"""

import dataclasses
import difflib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax

from aster_jax import together, weights, workdir
from aster_jax.demos import families
from aster_jax.errors import GaveUp, InputError, Leaving
from aster_jax.lifetime import changes, notice
from aster_jax.report import records
from aster_jax.studies import bases, beside, findings, measures, plan, plots, share
from aster_jax.train import metrics


def run(c, path: pathlib.Path, play: Callable, command: Callable) -> None:
    """Make every member of the study at `path` and compare them.

    `c` is the study's config; `play(config, workdir)` is one run, from its start or from where
    it was stopped; `command(place)` the command line that makes one member, for `study.at_once`.
    Raises InputError for a study or a member that cannot work, before anything is run, and
    GaveUp where every member has given up.
    """
    members = plan.members(c)
    if together.count() > 1 < c.study.at_once:
        raise InputError("study.at_once must be 1 where several processes share every run")
    _check(c, members)
    bases.make(c, path, play, _say)
    start = bases.weights(c, path)
    finished = together.once("finished", lambda: [
        m.path for m in members if _is_finished(plan.config_of(c, m, start), path / m.path)
    ])  # fmt: skip
    made, failed = {}, {}
    for member, gave_up in _played(c, path, members, finished, play, command):
        if gave_up:  # what its training came to is a result, and no reason to stop
            failed[member.path] = str(gave_up)
            _say(f"left out: {gave_up}")
        else:
            made[member] = together.once("study", lambda: _measure(path / member.path))
        if member.path not in finished[:-1]:  # a page of many members does not become one of few
            together.once("study", lambda: write(c, path, members, made, failed))
    if not made:
        raise GaveUp(f"no member of {path} could be made; {path / 'study.md'} says why of each")
    if together.is_first():
        print((path / "study.md").read_text(encoding="utf-8"), flush=True)
        _say(f"see {path / 'study.md'} and {path / 'study.png'}")


def _is_finished(config, path: pathlib.Path) -> bool:
    """Whether a member has ended as its config asks now: one with more to do is none."""
    if not (path / "report" / "DONE.json").exists():
        return False
    return records.whole(path / "config.json") == json.loads(workdir.as_json(config))


def _check(c, members) -> None:
    """InputError for a base or a member that cannot work, or reads what is not there."""
    for member in [*plan.bases(c), *members]:
        config = plan.config_of(c, member)
        problems, source = config.problems, config.model.source
        named = tuple(problems.families)
        try:
            if problems.source == "generated":  # the first problem of every family
                families.problems(named, "train", len(named), config.seed, problems.digits)
            if source != "scratch" and not source.startswith(("hf://", "pypi:")):
                weights.describe(source)
        except InputError as e:
            raise InputError(f"variant {member.variant!r}: {e}") from e


def run_one(c, path: pathlib.Path, place: str, play: Callable) -> None:
    """Make one member of the study at `path`, or with "base" what they all start from.

    What a job array does, each job with a place of its own; the study's own command compares
    them afterwards. Raises InputError for a place that the study does not have, and for a
    member whose base is not there.
    """
    members = {member.path: member for member in plan.members(c)}
    if place == bases.PLACE:
        bases.make(c, path, play, _say)
        return
    if place not in members:
        near = difflib.get_close_matches(place, members, n=1)
        known = f"{next(iter(members))} to {list(members)[-1]}"
        raise InputError(
            f"--member={place} is none of this study"
            + (f"; did you mean {near[0]}?" if near else f"; there are {known}, and {bases.PLACE}")
        )
    config = plan.config_of(c, members[place], bases.weights(c, path))
    _share(config, path, members[place], list(members.values()))
    play(config, path / place)


def _played(
    c, path, members, finished, play, command
) -> Iterator[tuple[plan.Member, GaveUp | None]]:
    """Every member when it is done, with what it gave up for, if it did; `finished` ones first."""
    start = bases.weights(c, path)
    configs = {member: plan.config_of(c, member, start) for member in members}
    done = sorted(members, key=lambda m: m.path not in finished)
    if c.study.at_once > 1:
        done = done[: len(finished)]
    for i, member in enumerate(done, 1):
        _say(f"member {i} of {len(members)}: {member.variant}, seed {member.seed}")
        _share(configs[member], path, member, members)
        try:
            play(configs[member], path / member.path)
        except GaveUp as e:
            yield member, e
        else:
            yield member, None
        jax.clear_caches()  # programs of a member are its own; on disk they are kept
    left = {m.path: m for m in _leaders_first(configs) if m not in done}
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


def _leaders_first(configs: dict) -> list[plan.Member]:
    """The members, those at the end that can share demonstrations with one before them."""
    leaders, others, kinds = [], [], set()
    for member, config in configs.items():
        kind = json.dumps(changes.determining(config, "demos"))
        makes = "demos" in config.stages  # who makes none has none to share
        (others if makes and kind in kinds else leaders).append(member)
        if makes:
            kinds.add(kind)
    return leaders + others


def _share(config, path: pathlib.Path, member, members) -> None:
    """Give a member what another one of its seed has made that it would make alike."""
    others = [path / m.path for m in members if m.seed == member.seed and m != member]
    here = path / member.path
    with workdir.held(config, here):
        taken = together.once("share", lambda: {
            stage: f"{o.relative_to(path)}" for stage, o in share.take(config, here, others).items()
        })  # fmt: skip
    for other in dict.fromkeys(taken.values()):
        stages = " and ".join(stage for stage, o in taken.items() if o == other)
        _say(f"{member.path} starts from {stages} of {other}, which it would make alike")


def write(c, path: pathlib.Path, members: list, made: dict, failed: dict[str, str]) -> None:
    """The comparison of the members made so far: study.md, study.json and study.png.

    `made` has the `measures.Measures` of each of `members`, as a dict; `failed` says by directory
    why one was left out.
    """
    numbers = {member: measures.Measures(**found) for member, found in made.items()}
    missing = [m.path for m in members if m not in made and m.path not in failed]
    grouped = findings.group(numbers, members)
    text = findings.to_markdown(c.name, c.study.question, grouped, failed, missing)
    metrics.replace(path / "study.md", text)
    kept = findings.to_json(c.name, grouped, failed, missing)
    metrics.replace(path / "study.json", json.dumps(kept, indent=1, allow_nan=False) + "\n")
    picture = path / "study.png.partial"
    picture.write_bytes(plots.figure(grouped))
    picture.replace(path / "study.png")


def _measure(member: pathlib.Path) -> dict:
    """The measures of a finished member, as plain values that all processes can be told."""
    return dataclasses.asdict(measures.measure(records.read(member)))


def _say(text: str) -> None:
    if together.is_first():
        print(f"[study] {text}", flush=True)
