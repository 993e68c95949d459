"""The training step on one GPU: exactness and speed of its attention, and what share of the
card's arithmetic the GRPO update reaches.

    python -m experiments.benchmarks.train_gpu --budget_s=420 --out=/tmp/out

Random weights of Qwen3's sizes, parameters in float32, compute in bfloat16, layers
recomputed in the backward pass. Rows are packed with sequences of log-normal lengths; only
their tokens count. MFU is (6 P + 6 L N H n per token of a sequence of n) over the time and
over the best rate of a large matrix product on this very card, and over the data sheet's.
Each case stands alone: what fails is said and the next one begins. `--tiny` runs every part
on a machine without a GPU.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from aster_jax import mesh as meshes
from aster_jax import types
from aster_jax.data import packing
from aster_jax.model import attention, config, logprobs, transformer
from aster_jax.model import gpu_packed_attention as kernels
from aster_jax.rl import grpo
from aster_jax.train import optim, step
from experiments.benchmarks import train_attention

BUDGET = flags.DEFINE_float("budget_s", 420, "No case is begun after so many seconds.")
OUT = flags.DEFINE_string("out", "", "Directory that train_gpu.jsonl is written to.")
TINY = flags.DEFINE_bool("tiny", False, "Tiny sizes, kernels interpreted: for a CPU.")
PARTS = flags.DEFINE_list("parts", "matmul,exact,tiles,kernels,steps", "What is measured.")
FROM = flags.DEFINE_string("found", "", "File of an earlier process that found tiles and way.")
WAYS = flags.DEFINE_list("ways", "xla,gpu,mha,cudnn", "Ways to attend that are compared.")

SHEET = 989e12  # H100 and H200, dense bfloat16
STEPS, MICRO = 3, 2  # timed steps; microbatches of each
# Tokens of a row: rows of a microbatch, and the mean of the sequences' lengths.
ROWS = {4096: (8, 2000), 8192: (4, 4000), 18_432: (2, 8000), 32_768: (1, 12_000)}
TINY_ROWS = {256: (2, 120), 512: (1, 200)}
T = kernels.Tile
TRIED = {
    "forward": (T(128, 128, 8, 2), T(128, 64, 8, 2), T(128, 64, 8, 3), T(128, 64, 4, 2),
                T(128, 64, 4, 3), T(64, 64, 4, 3), T(128, 32, 4, 3)),
    "dq": (T(128, 64, 8, 2), T(128, 64, 8, 1), T(128, 32, 8, 2), T(64, 64, 4, 2), T(128, 32, 4, 2),
           T(64, 128, 8, 2)),
    "dkv": (T(64, 128, 8, 2), T(64, 128, 8, 1), T(32, 128, 8, 2), T(64, 64, 4, 2), T(32, 128, 4, 2),
            T(128, 64, 8, 2)),
}  # fmt: skip
TINY_TRIED = {"forward": (T(64, 64, 4, 1),), "dq": (T(64, 64, 4, 1),), "dkv": (T(64, 64, 4, 1),)}
TINY_CFG = config.ModelConfig(
    vocab_size=512, num_layers=2, d_model=64, d_ff=128, num_heads=4, num_kv_heads=2, head_dim=16,
    rope_theta=1e4, rms_norm_eps=1e-6, tie_embeddings=True, qk_norm=True, max_positions=1024,
    compute_dtype="bfloat16", remat=True,
)  # fmt: skip
BEGUN = time.monotonic()


def say(part: str, **values) -> None:
    """One line on the screen and in the file, at once."""
    line = {"part": part, "at_s": round(time.monotonic() - BEGUN, 1), **values}
    print(json.dumps(line), flush=True)
    if OUT.value:
        with open(pathlib.Path(OUT.value) / "train_gpu.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def case(part: str, **names):
    """One case: what goes wrong in it is said, and goes no further."""
    try:
        yield
    except Exception as e:  # noqa: BLE001 - out of memory, and whatever a compiler raises
        say(part, **names, failed=f"{type(e).__name__}: {str(e)[:600]}")


def late() -> bool:
    """Whether the time for new cases is over."""
    return time.monotonic() - BEGUN > BUDGET.value


def seconds(f, *args, repeats=5, calls=1) -> float:
    """Median seconds of a call, several of them in a row."""
    jax.block_until_ready(f(*args))
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        for _ in range(calls):
            out = f(*args)
        jax.block_until_ready(out)
        taken.append((time.perf_counter() - begun) / calls)
    return statistics.median(taken)


def packed_rows(row_tokens: int, count: int, mean: float, seed: int = 0) -> dict[str, np.ndarray]:
    """`count` rows of sequences of log-normal lengths (sigma 0.6), arrays of a policy batch."""
    rng = np.random.default_rng(seed)
    lengths = []
    while sum(lengths) < 1.3 * count * row_tokens:
        n = int(rng.lognormal(np.log(mean) - 0.18, 0.6))
        lengths.append(min(max(n, row_tokens // 64), row_tokens))
    sequences = [
        {
            "tokens": rng.integers(0, 500, n), "weights": np.full(n, 1e-5, np.float32),
            "advantages": np.full(n, rng.choice([-1.0, 1.0]), np.float32),
            "logprobs": np.full(n, -1.0, np.float32),
        }
        for n in lengths
    ]  # fmt: skip
    rows = packing.pack(lengths, row_tokens)[:count]
    return packing.layout(sequences, rows, row_tokens)


def squares(segments: np.ndarray) -> int:
    """Sum over all sequences of the square of their length."""
    return int(sum((np.bincount(row)[1:].astype(np.int64) ** 2).sum() for row in segments))


def heads(cfg, segments, seed=0, dtype=jnp.bfloat16):
    """Random (q_BTNH, k_BKHS, v_BKSH) and a gradient of the result for rows of one layer."""
    B, S = segments.shape
    N, K, H = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = (B, S, N, H), (B, K, H, S), (B, K, S, H), (B, S, N, H)
    return [jax.random.normal(k, s, jnp.float32).astype(dtype) for k, s in zip(keys, shapes)]


def with_gradient(attend):
    """(result, gradients) of a way to attend, as one program."""

    def run(q, k, v, dout, segments):
        out, back = jax.vjp(lambda *qkv: attend(*qkv, segments), q, k, v)
        return out, *back(dout)

    return jax.jit(run)


def measure_matmul() -> float:
    """FLOP/s of a large bfloat16 product: the ceiling of everything else here."""
    n = 256 if TINY.value else 8192
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in (0, 1))
    rate = 2 * n**3 / seconds(jax.jit(jnp.matmul), a, b, repeats=10, calls=5)
    say("matmul", size=n, tflops=round(rate / 1e12, 1))
    return rate


def measure_exactness(ways, cfg) -> None:
    """Every way against float32's reference: packed rows, result and gradients."""
    S = 256 if TINY.value else 2048
    segments = jnp.asarray(packed_rows(S, 2, S / 4)["segments"])
    real = (segments > 0)[:, :, None, None]
    for dtype in (jnp.float32, jnp.bfloat16):
        q, k, v, dout = heads(cfg, segments, dtype=dtype)
        args = q, k, v, jnp.where(real, dout, 0), segments
        wide = [x.astype(jnp.float32) for x in args[:4]]
        expected = with_gradient(train_attention.reference)(*wide, segments)
        # The kernels are made for bfloat16: in float32 Triton takes minutes to compile one.
        tried = ways if dtype == jnp.bfloat16 else {"xla": ways["xla"]} if "xla" in ways else {}
        for name, attend in {"reference": train_attention.reference, **tried}.items():
            names = {"way": name, "dtype": dtype.__name__}
            with case("exact", **names):
                found = with_gradient(attend)(*args)
                say("exact", **names, **distances(found, expected, real))


