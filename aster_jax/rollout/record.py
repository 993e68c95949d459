"""Trajectories as JSON records, for the report, for people and to go on from; numbers about them.

A record reads as text, and holds the ids and numbers behind it, packed: base64 of
little-endian arrays, so that the trajectory can be had back exactly.
"""

import base64
import binascii
import collections

import numpy as np

from aster_jax import types
from aster_jax.data import chat, pieces
from aster_jax.errors import InputError
from aster_jax.reward import answer

# How each list of a trajectory is packed. Log-probs come from the device as float32, so
# nothing is lost; entropies are only looked at, and keep three digits.
PACKED = {"tokens": "<i4", "logprobs": "<f4", "entropies": "<f2"}
# And how many characters of the spans' texts each token stands for, for whoever shows them.
CHARS = "<u2"


def to_record(scored: types.Scored, problem: types.Problem, tokenizer, where: dict) -> dict:
    """One episode as a flat JSON object; `where` names stage, step, checkpoint and arm."""
    t = scored.trajectory
    texts = [tokenizer.decode(list(t.tokens[s.start : s.stop])) for s in t.spans]
    chars = [
        length
        for s, text in zip(t.spans, texts, strict=True)
        for length in pieces.lengths(t.tokens[s.start : s.stop], text, tokenizer.decode)
    ]
    return {
        **where,
        "problem_id": problem.id,
        "family": problem.family,
        "question": problem.question,
        "gold": problem.answer,
        "sample": t.sample,
        "reward": scored.reward,
        "verdict": scored.verdict,
        "paper_match": answer.paper_match(t.final_text, problem.answer),
        "end": t.end,
        "final_text": t.final_text,
        "opener": t.opener,
        "num_calls": types.num_calls(c.status for c in t.calls),
        "num_tokens": len(t.tokens),
        "num_model_tokens": sum(t.loss_mask),
        "calls": [
            {
                "code": c.code,
                "status": c.status,
                "text": c.text,
                "wall_s": c.wall_s,
                "queue_s": c.queue_s,
            }
            for c in t.calls
        ],
        "spans": [
            {"kind": s.kind, "start": s.start, "stop": s.stop, "end_s": s.end_s, "text": text}
            for s, text in zip(t.spans, texts, strict=True)
        ],
        "chars": _pack(np.minimum(chars, np.iinfo(CHARS).max), CHARS),
        **_signals(t, tokenizer),
        **{name: _pack(getattr(t, name), kind) for name, kind in PACKED.items()},
    }


def _signals(t: types.Trajectory, tokenizer) -> dict[str, list[list[float]]]:
    """[log-prob, entropy] of each token that opens a call, and of each that ended a turn: where
    a format that breaks shows first."""
    turns = [s for s in t.spans if s.kind == "model"]
    ended = [s.stop - 1 for s in turns]
    if turns and len(turns) > len(t.calls) and t.end not in ("answered", "call_budget"):
        ended.pop()  # it was cut in the middle
    opened = []
    for s in turns:
        at = chat.call_opening(t.tokens[s.start : s.stop], tokenizer)
        opened += [] if at is None else [s.start + at]
    # As the record keeps them: one that is read and written again is the same.
    entropies = np.asarray(t.entropies, PACKED["entropies"]).tolist()
    return {
        name: [[round(t.logprobs[i], 4), round(entropies[i], 4)] for i in places]
        for name, places in (("openings", opened), ("endings", ended))
    }


def from_record(record: dict) -> types.Scored:
    """The trajectory and verdict that `to_record` was given; entropies as float16 keeps them.

    Raises InputError for a record without the packed lists, or one whose parts do not agree.
    """
    lists = {name: _unpack(record, name, kind) for name, kind in PACKED.items()}
    spans = tuple(
        types.Span(s["kind"], s["start"], s["stop"], s.get("end_s", 0.0)) for s in record["spans"]
    )
    mask = [int(s.kind == "model") for s in spans for _ in range(s.start, s.stop)]
    lengths = {len(mask), *map(len, lists.values())}
    gaps = [s for s, before in zip(spans[1:], spans, strict=False) if s.start != before.stop]
    if len(lengths) > 1 or gaps or (spans and spans[0].start):
        raise InputError(f"{_name(record)} has lists and spans of different lengths; delete it")
    trajectory = types.Trajectory(
        problem_id=record["problem_id"],
        sample=record["sample"],
        loss_mask=tuple(mask),
        spans=spans,
        calls=tuple(types.CallRecord(**call) for call in record["calls"]),
        end=record["end"],
        final_text=record["final_text"],
        opener=record["opener"],
        **lists,
    )
    return types.Scored(trajectory, record["reward"], record["verdict"])


def _name(record) -> str:
    return f"the record of problem {record['problem_id']}, sample {record['sample']},"


