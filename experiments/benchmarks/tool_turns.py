"""Rollouts of many tool turns on one accelerator: where their time goes, by what attends.

    python -m experiments.benchmarks.tool_turns [--models qwen3_0p6b,qwen3_4b] [--turns 20]
        [--rows 64] [--attentions auto,xla]

The engine's own programs in bfloat16 on random weights: every row gets a prompt, then as
many turns as asked of sampled tokens and a result of the tool, as results come in a batch of
rollouts: `--together` rows at a time. Nothing waits for a tool. "writing" is prompts and
results, "decoding" the dispatches, both with the host's part; medians, warm. Made for a GPU or TPU by hand; `--models tiny` runs anywhere.
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from aster_jax import mesh as meshes
from aster_jax.model import config
from aster_jax.rollout import engine, sampling
from experiments.benchmarks import decode

TURNS = flags.DEFINE_integer("turns", 20, "tool calls of every row")
ROWS = flags.DEFINE_integer("rows", 64, "rows under way")
TOGETHER = flags.DEFINE_integer("together", 16, "results that share a call")
PROMPT = flags.DEFINE_integer("prompt", 512, "tokens of the prompt")
SAMPLED = flags.DEFINE_integer("sampled", 192, "tokens of a turn, a multiple of --steps")
RESULT = flags.DEFINE_integer("result", 64, "tokens of a result")
ATTENTIONS = flags.DEFINE_list("attentions", "auto,xla", "as in rollout.attention")


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """The programs for one way to attend, and the table of pages of all rows."""

    programs: engine.Programs
    weights: dict
    table_BW: jax.Array
    kernel: str

    def play(self) -> dict[str, float]:
        """Seconds of writing and of decoding for all rows and turns."""
        slots, taken = self.programs.empty(), {"writing": 0.0, "decoding": 0.0}
        length = 0
        for turn in range(TURNS.value + 1):
            tokens = RESULT.value if turn else PROMPT.value
            begun = time.perf_counter()
            slots = self.write(slots, length, tokens)
            taken["writing"] += time.perf_counter() - begun
            length += tokens
            begun = time.perf_counter()
            slots = self.decode(slots, length)
            taken["decoding"] += time.perf_counter() - begun
            length += SAMPLED.value
        return taken

    def write(self, slots: engine.Slots, start: int, tokens: int) -> engine.Slots:
        """So many tokens behind the first `start` of every row."""
        cache, P = slots.cache, TOGETHER.value
        for first in range(0, ROWS.value, P):
            args = jnp.ones((P, tokens), jnp.int32), jnp.full((P,), start), jnp.full((P,), tokens)
            table_PW = self.table_BW[first : first + P]
            cache, written = self.programs.prefill(self.weights, cache, *args, table_PW)
        jax.block_until_ready(written)
        return slots.replace(cache=cache)

    def decode(self, slots: engine.Slots, length: int) -> engine.Slots:
        """A turn of every row, whose newest token has place `length`."""
        B = ROWS.value
        slots = slots.replace(
            length_B=jnp.full((B,), length), left_B=jnp.full((B,), SAMPLED.value),
            active_B=jnp.ones((B,), bool),
        )  # fmt: skip
        for _ in range(SAMPLED.value // decode.STEPS.value):
            slots, drained = self.programs.decode(self.weights, slots, jnp.arange(B), self.table_BW)
        jax.block_until_ready(drained)
        return slots


def make(cfg: config.ModelConfig, attention: str) -> Rollouts:
    """Programs and weights for rows that hold all turns."""
    page, B = decode.PAGE.value, ROWS.value
    tokens = PROMPT.value + TURNS.value * RESULT.value + (TURNS.value + 1) * SAMPLED.value
    W = -(-tokens // page)
    sizes = engine.EngineConfig(
        slots=B, capacity=W * page, page_tokens=page, pool_tokens=B * W * page,
        steps_per_dispatch=decode.STEPS.value, prefill_rows=TOGETHER.value,
        prefill_buckets=tuple(sorted({PROMPT.value, RESULT.value})), dtype=decode.DTYPE,
        attention=attention,
    )  # fmt: skip
    mesh = meshes.build(1, 1, 1, jax.devices()[:1])
    kernel, _ = engine.attention(cfg, sizes, mesh)
    programs = engine.programs(cfg, sizes, sampling.Sampling(1.0, 1.0, 0), (), mesh)
    # Neighbours in a row lie far apart, as after many rows have come and gone.
    table_BW = jnp.arange(W)[None] * B + jnp.arange(B)[:, None]
    weights = decode.make_weights(cfg, programs)
    return Rollouts(programs, weights, table_BW.astype(jnp.int32), kernel)


def show(name: str) -> None:
    """Prints one line per way to attend."""
    cfg = decode.TINY if name == "tiny" else config.PRESETS[name]
    for attention in ATTENTIONS.value:
        # One after another: the memory holds the pages of one.
        rollouts = make(cfg, attention)
        found = [rollouts.play() for _ in range(1 + decode.REPEATS.value)]
        of = {part: statistics.median(x[part] for x in found[1:]) for part in found[0]}
        sampled = ROWS.value * (TURNS.value + 1) * SAMPLED.value
        print(f"{name:12} {rollouts.kernel:>4} writing {of['writing']:8.2f} s, decoding "
              f"{of['decoding']:8.2f} s, {sampled / sum(of.values()):8.0f} tokens/s", flush=True)  # fmt: skip
        del rollouts
        jax.clear_caches()
        engine.programs.cache_clear()


def main(argv) -> None:
    """Every model."""
    del argv
    if SAMPLED.value % decode.STEPS.value or ROWS.value % TOGETHER.value:
        raise app.UsageError("--sampled is a multiple of --steps, --rows of --together")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {ROWS.value} rows, "
          f"{TURNS.value} results of {RESULT.value} tokens, turns of {SAMPLED.value}")  # fmt: skip
    for name in decode.MODELS.value:
        show(name)


if __name__ == "__main__":
    app.run(main)
