"""How fast the products of a decode step can be on a CPU: forms of the weight, libraries of XLA.

    python -m experiments.benchmarks.decode_products [--step_rows 8,32,64] [--timed_calls 7]

The four matmuls of each of SmolLM2-135M's 30 layers, random weights in float32, one program.
`rows` is what the engine does (`layers.times_rows`: the weight first, [outputs, inputs]);
`trained` has the weight second, [inputs, outputs]; `panels` cuts the outputs of `rows` into
halves, a batch of smaller products. XLA's choice of library is a flag of the process, so each
library has a process of its own: YNNPACK (jax 0.10.2's default), Eigen, oneDNN. Milliseconds,
medians; the last column is what the same matmuls make of 512 rows at once.
"""

import functools
import os
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from aster_jax.model import layers

ROWS = flags.DEFINE_list("step_rows", ["8", "32", "64"], "rows that decode together")
REPEATS = flags.DEFINE_integer("timed_calls", 7, "timed calls", lower_bound=1)
ALONE = flags.DEFINE_bool("alone", False, "measure in this process, with its own XLA_FLAGS")
LAYERS, MANY = 30, 512
SHAPES = ((576, 960), (576, 576), (576, 3072), (1536, 576))  # inputs, outputs: qkv, o, gate+up, down
NONE = "--xla_cpu_experimental_ynn_fusion_type="
LIBRARIES = {
    "YNNPACK": "",
    "Eigen": NONE,
    "oneDNN": f"{NONE} --xla_cpu_use_onednn=true "
    "--xla_cpu_experimental_onednn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}


def rows(x_MI, w_OI):
    """The engine's own, one token of each row."""
    return layers.times_rows(x_MI[:, None], w_OI, "float32")[:, 0]


def trained(x_MI, w_IO):
    """The weight as it is trained, second."""
    return x_MI @ w_IO


def panels(x_MI, w_OI):
    """Halves of the outputs, each a product of its own."""
    w_POI = w_OI.reshape(2, -1, w_OI.shape[1])
    y_PMO = jnp.einsum("MI,POI->PMO", x_MI, w_POI)
    return jnp.moveaxis(y_PMO, 0, 1).reshape(x_MI.shape[0], -1)


FORMS = (rows, trained, panels)


def layer(product, x_MD, weights):
    """The products of one layer, what stands between them left out."""
    qkv, o, gate_up, down = weights
    x_MD = x_MD + product(product(x_MD, qkv)[:, : x_MD.shape[1]], o)
    gate_MF, up_MF = jnp.split(product(x_MD, gate_up), 2, axis=1)
    return x_MD + product(gate_MF * up_MF, down)


def milliseconds(product, row_count: int, repeats: int) -> float:
    """Median of the whole stack for so many rows."""
    order = (0, 1) if product is trained else (1, 0)
    seeds = np.random.default_rng(0)
    weights = [
        [jnp.asarray(seeds.normal(0, 0.02, [s[i] for i in order]), jnp.float32) for s in SHAPES]
        for _ in range(LAYERS)
    ]

    @jax.jit
    def stack(x_MD, weights):
        return functools.reduce(functools.partial(layer, product), weights, x_MD)

    x_MD, taken = jnp.full((row_count, SHAPES[0][0]), 1e-3), []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        stack(x_MD, weights).block_until_ready()
        taken.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(taken[1:])


def gigaflops(ms: float, row_count: int) -> float:
    """Rate of the stack, two operations per weight and row."""
    return 2e-6 * row_count * LAYERS * sum(i * o for i, o in SHAPES) / ms


def measure() -> None:
    """One line per form, with this process's library."""
    counts = [*map(int, ROWS.value), MANY]
    for product in FORMS:
        cells = []
        for count in counts:
            ms = milliseconds(product, count, REPEATS.value)
            cells.append(f"{ms:8.1f} ms {gigaflops(ms, count):4.0f} GFLOP/s")
        print(f"  {product.__name__:8}", *cells, flush=True)


def main(argv) -> None:
    """Every library in a process of its own."""
    if ALONE.value:
        measure()
        return
    print(f"jax {jax.__version__}; rows {', '.join([*ROWS.value, str(MANY)])}", flush=True)
    for name, options in LIBRARIES.items():
        print(name, flush=True)
        given = f"{os.environ.get('XLA_FLAGS', '')} {options}".strip()
        subprocess.run(
            [sys.executable, "-m", "experiments.benchmarks.decode_products", *sys.argv[1:], "--alone"],
            env=os.environ | {"XLA_FLAGS": given}, check=True,
        )  # fmt: skip


if __name__ == "__main__":
    app.run(main)
