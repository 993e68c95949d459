"""Will it fit? A floor on the memory a run needs, checked before anything is allocated.

Only what is certain is counted (parameters, gradients, Adam's moments, the inputs of all
layers; the rollout's copy of the weights, the cache), so a run that is refused here could not
have worked.
"""

import os
import pathlib

import jax
import jax.numpy as jnp

from aster_jax import mesh as meshes
from aster_jax.errors import InputError
from aster_jax.model import cache, config, transformer

GIB = 1 << 30


def needed_bytes(
    cfg: config.ModelConfig,
    mesh,
    pool_tokens: int,
    rollout_dtype: str,
    micro: tuple[int, int] | None = None,
    moments_dtype: str = "float32",
    copies: int = 1,
) -> dict[str, int]:
    """Bytes per device by purpose: the larger of training and rollout is what counts.

    Training holds parameters and gradients in the parameter dtype and two moments in their
    own, spread over all devices but those of `data`, and what enters every layer of a
    microbatch, `micro` = (rows, tokens of a row). A rollout holds parameters and moments too,
    the weights once more in its own dtype, and all pages of the cache. `copies` of the parameters
    are held beside each other, 2 with a reference policy. Without `micro` nothing is trained.
    """
    count = transformer.count_params(cfg)
    shards = mesh.size // mesh.shape["data"]
    held = count * jnp.dtype(cfg.param_dtype).itemsize // shards
    weights = count * jnp.dtype(rollout_dtype).itemsize // mesh.shape["tensor"]
    moments = 2 * count * jnp.dtype(moments_dtype).itemsize // shards if micro else 0
    per_token = cache.bytes_per_token(cfg, rollout_dtype)
    heads = mesh.shape["tensor"] if meshes.kv_heads_axis(cfg, mesh) else 1
    cached = pool_tokens * per_token // meshes.batch_shards(meshes.for_rollouts(mesh)) // heads
    activations = _activation_bytes(cfg, mesh, *micro) if micro else 0
    return {
        "training": (1 + copies) * held + moments + activations if micro else 0,
        "activations": activations,
        "rollout": copies * held + moments + weights + cached,
        "cache": cached,
    }


def _activation_bytes(cfg, mesh, rows, tokens) -> int:
    mine = tokens // mesh.shape["context"]
    inputs = cfg.num_layers * mine * cfg.d_model * jnp.dtype(cfg.compute_dtype).itemsize
    return rows * inputs // meshes.batch_shards(mesh) // mesh.shape["tensor"]


def available_bytes(root: pathlib.Path = pathlib.Path("/")) -> tuple[int, str]:
    """Memory of one device and what it is called; the host's share per device on CPU.

    The host has what its container may use, where that is less (`root`: of its files).
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], f"one {device.device_kind}"
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = container_bytes(root)
    whose = "machine's memory"
    if limit is not None and limit < total:
        total, whose = limit, "container's memory limit"
    return total // jax.local_device_count(), f"this {whose}, per device"


def container_bytes(root: pathlib.Path = pathlib.Path("/")) -> int | None:
    """The least memory limit of this process's control groups, of either version; None
    without one.

    A limit holds for everything below it, so all groups up to the top are looked at; inside
    a container only some of them can be seen, which are then those that matter.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places = [("sys/fs/cgroup", "memory.max"), ("sys/fs/cgroup/unified", "memory.max")]
        elif "memory" in controllers.split(","):
            places = [("sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        else:
            continue
        # ".." is how a group outside of the container's own view is shown.
        parts = [p for p in path.split("/") if p] if "/.." not in path else []
        for top, name in places:
            for depth in range(len(parts), -1, -1):
                limits.append(_limit(root.joinpath(top, *parts[:depth], name)))
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(path: pathlib.Path) -> int | None:
    """The number in a control group's file; None for "max", or when there is no file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def check(
    cfg: config.ModelConfig,
    mesh,
    pool_tokens: int,
    rollout_dtype: str,
    micro: tuple[int, int] | None = None,
    moments_dtype: str = "float32",
    copies: int = 1,
) -> None:
    """Raise a ValueError with the numbers and the remedies when the run cannot fit."""
    needed = needed_bytes(cfg, mesh, pool_tokens, rollout_dtype, micro, moments_dtype, copies)
    most = max(needed["training"], needed["rollout"])
    limit, where = available_bytes()
    if most > limit:
        trained = (
            f"{needed['training'] / GIB:.1f} to train with {needed['activations'] / GIB:.1f} for a "
            "microbatch, " if micro else ""
        )  # fmt: skip
        raise InputError(
            f"a model of {transformer.count_params(cfg) / 1e9:.2f} B parameters needs at least "
            f"{most / GIB:.1f} GiB per device ({trained}"
            f"{needed['rollout'] / GIB:.1f} to roll out with {needed['cache'] / GIB:.1f} of cache), "
            f"{where} is {limit / GIB:.1f} GiB; use more devices with mesh.fsdp, mesh.context or "
            "mesh.tensor, a smaller model, or lower micro_rows, row_tokens or rollout.pool_tokens"
        )
