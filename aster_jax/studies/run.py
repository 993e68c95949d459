"""A study: its members one after the other, and after each the comparison of all there are.

Every member is a run like any other, in a directory of its own, so all that holds for a run
holds for it: it is locked, resumes from its newest checkpoint and has its own report. The
same command goes on wherever it was stopped; what is finished is skipped. Writes
`study.md`, `study.json` and `study.png` beside the members' directories.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax

from aster_jax import export, together
from aster_jax.errors import GaveUp
from aster_jax.report import records
from aster_jax.studies import findings, measures, plan, plots
from aster_jax.train import metrics


def run(c, path: pathlib.Path, play: Callable) -> None:
    """Make every member of the study at `path` and compare them.

    `c` is the study's config; `play(config, workdir)` is one run, from its start or from where
    it was stopped. Raises InputError for a study or a member that cannot work, before
    anything is run.
    """
    members, bases = plan.members(c), plan.bases(c)
    for member in [*bases, *members]:
        plan.config_of(c, member)
    weights = ""
    for base in bases:
        _say(f"base {base.variant}")
        play(plan.config_of(c, base, weights), path / base.variant)
        weights = together.once("base", lambda: _weights(path / base.variant))
    made, failed = {}, {}
    for i, member in enumerate(members, 1):
        _say(f"member {i} of {len(members)}: {member.variant}, seed {member.seed}")
        try:
            play(plan.config_of(c, member, weights), path / member.path)
        except GaveUp as e:  # what its training came to is a result, and no reason to stop
            failed[member.path] = str(e)
            _say(f"left out: {e}")
        else:
            made[member] = together.once("study", lambda: _measure(path / member.path))
            together.once("study", lambda: write(c, path, made, failed))
        jax.clear_caches()  # programs of a member are its own; on disk they are kept
    if not together.is_first() or not made:
        return
    print((path / "study.md").read_text(encoding="utf-8"), flush=True)
    _say(f"see {path / 'study.md'} and {path / 'study.png'}")


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
