"""What the viewer's list knows of an episode, so that thousands can be filtered and sorted
while their texts stay packed.

Pure: episode records (`rollout/record.py`) -> rows -> columns of the page's index.
"""

from collections.abc import Sequence

from aster_jax import types
from aster_jax.eval import passk
from aster_jax.report import plots

QUESTION = 160  # characters of a question that the list holds

# The fields of a row that the page gets, in the order of the index.
FIELDS = (
    "run", "stage", "step", "checkpoint", "evaluation", "arm", "where", "problem", "family",
    "sample", "reward", "outcome", "end", "statuses", "calls", "failed", "written", "seconds",
    "advantage", "question", "color", "file", "line", "order", "page", "chunk", "place",
)  # fmt: skip


def row(record: dict, run: int, file: str, line: int) -> dict:
    """The row of an episode: of the `run`-th run, from that line of a file of its workdir.

    `outcome` is "right", "wrong" or "lost" (the tool or the verifier failed), `failed` counts
    attempts at a call that did not go well, `seconds` are from the first slot to the end.
    `advantage` is None until it is known. Raises KeyError for a record without a needed key.
    """
    statuses = [call["status"] for call in record["calls"]]
    question = " ".join(record["question"].split())
    return {
        "run": run,
        "stage": record["stage"],
        "step": record["step"],
        "checkpoint": record["checkpoint"],
        "evaluation": record.get("evaluation", ""),
        "arm": record["arm"],
        "where": where(record),
        "problem": record["problem_id"],
        "family": record["family"],
        "sample": record["sample"],
        "reward": record["reward"],
        "verdict": record["verdict"],
        "outcome": outcome(record),
        "end": record["end"],
        "statuses": " ".join(dict.fromkeys(statuses)),
        "calls": types.num_calls(statuses),
        "failed": sum(status != "ok" for status in statuses),
        "written": record["num_model_tokens"],
        "seconds": round(max((s.get("end_s", 0.0) for s in record["spans"]), default=0.0), 3),
        "advantage": None,
        "question": question if len(question) <= QUESTION else question[: QUESTION - 1] + "…",
        "color": record["checkpoint"] if record["checkpoint"] in plots.COLORS else "other",
        "file": file,
        "line": line,
    }


def outcome(record: dict) -> str:
    """Whether the episode was right, was wrong, or was lost and says nothing of the policy."""
    if passk.is_lost(record):
        return "lost"
    return "right" if record["reward"] > 0 and not passk.is_cut(record) else "wrong"


def where(record: dict) -> str:
    """The stage that an episode was made in; of the evaluation, what was evaluated."""
    if record["stage"] != "eval":
        return record["stage"]
    parts = ["eval", record["checkpoint"], record["arm"]]
    if record.get("evaluation", "main") != "main":
        parts.append(record["evaluation"])
    return " ".join(parts)


def number(rows: Sequence[dict], stages: Sequence[str]) -> None:
    """Give every row its place in the order of the run: stages, steps, lines of a file.

    `rows` have to come by file and line within a step.
    """
    rank = {stage: i for i, stage in enumerate(stages)}
    in_order = sorted(
        rows, key=lambda r: (r["run"], rank.get(r["stage"], len(rank)), r["step"] * (r["stage"] != "eval"))
    )
    for i, made in enumerate(in_order):
        made["order"] = i


def columns(rows: Sequence[dict]) -> dict:
    """The rows by field; a field of texts as its distinct values and the number of each row's."""
    found = {}
    for field in FIELDS:
        values = [r[field] for r in rows]
        if any(isinstance(v, str) for v in values):
            places = {v: i for i, v in enumerate(dict.fromkeys(values))}
            found[field] = {"values": list(places), "at": [places[v] for v in values]}
        else:
            found[field] = values
    return found
