"""Attention by Pallas kernels: which there are, what they cannot take, and the way to them.

`attention.attend_pages` hands over to `attend_pages` where the model's options name a kernel,
and `attention.attend_packed` to `train`. All equal the XLA references there up to rounding.
"""

import math
import re

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import paged_attention as tpu
from jax.sharding import PartitionSpec

from aster_jax.errors import InputError
from aster_jax.model import (
    config,
    gpu_attention,
    gpu_packed_attention,
    packed_attention,
    tpu_attention,
    tpu_packed_attention,
)

# Keys that the TPU kernel of single queries loads at once: longer blocks hide the latency of
# fetching pages one by one.
TPU_BLOCK_TOKENS = 512
# Rows of training are filled up with padding to a multiple of this, or of 128 if shorter.
TRAINING_MULTIPLE = 256
# Of a tensor core's tile, and of what two pages may take of the shared memory.
GPU_PAGE_TOKENS = (16, 128)
GPU_LEAST_CAPABILITY = 8.0  # of Triton in XLA; earlier ones fail when they compile
# The page table lies in scalar memory: 1 MiB, of which the kernel needs some itself.
TPU_TABLE_BYTES = (1 << 20) - (1 << 14)


def attend_pages(
    kernel: str,
    q_BTNH: jax.Array,
    k_KZSH: jax.Array,
    v_KZSH: jax.Array,
    table_BW: jax.Array,
    positions_BT: jax.Array,
) -> jax.Array:
    """`attention.attend_pages` over heads-first pages by the kernel `kernel` ("gpu", "tpu").

    Scores and sums are float32. A query at a position outside the table (padding) reads
    nothing and gives zeros. Inside a `shard_map` that leaves axes of the mesh to the
    compiler, the heads are split over those axes where they divide, else each device
    computes all of them: a kernel cannot be partitioned by the compiler.
    """
    K, Z, S, H = k_KZSH.shape
    W = table_BW.shape[1]
    inside_BT = (positions_BT >= 0) & (positions_BT < W * S)
    lengths_BT = jnp.where(inside_BT, positions_BT + 1, 0).astype(jnp.int32)
    run = {"gpu": gpu_attention.attend, "tpu": _tpu}[kernel]
    # Empty entries are never seen, but the TPU kernels fetch whole blocks of pages.
    table_BW = jnp.minimum(table_BW, Z - 1)
    q_BTNH = (q_BTNH * H**-0.5).astype(k_KZSH.dtype)
    mesh = jax.sharding.get_abstract_mesh()
    free = tuple(axis for axis in mesh.axis_names if axis not in mesh.manual_axes)
    if free:
        heads = free if K % math.prod(mesh.shape[axis] for axis in free) == 0 else None
        queries, pages = PartitionSpec(None, None, heads), PartitionSpec(heads)
        run = jax.shard_map(
            run, in_specs=(queries, pages, pages, PartitionSpec(), PartitionSpec()),
            out_specs=queries, axis_names=set(free), check_vma=False,
        )  # fmt: skip
    return run(q_BTNH, k_KZSH, v_KZSH, table_BW, lengths_BT)


