"""What more exact float32 matmuls would cost on CPU: time and error of other ways to sum.

    python -m experiments.benchmarks.summation

The shapes are SmolLM2-135M's: a layer's `up` and `down` and the table of tokens, for 32 rows
of a decode step (the weight first, as `layers.times_rows` reads it) and 1,024 tokens of a
training row. Random normal inputs; errors are root mean squares against float64, in units of
one float32 sum's; times are medians of 15, taken in turn, over the plain matmul's.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

REPEATS = 15
SHAPES = {"up": (576, 1536), "down": (1536, 576), "table": (576, 49_152)}  # inputs, outputs
PIECES = (2, 4, 8)


def decode(x_MI, rows_OI):
    """As `layers.times_rows`."""
    return jnp.einsum("OI,MI->OM", rows_OI, x_MI).T


def train(x_MI, w_IO):
    """As `layers.Einsum` with a weight as trained."""
    return jnp.einsum("MI,IO->MO", x_MI, w_IO)


def in_pieces(matmul, pieces: int, input_axis: int):
    """The sum over inputs cut into pieces of equal length, whose results are added in pairs."""

    def summed(x_MI, weight):
        cut_x = jnp.split(x_MI, pieces, axis=1)
        parts = [matmul(*p) for p in zip(cut_x, jnp.split(weight, pieces, input_axis), strict=True)]
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return summed


def in_float64(matmul):
    """Inputs widened in the program, the result rounded once."""

    def summed(x_MI, weight):
        wide = matmul(x_MI.astype(jnp.float64), weight.astype(jnp.float64))
        return wide.astype(jnp.float32)

    return summed


def measure(x_MI, weight, matmul, input_axis: int) -> list[tuple[str, float, float]]:
    """(way, time, error), both over the plain matmul's."""
    ways = {"plain": matmul}
    ways |= {f"{n} pieces": in_pieces(matmul, n, input_axis) for n in PIECES}
    ways["float64"] = in_float64(matmul)
    ways["float64, weight kept so"] = in_float64(matmul)
    compiled = {name: jax.jit(way) for name, way in ways.items()}
    wide = weight.astype(jnp.float64)
    arguments = {name: (x_MI, wide if "kept" in name else weight) for name in ways}
    exact = np.asarray(matmul(x_MI.astype(jnp.float64), wide))
    errors = {
        name: float(np.sqrt(np.mean((np.asarray(f(*arguments[name])) - exact) ** 2)))
        for name, f in compiled.items()
    }
    seconds = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, f in compiled.items():
            begun = time.perf_counter()
            f(*arguments[name]).block_until_ready()
            seconds[name].append(time.perf_counter() - begun)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return [(n, middle[n] / middle["plain"], errors[n] / errors["plain"]) for n in ways]


def main(_):
    """One line per shape and way."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    print(f"{'form':8}{'weight':8}{'way':26}{'time':>8}{'error':>8}")
    for name, (inputs, outputs) in SHAPES.items():
        for form, matmul, tokens in (("decode", decode, 32), ("train", train, 1024)):
            x_MI = jnp.asarray(rng.normal(size=(tokens, inputs)), jnp.float32)
            shape = (outputs, inputs) if form == "decode" else (inputs, outputs)
            weight = jnp.asarray(rng.normal(size=shape), jnp.float32)
            for way, times, error in measure(x_MI, weight, matmul, 1 if form == "decode" else 0):
                print(f"{form:8}{name:8}{way:26}{times:>8.2f}{error:>8.3f}", flush=True)


if __name__ == "__main__":
    app.run(main)
