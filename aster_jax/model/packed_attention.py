"""Causal attention inside the segments of packed rows, a block of queries and keys at a time.

The training attention of every platform without a kernel of its own, in plain XLA. A key is
seen by the queries from its own place up to `until`, the end of its segment or, where
sequences share what they begin with, of all that goes on from it (`data/prefixes.py`). A block
of queries computes only the blocks of keys of which it sees one, so packed rows cost what
their sequences would cost alone. The softmax is accumulated in float32 over the blocks
("online softmax"; Dao et al., FlashAttention, 2022). The gradient is written out: it keeps the
result and the log of the sum of each query, and computes the scores once more, block by block.

The kernels of other platforms are told of segments alone, by `starts` and `bounds`.

Letters of this file: Q, C, the queries and keys of one block; X, all blocks of queries of
all rows; J, blocks of keys of a row; R, Q * G.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from aster_jax.model import matmul

# Not -inf: what sees nothing (padding) must give finite numbers.
MASKED = -1e30
# Queries and keys of a block: multiples of 128 fill the matrix unit of a TPU. Smaller ones
# compute less of what the mask hides, and spend their time on the loop: on a CPU little.
BLOCK, CPU_BLOCK = 256, 128
KEPT = "attention"  # the name of what remat may keep


def starts(segments_BS: jax.Array) -> jax.Array:
    """The place where each token's segment begins, [B, S]: the first key that it may see.

    The tokens of a segment stand side by side. Padding (segment 0) is given S: it sees nothing.
    """
    B, S = segments_BS.shape
    places_BS = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32), (B, S))
    before_BS = jnp.pad(segments_BS[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    begun_BS = jnp.where(segments_BS != before_BS, places_BS, 0)
    return jnp.where(segments_BS > 0, jax.lax.cummax(begun_BS, axis=1), S)


def ends(segments_BS: jax.Array) -> jax.Array:
    """The place after the last token of each token's segment, [B, S]: `until` where nothing is
    shared. Padding is given 0: nothing sees it."""
    B, S = segments_BS.shape
    places_BS = jnp.broadcast_to(1 + jnp.arange(S, dtype=jnp.int32), (B, S))
    after_BS = jnp.pad(segments_BS[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    ended_BS = jnp.where(segments_BS != after_BS, places_BS, S)
    return jnp.where(segments_BS > 0, jax.lax.cummin(ended_BS, axis=1, reverse=True), 0)


def kept(results):
    """Results that remat keeps where it is told to (`ModelConfig.keep_attention`)."""
    return jax.tree.map(lambda x: checkpoint_name(x, KEPT), results)


def bounds(start_BT: jax.Array, first: jax.Array, S: int, Q: int, C: int) -> tuple:
    """(low, high) of every block of queries, [B, T // Q] each: it sees key blocks low..high-1.

    None where all its queries are padding. T is a multiple of Q here.
    """
    B, T = start_BT.shape
    start_BXQ = start_BT.reshape(B, -1, Q)
    place_1XQ = first + jnp.arange(T, dtype=jnp.int32).reshape(1, -1, Q)
    last_BX = jnp.max(jnp.where(start_BXQ < S, place_1XQ, -1), axis=-1)
    high_BX = last_BX // C + 1
    return jnp.minimum(start_BXQ.min(axis=-1) // C, high_BX), high_BX


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(
    accum_dtype: str,
    blocks: tuple[int, int],
    q_BTNH: jax.Array,
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    until_BS: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """softmax(q k / sqrt(H)) v, [B, T, N, H]; zeros for queries that see nothing.

    Args:
      accum_dtype: of the sums of the forward's matmuls (`matmul.einsum`).
      blocks: queries and keys of a block.
      q_BTNH: queries at places first..first + T - 1 of their rows; T of any length.
      k_BKHS, v_BKSH: keys and values of whole rows, S a multiple of the keys of a block.
      until_BS: the place after the last query that sees each key (`ends`); the first one that
        does is at the key's own place.
      first: int32 scalar.
    """
    return _forward(accum_dtype, blocks, q_BTNH, k_BKHS, v_BKSH, until_BS, first)[0]


def _forward(accum_dtype, blocks, q_BTNH, k_BKHS, v_BKSH, until_BS, first):
    C, H = blocks[1], q_BTNH.shape[-1]
    items = _items(blocks, k_BKHS, q_BTNH, until_BS, first)

    def one(item):
        q_KRH, place_Q, row, seen_J, count = item
        seen = functools.partial(_seen, until_BS, place_Q, row, C)

        def add(i, sums):
            j = seen_J[i]
            top_KR, total_KR, out_KRH = sums
            k_KHC, v_KCH = _cut(k_BKHS, row, j, C, 2), _cut(v_BKSH, row, j, C, 1)
            scores_KRC = matmul.einsum("KRH,KHC->KRC", q_KRH, k_KHC, accum_dtype, jnp.float32)
            scores_KRC = jnp.where(seen(j, scores_KRC.shape), scores_KRC * H**-0.5, MASKED)
            new_KR = jnp.maximum(top_KR, scores_KRC.max(axis=-1))
            weights_KRC = jnp.exp(scores_KRC - new_KR[..., None])
            kept_KR = jnp.exp(top_KR - new_KR)
            narrow_KRC = weights_KRC.astype(v_KCH.dtype)
            added_KRH = matmul.einsum("KRC,KCH->KRH", narrow_KRC, v_KCH, accum_dtype, jnp.float32)
            total_KR = total_KR * kept_KR + weights_KRC.sum(axis=-1)
            return new_KR, total_KR, out_KRH * kept_KR[..., None] + added_KRH

        # The largest score starts above what is masked, whose weights are then exactly zero.
        nothing_KR = jnp.zeros(q_KRH.shape[:2], jnp.float32)
        begun = (nothing_KR + MASKED / 2, nothing_KR, jnp.zeros(q_KRH.shape, jnp.float32))
        top_KR, total_KR, out_KRH = jax.lax.fori_loop(0, count, add, begun)
        total_KR = jnp.where(total_KR > 0, total_KR, 1.0)
        return (out_KRH / total_KR[..., None]).astype(q_BTNH.dtype), top_KR + jnp.log(total_KR)

    out_XKRH, logsum_XKR = jax.lax.map(one, items)
    out_BTNH, logsum_XKR = kept((_join(out_XKRH, q_BTNH.shape), logsum_XKR))
    return out_BTNH, (q_BTNH, k_BKHS, v_BKSH, until_BS, first, out_BTNH, logsum_XKR)


def _backward(accum_dtype, blocks, residuals, cotangent_BTNH):
    q_BTNH, k_BKHS, v_BKSH, until_BS, first, out_BTNH, logsum_XKR = residuals
    C, H, dtype = blocks[1], q_BTNH.shape[-1], q_BTNH.dtype
    items = _items(blocks, k_BKHS, q_BTNH, until_BS, first)
    dout_XKRH = _split(cotangent_BTNH.astype(dtype), blocks[0], k_BKHS.shape[1])
    out_XKRH = _split(out_BTNH, blocks[0], k_BKHS.shape[1])
    delta_XKR = jnp.sum(dout_XKRH.astype(jnp.float32) * out_XKRH.astype(jnp.float32), axis=-1)
    plain = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    # Every product in the order [m, k] [k, n], with queries last: where both operands had to be
    # turned around a CPU took twice as long.
    def one(sums, item):
        (q_KRH, place_Q, row, seen_J, count), dout_KRH, logsum_KR, delta_KR = item
        seen = functools.partial(_seen, until_BS, place_Q, row, C)
        q_KHR, dout_KHR = q_KRH.swapaxes(1, 2), dout_KRH.swapaxes(1, 2)

        def add(i, sums):
            j = seen_J[i]
            dq_KHR, dk_BKSH, dv_BKSH = sums
            k_KHC, v_KCH = _cut(k_BKHS, row, j, C, 2), _cut(v_BKSH, row, j, C, 1)
            k_KCH = k_KHC.swapaxes(1, 2)
            scores_KCR = matmul.einsum("KCH,KHR->KCR", k_KCH, q_KHR, accum_dtype, jnp.float32)
            seen_KCR = seen(j, (*q_KRH.shape[:2], C)).swapaxes(1, 2)
            scores_KCR = jnp.where(seen_KCR, scores_KCR * H**-0.5, MASKED)
            weights_KCR = jnp.exp(scores_KCR - logsum_KR[:, None])
            dweights_KCR = plain("KCH,KHR->KCR", v_KCH, dout_KHR)
            dscores_KCR = weights_KCR * (dweights_KCR - delta_KR[:, None]) * H**-0.5
            dscores_KCR = dscores_KCR.astype(dtype)
            dv_KCH = plain("KCR,KRH->KCH", weights_KCR.astype(dtype), dout_KRH)
            dk_KCH = plain("KCR,KRH->KCH", dscores_KCR, q_KRH)
            return (
                dq_KHR + plain("KHC,KCR->KHR", k_KHC, dscores_KCR),
                _paste(dk_BKSH, dk_KCH, row, j, C),
                _paste(dv_BKSH, dv_KCH, row, j, C),
            )

        begun = (jnp.zeros(q_KHR.shape, jnp.float32), *sums)
        dq_KHR, *sums = jax.lax.fori_loop(0, count, add, begun)
        return tuple(sums), dq_KHR.swapaxes(1, 2).astype(dtype)

    zeros_BKSH = jnp.zeros(v_BKSH.shape, jnp.float32)
    (dk_BKSH, dv_BKSH), dq_XKRH = jax.lax.scan(
        one, (zeros_BKSH, zeros_BKSH), (items, dout_XKRH, logsum_XKR, delta_XKR)
    )
    dk_BKHS = dk_BKSH.swapaxes(2, 3).astype(k_BKHS.dtype)
    return _join(dq_XKRH, q_BTNH.shape), dk_BKHS, dv_BKSH.astype(v_BKSH.dtype), None, None


attend.defvjp(_forward, _backward)


def _items(blocks, k_BKHS, q_BTNH, until_BS, first):
    """What a block of queries needs: (q_XKRH, place_XQ, row_X, seen_XJ, count_X).

    `seen_XJ` are the blocks of keys of which it sees one, in order, `count_X` how many.
    """
    (Q, C), (B, K, _, S) = blocks, k_BKHS.shape
    q_XKRH = _split(q_BTNH, Q, K)
    place_1XQ = first + jnp.arange(q_XKRH.shape[0] // B * Q, dtype=jnp.int32).reshape(1, -1, Q)
    from_1X1, to_1X1 = place_1XQ[..., :1], place_1XQ[..., -1:] + 1
    key_11S = jnp.arange(S, dtype=jnp.int32)[None, None]
    is_seen_BXS = jnp.maximum(key_11S, from_1X1) < jnp.minimum(until_BS[:, None], to_1X1)
    is_seen_BXJ = is_seen_BXS.reshape(B, -1, S // C, C).any(axis=-1)
    seen_XJ = jnp.argsort(~is_seen_BXJ, axis=-1, stable=True).reshape(-1, S // C)
    row_X = jnp.repeat(jnp.arange(B), place_1XQ.shape[1])
    place_XQ = jnp.tile(place_1XQ[0], (B, 1))
    return q_XKRH, place_XQ, row_X, seen_XJ, is_seen_BXJ.sum(axis=-1).reshape(-1)


def _split(x_BTNH, Q, K):
    """Into blocks of queries, those of one key/value head together: [X, K, R, H]."""
    B, T, N, H = x_BTNH.shape
    x_BTNH = jnp.pad(x_BTNH, ((0, 0), (0, -T % Q), (0, 0), (0, 0)))
    x_XQKGH = x_BTNH.reshape(-1, Q, K, N // K, H)
    return x_XQKGH.transpose(0, 2, 1, 3, 4).reshape(x_XQKGH.shape[0], K, -1, H)


def _join(x_XKRH, shape):
    """The inverse of `_split`."""
    B, T, N, H = shape
    X, K, R, _ = x_XKRH.shape
    x_XQKGH = x_XKRH.reshape(X, K, -1, N // K, H).transpose(0, 2, 1, 3, 4)
    return x_XQKGH.reshape(B, -1, N, H)[:, :T]


def _seen(until_BS, place_Q, row, C, j, shape):
    """Which scores of key block j count, in the shape of the scores [K, R, C]."""
    K, R, _ = shape
    until_1C = jax.lax.dynamic_slice(until_BS, (row, j * C), (1, C))
    key_1C = (j * C + jnp.arange(C))[None]
    seen_QC = (key_1C <= place_Q[:, None]) & (place_Q[:, None] < until_1C)
    seen_QGC = jnp.broadcast_to(seen_QC[:, None], (len(place_Q), R // len(place_Q), C))
    return jnp.broadcast_to(seen_QGC.reshape(1, R, C), shape)


def _cut(x, row, j, C, axis):
    """Block j of a row along one of its own axes."""
    at = [row, 0, 0, 0]
    at[axis + 1] = j * C
    sizes = [1, *x.shape[1:]]
    sizes[axis + 1] = C
    return jax.lax.dynamic_slice(x, at, sizes)[0]


def _paste(x_BKSH, block_KCH, row, j, C):
    """`x` with a block added to its keys j * C and on; in place under a loop."""
    at = [row, 0, j * C, 0]
    return jax.lax.dynamic_update_slice(x_BKSH, (_cut(x_BKSH, row, j, C, 1) + block_KCH)[None], at)
