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
    start_BS: jax.Array,
    start_BT: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """As `packed_attention.attend`, T and S multiples of 128, with the starts of all keys too.

    `interpret` runs without a TPU, slowly.
    """
    T, N, H = q_BTNH.shape[1:]
    S = start_BS.shape[1]
    kernel = _kernel(N, T, S, interpret)
    q_BNTH = (q_BTNH * H**-0.5).transpose(0, 2, 1, 3)

    def row(args):
        q_NTH, k_KHS, v_KSH, start_S, start_T = args
        # The start of a segment stands for it; no kernel's result depends on its name.
        segments = splash.SegmentIds(q=start_T, kv=start_S)
        run = _seen_only(kernel, start_T, first, S)
        return run(q_NTH, k_KHS.swapaxes(1, 2), v_KSH, segments)

    out_BNTH = jax.lax.map(row, (q_BNTH, k_BKHS, v_BKSH, start_BS, start_BT))
    out_BTNH = out_BNTH.transpose(0, 2, 1, 3)
    return jnp.where((start_BT < S)[:, :, None, None], out_BTNH, 0)


@functools.lru_cache
def _kernel(heads, T, S, interpret):
    """Causal attention of the last T queries of a row of S, all heads alike."""
    size = next(b for b in BLOCKS if T % b == S % b == 0)
    mask = splash.MultiHeadMask([splash.CausalMask((T, S), offset=S - T)] * heads)
    sizes = splash.BlockSizes(
        block_q=size, block_kv=size, block_kv_compute=size, block_q_dkv=size, block_kv_dkv=size,
        block_kv_dkv_compute=size, block_q_dq=size, block_kv_dq=size,
    )  # fmt: skip
    with jax.ensure_compile_time_eval():
        return splash.make_splash_mha_single_device(
            mask, block_sizes=sizes, interpret=interpret,
            residual_checkpoint_name=packed_attention.KEPT,
        )  # fmt: skip


def _seen_only(kernel, start_T, first, S):
    """The kernel for queries from `first` on, and without the blocks that they do not see.

    What earlier queries see is a part of what the last ones may. A block with a query's own
    place stays also where there is only padding, which must see something.
    """
    T, size = start_T.shape[0], kernel.kwargs["block_sizes"].block_q
    low_X, high_X = (x[0] for x in packed_attention.bounds(start_T[None], first, S, size, size))
    place_X = first + jnp.arange(T // size) * size
    begin_X, end_X = place_X // size, (place_X + size - 1) // size + 1
    order_1Y = jnp.arange(S // size)[None]
    seen_XY = (low_X[:, None] <= order_1Y) & (order_1Y < high_X[:, None])
    seen_XY |= (begin_X[:, None] <= order_1Y) & (order_1Y < end_X[:, None])

    def cut(info, axis):
        # Where a block counts, this is the place of its keys (in `dkv` of its queries): the
        # lists may leave out what the causal mask hides.
        place = info.data_next.astype(jnp.int32)
        seen = jnp.take_along_axis(seen_XY[None], place, axis=axis)
        whole = info.block_mask if T == S else jnp.minimum(info.block_mask, 1)
        kept = jnp.where(seen, whole, 0).astype(info.block_mask.dtype)
        # The causal mask adds its offset, S - T, to these.
        order = first - (S - T) + jnp.arange(T, dtype=jnp.int32)
        return info._replace(block_mask=kept, q_sequence=order)

    queries = cut(kernel.fwd_mask_info, 2), cut(kernel.dq_mask_info, 2)
    return type(kernel)(*queries, cut(kernel.dkv_mask_info, 1), **kernel.kwargs)
