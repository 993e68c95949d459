"""Attention over pages on a GPU by itself: our kernel beside JAX's, and beside plain XLA.

    python -m experiments.benchmarks.paged_attention

Random bfloat16 pages of one layer with 8 key/value heads of 128 (Qwen3), tables that could
hold 32,768 tokens. JAX's kernel runs with several numbers of splits, warps and pages per
block, of which the fastest counts; ours runs as it is, and in other numbers of parts.
Gigabytes per second are those of live keys and values. Ours is compared with the XLA
reference, in float32 and for other pages too. JAX's takes one query per row; chunks, as
prompts and the tool's results are written in, are timed beside the reference, whose result
they must have. Made for a GPU by hand.
"""

import functools
import itertools
import time

import jax
import jax.numpy as jnp
from absl import app
from jax.experimental.pallas.ops.gpu import paged_attention as shipped

from aster_jax.model import attention, gpu_attention
from aster_jax.model import cache as kv
from experiments.benchmarks import decode

HEADS, SIZE, CAPACITY = 8, 128, 32_768
# Calls in one timing, for the host's part to be small, and timings: the fastest counts.
CALLS, REPEATS = 10, 5
# Rows, tokens of each and query heads per key/value head. "ragged": 200 to 32,768 tokens,
# most of them short, as in a batch of rollouts.
SHAPES = (
    (64, 4096, 4), (64, 1024, 2), (64, "ragged", 4), (256, 1024, 4), (8, 32_768, 4),
    (1, 32_768, 4), (1, 1024, 4),
)  # fmt: skip
PARTS = (1, 4, 8, 32, 64)
# Rows, tokens of each before the chunk, its tokens, and query heads per key/value head.
CHUNKS = ((1, 8192, 64, 4), (16, 8192, 64, 4), (16, 30_000, 64, 4), (1, 0, 512, 4), (16, 0, 512, 2))
TRIED = tuple(itertools.product((1, 4, 16, 64), (4, 8), (1, 2)))


def lengths(rows: int, tokens: int | str) -> jax.Array:
    """Live tokens of every row."""
    if tokens != "ragged":
        return jnp.full((rows,), tokens, jnp.int32)
    return jnp.geomspace(200, CAPACITY, rows).astype(jnp.int32)