def train(
    kernel: str,
    accum_dtype: str,
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    seen_BS: jax.Array,
    first: jax.Array,
    block: int = packed_attention.BLOCK,
) -> jax.Array:
    """`packed_attention.attend` by the kernel `kernel` ("gpu", "tpu", else XLA), for any lengths.

    Arguments are one device's own rows and heads. `seen_BS` says what is seen of whole rows:
    to XLA until where each key is, to the kernels from where each query sees
    (`packed_attention.starts`); `block` and `accum_dtype` are for XLA.
    """
    T, S = q_BTNH.shape[1], k_BKHS.shape[3]
    more_t, more_s = (-n % (TRAINING_MULTIPLE if n > TRAINING_MULTIPLE else 128) for n in (T, S))
    is_xla = kernel not in ("gpu", "tpu")
    if is_xla:  # no block of keys may reach beyond the row
        more_s += -(S + more_s) % min(block, S + more_s)
    q_BTNH = jnp.pad(q_BTNH, ((0, 0), (0, more_t), (0, 0), (0, 0)))
    k_BKHS = jnp.pad(k_BKHS, ((0, 0), (0, 0), (0, 0), (0, more_s)))
    v_BKSH = jnp.pad(v_BKSH, ((0, 0), (0, 0), (0, more_s), (0, 0)))
    if is_xla:
        until_BS = jnp.pad(seen_BS, ((0, 0), (0, more_s)))
        blocks = min(block, T + more_t), min(block, S + more_s)
        args = (q_BTNH, k_BKHS, v_BKSH, until_BS, first)
        return packed_attention.attend(accum_dtype, blocks, *args)[:, :T]
    start_BS = jnp.where(seen_BS < S, seen_BS, S + more_s)
    start_BT = jax.lax.dynamic_slice_in_dim(start_BS, first, T, axis=1) if T != S else start_BS
    start_BT = jnp.pad(start_BT, ((0, 0), (0, more_t)), constant_values=S + more_s)
    start_BS = jnp.pad(start_BS, ((0, 0), (0, more_s)), constant_values=S + more_s)
    if kernel == "gpu":
        k_BSKH, v_BSKH = k_BKHS.transpose(0, 3, 1, 2), v_BKSH.transpose(0, 2, 1, 3)
        tiles = gpu_packed_attention.Tiles()
        out_BTNH = gpu_packed_attention.attend(tiles, False, q_BTNH, k_BSKH, v_BSKH, start_BT, first)
    else:
        starts = start_BS, start_BT
        out_BTNH = tpu_packed_attention.attend(False, q_BTNH, k_BKHS, v_BKSH, *starts, first)
    return out_BTNH[:, :T]


