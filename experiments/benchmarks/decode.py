"""How close decoding comes to the memory's speed: tokens/s against the HBM floor.

    python -m experiments.benchmarks.decode [--models qwen3_0p6b,qwen3_4b] [--batches 1,8,64,256]
        [--contexts 1024,4096,8192,32768] [--attention auto] [--capacity 0] [--page_tokens 64]

The engine's own decode program on one device, random weights in bfloat16, every row at the
end of its context. A step has to read the weights once and every row's keys and values
once; these bytes over the copy bandwidth measured here are the floor, and `of floor` is the
floor over the time taken. `call` says after which part of the time the call came back, the
host being free for the rest. The kernel is first compared with the XLA reference on the
same cache. A combination that memory does not hold is said and left out. As in a run,
one program serves all contexts of a batch: its rows could grow to the longest context, and
its pool holds the longest that memory does. Made for a GPU or TPU by hand; `--models tiny`
runs anywhere.
"""

import dataclasses
import functools
import itertools
import math
import os
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from aster_jax import mesh as meshes
from aster_jax.model import attention, config, transformer
from aster_jax.model import cache as kv
from aster_jax.rollout import engine, sampling

MODELS = flags.DEFINE_list("models", "qwen3_0p6b,qwen3_4b", "presets, or tiny")
BATCHES = flags.DEFINE_list("batches", "1,8,64,256", "rows that decode together")
CONTEXTS = flags.DEFINE_list("contexts", "1024,4096,8192,32768", "tokens of each row")
ATTENTION = flags.DEFINE_string("attention", "auto", "as in rollout.attention")
CAPACITY = flags.DEFINE_integer("capacity", 0, "tokens a row could hold; 0 = the longest context")
PAGE = flags.DEFINE_integer("page_tokens", 64, "tokens per page")
STEPS = flags.DEFINE_integer("steps", 32, "tokens per row and dispatch")
REPEATS = flags.DEFINE_integer("repeats", 5, "dispatches timed; the median counts")

DTYPE = "bfloat16"
TINY = dataclasses.replace(
    config.PRESETS["qwen3_0p6b"], vocab_size=256, num_layers=2, d_model=64, d_ff=96, num_heads=4,
    num_kv_heads=2, head_dim=16,
)  # fmt: skip
# One step of bfloat16 for outputs around 1; sums in another order differ by that.
CLOSE = 2**-7


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of the table: what is decoded, and on what.

    `capacity` is what a row's table has pages for, `held` the tokens that the pool has for
    each row, both at least `context`.
    """

    batch: int
    context: int
    held: int
    steps: int
    repeats: int
    page_tokens: int
    capacity: int
    attention: str
    dtype: str = DTYPE

    @property
    def sizes(self) -> engine.EngineConfig:
        """The engine for these rows, with a pool for what they hold and no more."""
        held = -(-self.held // self.page_tokens)
        pages = max(self.batch * held, -(-self.capacity // self.page_tokens))
        return engine.EngineConfig(
            slots=self.batch, capacity=self.capacity, page_tokens=self.page_tokens,
            pool_tokens=pages * self.page_tokens, steps_per_dispatch=self.steps, prefill_rows=1,
            prefill_buckets=(self.page_tokens,), dtype=self.dtype, attention=self.attention,
        )  # fmt: skip


def measure_bandwidth(total: int) -> float:
    """Bytes per second of copying an array of `total` bytes, read and written, at best.

    As a copy of the runtime's or by a kernel of XLA's, whichever is faster.
    """
    x = jnp.zeros((total // 4,), jnp.float32)
    taken = []
    for copy in (jax.jit(jnp.copy), jax.jit(lambda x: x + 1)):
        copy(x).block_until_ready()
        for _ in range(10):
            begun = time.perf_counter()
            copy(x).block_until_ready()
            taken.append(time.perf_counter() - begun)
    return 2 * x.nbytes / min(taken)


def memory_bytes() -> int:
    """What the device has for us: its own figure, or the machine's memory on a CPU."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def lacking(cfg: config.ModelConfig, cell: Cell, memory: int) -> str:
    """A sentence if this combination does not fit into `memory` bytes, else ""."""
    weights = transformer.count_params(cfg) * 2
    cached = kv.bytes_per_token(cfg, DTYPE) * cell.sizes.pool_tokens
    scores = 8 * cell.batch * cfg.vocab_size * 4  # log-softmax and noise over the vocabulary
    needed = max(2 * weights, weights + cached + scores)
    if needed <= 0.85 * memory:  # programs and what they make on their way take some, too
        return ""
    return (
        f"does not fit: weights {weights / 1e9:.1f} GB (twice while they are made), keys and "
        f"values {cached / 1e9:.1f} GB, scores {scores / 1e9:.1f} GB; the device has "
        f"{memory / 1e9:.1f} GB"
    )


