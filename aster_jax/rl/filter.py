"""Between the RL stages: drop the problems that are always solved (paper, section 3).

Problems never solved are kept, and so are those the first stage did not visit, with an
explicit null instead of an accuracy.
"""

import dataclasses
import json
import pathlib

from aster_jax import pools, types, workdir
from aster_jax.errors import InputError
from aster_jax.train import metrics


@dataclasses.dataclass(frozen=True)
class Visit:
    """What the last visit of a problem showed: trajectories scored and their mean reward."""

    step: int
    scored: int
    accuracy: float


def last_visits(records: list[dict]) -> dict[str, Visit]:
    """Per problem id, the outcome of the latest step that drew it.

    Infrastructure failures do not count; a visit with nothing but those is no visit.
    """
    rewards: dict[str, dict[int, list[float]]] = {}
    for r in records:
        if types.says_nothing(r["end"], r["verdict"]):
            continue
        rewards.setdefault(r["problem_id"], {}).setdefault(r["step"], []).append(r["reward"])
    visits = {}
    for problem_id, by_step in rewards.items():
        step = max(by_step)
        values = by_step[step]
        visits[problem_id] = Visit(step, len(values), sum(values) / len(values))
    return visits


def run(run: workdir.Run) -> None:
    """Read stage 1's episodes, write `filter/kept.jsonl`, one line per problem."""
    run.summary("rl1")
    pool = pools.select(run.config, "train", run.config.problems.num_train)
    records = []
    for path in sorted((run.path / "rl1" / "episodes").glob("step_*.jsonl")):
        records += [json.loads(line) for line in path.read_text().splitlines()]
    visits = last_visits(records)
    lines = []
    for problem in pool:
        visit = visits.get(problem.id)
        accuracy = visit.accuracy if visit else None
        lines.append({"id": problem.id, "accuracy": accuracy, "kept": accuracy != 1.0})
    kept = sum(line["kept"] for line in lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    metrics.replace(run.directory("filter") / "kept.jsonl", text)
    summary = {"problems": len(pool), "visited": len(visits), "kept": kept}
    run.say("filter", f"kept {kept} of {len(pool)} problems ({len(visits)} visited)")
    run.finish("filter", summary)


def keep(pool: list[types.Problem], path: pathlib.Path) -> list[types.Problem]:
    """The problems of `pool` that the filter's file keeps."""
    if not path.exists():
        raise InputError(f"{path} is missing; run the filter stage before rl2")
    kept = {r["id"] for r in map(json.loads, path.read_text().splitlines()) if r["kept"]}
    return [p for p in pool if p.id in kept]
