"""The whole recipe on a laptop: a tiny model learns to solve problems with a live tool.

    python -m aster_jax.main --config experiments/quickstart.py

Trains from scratch (the vocabulary too); no download. 2 CPU cores.
"""

from aster_jax import config


def get_config():
    """The quickstart."""
    c = config.default()
    c.name = "quickstart"
    c.model.show_tool = False
    c.model.vocab_size = 1024
    c.model.num_layers = 2
    c.model.d_model = 128
    c.model.d_ff = 384
    c.model.num_heads = 4
    c.model.num_kv_heads = 2
    c.model.head_dim = 32

    c.demos.count = 512

    c.sft.learning_rate = 4e-3
    c.sft.warmup_steps = 10
    c.sft.beta2 = 0.98
    c.sft.row_tokens = 192
    c.sft.rows = 32
    c.sft.micro_rows = 8
    c.sft.steps = 220
    c.sft.save_every = 20
    c.sft.probe_every = 10
    c.sft.probe_from = 80
    c.sft.stop_accuracy = 0.45

    c.rl.learning_rate = 5e-4
    c.rl.beta2 = 0.98
    c.rl.weight_decay = 0.0
    c.rl.prompts = 8
    c.rl.group = 8
    c.rl.row_tokens = 256
    c.rl.micro_rows = 8

    c.rollout.slots = 64
    c.rollout.capacity = 256
    c.rollout.prefill_buckets = (32, 64)
    for stage in ("rl1", "rl2", "eval"):
        c[stage].turn_tokens = 48
        c[stage].response_tokens = 192
        c[stage].context_tokens = 256
        c[stage].max_calls = 8
    c.rl1.steps = 25
    c.rl2.steps = 15
    c.problems.num_train = 200
    return c
