"""ASTER-4B: the paper's run on Qwen3-4B-Thinking-2507, each number with its source.

    python -m aster_jax.main --config experiments/aster_4b.py --workdir /mnt/shared/aster_4b
    python -m aster_jax.main --config experiments/aster_4b.py:16 ...

Hardware: 64 devices, such as a TPU v5p-128: v5p names count TensorCores, so that is
64 chips and 64 JAX devices, on 16 hosts with one process each. Behind a colon another number
of devices: 16 for a v5p-32. What is spread over them follows; what one of them holds stays the
same but for the parameters. Chips with less memory need a smaller pool, or rows over several
of them (mesh.context): `python -m launch.plan.table` finds the sizes.
What it takes of the 95.73 GiB of a chip, by the compiler's word (libtpu 0.0.52): 12.0 GiB in an
RL update of stage 2, 11.3 of them temporary, and up to 27.0 GiB while sampling, 18.0 of them the
cache and 7.5 the weights. `python -m launch.plan --config experiments/aster_4b.py --topology v5p:4x4x4` says so.
The paper used Ascend 910, the public reproduction 8 GPUs. Expected: the paper's table (AIME
2025, avg@16): 54.6 after SFT, 85.0 after RL at 30K tokens. Not run by us: see docs/limits.md. Where the data files come from is in experiments/README.md.

Sources: [A] the authors' README, [R] the public reproduction's scripts, [P] the paper as
reviewed. Where they are silent the value is ours and says so.
"""

from aster_jax import config


