"""The advantage that the update gave each trained episode, from the records of its step.

The same computation as the update's (`rl/batch.py`), on rewards and endings alone, with
the keys of the run's config.
"""

from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.report import records
from aster_jax.rl import batch

_KEYS = ("divide_by_std", "truncated", "min_group")


def fill(rows: Sequence[dict], config: dict) -> None:
    """Set `advantage` of the rows (`entries.row`) of one run that an update trained on.

    Nothing where the config, of an older version, lacks a key that decides it.
    """
    for stage in records.RL_STAGES:
        sections = [config[name] for name in ("rl", stage) if name in config]
        known = {key: value for section in sections for key, value in _given(section).items()}
        if not set(_KEYS) <= known.keys():
            continue
        keys = {key: known[key] for key in _KEYS}
        steps: dict[int, list[dict]] = {}
        for row in rows:
            if row["stage"] == stage:
                steps.setdefault(row["step"], []).append(row)
        for members in steps.values():
            _of_step(members, keys)


def _given(section: dict) -> dict:
    return {key: value for key, value in section.items() if value is not None}


def _of_step(members, keys):
    problems = {p: i for i, p in enumerate(dict.fromkeys(r["problem"] for r in members))}
    groups = np.array([problems[r["problem"]] for r in members])
    scored = [_scored(i, row) for i, row in enumerate(members)]
    kept, _, found = batch.prepare(scored, groups, **keys)
    for s, advantage in zip(kept, found, strict=True):
        members[s.trajectory.sample]["advantage"] = round(float(advantage), 4)


def _scored(i, row) -> types.Scored:
    """An episode as far as advantages go: its place among the others in `sample`."""
    trajectory = types.Trajectory(
        row["problem"], i, (), (), (), (), (), (), row["end"], ""
    )
    return types.Scored(trajectory, row["reward"], row["verdict"])
