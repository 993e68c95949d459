"""The training step on one GPU: exactness and speed of its attention, and what share of the
card's arithmetic the GRPO update reaches.

    python -m experiments.benchmarks.train_gpu --budget_s=420 --out=/tmp/out

Random weights of Qwen3's sizes, parameters in float32, compute in bfloat16, layers
recomputed in the backward pass. Rows are packed with sequences of log-normal lengths; only
their tokens count. MFU is (6 P + 6 L N H n per token of a sequence of n) over the time and
over the best rate of a large matrix product on this very card, and over the data sheet's.
Each case stands alone: what fails is said and the next one begins. `--tiny` runs every part
on a machine without a GPU. `--steps=qwen3_4b:gpu:32768:bfloat16:keep` measures just that:
preset, way to attend, tokens of a row, moments, and what remat does with attention.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from aster_jax import mesh as meshes
from aster_jax import types
from aster_jax.data import packing
from aster_jax.model import attention, logprobs, transformer
from aster_jax.model import gpu_packed_attention as kernels
from aster_jax.train import step
from experiments.benchmarks import train_gpu_kernels, train_gpu_ways, train_recipe
from experiments.benchmarks.train_gpu_cases import (
    TINY, case, late, model, packed_rows, say, seconds, sizes, squares,
)  # fmt: skip

PARTS = flags.DEFINE_list("parts", "matmul,exact,tiles,kernels,steps", "What is measured.")
FROM = flags.DEFINE_string("found", "", "File of an earlier process that found tiles and way.")
WAYS = flags.DEFINE_list("ways", "xla,gpu,mha,cudnn", "Ways to attend that are compared.")
ASKED = flags.DEFINE_list("steps", [], "Steps to measure instead of all: see above.")

SHEET = 989e12  # H100 and H200, dense bfloat16
STEPS, MICRO = 3, 2  # timed steps; microbatches of each


def policy_batch(row_tokens, rows, mean) -> tuple[types.RlBatch, int, int]:
    """(batch of MICRO microbatches, its tokens, the squares of its sequences' lengths)."""
    arrays, used = packing.microbatches(packed_rows(row_tokens, rows * MICRO, mean), rows, MICRO)
    assert used == MICRO, used
    batch = types.RlBatch(
        tokens_BT=arrays["tokens"], positions_BT=arrays["positions"],
        segments_BT=arrays["segments"], weights_BU=arrays["weights"],
        advantages_BU=arrays["advantages"], old_logprobs_BU=arrays["logprobs"],
        rollout_logprobs_BU=arrays["logprobs"],
    )  # fmt: skip
    segments = arrays["segments"].reshape(-1, row_tokens)
    return batch, int((segments > 0).sum()), squares(segments)


@dataclasses.dataclass(frozen=True)
class Update:
    """One training step to be measured."""

    preset: str
    way: str
    row_tokens: int
    moments: str = "float32"
    remat: str = "all"

    def names(self):
        """Its keys, for a line."""
        return dataclasses.asdict(self)


LOSS = train_recipe.policy(on_policy=False)


@contextlib.contextmanager
def attending(attend):
    """While it lasts, models are traced with this way to attend."""
    plain = attention.attend_packed
    attention.attend_packed = attend
    try:
        yield
    finally:
        attention.attend_packed = plain


def lower(update: Update, ways, mesh):
    """The step's program before it is compiled, and its batch."""
    cfg, tx = model(update.preset), train_recipe.optimiser(update.moments)
    cfg = dataclasses.replace(cfg, keep_attention=update.remat == "keep")
    batch, tokens, squared = policy_batch(update.row_tokens, *sizes()[update.row_tokens])
    state = step.abstract_state(cfg, tx, mesh)
    with attending(ways[update.way]):
        run = step.compile_step(state, cfg, LOSS, tx, mesh)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
        return run.lower(state, shapes, jax.ShapeDtypeStruct((), jnp.int32)), batch, tokens, squared


def run_update(update, compiled, batch, tokens, squared, mesh, ceiling) -> float:
    """Times one compiled step on a fresh state; the share of the ceiling that it reaches."""
    cfg, tx = model(update.preset), train_recipe.optimiser(update.moments)
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    say("memory", **update.names(), gib=round((held + memory.temp_size_in_bytes) / 2**30, 1),
        temp_gib=round(memory.temp_size_in_bytes / 2**30, 1))  # fmt: skip
    state = step.fresh_state(jax.jit(transformer.init_params, static_argnums=0)(cfg, jax.random.key(0)), tx, mesh)
    put, micro = meshes.put_rows(batch, mesh), jnp.int32(MICRO)
    taken = []
    for _ in range(STEPS + 1):
        begun = time.perf_counter()
        state, metrics = compiled(state, put, micro)
        skipped = float(metrics["skipped_nonfinite"])  # waits
        taken.append(time.perf_counter() - begun)
    least = statistics.median(taken[1:])
    count = transformer.count_params(cfg)
    flops = 6 * count * tokens + 6 * cfg.num_layers * cfg.num_heads * cfg.head_dim * squared
    share = flops / least / ceiling
    say("step", **update.names(), tokens=tokens, step_s=round(least, 3), tokens_per_s=round(tokens / least),
        mfu_of_measured=round(share, 4), mfu_of_sheet=round(flops / least / SHEET, 4),
        tflops=round(flops / least / 1e12), all_s=[round(t, 3) for t in taken], skipped=skipped,
        peak_gib=round(((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)) / 2**30, 1))  # fmt: skip
    return share


def measure_updates(updates, ways, mesh, ceiling) -> dict[Update, float]:
    """Compiles all of them at the same time, then times one after the other."""
    lowered, shares = {}, {}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for update in updates:
            with case("lower", **update.names()):
                program, *rest = lower(update, ways, mesh)
                lowered[update] = pool.submit(program.compile), rest
        for compiling, _ in lowered.values():
            concurrent.futures.wait([compiling])
    say("compiled", updates=len(lowered))
    for update in list(lowered):
        compiling, rest = lowered.pop(update)
        if late():
            say("step", **update.names(), failed="no time left")
            continue
        with case("step", **update.names()):
            shares[update] = run_update(update, compiling.result(), *rest, mesh, ceiling)
    return shares


def measure_head(cfg, tokens: int, ceiling: float) -> None:
    """The log-probs alone, with their gradient: what the vocabulary costs of a step."""
    w = jax.random.normal(jax.random.key(0), (cfg.vocab_size, cfg.d_model), jnp.float32) * 0.02
    hidden = jax.random.normal(jax.random.key(1), (tokens, cfg.d_model), jnp.bfloat16)
    targets = jnp.zeros((tokens,), jnp.int32)

    def loss(w, hidden):
        return jnp.sum(logprobs._blocked(cfg, 1.0, False, w, hidden, targets)[0])

    taken = seconds(jax.jit(jax.grad(loss, argnums=(0, 1))), w, hidden, repeats=3)
    share = 6 * w.size * tokens / taken / ceiling
    say("head", vocabulary=cfg.vocab_size, width=cfg.d_model, tokens=tokens,
        ms=round(1e3 * taken, 1), mfu_of_measured=round(share, 4))  # fmt: skip


def main(_) -> None:
    """All parts in turn."""
    device = jax.devices()[0]
    say("device", kind=device.device_kind, jax=jax.__version__, flags=os.environ.get("XLA_FLAGS", ""))
    parts = PARTS.value
    ceiling, tiles, best = found_before()
    cfg, middle = model("qwen3_0p6b"), sorted(sizes())[1]
    if "matmul" in parts:
        ceiling = train_gpu_kernels.measure_matmul()
    if "exact" in parts:
        train_gpu_kernels.measure_exactness(chosen(tiles), cfg)
    if "tiles" in parts:
        with case("tiles"):
            tiles = train_gpu_kernels.measure_tiles(cfg, middle, *sizes()[middle])
            say("tiles", best={n: list(t.values()) for n, t in dataclasses.asdict(tiles).items()})
    if "kernels" in parts:
        total = train_gpu_kernels.measure_kernels(chosen(tiles), cfg, {n: sizes()[n] for n in (min(sizes()), max(sizes()))})
        best = min(total, key=total.get)
        say("kernels", best=best, ceiling=ceiling)
    if "steps" in parts:
        measure_steps(chosen(tiles), best, ceiling)


def chosen(tiles) -> dict:
    """The ways asked for."""
    every = train_gpu_ways.ways(TINY.value, tiles)
    return {name: every[name] for name in WAYS.value}


def found_before() -> tuple[float, kernels.Tiles, str]:
    """(ceiling, tiles, best way) of an earlier process, or what stands in for them."""
    ceiling, best = SHEET, "gpu"
    tiles = {n: tried[0] for n, tried in train_gpu_kernels.tried_tiles().items()} if TINY.value else {}
    lines = pathlib.Path(FROM.value).read_text().splitlines() if FROM.value else []
    for line in map(json.loads, lines):
        if "best" in line and line["part"] == "tiles":
            tiles = {name: kernels.Tile(*sizes) for name, sizes in line["best"].items()}
        if "best" in line and line["part"] == "kernels":
            best = line["best"]
        if line["part"] == "matmul":
            ceiling = line["tflops"] * 1e12
    return ceiling, kernels.Tiles(**tiles), best


def measure_steps(ways, best, ceiling) -> None:
    """The best way at all sizes, the others beside it once; what may end the process last."""
    mesh = meshes.build(1, 1, 1, devices=[jax.devices()[0]])
    small, middle, large = ("qwen3_0p6b", "qwen3_1p7b", "qwen3_4b")
    length, *_ = sorted(sizes())[1:]
    with case("head"):
        measure_head(model(small), max(sizes()), ceiling)
    others = [w for w in ways if w != best]
    safe = [w for w in others if w != "cudnn"]
    waves = [
        [Update(small, best, n) for n in sizes()] + [Update(small, w, length) for w in safe],
        [Update(middle, best, n) for n in sizes()],
        [Update(large, best, n, "bfloat16") for n in sizes()],
        [Update(small, w, length) for w in others if w not in safe],
    ]
    if ASKED.value:
        asked = [text.split(":") for text in ASKED.value]
        waves = [[Update(p, w, int(n), *rest)] for p, w, n, *rest in asked]
        waves = [sum(waves, [])]
    for wave in waves:
        if not late():
            measure_updates(wave, ways, mesh, ceiling)


if __name__ == "__main__":
    app.run(main)