def get_config(devices: str = "64"):
    """The paper's numbers, on so many devices."""
    if not devices.isdecimal() or not int(devices):
        raise ValueError(f"aster_4b:{devices}: behind the colon stands how many devices, such as 64")
    count = int(devices)
    c = config.default()
    c.name = "aster_4b"
    c.seed = 1  # [R] shuffle seed
    c.mesh.data = 1
    c.mesh.fsdp = count  # ours: fp32 master weights and moments, 12 bytes x 4.02 B, over all devices
    c.model.source = "hf://Qwen/Qwen3-4B-Thinking-2507"  # [A]
    c.model.style = "qwen3_thinking_2507"
    c.model.param_dtype = "float32"  # [R] fp32 master weights
    c.model.compute_dtype = "bfloat16"  # [R] bf16 autocast
    c.model.remat = True  # [R] gradient checkpointing
    c.problems.source = "data/dapo_math_17k.parquet"  # [R] 17,398 deduplicated DAPO problems
    c.problems.heldout = "data/aime25.parquet"  # [A]
    c.problems.num_heldout = 0  # all 30
    c.demos.source = "data/aster_sft_4k.parquet"  # [A] the released 4K dense trajectories
    c.demos.count = 4096  # [A] 4K
    c.demos.min_calls = 10  # [A] more than nine tool calls each
    c.demos.keep_errors = False  # [P] every call of a kept trajectory succeeded
    c.tools.wall_limit_s = 30.0  # [R] wall clock
    c.tools.memory_limit_mib = 1024  # [R]

    c.sft.learning_rate = 3e-5  # [R]
    c.sft.warmup_steps = 11  # [R] ratio 0.06 of 188
    c.sft.decay_steps = 0  # [R] the minimum equals the peak: constant after warm-up
    c.sft.beta1 = 0.9  # [R] framework default
    c.sft.beta2 = 0.999  # [R] framework default
    c.sft.weight_decay = 0.0  # [R] framework default
    c.sft.clip_norm = 1.0  # [R] framework default
    c.sft.row_tokens = 32_768  # [R] cut-off; longer ones are dropped, not cut
    c.sft.rows = 64  # ours: packed rows of about two samples each; [R] packs nothing, its step is 128
    c.sft.micro_rows = count  # ours: one row per device
    c.sft.epochs = 6.0  # [R]; 188 steps there, about as many here

    c.rl.learning_rate = 1e-6  # [R]
    c.rl.warmup_steps = 0  # [R] no warm-up
    c.rl.decay_steps = 0  # [R] constant
    c.rl.beta1 = 0.9  # [R]
    c.rl.beta2 = 0.999  # [R]
    c.rl.weight_decay = 0.01  # [R]
    c.rl.clip_norm = 1.0  # [R]
    c.rl.prompts = 128  # [R]
    c.rl.group = 8  # [R]
    c.rl.minibatches = 2  # [R] 64 prompts each
    c.rl.updates = 1  # [R] one pass over a rollout
    c.rl.refill_tries = 0  # [R] no dynamic sampling: groups whose rewards all agree stay
    c.rl.loss = "clip"  # [R]
    c.rl.divide_by_std = True  # [R]
    c.rl.normalise = "group"  # [A][P] by the token count of the prompt's group
    c.rl.clip_low = 0.2  # [R]
    c.rl.clip_high = 0.28  # [R]
    c.rl.dual_clip = 10.0  # [R]
    c.rl.tis_cap = 2.0  # [R]
    c.rl.kl_coef = 0.0  # [R] neither in the loss nor in the reward
    c.rl.entropy_coef = 0.0  # [R]
    for end in ("turn_budget", "token_budget", "context_budget", "call_budget", "malformed"):
        c.rl[f"on_{end}"] = "keep"  # [R] cut trajectories are rewarded and trained on as they are
    c.rl.on_deadline = "drop"  # ours: who is cut by the clock depends on the machine
    c.rl1.row_tokens = 18_432  # ours: the longest trajectory of a stage fills a row
    c.rl2.row_tokens = 32_768
    c.rl.micro_rows = count  # ours: one row per device
    c.rl.save_every = 10  # [R]
    c.rl.eval_every = 10  # [R]
    c.rl.eval_problems = 64  # ours: set apart from the training problems; [R] measures on AIME
    c.rl.eval_samples = 4  # ours; [R] 16

    c.rollout.temperature = 1.0  # [R]
    c.rollout.top_p = 1.0  # [R]
    c.rollout.top_k = 0  # [R] off
    c.rollout.dtype = "bfloat16"  # [R]
    c.rollout.ahead = 1  # ours: the host reads one dispatch behind
    c.rollout.lockstep = False  # ours: never wait for a slow tool
    c.rollout.slots = 8 * count  # ours
    c.rollout.capacity = 32_768  # stage 2's context
    c.rollout.page_tokens = 64  # ours
    c.rollout.pool_tokens = 131_072 * count  # ours: 8 rows of 16,384, 19 GB on each device
    c.rollout.steps_per_dispatch = 32  # ours
    c.rollout.prefill_rows = count  # ours: one row per device
    c.rollout.prefill_buckets = (256, 2048)  # ours
    c.rollout.tool_result_tokens = 2048  # ours; [R] leaves tool output unbounded
    c.rollout.trajectory_s = 7200.0  # ours
    c.rollout.deadline_s = 7200.0  # ours

    for stage, response, steps in (("rl1", 16_384, 405), ("rl2", 30_720, 234)):  # [R]
        c[stage].steps = steps
        # [R] bounds generated plus tool tokens by `response`. Ours bounds what the model writes
        # by it, and both together by the context: up to 2048 tokens less the prompt more.
        c[stage].response_tokens = response
        c[stage].turn_tokens = response  # [R] no bound per turn
        c[stage].context_tokens = 2048 + response  # [R] "18K" and "32K", prompt included
        c[stage].max_calls = 50  # [A]

    c.eval.samples = 16  # [A] avg@16
    c.eval.temperature = 0.6  # [A]
    c.eval.top_p = 0.95  # [A]
    # [A] the 30K budget, taken as [R]'s response budget in training; 90K needs a larger capacity.
    c.eval.response_tokens = 30_720  # of what the model writes, as above
    c.eval.turn_tokens = 30_720  # ours: no bound per turn
    c.eval.context_tokens = 32_768  # ours: prompt, model and tool tokens together
    c.eval.max_calls = 256  # [R]
    c.eval.no_tool = False
    c.eval.think = False
    return c
