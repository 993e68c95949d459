"""Accuracy on problems that are never trained on, while RL goes on.

What tells an update that helps from one that only fits its own problems; the best
checkpoint by it can be kept and handed on (`rl.keep_best`, `rl.hand_on`).
"""

import numpy as np

from aster_jax import pools, settings, types
from aster_jax.rollout import phase


def is_due(c, step: int) -> bool:
    """Whether a stage is measured after step `step`: every so many, and at its end."""
    return c.eval_every > 0 and (step % c.eval_every == 0 or step == c.steps)


class Measure:
    """Measures a stage's policy on the validation split, with the stage's own budgets.

    `left`: what the stage leaves out (`changes.LeftOut`). `known`: the best accuracy so far, None
    where nothing has been measured.
    """

    def __init__(self, run, policy, players, stage: str, c, left, known: float | None):
        self._run, self._policy, self._players, self._stage = run, policy, players, stage
        self._c, self._best = c, -1.0 if known is None else known
        self._problems = []
        if c.eval_every:
            found = pools.validation(run.config, left, c.eval_problems)
            self._problems = phase.fitting(run, policy, found, stage, c.context_tokens)

    def __call__(self, params: dict, step: int) -> dict[str, float]:
        """Metrics of the policy after `step`, where they are due.

        Keys are the same at every step, so that two checkpoints differ by their parameters
        and not by luck. Raises `errors.Leaving` when the process has to go: what was cut short
        is no measurement.
        """
        c = self._c
        if not is_due(c, step):
            return {}
        scored, _ = phase.run_phase(
            self._run, self._policy, self._players, params,
            phase.requests(self._problems, c.eval_samples, self._policy),
            settings.budgets(self._run.config, c), f"{self._stage}/validation",
        )  # fmt: skip
        return numbers(scored)

    def is_best(self, values: dict) -> bool:
        """Whether the values hold an accuracy above all that were asked about before."""
        found = values.get("rl/eval_accuracy", -1.0)
        is_best, self._best = found > self._best, max(found, self._best)
        return is_best and self._c.keep_best


def numbers(scored: list[types.Scored]) -> dict[str, float]:
    """avg@k and pass@k over problems; what the clock cut counts as wrong, what the tool or
    the verifier lost is left out and told, so that pass@k is a lower bound where some was. No
    accuracy where nothing is left."""
    groups: dict[str, list[float]] = {}
    known = [s for s in scored if not types.is_lost(s.trajectory.end, s.verdict)]
    for s in known:
        groups.setdefault(s.trajectory.problem_id, []).append(s.reward)
    found = {"rl/eval_lost_frac": 1 - len(known) / len(scored)}
    if groups:
        found["rl/eval_accuracy"] = float(np.mean([np.mean(g) for g in groups.values()]))
        found["rl/eval_pass"] = float(np.mean([max(g) > 0 for g in groups.values()]))
        calls = [types.num_calls(k.status for k in s.trajectory.calls) for s in known]
        found["rl/eval_calls"] = float(np.mean(calls))
    return found
