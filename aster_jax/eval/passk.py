"""Accuracies over repeated samples, with 95 % intervals: avg@k, pass@1..k, maj@k, tool calls.

The unit that is resampled is the problem, never the sample: samples of one problem are not
independent, and an interval that treats them so is too narrow. Two kinds of interval:

* values that are all 0 or 1 (k = 1, or pass@k with k samples): Wilson's score interval,
  which stays honest when every value is the same;
* anything else: percentile bootstrap over problems with a fixed seed; where every value is
  the same, so that resampling shows nothing, Wilson's bound on the share of problems that
  would show something else.

Nothing leaves a denominator. A trajectory that our clock cut, and one that the tool or the
verifier lost for good, counts as wrong in every accuracy: the headline is a lower bound.
`avg_upper` counts them as right. Leaving them out would flatter, as a clock takes the
longest trajectories first and those are seldom right.
"""

import collections
import math
from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.reward import answer

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
RESAMPLES = 2000
RIGHT = ("right",)  # the vote of every right answer, however it is spelled
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

    Right ones are one vote, since each of them equals the gold answer; wrong ones are one
    where `answers` has one spelling for them. None and "" (no answer) are no vote. 0 when
    nobody answered.
    """
    votes = collections.Counter(
        RIGHT if reward > 0 else found
        for found, reward in zip(answers, rewards, strict=True)
        if reward > 0 or found
    )
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [vote for vote, count in votes.items() if count == most]
    return winners.count(RIGHT) / len(winners)


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


def bounded(values: Sequence[float], seed: int, least: float, most: float) -> Interval:
    """95 % interval of the mean of per-problem values that lie in [least, most].

    A bootstrap, except where all are equal: there at most a share w of all problems, by
    Wilson, has another value, and the mean lies no further off than if those were extremes.
    """
    if min(values) < max(values):
        return bootstrap(values, seed)
    other = wilson(0, len(values))[1]
    same = (1 - other) * values[0]
    return same + other * least, same + other * most


def interval(values: Sequence[float], seed: int) -> Interval:
    """95 % interval of the mean of per-problem values in [0, 1]; Wilson's if all are 0 or 1."""
    if all(value in (0.0, 1.0) for value in values):
        return wilson(sum(values), len(values))
    return bounded(values, seed, 0.0, 1.0)


def is_lost(record: dict) -> bool:
    """Whether the tool or the verifier failed: what came of it is not known."""
    return types.is_lost(record["end"], record["verdict"])


def is_cut(record: dict) -> bool:
    """Whether our clock ended the episode (trajectory_s or deadline_s)."""
    return record["end"] == "deadline"


def summarise(records: Sequence[dict], seed: int) -> dict:
    """The numbers of one line of results.json from episode records (`rollout/record.py`).

    `k` is the number of samples of a problem; a problem that has fewer than another one
    counts as if the others were lost. Accuracies are lower bounds (see the module's
    docstring); `avg_upper` is avg@k with the `masked` (lost) and `cut` ones as right.
    `pass_curve` has [k, pass@k, low, high] for every k up to it. `by_family` is avg@k with
    n problems; `end` and `verdict` are shares of trajectories, `call_status` of attempts at
    a call, malformed ones included. Calls and tokens are of those that were not lost; None
    where all were.
    """
    groups = _by_problem(records)
    k = max(map(len, groups.values()))
    right = {i: [_reward(r) for r in g] for i, g in groups.items()}
    mean = {i: sum(rewards) / k for i, rewards in right.items()}
    unknown = [k - len(g) + sum(is_lost(r) or is_cut(r) for r in g) for g in groups.values()]
    avg_low, avg_high = interval(list(mean.values()), seed)
    solved = [sum(reward > 0 for reward in rewards) for rewards in right.values()]
    curve = pass_curve(solved, k, seed)
    _, pass_at_k, pass_low, pass_high = curve[-1]
    known = [r for r in records if not is_lost(r)]
    return {
        "n_problems": len(groups),
        "k": k,
        "masked": k * len(groups) - len(known),
        "cut": sum(map(is_cut, records)),
        "avg_at_k": float(np.mean(list(mean.values()))),
        "avg_low": avg_low,
        "avg_high": avg_high,
        "avg_upper": float(np.mean(list(mean.values()))) + sum(unknown) / (k * len(groups)),
        "pass_at_k": pass_at_k,
        "pass_low": pass_low,
        "pass_high": pass_high,
        "pass_curve": curve,
        "maj_at_k": float(np.mean([_majority_of(g) for g in groups.values()])),
        **_calls(known, seed),
        "by_family": _by_family(groups, mean),
        "end": _shares(r["end"] for r in records),
        "call_status": _shares(c["status"] for r in known for c in r["calls"]),
        "verdict": _shares(r["verdict"] for r in records),
        "tokens_mean": float(np.mean([r["num_tokens"] for r in known])) if known else None,
    }


def pass_curve(solved: Sequence[int], samples: int, seed: int) -> list[list]:
    """[k, pass@k, low, high] for k = 1 to `samples`; `solved` counts right ones by problem."""
    curve = []
    for k in range(1, samples + 1):
        values = [pass_at(k, samples, correct) for correct in solved]
        curve.append([k, float(np.mean(values)), *interval(values, seed)])
    return curve


def difference(before: Sequence[dict], after: Sequence[dict], seed: int) -> dict:
    """How much higher avg@k is in `after`, on the problems that are in both.

    Paired: each problem's own difference is resampled, so that problems being easy or hard
    widens nothing. Returns {"delta", "low", "high", "n"}; n counts problems. Raises
    ValueError when no problem is in both.
    """
    means = [
        {i: float(np.mean([_reward(r) for r in g])) for i, g in _by_problem(records).items()}
        for records in (before, after)
    ]
    both = [i for i in means[0] if i in means[1]]
    if not both:
        raise ValueError("no problem is in both sets of episodes, so they cannot be compared")
    changes = [means[1][i] - means[0][i] for i in both]
    low, high = bounded(changes, seed, -1.0, 1.0)
    return {"delta": float(np.mean(changes)), "low": low, "high": high, "n": len(both)}


def _by_problem(records) -> dict[str, list[dict]]:
    groups = collections.defaultdict(list)
    for record in records:
        groups[record["problem_id"]].append(record)
    return groups


def _reward(record: dict) -> float:
    return 0.0 if is_lost(record) or is_cut(record) else record["reward"]


def _calls(known, seed) -> dict:
    """Calls per trajectory, a problem's mean over its own first."""
    by_problem = [
        float(np.mean([types.num_calls(c["status"] for c in r["calls"]) for r in group]))
        for group in _by_problem(known).values()
    ]
    low, high = bootstrap(by_problem, seed) if by_problem else (None, None)
    mean = float(np.mean(by_problem)) if by_problem else None
    return {"calls_mean": mean, "calls_low": low, "calls_high": high}


def _majority_of(group: Sequence[dict]) -> float:
    return majority([_vote(r) for r in group], [_reward(r) for r in group])


def _vote(record: dict) -> str | None:
    """The answer of a finished trajectory in one spelling, from what the model wrote last.

    An opener that was begun for the model belongs to the first turn; the prompt, which
    may ask for a box itself, to none.
    """
    written = [s["text"] for s in record["spans"] if s["kind"] == "model"]
    if record["end"] != "answered" or is_lost(record) or not written:
        return None
    opener = record["opener"] if len(written) == 1 else ""
    found = answer.extract(opener + written[-1])
    return answer.vote_key(found) if found else None


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
