"""Is the tool still used, and how: numbers about interaction from episode records.

Interaction collapse is what ASTER set out to prevent: during RL a policy stops working
through the tool, reasons in its head and calls it once at the end, if at all (paper,
abstract). It shows in how many calls a trajectory makes, where the first one stands and
whether the only one merely checks. Pure: records (the JSON objects that rollouts write)
-> `Measured` rows -> one dict per group of rows. Positions are shares of the characters
the model wrote, as a record holds text and not ids.
"""

import collections
import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.eval import passk

LAST_QUARTER = 0.75  # a lone call that starts after this share of the text only verifies


@dataclasses.dataclass(frozen=True)
class Measured:
    """One episode in numbers: all that summaries need, so that texts can be forgotten.

    `statuses` has one entry per attempt at a call, malformed ones included. `first_call` is
    the share of the model's text that stands before the code of the first call that
    reached the tool, None without one. `is_masked` and `is_cut` as in the evaluation: the
    tool or the verifier failed, so nothing is known of the policy; our clock ended it, so what
    it did until then is. `turns` are the pieces the model wrote between tool results;
    `evaluation` is "" for an episode of training.
    """

    stage: str
    step: int
    checkpoint: str
    evaluation: str
    arm: str
    family: str
    is_correct: bool
    is_masked: bool
    is_cut: bool
    end: str
    statuses: tuple[str, ...]
    first_call: float | None
    turns: int
    model_tokens: int
    code_lines: int

    @property
    def num_calls(self) -> int:
        """Calls that reached the tool."""
        return types.num_calls(self.statuses)

    @property
    def only_verifies(self) -> bool:
        """One call, in the last quarter: the answer was there before the tool was asked."""
        return self.num_calls == 1 and self.first_call >= LAST_QUARTER


def measure(record: dict) -> Measured:
    """The row of one episode record. Raises KeyError for a record without a needed key."""
    calls = record["calls"]
    written = [s["text"] for s in record["spans"] if s["kind"] == "model"]
    return Measured(
        stage=record["stage"],
        step=record["step"],
        checkpoint=record["checkpoint"],
        evaluation=record["evaluation"] if "evaluation" in record else "",
        arm=record["arm"],
        family=record["family"],
        is_correct=record["reward"] > 0 and not passk.is_cut(record),
        is_masked=passk.is_lost(record),
        is_cut=passk.is_cut(record),
        end=record["end"],
        statuses=tuple(c["status"] for c in calls),
        first_call=_first_call(written, calls),
        turns=max(len(written), 1),
        model_tokens=record["num_model_tokens"],
        code_lines=sum(len(c["code"].splitlines()) for c in calls),
    )


def _first_call(written: list[str], calls: list[dict]) -> float | None:
    """Share of the text before the first call's code; the i-th attempt ends the i-th turn."""
    at = next((i for i, c in enumerate(calls) if types.num_calls([c["status"]])), None)
    if at is None:
        return None
    total = sum(map(len, written))
    if not total:
        return 0.0
    before, found, _ = split_at_code(written[at], calls[at]["code"])
    return (sum(map(len, written[:at])) + len(before if found else written[at])) / total


def split_at_code(text: str, code: str) -> tuple[str, str, str]:
    """A turn's text as (before, the code as it stands there, after); no code: (text, "", "").

    In a turn the code stands as a JSON string; both common spellings of one are tried.
    """
    for spelling in (json.dumps(code), json.dumps(code, ensure_ascii=False)):
        at = text.rfind(spelling) if code else -1
        if at >= 0:
            start, stop = at + 1, at + len(spelling) - 1  # the quotes belong to the turn
            return text[:start], text[start:stop], text[stop:]
    return text, "", ""


def summarise(rows: Sequence[Measured]) -> dict:
    """Tool use of a group of episodes. Fractions in [0, 1]; None where nothing was there.

    Masked episodes are counted in `masked` and left out of everything else; those that were
    `cut` stay, with what they did until then and as wrong: leaving out the longest would make
    the tool look less used than it is. Calls are those that reached the tool; `call_status`
    and the shares of failed and of malformed ones are of all attempts.
    """
    masked = sum(r.is_masked for r in rows)
    rows = [r for r in rows if not r.is_masked]
    calls = np.array([r.num_calls for r in rows])
    statuses = collections.Counter(s for r in rows for s in r.statuses)
    attempts, total_calls = sum(statuses.values()), int(calls.sum())
    p50, p75, p90 = np.percentile(calls, (50, 75, 90)).tolist() if rows else (None,) * 3
    return {
        "episodes": len(rows),
        "masked": masked,
        "cut": sum(r.is_cut for r in rows),
        "accuracy": _mean([r.is_correct for r in rows]),
        "calls_mean": _mean(calls),
        "calls_p50": p50,
        "calls_p75": p75,
        "calls_p90": p90,
        "calls_mean_correct": _mean([r.num_calls for r in rows if r.is_correct]),
        "calls_mean_wrong": _mean([r.num_calls for r in rows if not r.is_correct]),
        "calls_histogram": sorted(collections.Counter(calls.tolist()).items()),
        "at_most_one_call_frac": _mean(calls <= 1),
        "answered_without_tool_frac": _mean(
            [r.end == "answered" and not r.num_calls for r in rows]
        ),
        "only_verifies_frac": _mean([r.only_verifies for r in rows]),
        "first_call_position": _mean([r.first_call for r in rows if r.num_calls]),
        "failed_call_frac": 1 - statuses["ok"] / attempts if attempts else None,
        "malformed_call_frac": statuses["malformed"] / attempts if attempts else None,
        "call_status": {s: n / attempts for s, n in statuses.most_common()},
        "code_lines_per_call": sum(r.code_lines for r in rows) / total_calls
        if total_calls
        else None,
        "turns_mean": _mean([r.turns for r in rows]),
        "model_tokens_mean": _mean([r.model_tokens for r in rows]),
        "model_tokens_per_turn": _mean([r.model_tokens / r.turns for r in rows]),
        "end": _shares(r.end for r in rows),
    }


def group(rows: Sequence[Measured], *names: str) -> dict[tuple, list[Measured]]:
    """Rows by the values of some of their fields, in order of first appearance."""
    grouped: dict[tuple, list[Measured]] = {}
    for row in rows:
        grouped.setdefault(tuple(getattr(row, n) for n in names), []).append(row)
    return grouped


def _mean(values) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _shares(values) -> dict[str, float]:
    counts = collections.Counter(values)
    total = sum(counts.values())
    return {value: n / total for value, n in counts.most_common()}