def _tpu(q_BTNH, k_KZSH, v_KZSH, table_BW, lengths_BT):
    if q_BTNH.shape[1] > 1:
        return tpu_attention.attend(q_BTNH, k_KZSH, v_KZSH, table_BW, lengths_BT)
    block = min(max(1, TPU_BLOCK_TOKENS // k_KZSH.shape[2]), table_BW.shape[1])
    out_BNH = tpu.paged_attention(
        q_BTNH[:, 0], k_KZSH, v_KZSH, lengths_BT[:, 0], _widen(table_BW, block),
        pages_per_compute_block=block,
    )  # fmt: skip
    return out_BNH[:, None]


def _widen(table_BW, multiple):
    """Columns up to a multiple: no row reaches the new ones, so any page will do."""
    return jnp.pad(table_BW, ((0, 0), (0, -table_BW.shape[1] % multiple)))


def choose(
    wanted: str,
    platform: str,
    cfg: config.ModelConfig,
    dtype: str,
    page_tokens: int,
    table: tuple[int, int],
    capability: str = "",
) -> tuple[str, str]:
    """What attention over pages runs on: a value for `ModelConfig.attention`, and why.

    Args:
      wanted: "auto" (the platform's kernel if it can serve, else "xla"), or a value.
      platform: of the devices, as `jax.Device.platform`.
      cfg: model sizes.
      dtype: of the cache.
      page_tokens: tokens per page.
      table: rows and columns of the largest page table of one device.
      capability: of the devices, as their `compute_capability` ("8.0"); "" is not looked at.

    Raises:
      ValueError: the kernel asked for is not one of the platform, or cannot serve.
    """
    if wanted == "xla":
        return "xla", "as configured"
    if wanted not in ("auto", platform):
        raise InputError(
            f"rollout.attention={wanted!r} needs {wanted} devices, these are {platform}; "
            "choose 'auto' or 'xla'"
        )
    if platform not in _OBSTACLES:
        return "xla", f"there is no kernel for {platform}"
    why_not = _OBSTACLES[platform](cfg.head_dim, dtype, page_tokens, table, capability)
    if not why_not:
        return platform, "a kernel for this platform"
    if wanted == "auto":
        return "xla", why_not
    raise InputError(f"rollout.attention={wanted!r} cannot be had: {why_not}, or choose 'xla'")


def choose_training(
    wanted: str, platform: str, cfg: config.ModelConfig, capability: str = ""
) -> tuple[str, str]:
    """What attention in packed rows runs on, a value of `ModelConfig.training_attention`, and why.

    Arguments as for `choose`.

    Raises:
      ValueError: the kernel asked for is not one of the platform, or cannot serve.
    """
    platform = {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
    if wanted in ("xla", "whole"):
        return wanted, "as configured"
    if wanted not in ("auto", platform):
        raise InputError(
            f"model.training_attention={wanted!r} needs {wanted} devices, these are {platform}; "
            "choose 'auto' or 'xla'"
        )
    if platform not in _OBSTACLES:
        return "xla", f"there is no kernel for {platform}"
    why_not = _training_obstacle(platform, cfg, capability)
    if not why_not:
        return platform, "a kernel for this platform"
    if wanted == "auto":
        return "xla", why_not
    raise InputError(f"model.training_attention={wanted!r} cannot be had: {why_not}, or choose 'xla'")


def _training_obstacle(platform, cfg, capability):
    if cfg.accum_dtype != "float32":
        return f"the kernels add up in float32, not in accum_dtype={cfg.accum_dtype!r}; change it"
    if platform == "tpu":
        if cfg.head_dim % 128:
            return f"the TPU kernel takes heads of a multiple of 128, not head_dim={cfg.head_dim}"
        return ""
    if cfg.compute_dtype != "bfloat16":
        # In float32 Triton takes minutes to compile it.
        return (
            "the GPU kernel computes in bfloat16, not in "
            f"compute_dtype={cfg.compute_dtype!r}; set it to 'bfloat16'"
        )
    return _gpu_obstacle(cfg.head_dim, "", GPU_PAGE_TOKENS[0], (), capability)


def _gpu_obstacle(head_dim, dtype, page_tokens, table, capability):
    # AMD devices give a name ("gfx90a") where NVIDIA's give a number.
    if re.fullmatch(r"\d+\.\d+", capability) and float(capability) < GPU_LEAST_CAPABILITY:
        return (
            f"the GPU kernel needs compute capability {GPU_LEAST_CAPABILITY} (Ampere), "
            f"this device has {capability}"
        )
    least, most = GPU_PAGE_TOKENS
    if page_tokens & (page_tokens - 1) or not least <= page_tokens <= most:
        return (
            f"the GPU kernel takes pages of a power of two from {least} to {most} tokens, "
            f"not rollout.page_tokens={page_tokens}; change it"
        )
    if head_dim & (head_dim - 1) or head_dim < 16:
        return f"the GPU kernel takes heads of a power of two from 16, not head_dim={head_dim}"
    return ""


def _tpu_obstacle(head_dim, dtype, page_tokens, table, capability):
    if dtype != "bfloat16":
        return (
            f"the TPU kernel rounds keys and values to bfloat16, and rollout.dtype={dtype!r} "
            "asks for more; set it to 'bfloat16'"
        )
    if head_dim % 128:
        return f"the TPU kernel takes heads of a multiple of 128, not head_dim={head_dim}"
    if page_tokens % 8:
        return (
            "the TPU kernel takes pages of a multiple of 8 tokens, not "
            f"rollout.page_tokens={page_tokens}; change it"
        )
    block = min(max(1, TPU_BLOCK_TOKENS // page_tokens), table[1])
    size = 4 * table[0] * -(-table[1] // block) * block
    if size > TPU_TABLE_BYTES:
        return (
            f"a page table of {table[0]} rows and {table[1]} pages takes {size} bytes of the "
            f"{TPU_TABLE_BYTES} a TPU core has for it; raise rollout.page_tokens={page_tokens}"
        )
    return ""


_OBSTACLES = {"gpu": _gpu_obstacle, "tpu": _tpu_obstacle}
