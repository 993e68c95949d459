"""The studies' test bed: a small model on which the interaction with its tool can collapse.

    python -m aster_jax.main --config experiments/studies/bed.py

Hardware: 2 CPU cores. This is the "base" that the studies' members start from: trained on
solutions written in text and, a little, on traces of the tool, as a pretrained model is. It
answers a part of the easy walks (`aster_jax/demos/walks.py`) in text and next to none of the
hard ones, so that at first text is what earns.
"""

from aster_jax import config


def get_config():
    """A 2-layer model from scratch on text and a few tool traces; SFT and evaluation only."""
    c = config.default()
    c.name = "bed"
    c.stages = ("demos", "sft", "eval", "report")
    c.model.show_tool = False
    c.model.vocab_size = 1024
    c.model.num_layers = 2
    c.model.d_model = 128
    c.model.d_ff = 384
    c.model.num_heads = 4
    c.model.num_kv_heads = 2
    c.model.head_dim = 32

    c.problems.families = ("walk1", "walk2", "walk3")
    c.problems.num_train = 900
    c.problems.num_heldout = 96
    c.demos.style = "text*8,dense,told"
    c.demos.count = 2400
    c.demos.min_calls = 0
    c.demos.slip_share = 0.1

    c.sft.learning_rate = 4e-3
    c.sft.warmup_steps = 10
    c.sft.beta2 = 0.98
    c.sft.row_tokens = 512
    c.sft.rows = 16
    c.sft.micro_rows = 8
    c.sft.steps = 300
    c.sft.save_every = 100

    c.rl.learning_rate = 7e-4
    c.rl.beta2 = 0.98
    c.rl.weight_decay = 0.0
    c.rl.prompts = 8
    c.rl.group = 8
    c.rl.row_tokens = 512
    c.rl.micro_rows = 8

    c.rollout.slots = 64
    c.rollout.steps_per_dispatch = 8
    c.rollout.capacity = 512
    c.rollout.pool_tokens = 24_576
    c.rollout.prefill_buckets = (16, 64)
    for stage in ("rl1", "rl2", "eval"):
        c[stage].turn_tokens = 96
        c[stage].response_tokens = 448
        c[stage].context_tokens = 512
        c[stage].max_calls = 16
    c.eval.no_tool = False
    return c
