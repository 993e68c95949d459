"""The whole recipe on a laptop: a tiny model learns to solve problems with a live tool.

    python -m aster_jax.main --config experiments/quickstart.py

Hardware: 2 CPU cores, under 2 GB, no download. Takes 3 minutes, or 5 where the cores are
busy. What it printed is in the README.

How it is made hard enough to show something. Half of the demonstrations contain a slip that
the expert repairs, so the SFT model slips too; a trajectory may make 5 calls, exactly what
a clean solution needs, so a slip usually costs the answer; and SFT stops early, when a
probe on 128 problems of its own reaches 35 %, while copying a number still fails now and
then. RL sees the outcome alone and has to remove both kinds of error.
"""

from aster_jax import config


def get_config():
    """A 2-layer model from scratch, SFT and both RL stages."""
    c = config.default()
    c.name = "quickstart"
    c.model.show_tool = False  # trained for one tool only; its schema would be dead weight
    c.model.vocab_size = 1024
    c.model.num_layers = 2
    c.model.d_model = 128
    c.model.d_ff = 384
    c.model.num_heads = 4
    c.model.num_kv_heads = 2
    c.model.head_dim = 32

    c.problems.families = ("prod", "lcm", "count")
    c.problems.num_train = 200  # stage 1 visits each once
    c.problems.num_heldout = 256
    c.demos.count = 768
    c.demos.slip_share = 0.5

    c.sft.learning_rate = 4e-3
    c.sft.warmup_steps = 10
    c.sft.beta2 = 0.98
    c.sft.row_tokens = 192  # one demonstration per row, nearly
    c.sft.rows = 16  # with 32 as many steps, or half more, at twice the price
    c.sft.micro_rows = 8
    c.sft.steps = 640  # an upper bound: seeds 0, 1 and 2 stopped at 360, 300 and 340
    c.sft.save_every = 20
    c.sft.probe_every = 20
    c.sft.probe_from = 200  # before, none of the seeds was near
    c.sft.probe_problems = 128
    c.sft.stop_accuracy = 0.35

    c.rl.learning_rate = 7e-4
    c.rl.beta2 = 0.98
    c.rl.weight_decay = 0.0
    c.rl.prompts = 8
    c.rl.group = 8
    c.rl.row_tokens = 256
    c.rl.micro_rows = 4

    c.tools.preload = ("math",)  # all that this model's code ever wants
    c.rollout.slots = 64
    c.rollout.steps_per_dispatch = 8  # turns are about 10 tokens long
    c.rollout.capacity = 256
    c.rollout.pool_tokens = 12_288  # 64 rows of 192: few use their whole context
    c.rollout.prefill_buckets = (32, 64)
    for stage in ("rl1", "rl2", "eval"):
        c[stage].turn_tokens = 48
        c[stage].response_tokens = 192
        c[stage].context_tokens = 256
        c[stage].max_calls = 5
    c.eval.think = False  # it was never taught to think, so there is nothing to see
    c.rl1.steps = 25
    c.rl2.steps = 15
    return c
