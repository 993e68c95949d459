"""What every contender of `experiments.benchmarks.train` updates on, and how it is asked to.

The batch is the recipe's own: demonstrations of `experiments/smollm2_135m.py`, made by its
expert in the real tool, with their real lengths and masks. For the policy loss every other
one has the advantage 1, the rest -1. Peers read it as an .npz:

    ids      int32 [tokens]      all sequences, one after the other
    mask     float32 [tokens]    1 where the token is trained on
    lengths  int32 [sequences]
    advantages  float32 [sequences]
    old      float32 [tokens]    log-probs before the update, of our forward; for the policy loss

A peer is a process that takes an update for every line it reads and answers with a line of
JSON: seconds, CPU seconds (cpu_s), loss and grad_norm.
"""

import json
import os
import pathlib
import subprocess

import jax
import numpy as np

from aster_jax import pools, settings, tools, types, weights
from aster_jax.data import packing
from aster_jax.demos import collect, render
from aster_jax.model import logprobs
from experiments import smollm2_135m


def demonstrations(count: int) -> list[types.Demo]:
    """The first `count` demonstrations of the recipe, ids and masks."""
    config = smollm2_135m.get_config()
    tokenizer = weights.describe(config.model.source).tokenizer
    with tools.Executor(settings.tool(config)) as executor:
        made = collect.collect(
            pools.demos(config, count), config.demos.style, executor, config.demos.slip_share,
            config.seed,
        )  # fmt: skip
    limit = config.rollout.tool_result_tokens
    return [render.render(t, tokenizer, config.model.style, None, limit) for t in made]


def advantages(demos) -> np.ndarray:
    """1 and -1 in turn."""
    return np.where(np.arange(len(demos)) % 2, -1.0, 1.0).astype(np.float32)


def flat(demos) -> list[np.ndarray]:
    """The place of every token among all of them, by sequence."""
    cuts = np.cumsum([len(d.tokens) for d in demos])
    return np.split(np.arange(cuts[-1]), cuts[:-1])


def old_logprobs(model, demos, row_tokens: int) -> np.ndarray:
    """float32 [tokens]: what the model makes of every token; 0 for the first of a sequence."""
    sequences = [{"tokens": d.tokens, "places": p} for d, p in zip(demos, flat(demos), strict=True)]
    packed = packing.pack([len(d.tokens) for d in demos], row_tokens)
    rows = packing.layout(sequences, packed, row_tokens)
    arrays, used = packing.microbatches(rows, 1, len(packed))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    score = logprobs.batch_scorer(model.config, 1.0, here)
    logp = score(model.params, arrays["tokens"], arrays["positions"], arrays["segments"], None, None, used)
    there = arrays["segments"] > 0
    old = np.zeros(sum(len(d.tokens) for d in demos), np.float32)
    old[arrays["places"][there].astype(int)] = np.asarray(logp)[there]
    return old


def save(path: pathlib.Path, demos, old: np.ndarray) -> None:
    """The .npz that peers read."""
    np.savez(
        path,
        ids=np.concatenate([d.tokens for d in demos]).astype(np.int32),
        mask=np.concatenate([d.loss_mask for d in demos]).astype(np.float32),
        lengths=np.array([len(d.tokens) for d in demos], np.int32),
        advantages=advantages(demos),
        old=old,
    )


def batch(kind: str, demos, old: np.ndarray, row_tokens: int, micro_rows: int):
    """(batch of the train step, microbatches in use) for `kind` "sft" or "grpo"; `old` as in
    the .npz, which only "grpo" reads."""
    trained = sum(sum(d.loss_mask) for d in demos)
    sequences = [
        {"tokens": d.tokens, "mask": d.loss_mask, "advantages": np.full(len(d.tokens), a), "old": old[p]}
        for d, a, p in zip(demos, advantages(demos), flat(demos), strict=True)
    ]
    lengths = [len(d.tokens) for d in demos]
    rows = packing.layout(sequences, packing.pack(lengths, row_tokens), row_tokens)
    if kind == "sft":
        return packing.sft_batch(rows, micro_rows)
    arrays, used = packing.microbatches(rows, micro_rows, -(-len(rows["tokens"]) // micro_rows))
    return types.RlBatch(
        tokens_BT=arrays["tokens"], positions_BT=arrays["positions"],
        segments_BT=arrays["segments"], weights_BU=arrays["mask"] / np.float32(trained),
        advantages_BU=arrays["advantages"], old_logprobs_BU=arrays["old"],
        rollout_logprobs_BU=arrays["old"],
    ), used  # fmt: skip


class Peer:
    """A process of another interpreter that makes updates one at a time."""

    def __init__(self, python: str, script: str, *arguments):
        path = pathlib.Path(__file__).with_name(script)
        # Safe path: this folder holds a tools.py that must not stand in for another module's.
        environment = os.environ | {"PYTHONSAFEPATH": "1", "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [python, str(path), *map(str, arguments)], text=True, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.about = self._read()

    def _read(self):
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")

    def __call__(self) -> dict:
        """One update, as above."""
        self._process.stdin.write("update\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
