"""Attention over pages on a GPU, of one query per row or of many, by one Pallas kernel (Triton).

`kernels.attend_pages` hands over to `attend`. Reading keys and values once is what decoding
costs, so a block of threads reads one whole page per step, at an address it knows before:
the kernel that ships with JAX gathers by a vector of page numbers and takes 1.2 to 1.8
times as long (`experiments.benchmarks.paged_attention`; figures in rollout/README.md). It
multiplies the page with all it has of the row: the query heads that share a key head, and
of a prompt or a tool's result as many tokens as fill a tile. A row's pages are dealt out
evenly over the parts it is split into, whatever its table could hold; their sums are put
together at the end ("Flash-Decoding", 2023).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# A row is split until so many blocks of threads are under way, or into so many parts: enough
# for every multiprocessor when rows are few, or when one is much longer than the others. Of
# a chunk's rows fewer do, as each has more to multiply and its sums are as much to put together.
BLOCKS, CHUNK_BLOCKS, MOST_PARTS = 2048, 512, 32
WARPS, STAGES = 4, 2
# Queries times heads that a block of threads multiplies at once: at least those of a tensor
# core's tile, and at most what a warp's threads have registers for. Float32 stays with the
# least: no tensor core takes it, and Triton compiles larger tiles of it for minutes.
LEAST_QUERIES, MOST_QUERIES = 16, 64
UNSEEN = -1e30
LOG2E = math.log2(math.e)


def attend(
    q_BTNH: jax.Array,
    k_KZSH: jax.Array,
    v_KZSH: jax.Array,
    table_BW: jax.Array,
    lengths_BT: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k) v of T queries per row, each over its row's first `lengths_BT` positions.

    Args:
      q_BTNH: queries, already scaled.
      k_KZSH, v_KZSH: pages of S positions for each of K heads; S and H powers of two.
      table_BW: the pages of each row in order, all of them inside the pool.
      lengths_BT: positions to read; 0 gives zeros.
      interpret: run without a GPU, slowly.
    """
    B, T, N, H = q_BTNH.shape
    K, Z, S, _ = k_KZSH.shape
    W, G = table_BW.shape[1], N // K
    heads = pl.next_power_of_2(G)
    most = LEAST_QUERIES if q_BTNH.dtype == jnp.float32 else MOST_QUERIES
    tokens = min(pl.next_power_of_2(T), most // heads)
    tokens = max(tokens, LEAST_QUERIES // heads, 1)  # of a tile; the last one is padded
    tiles, R = -(-T // tokens), tokens * heads
    blocks = BLOCKS if T == 1 else CHUNK_BLOCKS
    X = max(1, min(-(-blocks // (B * K * tiles)), MOST_PARTS, W))
    more = tiles * tokens - T
    q_BTKGH = jnp.pad(
        q_BTNH.reshape(B, T, K, G, H), ((0, 0), (0, more), (0, 0), (0, heads - G), (0, 0))
    )
    q_BKRH = q_BTKGH.transpose(0, 2, 1, 3, 4).reshape(B, K, tiles * R, H)
    lengths_BR = jnp.repeat(jnp.pad(lengths_BT, ((0, 0), (0, more))), heads, axis=1)
    pages = pl.BlockSpec((None, Z, S, H), lambda b, k, x: (k, 0, 0, 0))
    sums = pl.BlockSpec((None, None, None, R), lambda b, k, x: (b, x % X, k, x // X))
    out_BXKRH, total_BXKR, highest_BXKR = pl.pallas_call(
        functools.partial(_sum_part, parts=X),
        grid=(B, K, tiles * X),
        in_specs=[
            pl.BlockSpec((None, None, R, H), lambda b, k, x: (b, k, x // X, 0)),
            pages, pages,
            pl.BlockSpec((None, W), lambda b, k, x: (b, 0)),
            pl.BlockSpec((None, R), lambda b, k, x: (b, x // X)),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, R, H), lambda b, k, x: (b, x % X, k, x // X, 0)),
            sums, sums,
        ],
        out_shape=[
            jax.ShapeDtypeStruct((B, X, K, tiles * R, H), jnp.float32),
            jax.ShapeDtypeStruct((B, X, K, tiles * R), jnp.float32),
            jax.ShapeDtypeStruct((B, X, K, tiles * R), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name="paged_attention",
    )(q_BKRH, k_KZSH, v_KZSH, table_BW, lengths_BR)  # fmt: skip
    out_BKRH = _put_together(out_BXKRH, total_BXKR, highest_BXKR)
    out_BKTGH = out_BKRH.reshape(B, K, T + more, heads, H)[:, :, :T, :G]
    return out_BKTGH.transpose(0, 2, 1, 3, 4).reshape(B, T, N, H).astype(q_BTNH.dtype)


def _put_together(out_BXKRH, total_BXKR, highest_BXKR):
    share_BXKR = jnp.exp2(highest_BXKR - highest_BXKR.max(axis=1, keepdims=True))
    total_BKR = jnp.sum(total_BXKR * share_BXKR, axis=1)
    out_BKRH = jnp.sum(out_BXKRH * share_BXKR[..., None], axis=1)
    return out_BKRH / jnp.maximum(total_BKR, 1e-30)[..., None]


def _sum_part(q_RH, k_ZSH, v_ZSH, table_W, length_R, out_RH, total_R, highest_R, *, parts):
    """One part of one tile and head: its sums relative to its own highest scores.

    Arguments are references to memory. Scores are kept in units of log 2.
    """
    R, H = q_RH.shape
    S = k_ZSH.shape[1]
    length = length_R[...]
    pages = (length.max() + S - 1) // S
    each = (pages + parts - 1) // parts
    first = (pl.program_id(2) % parts) * each
    q = q_RH[...]
    # Triton would round float32 operands to tf32.
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None

    def add_page(i, carry):
        out, highest, total = carry
        page = table_W[first + i]
        scores = triton.dot(q, k_ZSH[page].T, precision=precision) * LOG2E
        seen = ((first + i) * S + jnp.arange(S))[None] < length[:, None]
        scores = jnp.where(seen, scores, UNSEEN)
        new = jnp.maximum(highest, scores.max(axis=-1))
        kept = jnp.exp2(highest - new)
        weights = jnp.exp2(scores - new[:, None])
        values = v_ZSH[page]
        added = triton.dot(weights.astype(values.dtype), values, precision=precision)
        return out * kept[:, None] + added, new, total * kept + weights.sum(axis=-1)

    # Above a score that is not seen: whoever sees nothing of a page adds nothing.
    nothing = jnp.zeros((R,), jnp.float32)
    start = (jnp.zeros((R, H), jnp.float32), nothing + UNSEEN / 2, nothing)
    count = jnp.minimum(pages - first, each)
    out_RH[...], highest_R[...], total_R[...] = jax.lax.fori_loop(0, count, add_page, start)
