"""A run that everything happens to: does it end by itself, and does it say what happened?

    python -m experiments.benchmarks.chaos [--seed 0] [--mode all|kills] [--report FILE]

Starts SFT + RL of the smoke size (150 SFT and 60 RL steps) as a user would and starts it
again, with the same command, whenever it ends. At moments drawn from the seed it meets 20
SIGKILLs, 5 SIGTERMs, 5 kills and 3 freezes of the tool's supervisor, 3 of the verifier's, a
gradient that is not a number, a truncated newest checkpoint, a full disk (on a small tmpfs;
skipped where none can be mounted) and a second process in the same workdir. With `--mode
kills` it meets the SIGKILLs alone and is then compared, bit for bit, with a run that met
none. Prints a table for experiments/README.md; takes 15 to 40 minutes on 2 cores.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

from aster_jax.demos import families
from experiments.benchmarks import chaos_events as events_of
from experiments.benchmarks.chaos_events import EVENTS, Child, Seen, small_disk

ROOT = pathlib.Path(__file__).resolve().parents[2]
SFT_STEPS, RL_STEPS = 150, (40, 20)
# The smoke model, as wide as the quickstart's and taught a little more: it has to be right now
# and then, or RL makes no update that anything could happen to.
MODEL = (
    "--config.model.d_model=128", "--config.model.d_ff=384", "--config.demos.count=384",
    "--config.sft.learning_rate=4e-3",
)  # fmt: skip
LIMIT_S = 3600.0  # of the whole
MOST_REMARKS = 10  # a run that ends so often by itself will not get better


def demonstrate(workdir: pathlib.Path) -> None:
    """The demonstrations, of generated problems; RL then draws from a file."""
    command = [sys.executable, "-m", "aster_jax.main", "--config=experiments/smoke.py",
               f"--workdir={workdir}", "--config.stages=('demos',)", *MODEL]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)


def arguments(workdir: pathlib.Path, problems: pathlib.Path) -> list[str]:
    """The run's command line, after `--config`."""
    return [
        f"--workdir={workdir}", f"--config.problems.source={problems}",
        "--config.stages=('demos','sft','rl1','filter','rl2')",
        f"--config.sft.steps={SFT_STEPS}", f"--config.rl1.steps={RL_STEPS[0]}",
        f"--config.rl2.steps={RL_STEPS[1]}", "--config.filter.min_kept=4", *MODEL,
        "--config.rl.minibatches=2", "--config.rl.save_every=2", "--config.rl.max_unusable=20",
    ]  # fmt: skip