def make(rows, tokens, groups, dtype="bfloat16", page=64):
    """(q_BNH, cache of one layer, table_BW, lengths_B), pages in a random order."""
    lengths_B = lengths(rows, tokens)
    held_B = -(-lengths_B // page)
    pool = int(held_B.sum())
    keys = jax.random.split(jax.random.key(0), 4)
    q_BNH = jax.random.normal(keys[0], (rows, HEADS * groups, SIZE), dtype)
    k, v = (jax.random.normal(key, (HEADS, pool, page, SIZE), dtype) for key in keys[1:3])
    order = jax.random.permutation(keys[3], pool)
    first_B1 = (jnp.cumsum(held_B) - held_B)[:, None]
    column_1W = jnp.arange(CAPACITY // page)[None]
    table_BW = order.at[first_B1 + column_1W].get(mode="clip")
    table_BW = jnp.where(column_1W < held_B[:, None], table_BW, pool - 1).astype(jnp.int32)
    return q_BNH, kv.Layer(k, v, heads_first=True), table_BW, lengths_B


def ours(q_BNH, k_KZSH, v_KZSH, table_BW, lengths_B):
    """Our kernel for one query per row."""
    args = k_KZSH, v_KZSH, table_BW, lengths_B[:, None]
    return gpu_attention.attend(q_BNH[:, None], *args)[:, 0]


def difference(out_BNH, q_BNH, layer, table_BW, lengths_B) -> float:
    """Largest distance of a kernel's result for scaled queries from float32's reference."""
    q_BNH, layer = jax.tree.map(lambda x: x.astype(jnp.float32), (q_BNH, layer))
    with jax.default_matmul_precision("highest"):  # XLA's own choice on a GPU is tf32
        reference = jax.jit(attention.attend_pages)(
            q_BNH[:, None] * SIZE**0.5, layer, table_BW, lengths_B[:, None] - 1
        )
    return float(jnp.abs(out_BNH.astype(jnp.float32) - reference[:, 0]).max())


def measure(attend, q_BNH, layer, table_BW, lengths_B) -> float:
    """Seconds per call at best, calls chained so that none can be left out."""

    @jax.jit
    def chain(q_BNH, *args):
        def one(_, q_BNH):
            return (q_BNH + attend(q_BNH, *args) * 1e-3).astype(q_BNH.dtype)

        return jax.lax.fori_loop(0, CALLS, one, q_BNH)

    args = q_BNH, layer.keys, layer.values, table_BW, lengths_B
    chain(*args).block_until_ready()
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        chain(*args).block_until_ready()
        taken.append(time.perf_counter() - begun)
    return min(taken) / CALLS


def jax_kernel(splits, warps, block):
    """The kernel that ships with JAX, as one of the ways to call it."""
    return functools.partial(
        shipped.paged_attention, k_splits=splits, num_warps=warps, pages_per_compute_block=block
    )


def compare(rows, tokens, groups, bandwidth) -> None:
    """Prints one shape: ours, the shipped one at its best, ours in other numbers of parts."""
    args = make(rows, tokens, groups)
    live = int(args[3].sum()) * 2 * HEADS * SIZE * 2
    off = difference(ours(args[0], args[1].keys, args[1].values, *args[2:]), *args)
    taken = measure(ours, *args)
    theirs = {how: measure(jax_kernel(*how), *args) for how in TRIED}
    best = min(theirs, key=theirs.get)
    print(f"{rows:4d} {tokens!s:>7} {groups:6d} {1e6 * taken:9.1f} {live / taken / 1e9:7.0f} "
          f"{live / taken / bandwidth:8.1%} {off:10.5f} {1e6 * theirs[best]:9.1f} "
          f"{live / theirs[best] / 1e9:7.0f} {theirs[best] / taken:7.2f}  {best}", flush=True)  # fmt: skip
    plain = gpu_attention.BLOCKS, gpu_attention.MOST_PARTS
    in_parts = {}
    for parts in PARTS:
        gpu_attention.BLOCKS, gpu_attention.MOST_PARTS = rows * HEADS * parts, parts
        in_parts[parts] = 1e6 * measure(ours, *args)
    gpu_attention.BLOCKS, gpu_attention.MOST_PARTS = plain
    print("     ours by parts: " + ", ".join(f"{p}: {t:.1f} us" for p, t in in_parts.items()))


def chunk(rows, before, tokens, groups) -> None:
    """Prints one chunk per row by our kernel and by the reference, and how far they differ."""
    _, layer, table_BW, lengths_B = make(rows, before + tokens, groups)
    q_BTNH = jax.random.normal(
        jax.random.key(1), (rows, tokens, HEADS * groups, SIZE), layer.keys.dtype
    )
    last_BT = lengths_B[:, None] - tokens + jnp.arange(tokens)[None]

    def way(kernel):
        def attend(q_BTNH, keys, values, table_BW, last_BT):
            pages = kv.Layer(keys, values, heads_first=True)
            return attention.attend_pages(q_BTNH, pages, table_BW, last_BT, kernel)

        return attend

    args = q_BTNH, layer, table_BW, last_BT
    both = {kernel: jax.jit(way(kernel)) for kernel in ("gpu", "xla")}
    outs = [f(q_BTNH, layer.keys, layer.values, *args[2:]).astype(jnp.float32) for f in both.values()]
    taken = {kernel: measure(way(kernel), *args) for kernel in both}
    print(f"{rows:4d} {before:7d} {tokens:6d} {groups:6d} {1e6 * taken['gpu']:9.1f} "
          f"{1e6 * taken['xla']:9.1f} {taken['xla'] / taken['gpu']:8.2f} "
          f"{float(jnp.abs(outs[0] - outs[1]).max()):10.5f}", flush=True)  # fmt: skip


def main(argv) -> None:
    """Bandwidth, exactness for other pages and in float32, then every shape and chunk."""
    del argv
    if jax.default_backend() != "gpu":
        raise app.UsageError(f"needs a GPU, this is {jax.default_backend()}")
    bandwidth = decode.measure_bandwidth(1 << 32)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, copies {bandwidth / 1e9:.0f} GB/s")
    for dtype, page in itertools.product(("float32", "bfloat16"), (16, 32, 64, 128)):
        args = make(5, "ragged", 3, dtype, page)
        out = ours(args[0], args[1].keys, args[1].values, *args[2:])
        print(f"pages of {page}, {dtype}: |ours - xla| {difference(out, *args):.2g}", flush=True)
    print(f"{'rows':>4} {'tokens':>7} {'groups':>6} {'ours us':>9} {'GB/s':>7} {'of copy':>8} "
          f"{'|o - xla|':>10} {'JAX us':>9} {'GB/s':>7} {'JAX/ours':>7}  (splits, warps, block)")  # fmt: skip
    for shape in SHAPES:
        compare(*shape, bandwidth)
    print(f"{'rows':>4} {'before':>7} {'tokens':>6} {'groups':>6} {'ours us':>9} {'XLA us':>9} "
          f"{'XLA/ours':>8} {'|o - xla|':>10}")  # fmt: skip
    for shape in CHUNKS:
        chunk(*shape)


if __name__ == "__main__":
    app.run(main)
