"""Every stage at the smallest size: does the whole thing run? Used by the tests.

    python -m aster_jax.main --config experiments/smoke.py

2 CPU cores, under 90 s, no network. The model learns the form of an answer and little
else, which is enough for some rewards, and so for RL steps with a gradient.
"""

from aster_jax import config


def get_config():
    """The quickstart's shape with a few steps of everything."""
    c = config.default()
    c.name = "smoke"
    c.model.show_tool = False
    c.model.vocab_size = 1024
    c.model.d_model = 64
    c.model.d_ff = 192
    c.problems.families = ("prod", "lcm", "count")
    c.problems.num_train = 32
    c.problems.num_heldout = 16
    c.demos.count = 96
    c.sft.learning_rate = 6e-3
    c.sft.beta2 = 0.98
    c.sft.steps = 60
    c.sft.rows = 16
    c.sft.save_every = 10
    c.sft.row_tokens = 192
    c.rl.prompts = 4
    c.rl.group = 8
    c.rl.row_tokens = 256
    c.rl.learning_rate = 1e-3
    c.rl.save_every = 1
    c.tools.preload = ("math",)  # all that this model's code ever wants
    c.rollout.slots = 32
    c.rollout.capacity = 256
    c.rollout.pool_tokens = 6_144  # 32 rows of 192
    c.rollout.prefill_rows = 8
    for stage in ("rl1", "rl2", "eval"):
        c[stage].context_tokens = 256
        c[stage].turn_tokens = 48
        c[stage].response_tokens = 192
        c[stage].max_calls = 6
    c.rl1.steps = 3
    c.rl2.steps = 2
    return c