def write_problems(path: pathlib.Path) -> None:
    """Problems whose gold answers only the symbolic comparison can tell: sqrt(n^2) for n."""
    made = families.problems(("prod", "lcm", "count"), "train", 32, 0, 2)
    rows = [
        {"id": p.id, "question": p.question, "answer": f"\\sqrt{{{int(p.answer) ** 2}}}"}
        for p in made
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def lines_made(workdir: pathlib.Path) -> int:
    """Steps whose metrics are on disk."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def schedule(rng: random.Random, kinds: dict[str, int]) -> list[tuple[int, float, str]]:
    """(after so many steps, and so many seconds more, what), in order."""
    total = SFT_STEPS + sum(RL_STEPS)
    events = []
    for kind, count in kinds.items():
        of_rl = kind not in ("SIGKILL", "SIGTERM", "second process", "disk full")
        first = SFT_STEPS + 2 if of_rl else 1
        for _ in range(count):
            events.append((rng.randrange(first, total - 3), rng.uniform(0.0, 2.0), kind))
    return sorted(events)


def disturb(child: Child, workdir: pathlib.Path, events, seen: Seen) -> int:
    """Let the run meet the events; returns its last exit code."""
    began = time.monotonic()
    child.start()
    for steps, seconds, kind in events:
        while lines_made(workdir) < steps:
            code = child.ended()
            if code is not None:
                seen.codes.append(code)
                if code == 0:
                    return 0
                seen.remarks.append(f"ended by itself with code {code} before {kind!r}")
                if len(seen.remarks) > MOST_REMARKS:
                    return code
                child.start()
            if time.monotonic() - began > LIMIT_S:
                raise TimeoutError(f"not at step {steps} after {LIMIT_S} s; see {child.log}")
            time.sleep(0.05)
        time.sleep(seconds)
        print(f"[{time.monotonic() - began:6.0f} s] after {steps} steps: {kind}", flush=True)
        events_of.meet(kind, child, workdir, seen)
    while True:
        try:
            code = child.process.wait(max(1.0, LIMIT_S - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"not finished after {LIMIT_S} s; see {child.log}") from None
        seen.codes.append(code)
        if code == 0:
            return 0
        seen.remarks.append(f"ended by itself with code {code}")
        if len(seen.remarks) > MOST_REMARKS:
            return code
        child.start()


def run_child() -> None:
    """The command line of aster_jax, with two differences. It notes the processes of its
    supervisors beside the workdir. And once the file `make_nan` is in the workdir, the
    advantages of one batch are not numbers, and again after a kill that undid it."""
    from aster_jax import main
    from aster_jax.rl import batch
    from aster_jax.tools import channel

    workdir = next(pathlib.Path(a.partition("=")[2]) for a in sys.argv if a.startswith("--workdir"))
    build, done, start = batch.build, [], channel.Channel.start

    def noted(self):
        whose = "verifier" if self.config.extra_paths else "tool"
        (workdir.parent / f"{whose}.pid").write_text(str(self.child.pid))
        return start(self)

    def poisoned(*args):
        made, used = build(*args)
        if not done and (workdir / "make_nan").exists():
            done.append(True)
            if counters(workdir)["rl/skipped_nonfinite"]:
                return made, used
            made = made.replace(advantages_BT=np.full_like(made.advantages_BT, np.nan))
        return made, used

    batch.build, channel.Channel.start = poisoned, noted
    main.cli()


def counters(workdir: pathlib.Path) -> dict[str, float]:
    """What the run itself says it met."""
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    rl = [x for x in lines if x["stage"] != "sft"]
    total = {
        name: sum(x.get(name) or 0 for x in rl)
        for name in (
            "rollout/asked_again", "rl/skipped_nonfinite", "rl/steps_without_update",
            "rl/unusable", "rl/updates", "rl/groups_short",
        )
    }  # fmt: skip
    damaged = [p for p in workdir.glob("*/damaged/*")]
    return {"RL steps": len(rl), "SFT steps": len(lines) - len(rl), **total,
            "damaged checkpoints put aside": len(damaged)}  # fmt: skip


def without_times(value):
    """A record without what a clock measured."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items()
                if not k.endswith(("_s", "_per_s"))}  # fmt: skip
    return [without_times(v) for v in value] if isinstance(value, list) else value


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Files of two finished runs whose parameters, metrics or trajectories differ."""
    found = []
    texts = ["metrics.jsonl", *(
        str(p.relative_to(one)) for stage in ("rl1", "rl2")
        for p in sorted((one / stage / "episodes").glob("step_*.jsonl"))
    )]  # fmt: skip
    for name in texts:
        a, b = (
            [without_times(json.loads(x)) for x in (path / name).read_text().splitlines()]
            for path in (one, other)
        )
        if a != b:
            found.append(name)
    for stage in ("sft", "rl1", "rl2"):
        made = []
        for path in (one, other):
            out = path.parent / f"{path.name}_{stage}"
            command = [sys.executable, "-m", "aster_jax.export", f"--workdir={path}",
                       f"--checkpoint={stage}", f"--out={out}"]  # fmt: skip
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            made.append((out / "model.safetensors").read_bytes())
            shutil.rmtree(out)
        if made[0] != made[1]:
            found.append(f"parameters of {stage}")
    return found


def table(seen: Seen, numbers: dict, seconds: float, code: int) -> str:
    """Markdown: what it met, and what it said."""
    rows = [("what", "number"), ("---", "---")]
    rows += [(kind, str(count)) for kind, count in seen.met.items()]
    rows += [(f"{kind}: skipped", why) for kind, why in seen.skipped.items()]
    rows += [("processes started", str(len(seen.codes)))]
    codes = ", ".join(f"{c} x {seen.codes.count(c)}" for c in sorted(set(seen.codes)))
    rows += [("their exit codes", codes), ("last exit code", str(code))]
    rows += [(name, f"{value:g}") for name, value in numbers.items()]
    rows += [("remark", text) for text in seen.remarks]
    rows += [("seconds", f"{seconds:.0f}")]
    return "\n".join("| " + " | ".join(r) + " |" for r in rows) + "\n"


def main() -> None:
    """Run one mode and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=("all", "kills"), default="all")
    parser.add_argument("--report", type=pathlib.Path, help="also write the table here")
    a = parser.parse_args()
    rng = random.Random(a.seed)
    place = pathlib.Path(tempfile.mkdtemp(prefix="chaos_"))
    problems, began = place / "problems.jsonl", time.monotonic()
    write_problems(problems)
    module = [sys.executable, "-m", "experiments.benchmarks.chaos", "--child"]
    config = "--config=experiments/smoke.py"
    seen = Seen()
    with small_disk(place / "disk"):
        workdir = place / "disk" / "run"
        kinds = EVENTS if a.mode == "all" else {"SIGKILL": EVENTS["SIGKILL"]}
        child = Child([*module, config, *arguments(workdir, problems)], seen, place / "log.txt")
        demonstrate(workdir)
        code = disturb(child, workdir, schedule(rng, kinds), seen)
        child.bury()
        numbers = counters(workdir)
        if a.mode == "kills":
            calm = place / "disk" / "calm"
            demonstrate(calm)
            subprocess.run(
                [*module, config, *arguments(calm, problems)], cwd=ROOT, check=True,
                stdout=subprocess.DEVNULL, env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )  # fmt: skip
            numbers["files that differ from the undisturbed run"] = 0
            for name in differences(calm, workdir):
                numbers["files that differ from the undisturbed run"] += 1
                seen.remarks.append(f"{name} differs")
    text = table(seen, numbers, time.monotonic() - began, code)
    print(text)
    if a.report:
        a.report.write_text(text)
    shutil.copy(place / "log.txt", "chaos_log.txt") if code or seen.remarks else None
    shutil.rmtree(place, ignore_errors=True)
    sys.exit(1 if code or seen.remarks else 0)


if __name__ == "__main__":
    if "--child" in sys.argv:
        sys.argv.remove("--child")
        run_child()
    else:
        main()
