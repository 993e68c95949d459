"""Training attention over packed rows on a TPU: splash attention, the kernel of JAX.

It is told of segments, but goes through every block of the causal triangle whatever they
are. Its list of blocks is therefore cut down, row by row, to those that hold keys of the
segments of their queries (`packed_attention.bounds`): what is struck off is neither
multiplied nor added.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from aster_jax.model import packed_attention

# Queries and keys of a block at most; the largest that divides the rows is taken.
BLOCKS = (512, 256, 128)


def attend(
    interpret: bool,
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    start_BT: jax.Array,
) -> jax.Array:
    """As `packed_attention.attend` for whole rows, whose length is a multiple of 128.

    `interpret` runs without a TPU, slowly.
    """
    B, T, N, H = q_BTNH.shape
    kernel = _kernel(N, T, interpret)
    q_BNTH = (q_BTNH * H**-0.5).transpose(0, 2, 1, 3)

    def row(args):
        q_NTH, k_KHS, v_KSH, start_T = args
        # The start of a segment stands for it; no kernel's result depends on its name.
        segments = splash.SegmentIds(q=start_T, kv=start_T)
        return _seen_only(kernel, start_T)(q_NTH, k_KHS.swapaxes(1, 2), v_KSH, segments)

    out_BNTH = jax.lax.map(row, (q_BNTH, k_BKHS, v_BKSH, start_BT))
    out_BTNH = out_BNTH.transpose(0, 2, 1, 3)
    return jnp.where((start_BT < T)[:, :, None, None], out_BTNH, 0)


@functools.lru_cache
def _kernel(heads, length, interpret):
    """Causal attention over a row, all heads alike."""
    size = next(b for b in BLOCKS if length % b == 0)
    mask = splash.MultiHeadMask([splash.CausalMask((length, length))] * heads)
    sizes = splash.BlockSizes(
        block_q=size, block_kv=size, block_kv_compute=size, block_q_dkv=size, block_kv_dkv=size,
        block_kv_dkv_compute=size, block_q_dq=size, block_kv_dq=size,
    )  # fmt: skip
    with jax.ensure_compile_time_eval():
        return splash.make_splash_mha_single_device(
            mask, block_sizes=sizes, interpret=interpret,
            residual_checkpoint_name=packed_attention.KEPT,
        )


def _seen_only(kernel, start_T):
    """The kernel without the blocks whose keys lie before every segment of their queries.

    A block on the diagonal stays also where there is only padding, which must see something.
    """
    length, blocks = start_T.shape[0], kernel.kwargs["block_sizes"]
    size = blocks.block_q
    low_X, _ = (x[0] for x in packed_attention.bounds(start_T[None], 0, length, size, size))
    order_X = jnp.arange(length // size)
    seen_XY = jnp.minimum(low_X, order_X)[:, None] <= order_X[None]

    def cut(info, seen_1XY):
        kept = jnp.where(seen_1XY, info.block_mask, 0)
        return info._replace(block_mask=kept.astype(info.block_mask.dtype))

    # `data_next` holds, where a block counts, the place of its keys (of its queries in the
    # last): the lists may leave out what the causal mask hides.
    by_queries = [
        cut(info, jnp.take_along_axis(seen_XY[None], info.data_next.astype(jnp.int32), axis=2))
        for info in (kernel.fwd_mask_info, kernel.dq_mask_info)
    ]
    info = kernel.dkv_mask_info
    by_keys = cut(info, jnp.take_along_axis(seen_XY[None], info.data_next.astype(jnp.int32), axis=1))
    return type(kernel)(*by_queries, by_keys, **kernel.kwargs)
