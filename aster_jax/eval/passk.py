"""Accuracies over repeated samples, with 95 % intervals: avg@k, pass@k, maj@k, tool calls.

The unit that is resampled is the problem, never the sample: samples of one problem are not
independent, and an interval that treats them so is too narrow. Two kinds of interval:

* values that are all 0 or 1 (k = 1, or pass@k with k samples): Wilson's score interval,
  which stays honest when every value is the same;
* anything else: percentile bootstrap over problems with a fixed seed.

Trajectories that ended for our own reasons (tool, verifier, a deadline) are left out of every
number and counted in `masked`. A deadline takes the longest ones first, and those are seldom
right, so an accuracy is to be read together with `masked`.
"""

import collections
import math
from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.reward import answer

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
RESAMPLES = 2000
Interval = tuple[float, float]


def pass_at(k: int, samples: int, correct: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right.

    1 - C(n-c, k) / C(n, k) for c right ones of n (Chen et al. 2021, eq. 1). Raises
    ValueError when k exceeds the samples there are.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} from {correct} of {samples} samples: needs 1 <= k <= samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(answers: Sequence[str | None], rewards: Sequence[float]) -> float:
    """Whether the most frequent answer of a problem is right; ties give the mean over them.

    `answers` are normalised; None (no answer) never wins a vote. 0 when nobody answered.
    """
    votes, right = collections.Counter(), {}
    for found, reward in zip(answers, rewards, strict=True):
        if found is not None:
            votes[found] += 1
            right[found] = max(right[found] if found in right else 0.0, reward)
    if not votes:
        return 0.0
    most = max(votes.values())
    return float(np.mean([right[a] for a, count in votes.items() if count == most]))


def wilson(successes: float, n: int) -> Interval:
    """95 % score interval of a proportion (Wilson 1927)."""
    share = successes / n
    middle = share + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def bootstrap(values: Sequence[float], seed: int) -> Interval:
    """95 % percentile interval of the mean of per-problem values, problems resampled."""
    values = np.asarray(values, np.float64)
    rng = np.random.Generator(np.random.Philox(seed))
    picks = rng.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def interval(values: Sequence[float], seed: int) -> Interval:
    """95 % interval of the mean of per-problem values; Wilson's if all are 0 or 1."""
    if all(value in (0.0, 1.0) for value in values):
        return wilson(sum(values), len(values))
    return bootstrap(values, seed)


def is_masked(record: dict) -> bool:
    """Whether an episode record says nothing about the policy."""
    return types.says_nothing(record["end"], record["verdict"])


def summarise(records: Sequence[dict], seed: int) -> dict:
    """The numbers of one line of results.json from episode records (`rollout/record.py`).

    `k` is the largest number of samples of a problem; a problem that lost samples to
    masking counts with those it has left. `by_family` is avg@k with n problems, `end` and
    `call_status` are shares of trajectories and of attempts at a call, malformed ones
    included. Raises ValueError when nothing is left to count.
    """
    counted = [r for r in records if not is_masked(r)]
    if not counted:
        raise ValueError(
            f"all {len(records)} trajectories were lost to the tool or the verifier; "
            "see call_status and verdicts in the episode files"
        )
    groups = collections.defaultdict(list)
    for record in counted:
        groups[record["problem_id"]].append(record)
    k = max(map(len, groups.values()))
    mean = {i: float(np.mean([r["reward"] for r in g])) for i, g in groups.items()}
    passed = [
        pass_at(len(g), len(g), sum(r["reward"] > 0 for r in g)) for g in groups.values()
    ]
    calls = [float(np.mean([_calls_of(r) for r in g])) for g in groups.values()]
    avg_low, avg_high = interval(list(mean.values()), seed)
    pass_low, pass_high = interval(passed, seed)
    calls_low, calls_high = bootstrap(calls, seed)
    return {
        "n_problems": len(groups),
        "k": k,
        "masked": len(records) - len(counted),
        "avg_at_k": float(np.mean(list(mean.values()))),
        "avg_low": avg_low,
        "avg_high": avg_high,
        "pass_at_k": float(np.mean(passed)),
        "pass_low": pass_low,
        "pass_high": pass_high,
        "maj_at_k": float(np.mean([_majority_of(g) for g in groups.values()])),
        "calls_mean": float(np.mean(calls)),
        "calls_low": calls_low,
        "calls_high": calls_high,
        "by_family": _by_family(groups, mean),
        "end": _shares(r["end"] for r in counted),
        "call_status": _shares(c["status"] for r in counted for c in r["calls"]),
        "verdict": _shares(r["verdict"] for r in counted),
        "tokens_mean": float(np.mean([r["num_tokens"] for r in counted])),
    }


def _calls_of(record: dict) -> int:
    return types.num_calls(c["status"] for c in record["calls"])


def _majority_of(group: Sequence[dict]) -> float:
    return majority([_answer_of(r) for r in group], [r["reward"] for r in group])


def _answer_of(record: dict) -> str | None:
    """The normalised answer of a finished trajectory, from what the model wrote last."""
    if record["end"] != "answered":
        return None
    written = [s["text"] for s in record["spans"] if s["kind"] == "model"]
    # An answer that was begun for the model (a forced opener) ends the prompt's span.
    given = record["spans"][0]["text"] if len(written) == 1 else ""
    found = answer.extract(written[-1]) if written else None
    if found is None and given:
        found = answer.extract(given + written[-1])
    return None if found is None else answer.normalise(found)


def _by_family(groups, mean) -> dict:
    members = collections.defaultdict(list)
    for problem_id, group in groups.items():
        members[group[0]["family"]].append(mean[problem_id])
    return {
        family: {"avg_at_k": float(np.mean(values)), "n": len(values)}
        for family, values in sorted(members.items())
    }


def _shares(names) -> dict[str, float]:
    counts = collections.Counter(names)
    total = sum(counts.values())
    return {name: counts[name] / total for name in sorted(counts)}
