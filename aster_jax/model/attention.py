"""Grouped-query attention over a full sequence or over a cache's pages, in one place.

The reference path in plain XLA, and the way to the kernels. Scores and softmax are float32.
"""

import functools

import jax
import jax.numpy as jnp

from aster_jax.model import cache as kv
from aster_jax.model import kernels, matmul, packed_attention
from aster_jax.model.layout import Layout, per_device

# Not -inf: a row that may attend to nothing (padding) must give finite numbers.
MASKED = -1e30
# Rows of up to so many tokens are one block: the mask hides half of it, and a loop gains
# nothing (an update of the quickstart, in rows of 192, took a tenth longer with one).
SHORT = 256
UNTIL = ("auto", "xla", "whole")  # what attends to tokens that segments share; "auto" is XLA
WHOLE = "whole_rows"  # the scope of scores of which no kernel computes the half behind a query
# Rows whose pages are fetched together. Fewer are more steps for the host's threads; more wait
# for the longest among more.
ROWS_AT_ONCE = 16


def causal(until_BS: jax.Array, order_T: jax.Array | None = None) -> jax.Array:
    """Mask for packed rows: a key is seen from its own place up to `until`.

    `order_T` are the places of the queries, None for all. Padding sees nothing.
    """
    order_S = jnp.arange(until_BS.shape[1])
    order_T = order_S if order_T is None else order_T
    begun_TS = order_S[None, :] <= order_T[:, None]
    return begun_TS[None] & (order_T[None, :, None] < until_BS[:, None, :])


def attend_packed(
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    segments_BS: jax.Array,
    accum_dtype: str = "float32",
    first: int | jax.Array = 0,
    kernel: str = "xla",
    layout: Layout | None = None,
    block: int = packed_attention.BLOCK,
    until_BS: jax.Array | None = None,
) -> jax.Array:
    """`attend` inside the segments of packed rows, in memory that grows with T, not T^2.

    Only blocks of keys that some query of a block sees are computed; padding (segment 0) sees
    nothing and gives zeros.

    Args:
      q_BTNH: queries at the places first..first + T - 1 of their rows.
      k_BKHS, v_BKSH, segments_BS: of whole rows; a segment's tokens stand side by side.
      accum_dtype: of the forward's sums; the kernels know float32 only.
      first: 0, or a scalar that may be traced.
      kernel: as in `ModelConfig.training_attention`, but not "auto".
      layout: of `ModelConfig`: every device of its mesh computes its own rows and heads.
      block: queries, and keys, that "xla" computes at a time.
      until_BS: where segments begin with tokens of others (`packed_attention`), which the
        kernels of a GPU or TPU are not told; None: no token is shared.
    """
    if until_BS is not None and kernel not in UNTIL:
        raise ValueError(f"the {kernel} kernel is told of segments alone, not of shared tokens")
    T = q_BTNH.shape[1]
    first = jnp.asarray(first, jnp.int32)
    if until_BS is None and kernel in UNTIL:
        until_BS = packed_attention.ends(segments_BS)
    if kernel == "whole" or (kernel == "xla" and T <= SHORT and T == segments_BS.shape[1]):
        order_T = first + jnp.arange(T)
        out_BTNH = attend(q_BTNH, k_BKHS, v_BKSH, causal(until_BS, order_T), accum_dtype, WHOLE)
        is_real_BT = jnp.take(segments_BS, order_T, axis=1) > 0
        return packed_attention.kept(jnp.where(is_real_BT[..., None, None], out_BTNH, 0))
    seen_BS = until_BS if kernel in UNTIL else packed_attention.starts(segments_BS)
    run = functools.partial(kernels.train, kernel, accum_dtype, block=block)
    return per_device(run, layout)(q_BTNH, k_BKHS, v_BKSH, seen_BS, first)


