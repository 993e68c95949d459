"""Attention by itself on a GPU: how exact each way is, the best tiles of ours, and speeds.

A part of `experiments.benchmarks.train_gpu`.
"""

import concurrent.futures
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from aster_jax.model import gpu_packed_attention as kernels
from aster_jax.model import packed_attention
from experiments.benchmarks import train_gpu_ways
from experiments.benchmarks.train_gpu_cases import (
    TINY, case, late, packed_rows, say, seconds, squares,
)  # fmt: skip

T = kernels.Tile
TRIED = {
    "forward": (T(64, 64, 4, 3), T(64, 64, 4, 2), T(64, 64, 4, 4), T(64, 128, 4, 2), T(64, 32, 4, 4),
                T(128, 64, 4, 2), T(128, 64, 8, 3), T(128, 128, 8, 2)),
    "dq": (T(64, 64, 4, 2), T(64, 64, 4, 3), T(64, 32, 4, 3), T(64, 128, 4, 2), T(128, 32, 4, 2),
           T(128, 64, 8, 2)),
    "dkv": (T(64, 64, 4, 2), T(64, 64, 4, 3), T(64, 64, 4, 1), T(32, 64, 4, 3), T(64, 32, 4, 2),
            T(64, 128, 8, 2)),
}  # fmt: skip
TINY_TRIED = {"forward": (T(64, 64, 4, 1),), "dq": (T(64, 64, 4, 1),), "dkv": (T(64, 64, 4, 1),)}


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
        expected = with_gradient(train_gpu_ways.reference)(*wide, segments)
        # The kernels are made for bfloat16: in float32 Triton takes minutes to compile one.
        tried = ways if dtype == jnp.bfloat16 else {"xla": ways["xla"]} if "xla" in ways else {}
        for name, attend in {"reference": train_gpu_ways.reference, **tried}.items():
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
    start, first = packed_attention.starts(segments), jnp.int32(0)
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
