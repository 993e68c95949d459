"""One sentence where tool use leaves the range it had before RL, during a run and in its report.

Interaction collapse is a fall, but a policy that calls without end is no better: both are
said. Pure.
"""

from collections.abc import Sequence

import numpy as np

RL_STAGES = ("rl1", "rl2")
CALLS = "rollout/calls_mean"  # the metric of a step of RL that is watched
RECENT = 5  # steps that an alarm in training is about


def tool_use(before: float | None, now: float | None) -> str:
    """One sentence where the tool is used half as much as before RL, or twice as much; else "".

    Both are calls per trajectory; nothing can be said of a policy that made none to begin with.
    """
    if not before or now is None or before / 2 < now < 2 * before:
        return ""
    word = "collapsed" if now <= before / 2 else "exploded"
    return (
        f"Tool use has {word}: {now:.2f} calls per trajectory, {100 * now / before:.0f} % of the "
        f"{before:.2f} before RL."
    )


def in_training(calls: Sequence[float]) -> str:
    """The alarm after the last of these steps of RL, given their calls per trajectory.

    The first step is played by the policy that SFT made; the last `RECENT` ones are taken
    together, as a step alone is a small sample.
    """
    recent = list(calls[1:])[-RECENT:]
    return tool_use(calls[0], float(np.mean(recent))) if recent else ""


def of_run(results: Sequence[dict], lines: Sequence[dict]) -> list[str]:
    """What the report says: alarms of the evaluations and of training, and what became of the
    ability to do without the tool.

    `results` are the entries of eval/results.json, `lines` those of metrics.jsonl.
    """
    said = []
    by_name = {(r["evaluation"], r["arm"], r["checkpoint"]): r for r in results}
    for evaluation in dict.fromkeys(r["evaluation"] for r in results):
        where = "" if evaluation == "main" else f"{evaluation}: "
        for checkpoint in ("rl1", "rl2"):
            pair = [by_name.get((evaluation, "main", name)) for name in ("sft", checkpoint)]
            text = "" if None in pair else tool_use(*(r["calls_mean"] for r in pair))
            said += [f"{where}{checkpoint}: {text}"] if text else []
        said += [where + text for text in _forgetting(by_name, evaluation)]
    calls = [m[CALLS] for m in lines if m["stage"] in RL_STAGES and CALLS in m]
    text = in_training(calls) if calls else ""
    return said + ([f"At the end of training: {text}"] if text else [])


def _forgetting(by_name, evaluation) -> list[str]:
    """A sentence per arm without the tool whose accuracy RL has halved since SFT."""
    said = []
    for arm in ("no_tool", "think"):
        known = [by_name.get((evaluation, arm, name)) for name in ("sft", "rl1", "rl2")]
        before, last = known[0], next((r for r in reversed(known[1:]) if r), None)
        if before and last and 0 < before["avg_at_k"] and last["avg_high"] < before["avg_at_k"] / 2:
            said.append(
                f"Without the tool ({arm}) accuracy fell from {100 * before['avg_at_k']:.1f} % after "
                f"SFT to {100 * last['avg_at_k']:.1f} %: what the policy could do alone is going."
            )
    return said
