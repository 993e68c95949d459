"""A study by its one command: whole, killed at random moments, and with a real finding's size."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KILLS = 5
FILES = ("study.md", "study.json")


def start(config, path, out, *more):
    """The command as a user gives it, in a process group of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "aster_jax.main", f"--config={config}", f"--workdir={path}", *more],
        cwd=ROOT, env=environment, stdout=out, stderr=out,
    )  # fmt: skip


def finish(config, path, log):
    began = time.monotonic()
    with open(log, "a") as out:
        assert start(config, path, out).wait(7200) == 0, log.read_text()[-3000:]
    return time.monotonic() - began


@pytest.mark.slow
def test_killed_at_random_moments_or_made_one_by_one_it_gives_the_same_table(tmp_path):
    config = "experiments/studies/cold_start.py:smoke"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seconds = finish(config, whole, tmp_path / "whole.log")
    rng = random.Random(0)
    with open(tmp_path / "killed.log", "a") as out:
        for _ in range(KILLS):
            process = start(config, killed, out)
            try:
                process.wait(rng.uniform(0.05, 0.4) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
    finish(config, killed, tmp_path / "killed.log")
    with open(tmp_path / "array.log", "a") as out:  # one by one, as a job array does
        for place in ("base", "dense/seed_1", "zero/seed_0"):
            one = start(config, tmp_path / "array", out, f"--member={place}")
            assert one.wait(7200) == 0, (tmp_path / "array.log").read_text()[-3000:]
    finish(config, tmp_path / "array", tmp_path / "array.log")
    for name in FILES:
        assert (whole / name).read_text() == (killed / name).read_text(), name
        assert (whole / name).read_text() == (tmp_path / "array" / name).read_text(), name
    assert (whole / "study.png").read_bytes() == (killed / "study.png").read_bytes()


@pytest.mark.slow
def test_two_at_once_and_told_to_go_it_gives_the_same_table(tmp_path):
    """Beside members that were never disturbed: those with all cores differ in the last bits."""
    config, two = "experiments/studies/cold_start.py:smoke", "--config.study.at_once=2"
    for name in ("whole", "left"):
        out = tmp_path / f"{name}.log"
        with out.open("a") as log:
            process = start(config, tmp_path / name, log, two)
            if name == "left":
                while not (tmp_path / name / "study.md").exists():  # at least one member is done
                    assert process.poll() is None, out.read_text()[-3000:]
                    time.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                assert process.wait(120) == 143, out.read_text()[-3000:]
                process = start(config, tmp_path / name, log, two)
            assert process.wait(7200) == 0, out.read_text()[-3000:]
    for name in FILES:
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "left" / name).read_text(), name


@pytest.mark.slow
def test_the_small_study_compares_every_start(tmp_path):
    finish("experiments/studies/cold_start.py:small", tmp_path / "run", tmp_path / "log")
    found = json.loads((tmp_path / "run" / "study.json").read_text())
    assert list(found["variants"]) == ["zero", "forced", "sparse", "eighth", "quarter", "dense"]
    assert not found["left_out"]
    mean = {v: {k: e["mean"] for k, e in x["estimates"].items()} for v, x in found["variants"].items()}
    assert mean["dense"]["demo_calls"] > 5 > 1 == mean["sparse"]["demo_calls"]
    tokens = [mean[v]["demo_tokens"] for v in ("sparse", "eighth", "quarter", "dense")]
    assert max(tokens) < 1.2 * min(tokens), "the starts must be of equally many tokens"
    assert mean["dense"]["calls_first"] > mean["zero"]["calls_first"]
    for variant in found["variants"].values():
        (seed,) = variant["seeds"].values()
        assert len(seed["curves"]["calls"]) == 16
