"""Training attention over packed rows on a GPU: Pallas kernels that compile by Triton.

The same sums as `packed_attention`, which says what the arguments are: one kernel forward,
one for the gradient of the queries and one for that of keys and values (FlashAttention-2,
2023). Each block of threads goes through the tiles that its own tile can see and no others;
between the first and the last of them scores need no mask. Nothing is added up across
blocks of threads, so the same input gives the same bits.

Letters of this file: Q, C, the queries and keys of one tile; X, the tiles of a row.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from aster_jax.model import packed_attention

UNSEEN = -1e30
LOG2E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class Tile:
    """Queries and keys that a block of threads multiplies at once, its warps, and how many
    tiles are on their way from memory. Both sizes are powers of two."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclasses.dataclass(frozen=True)
class Tiles:
    """One tile per kernel; these are the fastest of ten or so on an H200, heads of 128
    (`experiments.benchmarks.train_gpu`)."""

    forward: Tile = Tile(128, 64, 4, 2)
    dq: Tile = Tile(64, 64, 4, 2)
    dkv: Tile = Tile(64, 64, 4, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(
    tiles: Tiles,
    interpret: bool,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    start_BT: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """As `packed_attention.attend`, keys not transposed; H a power of two from 16.

    T and S are multiples of every tile's sizes. `interpret` runs without a GPU, slowly.
    """
    return _forward(tiles, interpret, q_BTNH, k_BSKH, v_BSKH, start_BT, first)[0]


def _forward(tiles, interpret, q_BTNH, k_BSKH, v_BSKH, start_BT, first):
    tile = tiles.forward
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    ranges_BX4 = _keys_seen(tile, start_BT, first, S)
    rows = pl.BlockSpec((None, S, None, H), lambda i, b, n: (b, 0, n // (N // K), 0))
    queries = pl.BlockSpec((None, tile.queries, None, H), lambda i, b, n: (b, i, n, 0))
    sums = pl.BlockSpec((None, None, tile.queries), lambda i, b, n: (b, n, i))
    out_BTNH, logsum_BNT = _call(
        functools.partial(_forward_tile, keys=tile.keys), tile, "packed_forward", interpret,
        grid=(T // tile.queries, B, N),
        in_specs=[queries, rows, rows, *_control(tile)],
        out_specs=[queries, sums],
        out_shape=[
            jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype),
            jax.ShapeDtypeStruct((B, N, T), jnp.float32),
        ],
    )(q_BTNH, k_BSKH, v_BSKH, start_BT, ranges_BX4, first.reshape(1))  # fmt: skip
    out_BTNH, logsum_BNT = packed_attention.kept((out_BTNH, logsum_BNT))
    return out_BTNH, (q_BTNH, k_BSKH, v_BSKH, start_BT, first, out_BTNH, logsum_BNT)


def _backward(tiles, interpret, residuals, dout_BTNH):
    q_BTNH, k_BSKH, v_BSKH, start_BT, first, out_BTNH, logsum_BNT = residuals
    dout_BTNH = dout_BTNH.astype(q_BTNH.dtype)
    delta_BNT = jnp.einsum(
        "BTNH,BTNH->BNT", out_BTNH.astype(jnp.float32), dout_BTNH.astype(jnp.float32)
    )
    args = (q_BTNH, k_BSKH, v_BSKH, dout_BTNH, logsum_BNT, delta_BNT, start_BT)
    dq_BTNH = _dq(tiles.dq, interpret, *args, first)
    return dq_BTNH, *_dkv(tiles.dkv, interpret, *args, first), None, None


attend.defvjp(_forward, _backward)


def _dq(tile, interpret, q_BTNH, k_BSKH, v_BSKH, dout_BTNH, logsum_BNT, delta_BNT, start_BT, first):
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    rows = pl.BlockSpec((None, S, None, H), lambda i, b, n: (b, 0, n // (N // K), 0))
    queries = pl.BlockSpec((None, tile.queries, None, H), lambda i, b, n: (b, i, n, 0))
    sums = pl.BlockSpec((None, None, tile.queries), lambda i, b, n: (b, n, i))
    return _call(
        functools.partial(_dq_tile, keys=tile.keys), tile, "packed_dq", interpret,
        grid=(T // tile.queries, B, N),
        in_specs=[queries, rows, rows, queries, sums, sums, *_control(tile)],
        out_specs=queries,
        out_shape=jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype),
    )(
        q_BTNH, k_BSKH, v_BSKH, dout_BTNH, logsum_BNT, delta_BNT, start_BT,
        _keys_seen(tile, start_BT, first, S), first.reshape(1),
    )  # fmt: skip


def _dkv(tile, interpret, q_BTNH, k_BSKH, v_BSKH, dout_BTNH, logsum_BNT, delta_BNT, start_BT, first):
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    G = N // K
    rows = pl.BlockSpec((None, T, G, H), lambda j, b, k: (b, 0, k, 0))
    keys = pl.BlockSpec((None, tile.keys, None, H), lambda j, b, k: (b, j, k, 0))
    sums = pl.BlockSpec((None, G, T), lambda j, b, k: (b, k, 0))
    return _call(
        functools.partial(_dkv_tile, queries=tile.queries), tile, "packed_dkv", interpret,
        grid=(S // tile.keys, B, K),
        in_specs=[
            rows, keys, keys, rows, sums, sums,
            pl.BlockSpec((None, T), lambda j, b, k: (b, 0)),
            pl.BlockSpec((None, None, 4), lambda j, b, k: (b, j, 0)),
            pl.BlockSpec((1,), lambda j, b, k: (0,)),
        ],
        out_specs=[keys, keys],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_BSKH, v_BSKH)],
    )(
        q_BTNH, k_BSKH, v_BSKH, dout_BTNH, logsum_BNT, delta_BNT, start_BT,
        _queries_seen(tile, start_BT, first, S), first.reshape(1),
    )  # fmt: skip


def _call(kernel, tile, name, interpret, **how):
    params = triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)
    return pl.pallas_call(kernel, compiler_params=params, interpret=interpret, name=name, **how)


def _control(tile):
    """Places of segments' starts, ranges of tiles, and the first query's place."""
    return [
        pl.BlockSpec((None, tile.queries), lambda i, b, n: (b, i)),
        pl.BlockSpec((None, None, 4), lambda i, b, n: (b, i, 0)),
        pl.BlockSpec((1,), lambda i, b, n: (0,)),
    ]


def _keys_seen(tile, start_BT, first, S):
    """[B, X, 4] of tiles of keys per tile of queries: seen from the first number to the
    last, and between the middle two seen whole by all its queries."""
    Q, C = tile.queries, tile.keys
    low_BX, high_BX = packed_attention.bounds(start_BT, first, S, Q, C)
    start_BXQ = start_BT.reshape(*low_BX.shape, Q)
    latest_BX = start_BXQ.max(axis=-1)
    one_BX = (start_BXQ.min(axis=-1) == latest_BX) & (latest_BX < S)
    place_1X = first + jnp.arange(low_BX.shape[1], dtype=jnp.int32)[None] * Q
    from_BX = jnp.where(one_BX, jnp.minimum((latest_BX + C - 1) // C, high_BX), high_BX)
    to_BX = jnp.clip((place_1X + 1) // C, from_BX, high_BX)
    return jnp.stack([low_BX, from_BX, to_BX, high_BX], axis=-1).astype(jnp.int32)


def _queries_seen(tile, start_BT, first, S):
    """The same the other way round: tiles of queries that see a tile of keys."""
    low_BX1, from_BX1, to_BX1, high_BX1 = jnp.split(_keys_seen(tile, start_BT, first, S), 4, axis=-1)
    tile_11C = jnp.arange(S // tile.keys)[None, None]
    X = low_BX1.shape[1]
    order_1X1 = jnp.arange(X, dtype=jnp.int32)[None, :, None]

    def edges(of_BXC):
        return jnp.where(of_BXC, order_1X1, X).min(axis=1), jnp.where(of_BXC, order_1X1 + 1, 0).max(axis=1)

    low_BC, high_BC = edges((low_BX1 <= tile_11C) & (tile_11C < high_BX1))
    low_BC = jnp.minimum(low_BC, high_BC)
    from_BC, to_BC = edges((from_BX1 <= tile_11C) & (tile_11C < to_BX1))
    from_BC = jnp.minimum(from_BC, high_BC)
    return jnp.stack([low_BC, from_BC, jnp.maximum(to_BC, from_BC), high_BC], axis=-1)


def _over(ranges_4, step, carry):
    """`step(masked, tile, carry)` over the tiles of a range of four numbers."""
    low, whole_from, whole_to, high = (ranges_4[i] for i in range(4))
    carry = jax.lax.fori_loop(low, whole_from, functools.partial(step, True), carry)
    carry = jax.lax.fori_loop(whole_from, whole_to, functools.partial(step, False), carry)
    return jax.lax.fori_loop(whole_to, high, functools.partial(step, True), carry)


def _dot(a, b):
    # Triton would round float32 operands to tf32.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return triton.dot(a, b, precision=precision)


def _forward_tile(q_QH, k_SH, v_SH, start_Q, ranges_4, first_1, out_QH, logsum_Q, *, keys):
    """One tile of queries of one head. Arguments are references to memory.

    Scores and the logs of their sums are kept in units of log 2.
    """
    Q, H = q_QH.shape
    q, start = q_QH[...], start_Q[...]
    place = first_1[0] + pl.program_id(0) * Q + jnp.arange(Q)

    def step(masked, j, carry):
        out, top, total = carry
        at = pl.ds(j * keys, keys)
        scores = _dot(q, k_SH[at, :].T) * (LOG2E * H**-0.5)
        if masked:
            scores = jnp.where(_seen(start[:, None], place[:, None], _places(j, keys)[None]), scores, UNSEEN)
        new = jnp.maximum(top, scores.max(axis=-1))
        kept = jnp.exp2(top - new)
        weights = jnp.exp2(scores - new[:, None])
        values = v_SH[at, :]
        added = _dot(weights.astype(values.dtype), values)
        return out * kept[:, None] + added, new, total * kept + weights.sum(axis=-1)

    nothing = jnp.zeros((Q,), jnp.float32)
    carry = jnp.zeros((Q, H), jnp.float32), nothing + UNSEEN / 2, nothing
    out, top, total = _over(ranges_4, step, carry)
    total = jnp.where(total > 0, total, 1.0)
    out_QH[...] = (out / total[:, None]).astype(out_QH.dtype)
    logsum_Q[...] = top + jnp.log2(total)


def _dq_tile(
    q_QH, k_SH, v_SH, dout_QH, logsum_Q, delta_Q, start_Q, ranges_4, first_1, dq_QH, *, keys
):
    """The gradient of one tile of queries of one head."""
    Q, H = q_QH.shape
    q, dout, start = q_QH[...], dout_QH[...], start_Q[...]
    logsum, delta = logsum_Q[...], delta_Q[...]
    place = first_1[0] + pl.program_id(0) * Q + jnp.arange(Q)

    def step(masked, j, dq):
        at = pl.ds(j * keys, keys)
        k = k_SH[at, :]
        scores = _dot(q, k.T) * (LOG2E * H**-0.5)
        if masked:
            scores = jnp.where(_seen(start[:, None], place[:, None], _places(j, keys)[None]), scores, UNSEEN)
        weights = jnp.exp2(scores - logsum[:, None])
        dscores = weights * (_dot(dout, v_SH[at, :].T) - delta[:, None])
        return dq + _dot(dscores.astype(k.dtype), k)

    dq = _over(ranges_4, step, jnp.zeros((Q, H), jnp.float32))
    dq_QH[...] = (dq * H**-0.5).astype(dq_QH.dtype)


def _dkv_tile(
    q_TGH, k_CH, v_CH, dout_TGH, logsum_GT, delta_GT, start_T, ranges_4, first_1, dk_CH, dv_CH,
    *, queries,
):  # fmt: skip
    """The gradients of one tile of keys and values, from all query heads that read it."""
    C, H = k_CH.shape
    k, v = k_CH[...], v_CH[...]
    key_place = _places(pl.program_id(0), C)

    def head(g, carry):
        def step(masked, i, carry):
            dk, dv = carry
            at = pl.ds(i * queries, queries)
            q, dout = q_TGH[at, g, :], dout_TGH[at, g, :]
            scores_CQ = _dot(k, q.T) * (LOG2E * H**-0.5)
            if masked:
                place = first_1[0] + _places(i, queries)
                seen = _seen(start_T[at][None], place[None], key_place[:, None])
                scores_CQ = jnp.where(seen, scores_CQ, UNSEEN)
            weights_CQ = jnp.exp2(scores_CQ - logsum_GT[g, at][None])
            dv = dv + _dot(weights_CQ.astype(dout.dtype), dout)
            dscores_CQ = weights_CQ * (_dot(v, dout.T) - delta_GT[g, at][None])
            return dk + _dot(dscores_CQ.astype(q.dtype), q), dv

        return _over(ranges_4, step, carry)

    nothing = jnp.zeros((C, H), jnp.float32)
    dk, dv = jax.lax.fori_loop(0, q_TGH.shape[1], head, (nothing, nothing))
    dk_CH[...], dv_CH[...] = (dk * H**-0.5).astype(dk_CH.dtype), dv.astype(dv_CH.dtype)


def _places(tile, size):
    return tile * size + jnp.arange(size)


def _seen(start, place, key_place):
    return (start <= key_place) & (key_place <= place)