def distances(found, expected, real) -> dict:
    """Of result and gradients: the norm of the difference over the norm, padding left out."""
    found = [jnp.where(real, found[0], 0), *found[1:]]
    expected = [jnp.where(real, expected[0], 0), *expected[1:]]
    of = {}
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        off = jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)
        of[name] = float(f"{float(off):.3g}")
    return of


def measure_tiles(cfg, row_tokens, rows, mean) -> kernels.Tiles:
    """The fastest tiles of each of our three kernels."""
    segments = jnp.asarray(packed_rows(row_tokens, rows, mean)["segments"])
    q, k, v, dout = heads(cfg, segments)
    k, v = k.transpose(0, 3, 1, 2), v.transpose(0, 2, 1, 3)
    start, first = train_attention.packed_attention.starts(segments), jnp.int32(0)
    tiles = kernels.Tiles(**{n: tried[0] for n, tried in tried_tiles().items()})
    forward = functools.partial(kernels._forward, tiles, TINY.value)
    out, kept = jax.jit(forward)(q, k, v, start, first)
    delta = jnp.sum(out.astype(jnp.float32) * dout.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    backward = (q, k, v, dout, kept[-1], delta, start, first)
    best = {}
    for name, tried in tried_tiles().items():
        programs = {}
        for tile in tried:
            if name == "forward":
                whole = dataclasses.replace(tiles, forward=tile)
                run, args = functools.partial(kernels.attend, whole), (q, k, v, start, first)
            else:
                run, args = functools.partial(getattr(kernels, f"_{name}"), tile), backward
            programs[tile] = jax.jit(functools.partial(run, TINY.value)).lower(*args)
        best[name] = fastest(name, programs, args, q.shape, squares(np.asarray(segments)), tried[0])
    return kernels.Tiles(**best)


def fastest(name, lowered, args, shape, squared, default):
    """The tile whose program takes least; all are compiled at the same time."""
    taken = {}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        compiling = {tile: pool.submit(program.compile) for tile, program in lowered.items()}
        concurrent.futures.wait(compiling.values())
    products = {"forward": 2, "dq": 3, "dkv": 4}[name]
    for tile, program in compiling.items():
        names = {"kernel": name, "tile": dataclasses.astuple(tile)}
        with case("tiles", **names):
            taken[tile] = seconds(program.result(), *args, calls=2)
            flops = products * shape[2] * shape[3] * squared  # half of the scores are hidden
            say("tiles", **names, ms=round(1e3 * taken[tile], 3), tflops=round(flops / taken[tile] / 1e12))
    return min(taken, key=taken.get, default=default)


def tried_tiles():
    """The tiles to try, by kernel."""
    return TINY_TRIED if TINY.value else TRIED


def measure_kernels(ways, cfg, sizes) -> dict[str, float]:
    """Forward alone and with its gradient, one layer; the sums of seconds by way."""
    total = {}
    for row_tokens, (rows, mean) in sizes.items():
        segments = jnp.asarray(packed_rows(row_tokens, rows, mean)["segments"])
        args = *heads(cfg, segments), segments
        needed = 2 * cfg.num_heads * cfg.head_dim * squares(np.asarray(segments))
        for name, attend in ways.items():
            names = {"way": name, "row": row_tokens}
            if late() or total.get(name) == np.inf:
                continue
            total.setdefault(name, 0.0)
            with case("kernels", **names):
                forward = jax.jit(lambda q, k, v, _, s, attend=attend: attend(q, k, v, s))
                ahead = seconds(forward, *args, repeats=3)
                both = seconds(with_gradient(attend), *args, repeats=3)
                total[name] += ahead + both
                say("kernels", **names, forward_ms=round(1e3 * ahead, 2), both_ms=round(1e3 * both, 2),
                    forward_tflops=round(needed / ahead / 1e12),
                    both_tflops=round(3 * needed / both / 1e12))  # fmt: skip
                continue
            total[name] = np.inf
    return total


def policy_batch(row_tokens, rows, mean) -> tuple[types.RlBatch, int, int]:
    """(batch of MICRO microbatches, its tokens, the squares of its sequences' lengths)."""
    arrays, used = packing.microbatches(packed_rows(row_tokens, rows * MICRO, mean), rows, MICRO)
    assert used == MICRO, used
    batch = types.RlBatch(
        tokens_BT=arrays["tokens"], positions_BT=arrays["positions"],
        segments_BT=arrays["segments"], weights_BT=arrays["weights"],
        advantages_BT=arrays["advantages"], old_logprobs_BT=arrays["logprobs"],
        rollout_logprobs_BT=arrays["logprobs"],
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

    def names(self):
        """Its keys, for a line."""
        return dataclasses.asdict(self)


def optimiser(moments_dtype: str):
    """As in the recipe."""
    return optim.build(
        optim.OptimConfig(
            learning_rate=1e-6, warmup_steps=0, decay_steps=0, final_fraction=1.0, beta1=0.9,
            beta2=0.95, weight_decay=0.0, clip_norm=1.0, moments_dtype=moments_dtype,
        )
    )  # fmt: skip


LOSS = functools.partial(grpo.loss_fn, grpo=grpo.GrpoConfig(0.2, 0.28, 10.0, 0.0, False, 1.0))


def model(preset: str) -> config.ModelConfig:
    """Sizes of a preset, or the tiny ones."""
    return TINY_CFG if TINY.value else config.PRESETS[preset]


@contextlib.contextmanager
def attending(attend):
    """While it lasts, models are traced with this way to attend."""
    plain = attention.attend_packed
    attention.attend_packed = attend
    try:
        yield
    finally:
        attention.attend_packed = plain


def lower(update: Update, ways, sizes, mesh):
    """The step's program before it is compiled, and its batch."""
    cfg, tx = model(update.preset), optimiser(update.moments)
    batch, tokens, squared = policy_batch(update.row_tokens, *sizes[update.row_tokens])
    state = step.abstract_state(cfg, tx, mesh)
    with attending(ways[update.way]):
        run = step.compile_step(state, cfg, LOSS, tx, mesh)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
        return run.lower(state, shapes, jax.ShapeDtypeStruct((), jnp.int32)), batch, tokens, squared


def run_update(update, compiled, batch, tokens, squared, mesh, ceiling) -> float:
    """Times one compiled step on a fresh state; the share of the ceiling that it reaches."""
    cfg, tx = model(update.preset), optimiser(update.moments)
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


def measure_updates(updates, ways, sizes, mesh, ceiling) -> dict[Update, float]:
    """Compiles all of them at the same time, then times one after the other."""
    lowered, shares = {}, {}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for update in updates:
            with case("lower", **update.names()):
                program, *rest = lower(update, ways, sizes, mesh)
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
        return jnp.sum(logprobs._blocked(cfg, 1.0, w, hidden, targets)[0])

    taken = seconds(jax.jit(jax.grad(loss, argnums=(0, 1))), w, hidden, repeats=3)
    share = 6 * w.size * tokens / taken / ceiling
    say("head", vocabulary=cfg.vocab_size, width=cfg.d_model, tokens=tokens,
        ms=round(1e3 * taken, 1), mfu_of_measured=round(share, 4))  # fmt: skip


def main(_) -> None:
    """All parts in turn."""
    device = jax.devices()[0]
    say("device", kind=device.device_kind, jax=jax.__version__, flags=os.environ.get("XLA_FLAGS", ""))
    sizes = TINY_ROWS if TINY.value else ROWS
    parts = PARTS.value
    ceiling, tiles, best = found_before()
    cfg, middle = model("qwen3_0p6b"), sorted(sizes)[1]
    if "matmul" in parts:
        ceiling = measure_matmul()
    if "exact" in parts:
        measure_exactness(chosen(tiles), cfg)
    if "tiles" in parts:
        with case("tiles"):
            tiles = measure_tiles(cfg, middle, *sizes[middle])
            say("tiles", best={n: list(t.values()) for n, t in dataclasses.asdict(tiles).items()})
    if "kernels" in parts:
        total = measure_kernels(chosen(tiles), cfg, {n: sizes[n] for n in (min(sizes), max(sizes))})
        best = min(total, key=total.get)
        say("kernels", best=best, ceiling=ceiling)
    if "steps" in parts:
        measure_steps(chosen(tiles), best, sizes, ceiling)


def chosen(tiles) -> dict:
    """The ways asked for."""
    every = train_attention.ways(TINY.value, tiles)
    return {name: every[name] for name in WAYS.value}


def found_before() -> tuple[float, kernels.Tiles, str]:
    """(ceiling, tiles, best way) of an earlier process, or what stands in for them."""
    ceiling, best = SHEET, "gpu"
    tiles = {n: tried[0] for n, tried in tried_tiles().items()} if TINY.value else {}
    lines = pathlib.Path(FROM.value).read_text().splitlines() if FROM.value else []
    for line in map(json.loads, lines):
        if "best" in line and line["part"] == "tiles":
            tiles = {name: T(*sizes) for name, sizes in line["best"].items()}
        if "best" in line and line["part"] == "kernels":
            best = line["best"]
        if line["part"] == "matmul":
            ceiling = line["tflops"] * 1e12
    return ceiling, kernels.Tiles(**tiles), best


def measure_steps(ways, best, sizes, ceiling) -> None:
    """The best way at all sizes, the others beside it once; what may end the process last."""
    mesh = meshes.build(1, 1, 1, devices=[jax.devices()[0]])
    small, middle, large = ("qwen3_0p6b", "qwen3_1p7b", "qwen3_4b")
    length, *_ = sorted(sizes)[1:]
    with case("head"):
        measure_head(model(small), max(sizes), ceiling)
    others = [w for w in ways if w != best]
    safe = [w for w in others if w != "cudnn"]
    waves = [
        [Update(small, best, n) for n in sizes] + [Update(small, w, length) for w in safe],
        [Update(middle, best, n) for n in sizes],
        [Update(large, best, n, "bfloat16") for n in sizes],
        [Update(small, w, length) for w in others if w not in safe],
    ]
    for wave in waves:
        if not late():
            measure_updates(wave, ways, sizes, mesh, ceiling)


if __name__ == "__main__":
    app.run(main)
