"""Training attention over packed rows: what a GPU can compute it with, side by side.

`WAYS` are functions with the arguments of `attention.attend_packed`: ours in plain XLA and
as Triton kernels, the kernel that ships with Pallas, and cuDNN's for packed rows, which JAX
has no public name for. `experiments.benchmarks.train_gpu` measures them, by themselves and
in a training step.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention as shipped

from aster_jax.model import attention, gpu_packed_attention, packed_attention

# Sequences of a row that cuDNN is told about, padding left out.
MOST_SEGMENTS = 64


def shipped_mha(interpret, q_BTNH, k_BKHS, v_BKSH, segments_BS, *_, **__):
    """`jax.experimental.pallas.ops.gpu.attention.mha`: no groups of heads, no skipped segments."""
    H, G = q_BTNH.shape[3], q_BTNH.shape[2] // k_BKHS.shape[1]
    k_BSNH = jnp.repeat(k_BKHS.transpose(0, 3, 1, 2), G, axis=2)
    v_BSNH = jnp.repeat(v_BKSH.transpose(0, 2, 1, 3), G, axis=2)
    sizes = shipped.BlockSizes(
        block_q=128, block_k=64, block_q_dkv=64, block_kv_dkv=64, block_q_dq=64, block_kv_dq=64
    )
    return shipped.mha(
        q_BTNH, k_BSNH, v_BSNH, segments_BS, sm_scale=H**-0.5, causal=True, block_sizes=sizes,
        interpret=interpret,
    )  # fmt: skip


def cudnn(q_BTNH, k_BKHS, v_BKSH, segments_BS, *_, **__):
    """cuDNN's fused attention, told where each sequence of a row begins and how long it is."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    S = segments_BS.shape[1]
    number_1M1 = jnp.arange(1, MOST_SEGMENTS + 1)[None, :, None]
    of_BMS = segments_BS[:, None] == number_1M1
    length_BM = of_BMS.sum(axis=-1, dtype=jnp.int32)
    begin_BM = jnp.argmax(of_BMS, axis=-1).astype(jnp.int32)
    there_BM = length_BM > 0
    last_B1 = jnp.max(begin_BM + length_BM, axis=1, keepdims=True)
    count_B1 = there_BM.sum(axis=1, keepdims=True)
    begin_BM = jnp.pad(jnp.where(there_BM, begin_BM, -1), ((0, 0), (0, 1)), constant_values=-1)
    begin_BM = jnp.where(jnp.arange(MOST_SEGMENTS + 1)[None] == count_B1, last_B1, begin_BM)
    lengths = jnp.where(there_BM, length_BM, -1)
    out = fused.dot_product_attention(
        q_BTNH, k_BKHS.transpose(0, 3, 1, 2), v_BKSH.transpose(0, 2, 1, 3),
        q_seqlen=lengths, kv_seqlen=lengths, q_offsets=begin_BM, kv_offsets=begin_BM,
        scale=q_BTNH.shape[3] ** -0.5, mask_type=fused.MaskType.PADDING_CAUSAL,
    )  # fmt: skip
    # What it leaves in padding is not said.
    return jnp.where((segments_BS > 0)[:, :S, None, None], out, 0)


def ours(interpret, tiles, q_BTNH, k_BKHS, v_BKSH, segments_BS, *_, **__):
    """`gpu_packed_attention` with the given tiles; rows a multiple of their sizes."""
    return gpu_packed_attention.attend(
        tiles, interpret, q_BTNH, k_BKHS.transpose(0, 3, 1, 2), v_BKSH.transpose(0, 2, 1, 3),
        packed_attention.starts(segments_BS), jnp.int32(0),
    )  # fmt: skip


def plain(q_BTNH, k_BKHS, v_BKSH, segments_BS, accum_dtype="float32", **_):
    """`packed_attention`."""
    blocks = (min(packed_attention.BLOCK, q_BTNH.shape[1]), packed_attention.BLOCK)
    return packed_attention.attend(
        accum_dtype, blocks, q_BTNH, k_BKHS, v_BKSH, packed_attention.ends(segments_BS),
        jnp.int32(0),
    )  # fmt: skip


def ways(interpret: bool, tiles) -> dict:
    """All of them by name; `interpret` is for a machine without a GPU."""
    return {
        "xla": plain,
        "gpu": functools.partial(ours, interpret, tiles),
        "mha": functools.partial(shipped_mha, interpret),
        "cudnn": cudnn,
    }


def reference(q_BTNH, k_BKHS, v_BKSH, segments_BS, *_, **__):
    """All scores at once; float32 products are float32 also where the default is tf32."""
    with jax.default_matmul_precision("highest"):
        mask_BTS = attention.causal(packed_attention.ends(segments_BS))
        return attention.attend(q_BTNH, k_BKHS, v_BKSH, mask_BTS)
