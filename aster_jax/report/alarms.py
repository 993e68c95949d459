"""One sentence where tool use leaves the range it had before RL, during a run and in its report.

Interaction collapse is a fall, but a policy that calls without end is no better: both are
said. Pure.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

RL_STAGES = ("rl1", "rl2")
CALLS = "rollout/calls_mean"  # the metric of a step of RL that is watched
RECENT = 5  # steps that an alarm in training is about


def tool_use(before: float | None, now: float | None) -> str:
    """One sentence where the tool is used half as much as before RL, or twice as much; else "".

    Both are calls per trajectory; nothing can be said of a policy that made none to begin with.
    """
    word = _change(before, now)
    if not word:
        return ""
    return (
        f"Tool use has {word}: {now:.2f} calls per trajectory, {100 * now / before:.0f} % of the "
        f"{before:.2f} before RL."
    )


def _change(before: float | None, now: float | None) -> str:
    """"collapsed", "exploded" or ""."""
    if not before or now is None or not math.isfinite(before + now):
        return ""
    return "collapsed" if now <= before / 2 else "exploded" if now >= 2 * before else ""


def in_training(calls: Sequence[float]) -> str:
    """The alarm after the last of these steps of RL, given their calls per trajectory.

    The first step is played by the policy that SFT made; the last `RECENT` ones are taken
    together, as a step alone is a small sample.
    """
    return tool_use(calls[0], _recent(calls)) if calls else ""


def _recent(calls) -> float | None:
    recent = list(calls[1:])[-RECENT:]
    return float(np.mean(recent)) if recent else None


def is_news(calls: Sequence[float]) -> bool:
    """Whether the alarm after the last step is another one than the last that there was: it is
    said when tool use collapses, not again while it goes up and down around the bound."""
    words = _words(calls)
    return bool(words) and bool(words[-1]) and words[-1] != next(filter(None, words[-2::-1]), "")


def _words(calls) -> list[str]:
    """What has become of tool use after each step of RL."""
    return [_change(calls[0], _recent(calls[: i + 1])) for i in range(len(calls))]


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
    return said + _while_training([m for m in lines if m["stage"] in RL_STAGES and CALLS in m])


def _while_training(lines) -> list[str]:
    """A sentence for every stretch of steps in which tool use had collapsed or exploded, with
    the value that was furthest from what it was."""
    calls = [m[CALLS] for m in lines]
    said, at = [], 0
    for word, stretch in itertools.groupby(_words(calls)):
        first, at = at, at + len(list(stretch))
        if not word:
            continue
        text = in_training(calls)
        where = "At the end of training"
        if at < len(calls):
            means = [_recent(calls[: i + 1]) for i in range(first, at)]
            text = tool_use(calls[0], (min if word == "collapsed" else max)(means))
            where = f"{_step(lines[first])} to {_step(lines[at - 1])}, and not at the end"
        said.append(f"{where}: {text}")
    return said


def _step(line) -> str:
    return f"{line['stage']} step {line['step']}"


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