def make_weights(cfg: config.ModelConfig, programs: engine.Programs, dtype: str = DTYPE) -> dict:
    """Random weights in the form that decoding reads."""
    cfg = dataclasses.replace(cfg, param_dtype=dtype)
    return programs.adopt(jax.jit(transformer.init_params, static_argnums=0)(cfg, jax.random.key(0)))


# Kept though it is not read: only then is its memory that of the result.
@functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
def _fill(x, key):
    # In pieces: while they are made, random numbers take several times their own memory.
    keys = jax.random.split(key, x.shape[0])
    return jax.lax.map(lambda key: jax.random.normal(key, x.shape[1:], x.dtype), keys)


def full_slots(cell: Cell, programs: engine.Programs) -> engine.Slots:
    """All rows active, `steps` tokens before the end of their context, on random keys."""
    slots = programs.empty()
    leaves, tree = jax.tree.flatten(slots.cache)
    for i, empty in enumerate(leaves):
        # One at a time, and laid out as before: another layout would be another program.
        filled = _fill(empty, jax.random.key(i)).block_until_ready()
        leaves[i] = jax.device_put(filled, empty.sharding)
    return rewind(slots.replace(cache=jax.tree.unflatten(tree, leaves)), cell)


def rewind(slots: engine.Slots, cell: Cell) -> engine.Slots:
    """The same slots before a dispatch."""
    B = cell.batch
    return slots.replace(
        length_B=jnp.full((B,), cell.context - cell.steps, jnp.int32),
        left_B=jnp.full((B,), cell.steps, jnp.int32),
        active_B=jnp.ones((B,), bool),
    )


