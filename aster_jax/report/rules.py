"""What a reader of the curves should not miss: rules over every RL step, and where they held.

Pure: lines of metrics.jsonl -> alarms -> a table. A rule names a metric, the bound that it
should not pass, and what it may mean; the bounds are coarse, and an alarm is a reason to
look, not a verdict.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from aster_jax.report import records, tables


@dataclasses.dataclass(frozen=True)
class Rule:
    """`value` reads a number from (a step's line, the stage's lines, the lines of all RL); None
    where there is none.

    `bound` is the last harmless value: of those above it where `is_above`, else below.
    """

    name: str
    meaning: str
    value: Callable[[dict, list[dict], list[dict]], float | None]
    bound: float
    is_above: bool = True


def _metric(key):
    return lambda line, own, rl: line[key] if key in line else None


def _share_of(key, of_stage=False):
    """A metric as a share of its value in the first step that has one: of the stage, or of RL,
    which the policy after SFT plays."""

    def value(line, own, rl):
        start = _first(own if of_stage else rl, key)
        return line[key] / start if start and line.get(key) is not None else None

    return value


def _above_first(key):
    """A metric less its value in the first step of RL that has one: on some problems one and the
    same code is the right next step."""

    def value(line, own, rl):
        start = _first(rl, key)
        return line[key] - start if start is not None and line.get(key) is not None else None

    return value


def _first(lines, key):
    return next((m[key] for m in lines if m.get(key) is not None), None)


def _truncated(line, own, rl):
    found = [line[f"rollout/end_{end}_frac"] for end in tables.TRUNCATED
             if f"rollout/end_{end}_frac" in line]  # fmt: skip
    return sum(found) if found else None


def _failed(line, own, rl):
    attempts = [v for k, v in line.items() if k.startswith("rollout/call_") and k.endswith("_frac")]
    return 1 - line.get("rollout/call_ok_frac", 0.0) if attempts else None


def _broken(line, own, rl):
    """The states of `turns.states` that no policy is taught."""
    found = [line[key] for key in ("tool/turn_polluted_frac", "tool/turn_collapsed_frac")
             if line.get(key) is not None]  # fmt: skip
    return sum(found) if found else None


def _spike(line, own, rl):
    """The gradient norm over the stage's median."""
    norms = [m["rl/grad_norm"] for m in own if m.get("rl/grad_norm") is not None]
    middle = float(np.median(norms)) if norms else 0.0
    return line["rl/grad_norm"] / middle if middle and line.get("rl/grad_norm") is not None else None


def _exposed(line, own, rl):
    whole = line.get("rollout/phase_s")
    return line.get("rollout/tool_exposed_s", 0.0) / whole if whole else None


RULES = (
    Rule("interaction collapse", "share of trajectories with at most one call",
         _metric("rollout/at_most_one_call_frac"), 0.5),
    Rule("calls fall", "calls per trajectory, of RL's first step",
         _share_of("rollout/calls_mean"), 0.5, False),
    Rule("calls rise", "calls per trajectory, of RL's first step",
         _share_of("rollout/calls_mean"), 2.0),
    Rule("only verifies", "share of trajectories whose one call comes at the end",
         _metric("tool/only_verifies_frac"), 0.5),
    Rule("void turns", "share of turns that neither call nor answer",
         _metric("tool/void_turn_frac"), 0.2),
    Rule("format breaks", "share of turns that are empty or cannot be read", _broken, 0.2),
    Rule("repeats itself", "share of calls whose code had run before, above RL's first step",
         _above_first("tool/repeated_call_frac"), 0.3),
    Rule("calls are unlikely", "mean log-prob of the token that opens a call, nats",
         _metric("tool/opening_logprob"), -3.0, False),
    Rule("entropy collapse", "entropy per token, of the stage's first step",
         _share_of("rollout/entropy_mean", of_stage=True), 0.1, False),
    Rule("truncation", "share of trajectories cut by a budget of tokens", _truncated, 0.2),
    Rule("calls fail", "share of attempts at a call that failed", _failed, 0.5),
    Rule("little to learn from", "share of groups with mixed outcomes",
         _metric("rl/informative_frac"), 0.1, False),
    Rule("episodes lost", "share lost by the tool, the clock or the verifier",
         _metric("rollout/masked_frac"), 0.05),
    Rule("engine and trainer apart", "mean difference of log-probs, nats",
         _metric("rl/logp_diff_mean"), 0.05),
    Rule("much is clipped", "share of tokens whose ratio was clipped", _metric("rl/clip_frac"), 0.1),
    Rule("gradient spike", "gradient norm, of the stage's median", _spike, 10.0),
    Rule("not finite", "minibatches whose loss or gradient was not finite",
         _metric("rl/skipped_nonfinite"), 0.0),
    Rule("step unusable", "steps that made no update though they should have",
         _metric("rl/unusable"), 0.0),
    Rule("late compile", "programs compiled after the warm-up",
         _metric("rollout/compiles_after_warmup"), 0.0),
    Rule("waiting for tools", "share of the rollout in which the device waited for tools",
         _exposed, 0.5),
)  # fmt: skip


def of_run(metrics: Sequence[dict]) -> list[dict]:
    """The alarms of a run's RL stages, one for each rule and stage that it held in.

    Each has "alarm", "meaning", "stage", "steps" (all it held at), "worst", "worst_step" and
    "bound".
    """
    raised = []
    rl = [m for m in metrics if m["stage"] in records.RL_STAGES]
    for stage in records.RL_STAGES:
        lines = [m for m in metrics if m["stage"] == stage]
        for rule in RULES:
            found = {m["step"]: rule.value(m, lines, rl) for m in lines}
            over = {
                step: value for step, value in found.items()
                if value is not None and math.isfinite(value)
                and (value > rule.bound if rule.is_above else value < rule.bound)
            }  # fmt: skip
            if over:
                worst = (max if rule.is_above else min)(over, key=lambda step: over[step])
                raised.append({
                    "alarm": rule.name, "meaning": rule.meaning, "stage": stage,
                    "steps": sorted(over), "worst": over[worst], "worst_step": worst,
                    "bound": rule.bound,
                })  # fmt: skip
    return raised


def table(raised: Sequence[dict], metrics: Sequence[dict]) -> tables.Table:
    """The alarms with their steps; one line that says so where none was raised."""
    rows = [
        (a["alarm"], a["stage"], spans(a["steps"]), f"{a['worst']:.3g} at step {a['worst_step']}",
         f"{a['bound']:g}", a["meaning"])
        for a in raised
    ]  # fmt: skip
    if not rows and any(m["stage"] in records.RL_STAGES for m in metrics):
        rows = [("none", *[tables.NOTHING] * 4, f"none of {len(RULES)} rules held at any step")]
    note = "Coarse rules over every step of RL; each is a reason to look at the episodes of its steps."
    columns = ("alarm", "stage", "steps", "worst", "bound", "what is measured")
    return tables.Table("Alarms", columns, tuple(rows), note)


def spans(steps: Sequence[int]) -> str:
    """Sorted steps as text, runs of neighbours as one: `1-4, 9`; the first six of them."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][1] + 1:
            parts[-1][1] = step
        else:
            parts.append([step, step])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in parts[:6]]
    return ", ".join(shown) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "")
