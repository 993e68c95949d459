"""Decode attention over pages on a GPU, as a Pallas kernel that compiles by Triton.

`kernels.decode` hands over to `attend`. Reading keys and values once is what decoding costs,
so a block of threads reads one whole page per step, at an address it knows before: the
kernel that ships with JAX gathers by a vector of page numbers and takes 1.2 to 1.8 times as
long (`experiments.benchmarks.paged_attention`; figures in rollout/README.md). A row's
pages are dealt out evenly over the parts it is split into, whatever its table could hold;
their sums are put together at the end ("Flash-Decoding", 2023).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# A row is split until so many blocks of threads are under way, or into so many parts: enough
# for every multiprocessor when rows are few, or when one is much longer than the others.
BLOCKS, MOST_PARTS = 2048, 32
WARPS, STAGES = 4, 2
LEAST_QUERIES = 16  # of a tensor core's tile; a smaller group of heads is padded up to it
UNSEEN = -1e30
LOG2E = math.log2(math.e)


def attend(
    q_BNH: jax.Array,
    k_KZSH: jax.Array,
    v_KZSH: jax.Array,
    table_BW: jax.Array,
    lengths_B: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k) v of one query per row over its first `lengths_B` positions, [B, N, H].

    Args:
      q_BNH: queries, already scaled.
      k_KZSH, v_KZSH: pages of S positions for each of K heads; S and H powers of two.
      table_BW: the pages of each row in order, all of them inside the pool.
      lengths_B: positions to read; 0 gives zeros.
      interpret: run without a GPU, slowly.
    """
    B, N, H = q_BNH.shape
    K, Z, S, _ = k_KZSH.shape
    W, G = table_BW.shape[1], N // K
    R = max(LEAST_QUERIES, pl.next_power_of_2(G))
    X = max(1, min(-(-BLOCKS // (B * K)), MOST_PARTS, W))
    q_BKGH = q_BNH.reshape(B, K, G, H)
    q_BKRH = jnp.pad(q_BKGH, ((0, 0), (0, 0), (0, R - G), (0, 0)))
    pages = pl.BlockSpec((None, Z, S, H), lambda b, k, x: (k, 0, 0, 0))
    sums = pl.BlockSpec((None, None, None, R), lambda b, k, x: (b, x, k, 0))
    out_BXKRH, total_BXKR, highest_BXKR = pl.pallas_call(
        functools.partial(_sum_part, parts=X),
        grid=(B, K, X),
        in_specs=[
            pl.BlockSpec((None, None, R, H), lambda b, k, x: (b, k, 0, 0)),
            pages, pages,
            pl.BlockSpec((None, W), lambda b, k, x: (b, 0)),
            pl.BlockSpec((1,), lambda b, k, x: (b,)),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, R, H), lambda b, k, x: (b, x, k, 0, 0)), sums, sums,
        ],
        out_shape=[
            jax.ShapeDtypeStruct((B, X, K, R, H), jnp.float32),
            jax.ShapeDtypeStruct((B, X, K, R), jnp.float32),
            jax.ShapeDtypeStruct((B, X, K, R), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name="paged_decode",
    )(q_BKRH, k_KZSH, v_KZSH, table_BW, lengths_B)  # fmt: skip
    share_BXKG = jnp.exp2(highest_BXKR - highest_BXKR.max(axis=1, keepdims=True))[..., :G]
    total_BKG = jnp.sum(total_BXKR[..., :G] * share_BXKG, axis=1)
    out_BKGH = jnp.sum(out_BXKRH[..., :G, :] * share_BXKG[..., None], axis=1)
    out_BKGH = out_BKGH / jnp.maximum(total_BKG, 1e-30)[..., None]
    return out_BKGH.reshape(B, N, H).astype(q_BNH.dtype)


def _sum_part(q_RH, k_ZSH, v_ZSH, table_W, length_1, out_RH, total_R, highest_R, *, parts):
    """One part of one row and head: its sums relative to its own highest score.

    Arguments are references to memory. Scores are kept in units of log 2.
    """
    R, H = q_RH.shape
    S = k_ZSH.shape[1]
    length = length_1[0]
    pages = (length + S - 1) // S
    each = (pages + parts - 1) // parts
    first = pl.program_id(2) * each
    q = q_RH[...]
    # Triton would round float32 operands to tf32.
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None

    def add_page(i, carry):
        out, highest, total = carry
        page = table_W[first + i]
        scores = triton.dot(q, k_ZSH[page].T, precision=precision) * LOG2E
        seen = (first + i) * S + jnp.arange(S) < length
        scores = jnp.where(seen[None], scores, UNSEEN)
        new = jnp.maximum(highest, scores.max(axis=-1))
        kept = jnp.exp2(highest - new)
        weights = jnp.exp2(scores - new[:, None])
        values = v_ZSH[page]
        added = triton.dot(weights.astype(values.dtype), values, precision=precision)
        return out * kept[:, None] + added, new, total * kept + weights.sum(axis=-1)

    nothing = jnp.zeros((R,), jnp.float32)
    start = (jnp.zeros((R, H), jnp.float32), nothing + UNSEEN, nothing)
    count = jnp.minimum(pages - first, each)
    out_RH[...], highest_R[...], total_R[...] = jax.lax.fori_loop(0, count, add_page, start)
