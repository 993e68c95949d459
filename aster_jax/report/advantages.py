"""The advantage that the update gave each trained episode, from the records of its step.

The same computation as the update's (`rl/batch.py`), on rewards and endings alone, with
the keys of the run's config.
"""

from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.report import records
from aster_jax.rl import batch


def fill(rows: Sequence[dict], config: dict) -> None:
    """Set `advantage` of the rows (`entries.row`) of one run that an update trained on.

    Nothing where the config, of an older version, lacks a key that decides it, nor where
    tokens and turns decide, of which a row does not tell (soft budgets, void turns).
    """
    for stage in records.RL_STAGES:
        known = {**_given(config, "rl"), **_given(config, stage)}
        try:
            rules = batch.rules(known)
        except KeyError:
            continue
        if rules.mask_void or rules.budgets:
            continue
        steps: dict[int, list[dict]] = {}
        for row in rows:
            if row["stage"] == stage:
                steps.setdefault(row["step"], []).append(row)
        for members in steps.values():
            _of_step(members, rules)


def _given(config: dict, section: str) -> dict:
    keys = config[section] if section in config else {}
    return {key: value for key, value in keys.items() if value is not None}


def _of_step(members, rules):
    problems = {p: i for i, p in enumerate(dict.fromkeys(r["problem"] for r in members))}
    groups = np.array([problems[r["problem"]] for r in members])
    scored = [_scored(i, row) for i, row in enumerate(members)]
    kept, _, found = batch.prepare(scored, groups, rules)
    for s, advantage in zip(kept, found, strict=True):
        members[s.trajectory.sample]["advantage"] = round(float(advantage), 4)


def _scored(i, row) -> types.Scored:
    """An episode as far as advantages go: its place among the others in `sample`."""
    trajectory = types.Trajectory(
        row["problem"], i, (), (), (), (), (), (), row["end"], ""
    )
    return types.Scored(trajectory, row["reward"], row["verdict"])
