"""What more exact float32 matmuls would cost on CPU: time and error of other ways to sum.

    python -m experiments.benchmarks.summation

The shapes are SmolLM2-135M's: a layer's `up` and `down` and the table of tokens, for 32 rows
of a decode step (the weight first, as `layers.times_rows` reads it) and 1,024 tokens of a
training row. Eight weights of a layer are one program, as in a model, or one table. Random
normal inputs; errors are root mean squares against float64, in units of one float32 sum's;
times are medians of 15, taken in turn, over the plain matmul's.
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
LAYERS = 8


def decode(x_MI, rows_OI):
    """As `layers.times_rows`."""
    return jnp.einsum("OI,MI->OM", rows_OI, x_MI).T


def train(x_MI, w_IO):
    """As `layers.Einsum` with a weight as trained."""
    return jnp.einsum("MI,IO->MO", x_MI, w_IO)


def in_pieces(matmul, pieces: int, input_axis: int):
    """The sum over inputs cut into pieces of equal length, whose results are added in pairs.

    The weight is cut in the program, or is kept as a list of its pieces.
    """

    def summed(x_MI, weight):
        cut_x = jnp.split(x_MI, pieces, axis=1)
        cut = weight if isinstance(weight, list) else jnp.split(weight, pieces, input_axis)
        parts = [matmul(*p) for p in zip(cut_x, cut, strict=True)]
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


def measure(x_MI, weights, matmul, input_axis: int) -> list[tuple[str, float, float]]:
    """(way, time, error), both over the plain matmul's; the error is of the first weight."""
    wide = [w.astype(jnp.float64) for w in weights]
    ways = {"plain": (matmul, weights)}
    for n in PIECES:
        kept = [jnp.split(w, n, input_axis) for w in weights]
        ways[f"{n} pieces"] = in_pieces(matmul, n, input_axis), weights
        ways[f"{n} pieces, weight kept so"] = in_pieces(matmul, n, input_axis), kept
    ways["float64"] = in_float64(matmul), weights
    ways["float64, weight kept so"] = in_float64(matmul), wide
    compiled = {
        name: jax.jit(lambda x, held, way=way: [way(x, w) for w in held])
        for name, (way, _) in ways.items()
    }
    exact = np.asarray(matmul(x_MI.astype(jnp.float64), wide[0]))
    errors = {
        name: float(np.sqrt(np.mean((np.asarray(f(x_MI, ways[name][1])[0]) - exact) ** 2)))
        for name, f in compiled.items()
    }
    seconds = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, f in compiled.items():
            begun = time.perf_counter()
            jax.block_until_ready(f(x_MI, ways[name][1]))
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
            weights = [
                jnp.asarray(rng.normal(size=shape), jnp.float32)
                for _ in range(1 if name == "table" else LAYERS)
            ]
            for way, times, error in measure(x_MI, weights, matmul, 1 if form == "decode" else 0):
                print(f"{form:8}{name:8}{way:26}{times:>8.2f}{error:>8.3f}", flush=True)


if __name__ == "__main__":
    app.run(main)