def page_table(cell: Cell) -> jax.Array:
    """Rows on pages that are dealt out in turn, so that neighbours are far apart."""
    held = -(-cell.context // cell.page_tokens)
    pages = jnp.arange(held)[None] * cell.batch + jnp.arange(cell.batch)[:, None]
    spare = cell.sizes.row_pages - held
    empty = cell.sizes.pool_pages(1)
    return jnp.pad(pages, ((0, 0), (0, spare)), constant_values=empty).astype(jnp.int32)


def compare(cfg: config.ModelConfig, kernel: str, slots: engine.Slots, table: jax.Array) -> float:
    """Largest difference between the kernel and the reference on the first layer's cache."""
    B = table.shape[0]
    q = jax.random.normal(jax.random.key(1), (B, 1, cfg.num_heads, cfg.head_dim), DTYPE)
    args = (q, slots.cache.layers[0], table, slots.length_B[:, None])
    attend = jax.jit(attention.attend_pages, static_argnames="kernel")
    both = [attend(*args, kernel=name).astype(jnp.float32) for name in (kernel, "xla")]
    return float(jnp.abs(both[0] - both[1]).max())


def measure(cfg: config.ModelConfig, cell: Cell, bandwidth: float) -> dict:
    """Decodes one cell: tokens/s, milliseconds per step, floor, kernel and its difference."""
    mesh = meshes.build(1, 1, 1, jax.devices()[:1])
    kernel, why = engine.attention(cfg, cell.sizes, mesh)
    programs = engine.programs(cfg, cell.sizes, sampling.Sampling(1.0, 1.0, 0), (), mesh)
    weights = make_weights(cfg, programs)
    slots, table = full_slots(cell, programs), page_table(cell)
    difference = compare(cfg, kernel, slots, table)
    if difference > CLOSE:
        raise ValueError(
            f"{kernel} attention differs from the reference by {difference:.4f}, more than "
            f"{CLOSE:.4f}: {cell}"
        )
    rows, taken, called = jnp.arange(cell.batch), [], []
    for i in range(cell.repeats + 1):
        slots = jax.block_until_ready(rewind(slots, cell))
        begun = time.perf_counter()
        slots, drained = programs.decode(weights, slots, rows, table)
        returned = time.perf_counter() - begun
        jax.block_until_ready((slots, drained))
        if i:  # the first one compiles
            taken.append(time.perf_counter() - begun)
            called.append(returned / taken[-1])
    if int(drained.count_A.min()) != cell.steps:
        raise ValueError(f"a row decoded {int(drained.count_A.min())} of {cell.steps} tokens")
    if programs.decode._cache_size() != 1:
        raise ValueError(f"decoding was compiled again while it was timed: {cell}")
    step = statistics.median(taken) / cell.steps
    live = cell.batch * (cell.context - cell.steps / 2) * kv.bytes_per_token(cfg, DTYPE)
    read = sum(x.nbytes for x in jax.tree.leaves(weights)) + live
    return {
        "tokens_per_s": cell.batch / step, "step_ms": 1e3 * step,
        "floor_ms": 1e3 * read / bandwidth, "fraction": read / bandwidth / step,
        "called": statistics.median(called), "attention": kernel, "why": why,
        "difference": difference,
    }  # fmt: skip


def show(names: list[str], cells: list[Cell], memory: int, bandwidth: float) -> list[dict]:
    """Measures and prints every model and cell; returns what was measured."""
    made = []
    print(f"{'model':12} {'batch':>5} {'context':>7} {'by':>4} {'tokens/s':>10} {'ms/step':>9} "
          f"{'floor ms':>9} {'of floor':>8} {'call':>6} {'|kernel - xla|':>14}", flush=True)  # fmt: skip
    for name in names:
        cfg = TINY if name == "tiny" else config.PRESETS[name]
        for _, group in itertools.groupby(cells, key=lambda cell: cell.batch):
            group = list(group)
            why_not = {cell: lacking(cfg, cell, memory) for cell in group}
            held = max((cell.context for cell in group if not why_not[cell]), default=0)
            for cell in group:
                head = f"{name:12} {cell.batch:5d} {cell.context:7d}"
                if why_not[cell]:
                    print(f"{head} {why_not[cell]}", flush=True)
                    continue
                got = measure(cfg, dataclasses.replace(cell, held=held), bandwidth)
                made.append(got)
                print(f"{head} {got['attention']:>4} {got['tokens_per_s']:10.0f} "
                      f"{got['step_ms']:9.3f} {got['floor_ms']:9.3f} {got['fraction']:8.1%} "
                      f"{got['called']:6.1%} {got['difference']:14.5f}", flush=True)  # fmt: skip
            jax.clear_caches()
            engine.programs.cache_clear()
    return made


def each(values, measure) -> None:
    """`measure(value)` for every whole number, no program of one left for the next; then what
    it was measured with."""
    before = os.getloadavg()
    for value in map(int, values):
        measure(value)
        jax.clear_caches()
        engine.programs.cache_clear()
    print(f"jax {jax.__version__}; {len(os.sched_getaffinity(0))} threads; load before {before}, "
          f"after {os.getloadavg()}")  # fmt: skip


def main(argv) -> None:
    """Measures the bandwidth, then every combination that fits."""
    del argv
    unknown = [m for m in MODELS.value if m != "tiny" and m not in config.PRESETS]
    if unknown:
        raise app.UsageError(f"models {unknown} unknown; choose of tiny, {', '.join(config.PRESETS)}")
    memory = memory_bytes()
    bandwidth = measure_bandwidth(min(1 << 32, memory // 16))
    device = jax.devices()[0]
    print(f"{device.device_kind}: {memory / 1e9:.1f} GB, copies {bandwidth / 1e9:.1f} GB/s; "
          f"load average {os.getloadavg()[0]:.1f}")  # fmt: skip
    contexts = sorted(map(int, CONTEXTS.value))
    cells = [
        Cell(batch, context, context, min(STEPS.value, contexts[0] // 2), REPEATS.value,
             PAGE.value, max(CAPACITY.value, contexts[-1]), ATTENTION.value)
        for batch in map(int, BATCHES.value) for context in contexts
    ]  # fmt: skip
    made = show(MODELS.value, cells, memory, bandwidth)
    for why in sorted({got["why"] for got in made}):
        print(f"attention: {why}")
    if made:
        fractions = [got["fraction"] for got in made]
        print(f"geometric mean of the fraction: {math.exp(statistics.mean(map(math.log, fractions))):.1%}")


if __name__ == "__main__":
    app.run(main)
