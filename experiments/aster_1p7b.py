"""ASTER-1.7B: the paper's run on Qwen3-1.7B, for a slice of 16 chips.

    python -m aster_jax.main --config experiments/aster_1p7b.py --workdir /mnt/shared/aster_1p7b

Hardware: exactly 16 devices (mesh below), such as a TPU v6e-16, whose names count chips: 16
chips on 4 hosts with one process each. What it takes of the 31.24 GiB of a chip, by the
compiler's word (libtpu 0.0.52): 10.8 GiB in an RL update, 9.6 of them temporary, and 18.4 GiB
while sampling, 14.0 of them the cache. `python -m launch.plan --config
experiments/aster_1p7b.py --topology v6e:4x4` says so. Expected: the paper's table (AIME 2025,
avg@16, 30K tokens): 19.4 after SFT, 64.6 after RL. Not run by us: see the README for what was.

The numbers are those of experiments/aster_4b.py, with its sources [A] [R] [P], but for what
stands here: [A] names no other recipe for the smaller model, and [R] trains the larger one.
"""

from experiments import aster_4b


def get_config():
    """The paper's numbers, and sizes for 16 chips of 31 GiB."""
    c = aster_4b.get_config()
    c.name = "aster_1p7b"
    c.mesh.fsdp = 16  # ours: fp32 master weights and moments, 12 bytes x 1.72 B, over 16 devices
    c.model.source = "hf://Qwen/Qwen3-1.7B"  # [A]
    c.model.style = "qwen3"  # its hybrid template: the model opens its thoughts itself
    c.sft.micro_rows = 16  # ours: one row per device
    c.rl.micro_rows = 16  # ours: one row per device
    c.rollout.slots = 256  # ours: 16 per device
    c.rollout.pool_tokens = 2_097_152  # ours: 128 rows of 16,384, 15 GB on each of 16 devices
    c.rollout.prefill_rows = 16  # ours: one row per device
    return c
