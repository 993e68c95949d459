"""RQ1 on a real pretrained model: SmolLM2-135M-Instruct, three starts, one seed.

    python -m aster_jax.main --config experiments/studies/smollm2_cold_start.py

Hardware: 2 CPU cores and 12 GB, or one GPU; about 40 minutes. Everything is
`experiments/smollm2_135m.py` except the demonstrations, none, one call, and dense, and the
number of RL steps. One seed shows nothing by itself (the report says so); give more with
`--workdir runs/smollm2_cold_start --config.study.seeds="(0, 1, 2)"`.
"""

from aster_jax import experiment


def get_config():
    """Three starts; without a cold start RL begins with a model that solves nothing."""
    c = experiment.read("smollm2_135m")
    c.name = "smollm2_cold_start"
    c.stages = ("demos", "sft", "rl1", "eval", "report")
    c.eval.checkpoints = ("sft", "rl1")
    c.rl1.steps = 4
    c.study.question = "How does the cold start shape the use of the tool under RL?"
    c.study.seeds = (0,)
    c.study.variants = (
        {"name": "zero", "stages": ("rl1", "eval", "report"),
         "eval.checkpoints": ("base", "rl1")},
        {"name": "sparse", "demos.style": "sparse", "demos.min_calls": 1},
        {"name": "dense"},
    )  # fmt: skip
    return c
