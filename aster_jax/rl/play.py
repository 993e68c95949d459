"""The trajectories of one RL step: drawn, played, and refilled where nothing can be learned.

A group whose rewards all agree has no advantages. With `refill_tries` it is replaced by a
group of another problem, as in DAPO's dynamic sampling (arXiv 2503.14476), but a bounded
number of times. What is drawn depends on the seed, the step, the attempt and the rewards
before it, so a step that is made again draws the same.
"""

import dataclasses

import numpy as np

from aster_jax import policy as policies
from aster_jax import settings, types
from aster_jax.data import problems
from aster_jax.rl import batch as batches
from aster_jax.rollout import journal, live, phase

LARGEST = ("pool_pages", "pages_peak", "compiles_after_warmup")  # counters that do not add up


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step played.

    `scored` is what the update is made of, so many groups as asked, their members side by
    side; `drawn` is everything that was played, `prompts` the number of its problems; `stats`
    are the counters of all its phases together.
    """

    scored: list[types.Scored]
    drawn: list[types.Scored]
    prompts: int
    stats: dict


class Table:
    """Where a stage's steps are played.

    Args:
      run, policy, players: with whom.
      stage, c: the stage's name and its keys (`config.rl_stage`).
      pool: its problems, of which every step draws `prompts`.
    """

    def __init__(
        self,
        run,
        policy: policies.Policy,
        players: phase.Players,
        stage: str,
        c,
        pool: list[types.Problem],
        prompts: int,
    ):
        self._run, self._policy, self._players = run, policy, players
        self._stage, self._c, self._pool, self._prompts = stage, c, pool, prompts
        self._limits: live.Budgets = settings.budgets(run.config, c)
        self._rules = batches.rules(c)

    def step(self, params: dict, now: int, episodes: journal.Journal, where: dict) -> Step:
        """Play step `now` (1-based); `episodes` and `where` as in `phase.run_phase`.

        Raises `errors.Leaving` when the process has to go.
        """
        config, c = self._run.config, self._c
        drawn = problems.batch(len(self._pool), self._prompts, now - 1, config.seed)
        name = f"{self._stage}/{now}"
        reuse = not config.rollout.lockstep
        scored, stats = self._play(params, drawn, name, episodes, where, reuse)
        everything, groups = list(scored), _groups(scored, c.group)
        for attempt in range(1, c.refill_tries + 1):
            agreeing = self._agreeing(groups)
            new = problems.spare(
                len(self._pool), set(drawn), len(agreeing), now - 1, attempt, config.seed
            )
            if not new:
                break
            # What this step has played stands in the journal by now, and nothing else does.
            more, its_stats = self._play(
                params, new, f"{name}/refill{attempt}", episodes, where, reuse=True
            )
            drawn, everything, stats = drawn + new, everything + more, _added(stats, its_stats)
            useful = self._informative(_groups(more, c.group))
            for slot, group in zip(agreeing, useful, strict=False):
                groups[slot] = group
        return Step([s for group in groups for s in group], everything, len(drawn), stats)

    def _play(self, params, indices, name, episodes, where, reuse):
        asked = phase.requests([self._pool[i] for i in indices], self._c.group, self._policy)
        return phase.run_phase(
            self._run, self._policy, self._players, params, asked, self._limits, name,
            episodes, where, reuse,
        )  # fmt: skip

    def _agreeing(self, groups) -> list[int]:
        return batches.agreeing_groups(*_flat(groups), self._rules)

    def _informative(self, groups) -> list[list[types.Scored]]:
        scored, ids = _flat(groups)
        nothing = batches.agreeing_groups(scored, ids, self._rules)
        nothing += batches.short_groups(scored, ids, self._rules)
        return [group for i, group in enumerate(groups) if i not in nothing]


def _groups(scored, size) -> list[list[types.Scored]]:
    return [scored[i : i + size] for i in range(0, len(scored), size)]


def _flat(groups) -> tuple[list[types.Scored], np.ndarray]:
    return [s for group in groups for s in group], np.repeat(
        np.arange(len(groups)), [len(group) for group in groups]
    )


def _added(stats: dict, more: dict) -> dict:
    """Counters of one phase after another."""
    return {
        name: (max if name in LARGEST else sum)(s[name] for s in (stats, more) if name in s)
        for name in dict.fromkeys([*stats, *more])
    }
