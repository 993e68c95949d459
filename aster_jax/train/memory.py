"""Will it fit? A floor on the memory a run needs, checked before anything is allocated.

Only what is certain is counted (parameters, gradients, Adam's moments, the inputs of all
layers and one block of attention scores; the rollout's copy of the weights, the cache), so
a run that is refused here could not have worked.
"""

import os

import jax
import jax.numpy as jnp

from aster_jax import mesh as meshes
from aster_jax.errors import InputError
from aster_jax.model import attention, cache, config, transformer

GIB = 1 << 30


def needed_bytes(
    cfg: config.ModelConfig,
    mesh,
    pool_tokens: int,
    rollout_dtype: str,
    micro: tuple[int, int],
    moments_dtype: str = "float32",
) -> dict[str, int]:
    """Bytes per device by purpose: the larger of training and rollout is what counts.

    Training holds parameters and gradients in the parameter dtype and two moments in their
    own, spread over fsdp x tensor, and of a microbatch, `micro` = (rows, tokens of a row), what enters
    every layer and the float32 scores of one block of queries. A rollout holds parameters
    and moments too, the weights once more in its own dtype, and all pages of the cache.
    """
    count = transformer.count_params(cfg)
    shards = mesh.shape["fsdp"] * mesh.shape["tensor"]
    held = count * jnp.dtype(cfg.param_dtype).itemsize // shards
    weights = count * jnp.dtype(rollout_dtype).itemsize // mesh.shape["tensor"]
    moments = 2 * count * jnp.dtype(moments_dtype).itemsize // shards
    per_token = cache.bytes_per_token(cfg, rollout_dtype)
    heads = mesh.shape["tensor"] if meshes.kv_heads_axis(cfg, mesh) else 1
    cached = pool_tokens * per_token // meshes.batch_shards(mesh) // heads
    activations = _activation_bytes(cfg, mesh, *micro)
    return {
        "training": 2 * held + moments + activations,
        "activations": activations,
        "rollout": held + moments + weights + cached,
        "cache": cached,
    }


def _activation_bytes(cfg, mesh, rows, tokens) -> int:
    inputs = cfg.num_layers * tokens * cfg.d_model * jnp.dtype(cfg.compute_dtype).itemsize
    scores = cfg.num_heads * min(tokens, attention.MOST_QUERIES) * tokens * 4
    return rows * (inputs + scores) // meshes.batch_shards(mesh) // mesh.shape["tensor"]


def available_bytes() -> tuple[int, str]:
    """Memory of one device and what it is called; the host's share per device on CPU."""
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], f"one {device.device_kind}"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total // jax.local_device_count(), "this machine's memory, per device"


def check(
    cfg: config.ModelConfig,
    mesh,
    pool_tokens: int,
    rollout_dtype: str,
    micro: tuple[int, int],
    moments_dtype: str = "float32",
) -> None:
    """Raise a ValueError with the numbers and the remedies when the run cannot fit."""
    needed = needed_bytes(cfg, mesh, pool_tokens, rollout_dtype, micro, moments_dtype)
    most = max(needed["training"], needed["rollout"])
    limit, where = available_bytes()
    if most > limit:
        raise InputError(
            f"a model of {transformer.count_params(cfg) / 1e9:.2f} B parameters needs at least "
            f"{most / GIB:.1f} GiB per device ({needed['training'] / GIB:.1f} to train with "
            f"{needed['activations'] / GIB:.1f} for a microbatch, "
            f"{needed['rollout'] / GIB:.1f} to roll out with {needed['cache'] / GIB:.1f} of cache), "
            f"{where} is {limit / GIB:.1f} GiB; use more devices with mesh.fsdp or mesh.tensor, "
            "a smaller model, or lower micro_rows, row_tokens or rollout.pool_tokens"
        )
