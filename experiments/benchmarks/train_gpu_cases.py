"""What the parts of `experiments.benchmarks.train_gpu` share: sizes, rows, lines and clocks."""

import contextlib
import json
import pathlib
import statistics
import time

import jax
import numpy as np
from absl import flags

from aster_jax.data import packing
from aster_jax.model import config

BUDGET = flags.DEFINE_float("budget_s", 420, "No case is begun after so many seconds.")
OUT = flags.DEFINE_string("out", "", "Directory that train_gpu.jsonl is written to.")
TINY = flags.DEFINE_bool("tiny", False, "Tiny sizes, kernels interpreted: for a CPU.")

# Tokens of a row: rows of a microbatch, and the mean of the sequences' lengths.
ROWS = {4096: (8, 2000), 8192: (4, 4000), 18_432: (2, 8000), 32_768: (1, 12_000)}
TINY_ROWS = {256: (2, 120), 512: (1, 200)}
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


def model(preset: str) -> config.ModelConfig:
    """Sizes of a preset, or the tiny ones."""
    return TINY_CFG if TINY.value else config.PRESETS[preset]


def sizes() -> dict[int, tuple[int, int]]:
    """Tokens of a row -> rows of a microbatch and the mean of the sequences' lengths."""
    return TINY_ROWS if TINY.value else ROWS
