"""Runs of experiments/smoke.py as a user starts them, and their kills; for several tests.

As a program (`python -m tests.smoke_run PLACE ARGUMENTS...`) it is the command line of
aster_jax with one difference: the process kills itself with SIGKILL at PLACE, in the
middle of what is named there, so that a test hits the same moment every time.

    sft:N       while optimiser step N of SFT is computed
    update:N    while the update of RL step N is computed
    rollout:N   in the third dispatch of the process's N-th rollout phase; rollout:N:D in the D-th
    save:N      while the checkpoint of step N is written

With `term-` before it, it sends itself SIGTERM there instead, and goes on as it can; with
`fail-`, an error is raised there that nobody expects.
"""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from tests import several

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = "--config=experiments/smoke.py"
STAGES = ("demos", "sft", "rl1", "filter", "rl2", "eval", "report")
HOW = signal.SIGKILL
HASTY = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
MIDDLE_OF_A_SAVE_S = 0.02  # from its first file on; of the smoke model it takes several times that


def launch(
    path: pathlib.Path, *arguments: str, kill_at: str = "", limit_s: float = 600.0, devices: int = 1
):
    """Run the command with `--workdir path`; (exit code, stdout, stderr, seconds)."""
    # Not the tests' own devices and compiler settings.
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    module = ["tests.smoke_run", kill_at] if kill_at else ["aster_jax.main"]
    began = time.monotonic()
    # Files, not pipes: what outlives a killed process for a moment must not hold up the test.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = subprocess.run(
            [sys.executable, "-m", *module, CONFIG, f"--workdir={path}", *arguments],
            cwd=ROOT, env=environment, stdout=out, stderr=err, timeout=limit_s,
        ).returncode  # fmt: skip
        out.seek(0), err.seek(0)
        return code, out.read(), err.read(), time.monotonic() - began


def launch_several(
    path: pathlib.Path, *arguments: str, count: int, devices: int = 1,
    at: dict[int, str] | None = None, limit_s: float = 900.0,
) -> list[tuple[int, str, str]]:  # fmt: skip
    """The same as `count` processes of so many devices each, as in so many terminals; the
    exit code, stdout and stderr of each. `at`: what happens to which of them, and where.
    Compiled in a hurry (tests/conftest.py), which is most of what such small runs cost."""
    address = several.free_address()
    flags = f"--xla_force_host_platform_device_count={devices} " + " ".join(HASTY)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2 * count)]
        started = []
        for i in range(count):
            module = ["tests.smoke_run", at[i]] if at and i in at else ["aster_jax.main"]
            started.append(subprocess.Popen(
                [sys.executable, "-m", *module, CONFIG, f"--workdir={path}", *arguments,
                 *([f"--coordinator={address}", f"--processes={count}", f"--process={i}"]
                   if count > 1 else [])],
                cwd=ROOT, env=environment, stdout=files[2 * i], stderr=files[2 * i + 1],
            ))  # fmt: skip
        try:
            codes = [process.wait(limit_s) for process in started]
        finally:
            for process in started:
                process.kill()
        for file in files:
            file.seek(0)
        return [(code, files[2 * i].read(), files[2 * i + 1].read()) for i, code in enumerate(codes)]


def command(module: str, *arguments: str) -> tuple[int, str, str]:
    """Another command of the package; (exit code, stdout, stderr)."""
    made = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}, timeout=300,
    )  # fmt: skip
    return made.returncode, made.stdout, made.stderr


