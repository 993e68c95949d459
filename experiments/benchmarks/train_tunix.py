"""An SFT update of SmolLM2 with google-tunix's trainer; run by the interpreter that has it.

`PYTHON train_tunix.py MODEL_DIR WORK KIND TOKENS` reads the batch that `train_work` describes
and makes one update for every line on its standard input; KIND is "sft". The step is the one
its `PeftTrainer` compiles, over all parameters, with its own loss: sequences sorted by length
and filled up to the longest, as many to a microbatch as TOKENS hold, all of one shape because
another is another program. Each microbatch counts by its own mean, so the loss is only nearly
that of the others; its rotary base is 1e6 whatever the checkpoint says.
"""

import json
import pathlib
import sys
import time
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tunix.sft import peft_trainer

# Last, so that this folder's tools.py stands in for no other module.
sys.path.append(str(pathlib.Path(__file__).parent))
import rollout_tunix  # noqa: E402


def microbatches(work: str, tokens: int) -> list[dict]:
    """Arrays that its loss takes, by microbatch."""
    with np.load(work) as held:
        cuts = np.cumsum(held["lengths"])[:-1]
        parts = zip(np.split(held["ids"], cuts), np.split(held["mask"], cuts), strict=True)
        sequences = sorted(parts, key=lambda part: -len(part[0]))
    longest = len(sequences[0][0])
    rows = max(1, tokens // longest)
    made = []
    for at in range(0, len(sequences), rows):
        shape = (rows, longest)
        ids, mask, seen = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, bool)
        for row, (i, m) in enumerate(sequences[at : at + rows]):
            ids[row, : len(i)], mask[row, : len(i)], seen[row, : len(i)] = i, m, True
        causal = np.tril(np.ones((longest, longest), bool))
        made.append({
            "input_tokens": jnp.asarray(ids), "input_mask": jnp.asarray(mask),
            "positions": jnp.asarray(np.tile(np.arange(longest, dtype=np.int32), (rows, 1))),
            "attention_mask": jnp.asarray(causal[None] & seen[:, None, :]),
        })  # fmt: skip
    return made


def main(model_dir: str, work: str, kind: str, tokens: int):
    """Say what is running, then an update per line."""
    if kind != "sft":
        raise ValueError(f"KIND {kind!r}: tunix's policy loss is part of its learner")
    model, _, _ = rollout_tunix.load(model_dir)
    batches = microbatches(work, tokens)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6, 0.9, 0.95, weight_decay=0.0))
    trainer = peft_trainer.PeftTrainer(
        model, tx,
        peft_trainer.TrainingConfig(eval_every_n_steps=1 << 30, gradient_accumulation_steps=len(batches)),
    )  # fmt: skip
    update, _ = trainer.jit_train_and_eval_step()
    print(json.dumps({
        **{name: metadata.version(name) for name in ("google-tunix", "jax")},
        "microbatches": len(batches),
        "computed_tokens": sum(b["input_tokens"].size for b in batches),
    }), flush=True)  # fmt: skip
    for _ in sys.stdin:
        begun, used, losses, norms = time.perf_counter(), time.process_time(), [], []
        for batch in batches:
            loss, _, norm = update(batch)
            losses.append(loss)
            norms.append(norm)
        jax.block_until_ready((losses, norms))
        print(json.dumps({
            "seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - used,
            "loss": float(np.mean(losses)), "grad_norm": float(norms[0]),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
