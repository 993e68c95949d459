"""Between the RL stages: drop the problems that are always solved (paper, section 3).

Problems never solved are kept, and so are those the first stage did not visit, with an
explicit null instead of an accuracy.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Iterator

from aster_jax import config as configs
from aster_jax import pools, together, types, workdir
from aster_jax.data import rows
from aster_jax.errors import InputError
from aster_jax.lifetime import changes
from aster_jax.report import records
from aster_jax.train import metrics


@dataclasses.dataclass(frozen=True)
class Visit:
    """What the last visit of a problem showed: trajectories scored and their mean reward."""

    step: int
    scored: int
    accuracy: float


def last_visits(episodes: Iterable[dict], min_scored: int = 1) -> dict[str, Visit]:
    """Per problem id, the outcome of the latest step that drew it.

    `episodes` are read once and nothing but numbers is kept of them. Trajectories that were
    lost do not count; a visit with fewer than `min_scored` that do is no visit: one lucky
    survivor does not make a problem always solved.
    """
    rewards: dict[tuple[str, int], list[float]] = {}
    for r in episodes:
        if not types.says_nothing(r["end"], r["verdict"]):
            rewards.setdefault((r["problem_id"], r["step"]), []).append(r["reward"])
    visits: dict[str, Visit] = {}
    for (problem_id, step), values in rewards.items():
        is_later = problem_id not in visits or visits[problem_id].step < step
        if len(values) >= min_scored and is_later:
            visits[problem_id] = Visit(step, len(values), sum(values) / len(values))
    return visits


def _episodes(directory: pathlib.Path) -> Iterator[dict]:
    """The records of all steps, one at a time: a long run's texts do not fit in memory."""
    for path in sorted(directory.glob("step_*.jsonl")):
        yield from records.lines(path, ("problem_id", "step", "end", "verdict", "reward"))


def run(run: workdir.Run) -> None:
    """Read stage 1's episodes, write `filter/kept.jsonl`, one line per problem."""
    together.once("filter", lambda: _run(run))


def _run(run):
    c = run.config.filter
    rl1 = run.summary("rl1")
    pool = pools.train(run.config, changes.left_out(run.config, run.begin("rl1")))
    min_scored = max(1, math.ceil(c.min_scored * configs.rl_stage(run.config, "rl1").group))
    visits = last_visits(_episodes(run.path / "rl1" / "episodes"), min_scored)
    lines = []
    for problem in pool:
        visit = visits.get(problem.id)
        accuracy = visit.accuracy if visit else None
        lines.append({"id": problem.id, "accuracy": accuracy, "kept": accuracy != 1.0})
    back = bring_back(lines, c.min_kept)
    kept = sum(line["kept"] for line in lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    metrics.replace(run.directory("filter") / "kept.jsonl", text)
    said = f"kept {kept} of {len(pool)} problems ({len(visits)} visited)"
    run.say("filter", said + (f", {back} of them solved: filter.min_kept={c.min_kept}" if back else ""))
    summary = {"problems": len(pool), "visited": len(visits), "kept": kept, "rl1_step": rl1["step"]}
    run.finish("filter", summary)


def bring_back(lines: list[dict], min_kept: int) -> int:
    """Keep dropped problems again, in their order, until `min_kept` are kept; how many."""
    dropped = [line for line in lines if not line["kept"]]
    missing = max(0, min_kept - (len(lines) - len(dropped)))
    for line in dropped[:missing]:
        line["kept"] = True
    return min(missing, len(dropped))


def keep(pool: list[types.Problem], path: pathlib.Path) -> list[types.Problem]:
    """The problems of `pool` that the filter's file keeps."""
    kept = set(together.once("kept problems", lambda: _kept(path)))
    return [p for p in pool if p.id in kept]


def _kept(path) -> list[str]:
    if not path.exists():
        raise InputError(f"{path} is missing; run the filter stage before rl2")
    found = [record for _, record in rows.lines(path)]
    try:
        return [r["id"] for r in found if r["kept"]]
    except (KeyError, TypeError) as e:
        raise InputError(f"{path} is not what the filter writes ({e!r}); remove its folder") from e
