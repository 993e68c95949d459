"""A study whose members are made of files alone: what its tests play in place of a run."""

import json

from aster_jax import config, workdir
from aster_jax.lifetime import changes
from aster_jax.train import metrics

STAGES = ("demos", "sft", "rl1")


def study(**keys):
    """A valid study of two variants and a seed; `keys` are those of `study`."""
    c = config.default()
    c.name = "s"
    c.study.variants = ({"name": "a"}, {"name": "b", "rl1.max_calls": 2})
    c.study.seeds = (0,)
    for key, value in keys.items():
        c.study[key] = value
    return c


def play(c, path, until="rl1"):
    """Leave what a run of this config leaves when the stage `until` is finished."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(workdir.as_json(c))
    for stage in STAGES[: STAGES.index(until) + 1]:
        if stage not in c.stages or (path / stage / "began.json").exists():
            continue
        (path / stage).mkdir(exist_ok=True)
        (path / stage / "began.json").write_text(json.dumps(changes.record(c, stage)))
        if stage == "demos":
            (path / stage / "demos.jsonl").write_text(f"{c.demos.count}\n")
        else:
            metrics.append(path, stage, 1, 0.5, {f"{stage}/loss": 0.25})
            checkpoint = path / stage / "checkpoints" / f"{c[stage].steps}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "params").write_text("weights")
        (path / stage / "DONE.json").write_text(json.dumps({"step": c.sft.steps}))
    if until == "rl1":
        (path / "report").mkdir(exist_ok=True)
        (path / "report" / "DONE.json").write_text("{}")


def numbers(after=0.5) -> dict:
    """The measures of a member, as plain values."""
    scalars = {"accuracy_before": 0.1, "accuracy_after": after, "calls_first": 4.0,
               "calls_last": 3.0, "collapsed": 0.0}  # fmt: skip
    curves = {"calls": [4.0], "reward": [0.2], "entropy": [0.3]}
    return {"scalars": scalars, "curves": curves, "matrix": {"main": after}, "has_rl": True}