def _pack(numbers, kind) -> str:
    return base64.b64encode(np.asarray(numbers, kind).tobytes()).decode("ascii")


def _unpack(record, name, kind) -> tuple:
    if name not in record:
        raise InputError(f"{_name(record)} has no {name}: it was written before records held them")
    try:
        return tuple(np.frombuffer(base64.b64decode(record[name], validate=True), kind).tolist())
    except (binascii.Error, ValueError) as e:
        raise InputError(f"{_name(record)} has damaged {name} ({e}); delete it") from e


def summary(scored: list[types.Scored], stats: dict) -> dict[str, float]:
    """Metrics of one phase: outcome, tool use, endings, speed.

    `masked_frac` is the share of trajectories that say nothing about the policy. The outcome is
    of the others, tool use also of those that our clock cut: the longest would be missing. Both
    are left out when there are none: a mean of nothing is no number. Endings and verdicts are
    shares of all, as they tell what masked the rest; `entropy_mean` is per token, over all that
    the policy wrote.
    """
    counted = [s for s in scored if not types.says_nothing(s.trajectory.end, s.verdict)]
    known = [s for s in scored if not types.is_lost(s.trajectory.end, s.verdict)]
    ends = collections.Counter(s.trajectory.end for s in scored)
    n = len(scored)
    out = {
        "masked_frac": 1 - len(counted) / n,
        **({"reward_mean": float(np.mean([s.reward for s in counted]))} if counted else {}),
        **(_tool_use([s.trajectory for s in known]) if known else {}),
        **_entropy([s.trajectory for s in scored]),
        **_speed(stats),
        **{f"end_{end}_frac": ends[end] / n for end in sorted(ends)},
    }
    for verdict in ("answer_too_costly", "verifier_timeout", "verifier_error"):
        out[f"{verdict}_frac"] = sum(s.verdict == verdict for s in scored) / n
    return out


def _tool_use(trajectories: list[types.Trajectory]) -> dict[str, float]:
    """Calls and lengths. `call_*_frac` are shares of all attempts at a call, malformed ones
    included."""
    calls = [types.num_calls(c.status for c in t.calls) for t in trajectories]
    attempts = collections.Counter(c.status for t in trajectories for c in t.calls)
    total = sum(attempts.values())
    return {
        "calls_mean": float(np.mean(calls)),
        "at_most_one_call_frac": sum(made <= 1 for made in calls) / len(calls),
        "model_tokens_mean": float(np.mean([sum(t.loss_mask) for t in trajectories])),
        "tokens_mean": float(np.mean([len(t.tokens) for t in trajectories])),
        **{f"call_{status}_frac": attempts[status] / total for status in sorted(attempts)},
    }


def _entropy(trajectories) -> dict[str, float]:
    written = sum(sum(t.loss_mask) for t in trajectories)
    total = sum(sum(t.entropies) for t in trajectories)
    return {"entropy_mean": total / written} if written else {}


def _speed(stats: dict) -> dict[str, float]:
    """Where the time and the memory of a phase went.

    `occupancy` is the share of slots that had a row to decode when a dispatch was made,
    `wasted_step_frac` the share of row-steps that gave no token (rows that had stopped
    earlier in their dispatch, and padding). A tool's time is hidden while anything else
    went on, exposed while the host waited for nothing but tools.
    """

    def per(count, seconds):
        return stats.get(count, 0) / max(stats.get(seconds, 0.0), 1e-9)

    under_way_s, exposed_s = stats.get("tool_under_way_s", 0.0), stats.get("tool_exposed_s", 0.0)
    return {
        "sampled_tokens": stats["sampled_tokens"],
        "tokens_per_s": per("sampled_tokens", "phase_s"),
        "prefill_tokens_per_s": per("prefill_tokens", "prefill_s"),
        "decode_tokens_per_s": per("sampled_tokens", "decode_s"),
        "occupancy": per("rows_asked", "slots_offered"),
        "wasted_step_frac": 1 - stats["sampled_tokens"] / max(stats.get("row_steps", 0), 1),
        "shared_tokens": stats.get("shared_tokens", 0),
        "pages_peak": stats.get("pages_peak", 0),
        "pages_peak_frac": per("pages_peak", "pool_pages"),
        "rows_set_aside": stats.get("rows_set_aside", 0),
        "asked_again": stats.get("asked_again", 0),
        "compiles_after_warmup": stats.get("compiles_after_warmup", 0),
        "prefill_s": stats.get("prefill_s", 0.0),
        "decode_s": stats.get("decode_s", 0.0),
        "device_idle_s": stats.get("device_idle_s", 0.0),
        "tool_hidden_s": under_way_s - exposed_s,
        "tool_exposed_s": exposed_s,
        "phase_s": stats["phase_s"],
    }