def attend(
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    mask_BTS: jax.Array,
    accum_dtype: str = "float32",
    scope: str = "",
) -> jax.Array:
    """softmax(q k / sqrt(H)) v with N query heads sharing K key/value heads.

    `scope` names its matmuls.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BKHS.shape[1]
    G = N // K
    q_BKRH = q_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 1, 3, 4).reshape(B, K, T * G, H)
    scores_BKRS = matmul.einsum(
        "BKRH,BKHS->BKRS", q_BKRH * H**-0.5, k_BKHS, accum_dtype, jnp.float32, scope
    )
    scores_BKTGS = scores_BKRS.reshape(B, K, T, G, -1)
    scores_BKTGS = jnp.where(mask_BTS[:, None, :, None, :], scores_BKTGS, MASKED)
    weights_BKRS = jax.nn.softmax(scores_BKTGS, axis=-1).reshape(scores_BKRS.shape)
    weights_BKRS = weights_BKRS.astype(v_BKSH.dtype)
    out_BKRH = matmul.einsum(
        "BKRS,BKSH->BKRH", weights_BKRS, v_BKSH, accum_dtype, scope=scope
    )
    out_BTKGH = out_BKRH.reshape(B, K, T, G, H).transpose(0, 2, 1, 3, 4)
    return out_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype)


def attend_pages(
    q_BTNH: jax.Array,
    cached: kv.Layer,
    table_BW: jax.Array,
    positions_BT: jax.Array,
    kernel: str = "xla",
    accum_dtype: str = "float32",
) -> jax.Array:
    """The same over pages: a query at position p sees the entries 0..p of its row's table.

    `kernel` (as in `ModelConfig.attention`) other than "xla" computes all of it, of a cache
    whose heads are first, and has its own sums.

    "xla" takes one page of every row at a time, `ROWS_AT_ONCE` rows as far as the longest
    of them goes, with the softmax accumulated in float32. A page that a query may not see leaves
    its sums exactly as they were, so a row's result does not depend on how long its
    neighbours are. A query at a position outside the table (padding) sees nothing and
    gives zeros.
    """
    B = q_BTNH.shape[0]
    if kernel != "xla":
        args = (q_BTNH, cached.keys, cached.values, table_BW, positions_BT)
        return kernels.attend_pages(kernel, *args).astype(q_BTNH.dtype)
    rows = (q_BTNH, table_BW, positions_BT)
    if B <= ROWS_AT_ONCE or B % ROWS_AT_ONCE:
        return _attend_pages(accum_dtype, cached, *rows)
    groups = jax.tree.map(lambda x: x.reshape(-1, ROWS_AT_ONCE, *x.shape[1:]), rows)
    out = jax.lax.map(lambda some: _attend_pages(accum_dtype, cached, *some), groups)
    return out.reshape(q_BTNH.shape)


def _attend_pages(accum_dtype, cached, q_BTNH, table_BW, positions_BT):
    B, T, N, H = q_BTNH.shape
    K, S = cached.heads, cached.page_tokens
    G = N // K
    q_BTKGH = (q_BTNH * H**-0.5).reshape(B, T, K, G, H)
    q_BKRH = q_BTKGH.transpose(0, 2, 1, 3, 4).reshape(B, K, T * G, H)
    last_BT = jnp.where(positions_BT < table_BW.shape[1] * S, positions_BT, -1)
    last_B1R = jnp.repeat(last_BT, G, axis=1)[:, None]
    order_111S = jnp.arange(S)[None, None, None]

    def add_page(j, sums):
        highest_BKR, total_BKR, out_BKRH = sums
        pages_B = jax.lax.dynamic_index_in_dim(table_BW, j, axis=1, keepdims=False)
        k_BKHS, v_BKSH = kv.page(cached, pages_B)
        scores_BKRS = matmul.einsum("BKRH,BKHS->BKRS", q_BKRH, k_BKHS, accum_dtype, jnp.float32)
        seen_B1RS = j * S + order_111S <= last_B1R[..., None]
        scores_BKRS = jnp.where(seen_B1RS, scores_BKRS, MASKED)
        new_BKR = jnp.maximum(highest_BKR, scores_BKRS.max(axis=-1))
        weights_BKRS = jnp.where(seen_B1RS, jnp.exp(scores_BKRS - new_BKR[..., None]), 0.0)
        kept_BKR = jnp.exp(highest_BKR - new_BKR)
        narrow_BKRS = weights_BKRS.astype(v_BKSH.dtype)
        added_BKRH = matmul.einsum("BKRS,BKSH->BKRH", narrow_BKRS, v_BKSH, accum_dtype, jnp.float32)
        return (
            new_BKR,
            total_BKR * kept_BKR + weights_BKRS.sum(axis=-1),
            out_BKRH * kept_BKR[..., None] + added_BKRH,
        )

    nothing_BKR = jnp.zeros((B, K, T * G), jnp.float32)
    start = (nothing_BKR + MASKED, nothing_BKR, jnp.zeros((B, K, T * G, H), jnp.float32))
    pages = jnp.max(last_BT) // S + 1
    _, total_BKR, out_BKRH = jax.lax.fori_loop(0, pages, add_page, start)
    out_BKRH = out_BKRH / jnp.maximum(total_BKR, 1e-30)[..., None]
    out_BTKGH = out_BKRH.reshape(B, K, T, G, H).transpose(0, 2, 1, 3, 4)
    return out_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype)
