"""What a study compares: the numbers of one run, from what it left in its workdir. Pure.

Where in the flow: `report.records` of a finished member -> `Measures` -> `findings.py`.
"Before" is the policy that RL starts from, the cold-started one or the base; "after" is the
last RL checkpoint.
"""

import dataclasses

import numpy as np

from aster_jax.report import collapse, records

EDGE = 5  # RL steps at either end whose mean is "first" and "last"
COLLAPSED = 0.5  # share of the first calls per trajectory below which the last ones have fallen
HARDLY = 0.5  # calls per trajectory below which there is nothing to collapse


@dataclasses.dataclass(frozen=True)
class Measures:
    """One member in numbers.

    `scalars` by name, None where a run has none; accuracies and shares are in [0, 1], calls
    per trajectory, entropies in nats per written token. `curves` have a value per RL step.
    `matrix` is accuracy after RL by evaluation, in the config's order.
    """

    scalars: dict[str, float | None]
    curves: dict[str, list[float]]
    matrix: dict[str, float]


def measure(found: records.RunRecords) -> Measures:
    """The numbers of one run. Parts that did not run leave None or nothing."""
    main = [r for r in found.results if r["evaluation"] == "main"]
    tool = [r for r in main if r["arm"] == "main"]
    before, after = (tool[0], tool[-1]) if tool else (None, None)
    alone = [r for r in main if r["arm"] == "think"]
    curves = _curves(found)
    scalars = {
        "demo_tokens": _demo_tokens(found.finished),
        "demo_calls": found.finished.get("demos", {}).get("calls_mean"),
        **_of("before", before, alone[0] if alone else None),
        **_of("after", after, alone[-1] if alone else None),
        **_ends("calls", curves["calls"]),
        **_ends("entropy", curves["entropy"]),
        **_ends("reward", curves["reward"]),
        "one_call_last": _last(curves["at_most_one_call"]),
        "truncated_last": _last(curves["truncated"]),
    }
    scalars["collapsed"] = _collapsed(curves["calls"])
    matrix = {r["evaluation"]: r["avg_at_k"] for r in found.results
              if r["arm"] == "main" and after and r["checkpoint"] == after["checkpoint"]}  # fmt: skip
    return Measures(scalars, curves, matrix)


def _of(when, tool, alone) -> dict[str, float | None]:
    """Numbers of one checkpoint: with the tool, and `alone`, thinking without it."""
    names = ("accuracy", "pass", "eval_calls", "alone")
    if tool is None:
        return {f"{name}_{when}": None for name in names}
    values = (tool["avg_at_k"], tool["pass_at_k"], tool["calls_mean"],
              alone["avg_at_k"] if alone else None)  # fmt: skip
    families = {f"{f}_{when}": v["avg_at_k"] for f, v in tool["by_family"].items()}
    return {f"{name}_{when}": v for name, v in zip(names, values)} | families


def _curves(found) -> dict[str, list[float]]:
    """One value per RL step, both stages in a row."""
    lines = [m for m in found.metrics if m["stage"] in records.RL_STAGES]
    named = {"calls": "calls_mean", "reward": "reward_mean", "entropy": "entropy_mean"}
    curves = {
        name: [m[f"rollout/{key}"] for m in lines if f"rollout/{key}" in m]
        for name, key in named.items()
    }
    steps = [collapse.summarise(rows)
             for rows in collapse.group(found.rl_rows, "stage", "step").values()]  # fmt: skip
    curves["at_most_one_call"] = [s["at_most_one_call_frac"] for s in steps]
    curves["truncated"] = [1 - s["end"].get("answered", 0.0) for s in steps]
    return curves


def _demo_tokens(finished) -> float | None:
    """Tokens of the demonstrations that were trained on, over all of them."""
    demos = finished.get("demos")
    return demos["trained_tokens_mean"] * demos["demos"] if demos else None


def _ends(name, curve) -> dict[str, float | None]:
    if not curve:
        return {f"{name}_first": None, f"{name}_last": None}
    return {f"{name}_first": float(np.mean(curve[:EDGE])), f"{name}_last": _last(curve)}


def _last(curve) -> float | None:
    return float(np.mean(curve[-EDGE:])) if curve else None


def _collapsed(calls) -> float | None:
    """1 where calls per trajectory fell during RL to less than half of what they were.

    None where there were hardly any to begin with: what was not there cannot collapse.
    """
    if not calls or np.mean(calls[:EDGE]) < HARDLY:
        return None
    return float(np.mean(calls[-EDGE:]) < COLLAPSED * np.mean(calls[:EDGE]))
