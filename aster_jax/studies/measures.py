"""What a study compares: the numbers of one run, from what it left in its workdir. Pure.

Where in the flow: `report.records` of a finished member -> `Measures` -> `findings.py`.
"Before" is the policy that RL starts from: the cold-started one, or the base where the run has
no SFT. "After" is the last RL checkpoint that was evaluated; a run without RL has none. Both go
by name, so the order and the length of `eval.checkpoints` say nothing.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from aster_jax.report import collapse, records

EDGE = 5  # RL steps at either end whose mean is "first" and "last"
COLLAPSED = 0.5  # share of the first calls per trajectory below which the last ones have fallen
HARDLY = 0.5  # calls per trajectory below which there is nothing to collapse


@dataclasses.dataclass(frozen=True)
class Measures:
    """One member in numbers.

    `scalars` by name, None where a run has none; accuracies and shares are in [0, 1], calls
    per trajectory, entropies in nats per written token. `curves` have a value per RL step,
    None where it was lost. `matrix` is accuracy after RL by evaluation, in the config's order.
    `has_rl` is whether the run has a stage of RL at all. No number is NaN or infinite.
    """

    scalars: dict[str, float | None]
    curves: dict[str, list[float | None]]
    matrix: dict[str, float]
    has_rl: bool = True


def measure(found: records.RunRecords) -> Measures:
    """The numbers of one run. Parts that did not run leave None or nothing."""
    tool, alone = (
        {r["checkpoint"]: r for r in found.results if (r["evaluation"], r["arm"]) == ("main", arm)}
        for arm in ("main", "think")
    )
    stages = found.config["stages"]
    before = "sft" if "sft" in stages else "base"
    after = next((s for s in reversed(records.RL_STAGES) if s in stages and s in tool), None)
    curves = _curves(found)
    scalars = {
        "demo_tokens": _demo_tokens(found.finished),
        "demo_calls": found.finished.get("demos", {}).get("calls_mean"),
        **_of("before", tool.get(before), alone.get(before)),
        **_of("after", tool.get(after), alone.get(after)),
        **_ends("calls", curves["calls"]),
        **_ends("entropy", curves["entropy"]),
        **_ends("reward", curves["reward"]),
        "one_call_last": mean(curves["at_most_one_call"][-EDGE:]),
        "truncated_last": mean(curves["truncated"][-EDGE:]),
    }
    scalars["collapsed"] = _collapsed(curves["calls"])
    matrix = {r["evaluation"]: r["avg_at_k"] for r in found.results
              if r["arm"] == "main" and r["checkpoint"] == after}  # fmt: skip
    return Measures(
        {name: _finite(value) for name, value in scalars.items()},
        curves,
        {name: value for name, value in matrix.items() if _finite(value) is not None},
        bool({*records.RL_STAGES} & {*stages}),
    )


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _finite(value: float | None) -> float | None:
    """A number, or None for what is none: JSON has no word for it, and no mean survives it."""
    return value if value is not None and math.isfinite(value) else None


def _of(when, tool, alone) -> dict[str, float | None]:
    """Numbers of one checkpoint: with the tool, and `alone`, thinking without it."""
    names = ("accuracy", "pass", "eval_calls", "alone")
    if tool is None:
        return {f"{name}_{when}": None for name in names}
    values = (tool["avg_at_k"], tool["pass_at_k"], tool["calls_mean"],
              alone["avg_at_k"] if alone else None)  # fmt: skip
    families = {f"{f}_{when}": v["avg_at_k"] for f, v in tool["by_family"].items()}
    return {f"{name}_{when}": v for name, v in zip(names, values)} | families


def _curves(found) -> dict[str, list[float | None]]:
    """One value per RL step, both stages in a row."""
    lines = [m for m in found.metrics if m["stage"] in records.RL_STAGES]
    named = {"calls": "calls_mean", "reward": "reward_mean", "entropy": "entropy_mean"}
    curves = {
        name: [_finite(m.get(f"rollout/{key}")) for m in lines]
        for name, key in named.items()
    }
    steps = [collapse.summarise(rows)
             for rows in collapse.group(found.rl_rows, "stage", "step").values()]  # fmt: skip
    curves["at_most_one_call"] = [s["at_most_one_call_frac"] for s in steps]
    curves["truncated"] = [1 - s["end"].get("answered", 0.0) if s["end"] else None for s in steps]
    return curves


def _demo_tokens(finished) -> float | None:
    """Tokens of the demonstrations that were trained on, over all of them."""
    demos = finished.get("demos")
    return demos["trained_tokens_mean"] * demos["demos"] if demos else None


def _ends(name, curve) -> dict[str, float | None]:
    return {f"{name}_first": mean(curve[:EDGE]), f"{name}_last": mean(curve[-EDGE:])}


def _collapsed(calls) -> float | None:
    """1 where calls per trajectory fell during RL to less than half of what they were.

    None where there were hardly any to begin with: what was not there cannot collapse.
    """
    first, last = mean(calls[:EDGE]), mean(calls[-EDGE:])
    if first is None or last is None or first < HARDLY:
        return None
    return float(last < COLLAPSED * first)
