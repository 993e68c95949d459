"""A whole step of RL with a live tool, ours against TRL's, on this machine's processors.

    python -m experiments.benchmarks.end_to_end --trl_python PATH [--policy runs/end_to_end]
        [--timed_steps 3] [--trl_rows 4] [--raw results.json]

SmolLM2-135M-Instruct in float32, taught the tool by `experiments/smollm2_135m.py` (demos and 21
steps of SFT, after which it makes about 5 calls; made in `--policy` if it is not there yet, 9
minutes on two cores): 4 problems x 8 trajectories, rewards, one update. The peer is TRL's GRPOTrainer with
transformers' `generate` and a stateful Python tool of the kind it offers
(`environment_factory`), which runs in the trainer's process without any isolation, while ours
runs in the sandbox of a real run. Weights (through `aster_jax.export`), problems, prompts,
budgets of a turn and of a trajectory, sampling, optimiser and threads are the same; the
prompts are compared token by token.

Both make a step in turn while the other one waits; the first of each is not counted. Each
samples its own trajectories, so seconds stand beside seconds per 1,000 sampled tokens. Ours
leaves trajectories without an advantage out of the update, which changes nothing but its
cost: `update, per 1,000 tokens trained on` compares without that.

    python3 -m venv TRL_ENV
    TRL_ENV/bin/pip install torch==2.13.0 trl==1.16.0 jmespath

(torch for CPU suffices.) The load average is printed with the table.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import jax
from absl import app, flags, logging

from aster_jax import export
from experiments import smollm2_135m
from experiments.benchmarks import end_to_end_sides as sides
from experiments.benchmarks import rollout_peers

TRL = flags.DEFINE_string("trl_python", "", "interpreter that has trl")
WORKDIR = flags.DEFINE_string("policy", "runs/end_to_end", "run whose policy is taken")
CHECKPOINT = flags.DEFINE_enum("stage", "sft", ["base", "sft"], "base: for a try, no calls")
STEPS = flags.DEFINE_integer("timed_steps", 3, "timed steps of each side", lower_bound=1)
PROBLEMS = flags.DEFINE_integer("step_problems", 4, "problems per step", lower_bound=1)
SAMPLES = flags.DEFINE_integer("step_samples", 8, "trajectories per problem", lower_bound=2)
TURN = flags.DEFINE_integer("most_turn_tokens", 96, "tokens of one turn, at most", lower_bound=1)
CONTEXT = flags.DEFINE_integer("most_context_tokens", 768, "tokens of a trajectory, at most")
MICRO = flags.DEFINE_integer("trl_rows", 4, "the peer's trajectories per backward pass")
OUT = flags.DEFINE_string("raw", "", "file for all raw numbers, JSON")
PACKAGES = {"torch": "torch==2.13.0", "trl": "trl==1.16.0", "jmespath": "jmespath"}
EXPERIMENT = pathlib.Path(smollm2_135m.__file__)
REQUIRED = 4.0
# What the table shows: its name, seconds of what, per 1,000 of what.
LINES = (
    ("step, s", "step_s", None),
    ("rollout, s", "rollout_s", None),
    ("update, s", "update_s", None),
    ("step, s per 1,000 sampled tokens", "step_s", "sampled_tokens"),
    ("rollout, s per 1,000 sampled tokens", "rollout_s", "sampled_tokens"),
    ("update, s per 1,000 sampled tokens", "update_s", "sampled_tokens"),
    ("update, s per 1,000 tokens trained on", "update_s", "trained_tokens"),
)


def make_policy(path: pathlib.Path) -> None:
    """The stages that teach the tool, in `path`; what is finished there is not made again."""
    stages = ["demos"] if CHECKPOINT.value == "base" else ["demos", "sft"]
    done = subprocess.run([
        sys.executable, "-m", "aster_jax.main", "--config", str(EXPERIMENT),
        "--workdir", str(path), f"--config.stages={tuple(stages)!r}",
        "--config.sft.steps=21", "--config.sft.decay_steps=28",
    ])  # fmt: skip
    if done.returncode:
        sys.exit(f"the policy could not be made in {path}: see above")


def config_of(model: pathlib.Path):
    """The experiment's config on an exported model."""
    c = smollm2_135m.get_config()
    c.model.source = str(model)
    c.rl.prompts, c.rl.group = PROBLEMS.value, SAMPLES.value
    c.rl.warmup_steps = 0
    c.rollout.slots = min(c.rollout.slots, PROBLEMS.value * SAMPLES.value)
    c.rollout.prefill_rows = min(c.rollout.prefill_rows, c.rollout.slots)
    c.rl1.turn_tokens, c.rl1.context_tokens = TURN.value, CONTEXT.value
    c.rl1.response_tokens = min(c.rl1.response_tokens, CONTEXT.value)
    return c.lock()