@functools.cache
def finished() -> tuple[pathlib.Path, str, float]:
    """One whole run that nobody disturbed: its workdir, what it printed, its seconds."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="smoke_"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    code, out, err, seconds = launch(made / "run")
    assert code == 0, f"{out}\n{err}"
    return made / "run", out, seconds


def begin_from(source: pathlib.Path, path: pathlib.Path, *finished_stages: str) -> None:
    """A workdir in which these stages of `source` stand finished; compiled programs too."""
    path.mkdir()
    for name in ("compiled", *finished_stages):
        shutil.copytree(source / name, path / name)


def answered(path: pathlib.Path) -> dict[str, str]:
    """Problem id -> an answer that some trajectories of RL step 1 gave and others did not."""
    given: dict[str, list] = {}
    text = (path / "rl1" / "episodes" / "step_000001.jsonl").read_text()
    for r in map(json.loads, text.splitlines()):
        boxed = r["spans"][-1]["text"].rpartition("\\boxed{")[2].partition("}")[0]
        correct = boxed if r["end"] == "answered" and boxed.isdigit() else None
        given.setdefault(r["problem_id"], []).append(correct)
    return {
        problem: next(a for a in answers if a)
        for problem, answers in given.items()
        if any(answers) and len(set(answers)) > 1
    }


@functools.cache
def rewarded() -> tuple[pathlib.Path, pathlib.Path, tuple[str, ...]]:
    """RL with rewards that differ within a group, so that updates are real ones: two minibatches,
    log-probs of the trainer before the first and importance weights, as in the paper's run.

    The smoke model is right too rarely for that. So step 1 is played once to see what the
    model says (which does not depend on the answers), and some of it is declared right.
    Gives the file of problems, the workdir of that step, and the command's arguments.
    """
    made = finished()[0].parent
    problems, heard = made / "problems.jsonl", made / "heard"
    questions = [
        {"id": f"p{i}", "question": f"What is the least common multiple of {a} and {b}, modulo 577?"}
        for i, (a, b) in enumerate(((84, 36), (45, 63), (56, 72), (24, 90)))
    ]
    arguments = (f"--config.problems.source={problems}", "--config.rl.minibatches=2",
                 "--config.rl.tis_cap=2.0")  # fmt: skip

    def declare(right):
        rows = [{**q, "answer": right.get(f"problems/{q['id']}", "-1")} for q in questions]
        problems.write_text("".join(json.dumps(r) + "\n" for r in rows))

    declare({})
    begin_from(finished()[0], heard, "demos", "sft")
    stages = "--config.stages=('demos','sft','rl1')"
    code, out, err, _ = launch(heard, stages, "--config.rl1.steps=1", *arguments)
    assert code == 0, f"{out}\n{err}"
    right = answered(heard)
    assert right
    declare(right)
    return problems, heard, arguments


def metrics(path: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def _die(*_, **__):
    if HOW is None:
        raise RuntimeError("nobody expects this")
    os.kill(os.getpid(), HOW)


def _die_when(reached):
    """A moment after `reached()` says so; for what happens in a thread of its own."""
    while not reached():
        time.sleep(0.001)
    time.sleep(MIDDLE_OF_A_SAVE_S)
    _die()


def _die_at(place: str) -> None:
    """Put the kill where `place` says."""
    from aster_jax.rollout import device
    from aster_jax.train import checkpoint, step

    global HOW
    ways = {"term-": signal.SIGTERM, "fail-": None}
    HOW = ways.get(place[:5], signal.SIGKILL)
    kind, *numbers = (place[5:] if place[:5] in ways else place).split(":")
    number, dispatch = int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 3
    fetch, save = step.fetch, checkpoint.Checkpoints.save
    begin, decode = device.Device.begin, device.Device.decode
    counts = {"phase": 0, "decode": 0}

    def dying_fetch(values, prefix, at):
        # The step has been dispatched: this is where the host waits for its numbers.
        if (kind, number) == ({"rl": "update"}.get(prefix, prefix), at):
            _die()
        return fetch(values, prefix, at)

    def dying_save(self, at, *rest, **named):
        if (kind, number) == ("save", at):
            made = self._directory / f"{at}{checkpoint.UNFINISHED}"
            threading.Thread(target=_die_when, args=(made.exists,), daemon=True).start()
        return save(self, at, *rest, **named)

    def counting_begin(self, *rest):
        counts["phase"] += 1
        counts["decode"] = 0
        return begin(self, *rest)

    def dying_decode(self, slots):
        counts["decode"] += 1
        if (kind, number, dispatch) == ("rollout", counts["phase"], counts["decode"]):
            _die()
        return decode(self, slots)

    step.fetch, checkpoint.Checkpoints.save = dying_fetch, dying_save
    device.Device.begin, device.Device.decode = counting_begin, dying_decode


if __name__ == "__main__":
    from aster_jax import main

    _die_at(sys.argv.pop(1))
    main.cli()
