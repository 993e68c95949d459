"""ASTER-1.7B: the paper's run on Qwen3-1.7B, for a slice of 16 chips.

    python -m aster_jax.main --config experiments/aster_1p7b.py --workdir /mnt/shared/aster_1p7b
    python -m aster_jax.main --config experiments/aster_1p7b.py:64 ...

Hardware: 16 devices, or as many as stand behind a colon; such as a TPU v6e-16, whose
names count chips: 16 chips on 4 hosts with one process each. What it takes of the 31.24 GiB of a chip, by the
compiler's word (libtpu 0.0.52): 9.1 GiB in an RL update of stage 2, 7.9 of them temporary, and
21.7 GiB while sampling, 14.0 of them the cache. `python -m launch.plan --config
experiments/aster_1p7b.py --topology v6e:4x4` says so. Expected: the paper's table (AIME 2025,
avg@16, 30K tokens): 19.0 after SFT, 59.6 after RL. Not run by us: see docs/limits.md.

The numbers are those of experiments/aster_4b.py, with its sources [A] [R] [P], but for what
stands here: [A] names no other recipe for the smaller model, and [R] trains the larger one. Of
parameters, moments and gradients, 16 bytes x 1.72 B, every device has its share.
"""

from aster_jax import experiment


def get_config(devices: str = "16"):
    """The paper's numbers, and sizes for so many chips of 31 GiB."""
    c = experiment.read(f"aster_4b:{devices}")
    count = c.mesh.fsdp
    c.name = "aster_1p7b"
    c.model.source = "hf://Qwen/Qwen3-1.7B"  # [A]
    c.model.style = "qwen3"  # its hybrid template: the model opens its thoughts itself
    c.rollout.slots = 16 * count  # ours
    c.rollout.pool_tokens = 131_072 * count  # ours: 8 rows of 16,384, 15 GB on each device
    return c