def play(ours: sides.Ours, peer: sides.Peer, steps: int) -> dict[str, list[dict]]:
    """Every step of both sides, in turn so that drift meets both; the first is left out."""
    found = {"ours": [], "TRL": []}
    for at in range(steps + 1):
        for name, make in (("ours", lambda: ours.step(at, not at)), ("TRL", peer.step)):
            made = {"load": os.getloadavg()[0]} | make()
            logging.info("%s, step %d: %s", name, at, made)
            if at:
                found[name].append({"trained_tokens": made["tokens"]} | made)
    return found


def values(runs: list[dict], what: str, per: str | None) -> list[float]:
    """Seconds of `what` in every step, or per 1,000 of `per`; steps without any are left out."""
    if per is None:
        return [run[what] for run in runs]
    return [1000 * run[what] / run[per] for run in runs if run[per]]


def table(found: dict[str, list[dict]]) -> list[str]:
    """Medians, least and largest, and how many times longer the peer takes."""
    lines = [f"{'':40} {'ours':>24} {'TRL':>24} {'ratio':>7}"]
    for name, what, per in LINES:
        both = [values(found[side], what, per) for side in ("ours", "TRL")]
        shown = [
            f"{statistics.median(x):.2f} ({min(x):.2f}..{max(x):.2f})" if x else "-" for x in both
        ]
        ratio = ""
        if all(both) and statistics.median(both[0]) > 0:
            ratio = f"{statistics.median(both[1]) / statistics.median(both[0]):.2f}x"
        lines.append(f"{name:40} {shown[0]:>24} {shown[1]:>24} {ratio:>7}")
    for name, what, per in (
        ("sampled tokens per step", "sampled_tokens", None),
        ("calls per trajectory", "calls", "trajectories"),
        ("trajectories whose group's rewards differ", "informative", None),
    ):
        middle = [
            statistics.median(run[what] / (run[per] if per else 1) for run in found[side])
            for side in ("ours", "TRL")
        ]
        lines.append(f"{name:40} {middle[0]:>24.1f} {middle[1]:>24.1f}")
    return lines


def verdict(found: dict[str, list[dict]]) -> str:
    """Whether a step per sampled token is as much faster as asked."""
    ours, theirs = (
        statistics.median(values(found[side], "step_s", "sampled_tokens"))
        for side in ("ours", "TRL")
    )
    return f"step per sampled token {theirs / ours:.2f}x, asked >= {REQUIRED}x: " + (
        "holds" if theirs / ours >= REQUIRED else "MISSED"
    )


def compare(directory: pathlib.Path, workdir: pathlib.Path) -> None:
    """Exports the policy, plays both sides, and prints."""
    threads = len(os.sched_getaffinity(0))
    before = os.getloadavg()
    model, _ = export.export(workdir, CHECKPOINT.value, directory / "model", None, "float32")
    with sides.Ours(config_of(model), directory / "run") as ours:
        work = ours.work(STEPS.value + 1, MICRO.value, threads)
        (directory / "work.json").write_text(json.dumps(dataclasses.asdict(work)))
        arguments = (model, directory / "work.json", directory / "trl")
        with sides.Peer(TRL.value, "end_to_end_trl.py", *arguments) as peer:
            hello = peer.hello()
            prompt = list(ours.policy.prompt_ids(work.questions[0][0]))
            if hello["prompt_ids"] != prompt:
                sys.exit(f"the peer's prompt {hello['prompt_ids']} is not ours {prompt}")
            found = play(ours, peer, STEPS.value)
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    about = (
        f"{datetime.date.today()}; {work.problems} problems x {work.samples}; {threads} threads; "
        f"ours {versions}; TRL's {hello['versions']}, attention {hello['attention']}, "
        f"{MICRO.value} rows per backward pass; load before {before}, after {os.getloadavg()}; "
        f"medians of {STEPS.value} steps, least and largest"
    )
    print(*table(found), verdict(found), about, sep="\n", flush=True)
    if OUT.value:
        made = {"about": about, "work": dataclasses.asdict(work), "steps": found}
        pathlib.Path(OUT.value).write_text(json.dumps(made, indent=1))


def main(argv) -> None:
    """Makes the policy if need be, then compares."""
    del argv
    if not TRL.value:
        raise app.UsageError("--trl_python is missing; the docstring says how to make one")
    if PROBLEMS.value * SAMPLES.value % MICRO.value:
        raise app.UsageError("--trl_rows must divide --step_problems x --step_samples")
    rollout_peers.check_interpreter(TRL.value, PACKAGES)
    workdir = pathlib.Path(WORKDIR.value)
    make_policy(workdir)
    with tempfile.TemporaryDirectory() as name:
        compare(pathlib.Path(name), workdir)


if __name__ == "__main__":
    app.run(main)
