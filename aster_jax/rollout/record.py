"""Trajectories as JSON records, for the report and for people, and numbers about them."""

import numpy as np

from aster_jax import types
from aster_jax.reward import answer


def to_record(scored: types.Scored, problem: types.Problem, tokenizer, where: dict) -> dict:
    """One episode as a flat JSON object; `where` names stage, step, checkpoint and arm."""
    t = scored.trajectory
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
        "num_calls": len(t.calls),
        "num_tokens": len(t.tokens),
        "num_model_tokens": sum(t.loss_mask),
        "calls": [
            {
                "code": c.code,
                "status": c.status,
                "text": c.text,
                "wall_s": round(c.wall_s, 6),
                "queue_s": round(c.queue_s, 6),
            }
            for c in t.calls
        ],
        "spans": [
            {"kind": s.kind, "text": tokenizer.decode(list(t.tokens[s.start : s.stop]))}
            for s in t.spans
        ],
    }


def summary(scored: list[types.Scored], stats: dict) -> dict[str, float]:
    """Metrics of one phase: outcome, tool use, endings, speed."""
    trajectories = [s.trajectory for s in scored]
    calls = [c for t in trajectories for c in t.calls]
    written = [sum(t.loss_mask) for t in trajectories]
    n = len(trajectories)
    out = {
        "reward_mean": float(np.mean([s.reward for s in scored])),
        "calls_mean": len(calls) / n,
        "at_most_one_call_frac": sum(len(t.calls) <= 1 for t in trajectories) / n,
        "model_tokens_mean": float(np.mean(written)),
        "tokens_mean": float(np.mean([len(t.tokens) for t in trajectories])),
        "sampled_tokens": stats["sampled_tokens"],
        "tokens_per_s": stats["sampled_tokens"] / max(stats["phase_s"], 1e-9),
        "busy_slot_frac": stats["sampled_tokens"] / max(stats.get("slot_steps", 0), 1),
        "pages_peak": stats.get("pages_peak", 0),
        "rows_set_aside": stats.get("rows_set_aside", 0),
        "tool_wait_s": stats.get("tool_wait_s", 0.0),
        "phase_s": stats["phase_s"],
    }
    for end in sorted({t.end for t in trajectories}):
        out[f"end_{end}_frac"] = sum(t.end == end for t in trajectories) / n
    for status in sorted({c.status for c in calls}):
        out[f"call_{status}_frac"] = sum(c.status == status for c in calls) / len(calls)
    for verdict in ("verifier_timeout", "verifier_error"):
        out[f"{verdict}_frac"] = sum(s.verdict == verdict for s in scored) / n
    return out
