"""Every stage at the smallest size: does the whole thing run? Used by the tests.

    python -m aster_jax.main --config experiments/smoke.py

2 CPU cores, under 90 s, no network. The model learns next to nothing in so few steps.
"""

from aster_jax import config


def get_config():
    """The quickstart's shape with a few steps of everything."""
    c = config.default()
    c.name = "smoke"
    c.model.show_tool = False
    c.model.vocab_size = 600
    c.model.d_model = 64
    c.model.d_ff = 192
    c.problems.num_train = 32
    c.problems.num_heldout = 16
    c.demos.count = 48
    c.sft.steps = 12
    c.sft.rows = 16
    c.sft.save_every = 4
    c.sft.row_tokens = 512
    c.rl.prompts = 4
    c.rl.group = 4
    c.rl.row_tokens = 320
    c.rl.learning_rate = 1e-3
    c.rl.save_every = 1
    c.rollout.slots = 16
    c.rollout.capacity = 320
    c.rollout.prefill_rows = 8
    for stage in ("rl1", "rl2", "eval"):
        c[stage].context_tokens = 320
        c[stage].turn_tokens = 48
        c[stage].response_tokens = 160
        c[stage].max_calls = 4
    c.rl1.steps = 2
    c.rl2.steps = 2
    return c
