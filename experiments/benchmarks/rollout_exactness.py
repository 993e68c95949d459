"""How far the log-probs of sampling are from those recomputed over whole sequences.

The same tokens for all: ours are sampled with the engine and recomputed as the trainer does,
transformers computes them one token at a time on its cache and in one forward. Its forward
in float64 shows how much of a difference is rounding, and on which side.
`model.accum_dtype` float64 takes most of ours away; what that costs is measured beside it.
"""

import functools
import statistics
import time

import jax
import numpy as np

from aster_jax.data import packing
from aster_jax.model import logprobs
from aster_jax.rollout import Engine
from experiments.benchmarks import rollout_peers

QUESTIONS = [
    f"What is {a} times {a + 19}? Explain it step by step, then tell a story about the number."
    for a in range(12, 28)
]
MICRO_ROWS = 4


def sample(model, seed: int) -> dict[str, np.ndarray]:
    """32 answers at temperature 1, one per row of S tokens.

    Returns:
      tokens: int32 [R, S], padded on the right.
      mask: float32 [R, S], 1 where the model drew the token.
      stored: float32 [R, S], log-probs that sampling kept.
      recomputed: the same by the trainer's forward.
    """
    engine = Engine(model, slots=32, capacity=512)
    made = engine.generate(QUESTIONS, samples=2, seed=seed, response_tokens=192)
    sequences = [{"tokens": t.tokens, "mask": t.loss_mask, "stored": t.logprobs} for t in made]
    length = -(-max(len(t.tokens) for t in made) // 64) * 64
    rows = packing.layout(sequences, [[i] for i in range(len(made))], length)
    arrays = [rows[name] for name in ("tokens", "positions", "segments")]
    recomputed = [
        logprobs.score(model.params, *(a[i : i + MICRO_ROWS] for a in arrays), cfg=model.config)[0]
        for i in range(0, len(made), MICRO_ROWS)
    ]
    return {**rows, "recomputed": np.concatenate(recomputed)}


def compare(model, seeds: int, torch_python: str, directory, threads: int) -> list[tuple]:
    """(what, ours, transformers') for each pair of paths; theirs is None without its interpreter.

    Differences are arrays over the sampled tokens of all seeds. Ours against float64 need
    transformers too.
    """
    pairs = {}
    for seed in range(seeds):
        found = sample(model, seed)
        at = found["mask"] > 0
        stored, recomputed = (found[k][at].astype(np.float64) for k in ("stored", "recomputed"))
        ours, theirs = {"sampling against recomputation": stored - recomputed}, {}
        if torch_python:
            path = directory / f"exactness-{seed}.npz"
            np.savez(path, ids=found["tokens"])
            peer = rollout_peers.transformers_logprobs(
                torch_python, directory / "model", path, threads
            )
            cached, whole, exact = (peer[k][at] for k in ("cached", "whole", "exact"))
            theirs["sampling against recomputation"] = cached - whole
            ours["sampling against float64"] = stored - exact
            theirs["sampling against float64"] = cached - exact
            ours["recomputation against float64"] = recomputed - exact
            theirs["recomputation against float64"] = whole - exact
        for what, difference in ours.items():
            pairs.setdefault(what, []).append((difference, theirs.get(what)))
    return [
        (what, *(None if parts[0] is None else np.concatenate(parts) for parts in zip(*seen, strict=True)))
        for what, seen in pairs.items()
    ]  # fmt: skip


def training_seconds(model, repeats: int) -> dict[str, float]:
    """Log-probs of 4 rows of 512 tokens, and those with their gradient; compiled before."""
    shape = (MICRO_ROWS, 512)
    tokens_BT = np.random.default_rng(0).integers(0, model.config.vocab_size, shape)
    arrays = (tokens_BT, np.broadcast_to(np.arange(512), shape), np.ones(shape, np.int32))

    def total(params):
        return logprobs.token_logprobs(params, model.config, *arrays)[0].sum()

    work = {
        "log-probs": lambda: logprobs.score(model.params, *arrays, cfg=model.config),
        "gradient": functools.partial(jax.jit(jax.grad(total)), model.params),
    }
    seconds = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, play in work.items():
            begun = time.perf_counter()
            jax.block_until_ready(play())
            if repeat:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(found) for name, found in seconds.items()}


def measure(difference: np.ndarray) -> dict[str, float]:
    """Tokens, largest difference and root mean square."""
    return {
        "tokens": difference.size, "largest": float(np.abs(difference).max()),
        "rms": float(np.sqrt((difference**2).mean())),
    }  # fmt: skip
