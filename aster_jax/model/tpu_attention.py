"""Attention over pages of many queries per row on a TPU: prompts and results of the tool.

`kernels.attend_pages` hands over to `attend`; single queries go to the decode kernel that ships
with JAX, whose layout of pages this one reads as it is. A core takes one tile of queries,
with all the heads that share a key head, and goes through the row's pages up to the last
position that any of them sees, several pages at a time: while it multiplies some, the next
are on their way from the device's main memory.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Queries times heads of a tile, at most, and keys that are fetched and multiplied at once.
MOST_QUERIES, KEYS = 256, 512
ROWS = 16  # of bfloat16 that lie side by side in a register
LANES = 128
UNSEEN = -1e30


def attend(
    q_BTNH: jax.Array,
    k_KZSH: jax.Array,
    v_KZSH: jax.Array,
    table_BW: jax.Array,
    lengths_BT: jax.Array,
) -> jax.Array:
    """As `gpu_attention.attend`, for pages of a multiple of 8 positions and heads of one of 128."""
    B, T, N, H = q_BTNH.shape
    K, _, S, _ = k_KZSH.shape
    G = N // K
    tokens = ROWS * max(1, min(-(-T // ROWS), MOST_QUERIES // (ROWS * G)))
    tiles, R = -(-T // tokens), tokens * G
    more = tiles * tokens - T
    q_BTKGH = jnp.pad(q_BTNH.reshape(B, T, K, G, H), ((0, 0), (0, more), *[(0, 0)] * 3))
    q_BKRH = q_BTKGH.transpose(0, 2, 1, 3, 4).reshape(B, K, tiles * R, H)
    lengths_BT = jnp.pad(lengths_BT, ((0, 0), (0, more)))
    longest_BX = lengths_BT.reshape(B, tiles, tokens).max(axis=-1)
    lengths_BR1 = jnp.repeat(lengths_BT, G, axis=1)[..., None]
    each = min(max(1, KEYS // S), table_BW.shape[1])
    queries = pl.BlockSpec((None, None, R, H), lambda b, k, x, *_: (b, k, x, 0))
    pages = pl.BlockSpec(memory_space=pl.ANY)
    out_BKRH = pl.pallas_call(
        functools.partial(_tile, each=each),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(B, K, tiles),
            in_specs=[
                queries, pl.BlockSpec((None, R, 1), lambda b, k, x, *_: (b, x, 0)), pages, pages,
            ],
            out_specs=queries,
            scratch_shapes=[
                *(pltpu.VMEM((2, each, S, H), k_KZSH.dtype) for _ in range(2)),
                pltpu.SemaphoreType.DMA((2, 2)),
                pltpu.VMEM((R, H), jnp.float32),
                *(pltpu.VMEM((R, LANES), jnp.float32) for _ in range(2)),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(q_BKRH.shape, jnp.float32),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        name="paged_attention",
    )(table_BW, longest_BX, q_BKRH, lengths_BR1, k_KZSH, v_KZSH)  # fmt: skip
    out_BTKGH = out_BKRH.reshape(B, K, T + more, G, H)[:, :, :T].transpose(0, 2, 1, 3, 4)
    return out_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype)


def _tile(
    table_BW, longest_BX, q_RH, length_R1, k_KZSH, v_KZSH, out_RH,
    k_2PSH, v_2PSH, arrived_22, sum_RH, highest_RL, total_RL, *, each,
):  # fmt: skip
    """One tile of queries of one head. Arguments are references to memory.

    `highest_RL` and `total_RL` hold the same number in every lane.
    """
    b, k, x = (pl.program_id(axis) for axis in range(3))
    W, (S, H) = table_BW.shape[1], k_2PSH.shape[2:]
    keys = each * S
    rounds = (longest_BX[b, x] + keys - 1) // keys

    def copies(i, half):
        for p in range(each):
            # Of the last round, pages behind the row's last one are fetched and not seen.
            page = table_BW[b, jnp.minimum(i * each + p, W - 1)]
            for n, (pool, held) in enumerate(((k_KZSH, k_2PSH), (v_KZSH, v_2PSH))):
                there, here = pool.at[k, page], held.at[half, p]
                yield pltpu.make_async_copy(there, here, arrived_22.at[n, half])

    def fetch(i):
        for copy in copies(i, i % 2):
            copy.start()

    sum_RH[...] = jnp.zeros_like(sum_RH)
    # Above a score that is not seen: whoever sees nothing of some pages adds nothing.
    highest_RL[...] = jnp.full_like(highest_RL, UNSEEN / 2)
    total_RL[...] = jnp.zeros_like(total_RL)
    pl.when(rounds > 0)(lambda: fetch(0))

    def add(i, _):
        half = i % 2
        pl.when(i + 1 < rounds)(lambda: fetch(i + 1))
        for copy in copies(i, half):
            copy.wait()
        pages_k, pages_v = (held[half].reshape(keys, H) for held in (k_2PSH, v_2PSH))
        contract = (((1,), (1,)), ((), ()))
        scores = jax.lax.dot_general(
            q_RH[...], pages_k, contract, preferred_element_type=jnp.float32
        )
        place = i * keys + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        scores = jnp.where(place < length_R1[...], scores, UNSEEN)
        old = highest_RL[:, :1]
        new = jnp.maximum(old, scores.max(axis=1, keepdims=True))
        kept, weights = jnp.exp(old - new), jnp.exp(scores - new)
        total = total_RL[:, :1] * kept + weights.sum(axis=1, keepdims=True)
        added = jnp.dot(
            weights.astype(pages_v.dtype), pages_v, preferred_element_type=jnp.float32
        )
        sum_RH[...] = sum_RH[...] * kept + added
        highest_RL[...] = jnp.broadcast_to(new, highest_RL.shape)
        total_RL[...] = jnp.broadcast_to(total, total_RL.shape)

    jax.lax.fori_loop(0, rounds, add, None)
    out_RH[...] = sum_RH[...] / jnp.maximum(total_RL[:, :1], 1e-30)
