"""Runs of experiments/smoke.py as a user starts them, and their kills; for several tests.

As a program (`python -m tests.smoke_run PLACE ARGUMENTS...`) it is the command line of
aster_jax with one difference: the process kills itself with SIGKILL at PLACE, in the
middle of what is named there, so that a test hits the same moment every time.

    sft:N       while optimiser step N of SFT is computed
    update:N    while the update of RL step N is computed
    rollout:N   in the third dispatch of the process's N-th rollout phase
    save:N      while the checkpoint of step N is written

With `term-` before it, it sends itself SIGTERM there instead, and goes on as it can.
"""

import atexit
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

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = "--config=experiments/smoke.py"
STAGES = ("demos", "sft", "rl1", "filter", "rl2", "eval", "report")
HOW = signal.SIGKILL
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


def metrics(path: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def _die(*_, **__):
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
    HOW = signal.SIGTERM if place.startswith("term-") else signal.SIGKILL
    kind, number = place.removeprefix("term-").split(":")
    number = int(number)
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
        if (kind, number, 3) == ("rollout", counts["phase"], counts["decode"]):
            _die()
        return decode(self, slots)

    step.fetch, checkpoint.Checkpoints.save = dying_fetch, dying_save
    device.Device.begin, device.Device.decode = counting_begin, dying_decode


if __name__ == "__main__":
    from aster_jax import main

    _die_at(sys.argv.pop(1))
    main.cli()
