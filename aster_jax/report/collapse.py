"""Is the tool still used, and how: numbers about interaction from episode records.

Interaction collapse is what ASTER set out to prevent: during RL a policy stops working
through the tool, reasons in its head and calls it once at the end, if at all (paper,
abstract). It shows in how many calls a trajectory makes, where the first one stands and
whether the only one merely checks; before that, in cells that build on nothing, in calls that
repeat, and in a format that breaks (`turns.py`, `cells.py`). Pure: records (the JSON objects
that rollouts write) -> `Measured` rows -> one dict per group of rows.
Positions are shares of the characters the model wrote, as a record holds text and not ids.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.eval import passk
from aster_jax.report import cells, turns

LAST_QUARTER = 0.75  # a lone call that starts after this share of the text only verifies
# What a step of RL logs of its summary, as `tool/NAME`.
LOGGED = (
    "only_verifies_frac", "post_hoc_frac", "first_call_position", "failed_call_frac",
    "malformed_call_frac", "recovered_frac", "repeated_call_frac", "state_reuse_frac",
    "void_turn_frac", "void_trajectory_frac", "stray_tag_turn_frac", "accuracy_calls_ok",
    "accuracy_call_failed", "opening_logprob", "opening_entropy", "ending_logprob",
    "ending_entropy",
)  # fmt: skip
split_at_code = turns.split_at_code


@dataclasses.dataclass(frozen=True)
class Measured:
    """One episode in numbers: all that summaries need, so that texts can be forgotten.

    `statuses` has one entry per attempt at a call, malformed ones included. `first_call` is
    the share of the model's text that stands before the code of the first call that
    reached the tool, None without one. `is_masked` and `is_cut` as in the evaluation: the
    tool or the verifier failed, so nothing is known of the policy; our clock ended it, so what
    it did until then is. `turns` are the pieces the model wrote between tool results;
    `evaluation` is "" for an episode of training.

    `states` are those of the turns (`turns.states`), `stray_tag_turns` how many have tags of
    the markup in their prose, `void_turns` as `types.void_turns`. `is_post_hoc`: see there.
    Of the calls that reached the tool, `repeated` ran a code that the episode had run before;
    of `reusable` cells, `reusing` read what an earlier one had made (`cells.reuse`). Of the
    attempts that failed, `recovered` have a later one that succeeded. `openings` and `endings`:
    how many tokens that opened a call and that ended a turn, and the sums of their log-probs
    and entropies.
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
    states: tuple[str, ...]
    stray_tag_turns: int
    void_turns: int
    is_post_hoc: bool | None
    repeated: int
    reusable: int
    reusing: int
    recovered: int
    openings: tuple[int, float, float]
    endings: tuple[int, float, float]

    @property
    def failed(self) -> int:
        """Attempts at a call that did not succeed, malformed ones included."""
        return sum(status != "ok" for status in self.statuses)

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
        **_format(record, written, calls),
        **_work(calls),
    )


def _format(record, written, calls) -> dict:
    """What the turns look like, and what the policy was sure of."""
    made = [*calls, *[None] * max(0, len(written) - len(calls))]
    stray = [turns.stray_tags(turns.prose(t, c)) for t, c in zip(written, made, strict=False)]
    statuses = [c["status"] for c in calls]
    return {
        "states": tuple(turns.states(written, calls, record["end"])),
        "stray_tag_turns": sum(map(bool, stray)),
        "void_turns": types.void_turns(statuses, len(written), record["end"], record["verdict"]),
        "is_post_hoc": turns.is_post_hoc(written, calls, record["question"]),
        **{name: _sums(record, name) for name in ("openings", "endings")},
    }


def _sums(record, name) -> tuple[int, float, float]:
    pairs = record[name] if name in record else []  # records of older versions have none
    return len(pairs), sum(p[0] for p in pairs), sum(p[1] for p in pairs)


def _work(calls) -> dict:
    """What the calls do with each other."""
    ran = [c for c in calls if types.num_calls([c["status"]])]
    codes = [c["code"].strip() for c in ran]
    succeeded = [i for i, c in enumerate(calls) if c["status"] == "ok"]
    last_ok = max(succeeded, default=-1)
    reusable, reusing = cells.reuse(codes, [c["text"] for c in ran])
    return {
        "repeated": len(codes) - len(set(codes)),
        "reusable": reusable,
        "reusing": reusing,
        "recovered": sum(c["status"] != "ok" for c in calls[: max(last_ok, 0)]),
    }


def _first_call(written: list[str], calls: list[dict]) -> float | None:
    """Share of the text before the first call's code."""
    before, total = turns.before_first_call(written, calls), sum(map(len, written))
    if before is None:
        return None
    return len(before) / total if total else 0.0


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
        **_health(rows, total_calls),
    }


def _health(rows, total_calls) -> dict:
    """Signs of a collapse to come. Shares are of turns (`void_turn_frac`, `stray_tag_turn_frac`,
    `turn_state`), of calls, of the attempts that failed (`recovered_frac`), of the cells that
    could reuse state, and of trajectories with a call and a box (`post_hoc_frac`)."""

    def share(name, of):
        return sum(getattr(r, name) for r in rows) / of if of else None

    written = sum(r.turns for r in rows)
    called = [r for r in rows if r.num_calls]
    told = [r.is_post_hoc for r in rows if r.is_post_hoc is not None]
    signals = {}
    for name, label in (("openings", "opening"), ("endings", "ending")):
        count, logprob, entropy = (sum(getattr(r, name)[i] for r in rows) for i in range(3))
        signals[f"{label}_logprob"] = logprob / count if count else None
        signals[f"{label}_entropy"] = entropy / count if count else None
    return {
        "post_hoc_frac": _mean(told),
        "void_turn_frac": share("void_turns", written),
        "void_trajectory_frac": _mean([r.void_turns > 0 for r in rows]),
        "stray_tag_turn_frac": share("stray_tag_turns", written),
        "turn_state": _shares(state for r in rows for state in r.states),
        "repeated_call_frac": share("repeated", total_calls),
        "state_reuse_frac": share("reusing", sum(r.reusable for r in rows)),
        "recovered_frac": share("recovered", sum(r.failed for r in rows)),
        "accuracy_calls_ok": _mean([r.is_correct for r in called if not r.failed]),
        "accuracy_call_failed": _mean([r.is_correct for r in called if r.failed]),
        **signals,
    }


def metrics(summary: dict) -> dict[str, float]:
    """What metrics.jsonl holds of a step's summary; what there was nothing of is left out."""
    found = {f"tool/{name}": summary[name] for name in LOGGED}
    if summary["turn_state"]:
        known = summary["turn_state"]
        shares = {s: known[s] if s in known else 0.0 for s in turns.STATES}
        found |= {f"tool/turn_{state}_frac": share for state, share in shares.items()}
    return {name: value for name, value in found.items() if value is not None}


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
