"""A process that is gone, fails or is told to go: the others know at once, whatever they do."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests import several

# Two processes wait inside a collective that the last one never comes to; it does as it is told.
WORK = """
import os, signal, subprocess, sys, time
import jax, numpy as np
from jax.experimental import multihost_utils
from aster_jax.lifetime import hosts
from aster_jax.errors import InputError
address, me, deed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with hosts.joined(address, 3, me) as watch:
    left = []
    watch.on_leaving(lambda: left.append(1))
    multihost_utils.process_allgather(np.zeros(3))
    print("ready", flush=True)
    if me == int(sys.argv[4]):
        time.sleep(0.3)
        if deed == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "failed":
            raise RuntimeError("a bug")
        if deed == "refused":
            raise InputError("a=1; use a=2")
        if deed == "leaving":
            watch.leaving()
        if deed == "stopped":
            wake = f"sleep 75; kill -CONT {os.getpid()}"
            subprocess.Popen(["sh", "-c", wake], stdout=-3, stderr=-3)
            os.kill(os.getpid(), signal.SIGSTOP)
    if deed == "leaving":
        until = time.monotonic() + 30
        while me != int(sys.argv[4]) and not left and time.monotonic() < until:
            time.sleep(0.05)
        assert left or me == int(sys.argv[4])
    elif deed != "nothing":
        multihost_utils.process_allgather(np.zeros(3))
"""


def ended(deed: str, who: int):
    began = time.monotonic()
    made = several.play(WORK, deed, str(who), count=3)
    return [code for code, *_ in made], [err for *_, err in made], time.monotonic() - began


@pytest.mark.parametrize("who", [0, 2])
def test_one_that_is_killed_ends_the_others_with_its_name(who):
    codes, said, seconds = ended("killed", who)
    assert codes == [-signal.SIGKILL if i == who else 1 for i in range(3)], said
    for i in range(3):
        if i != who:
            (line,) = [text for text in said[i].splitlines() if text.startswith("aster_jax:")]
            assert f"process {who} (" in line and "has ended without a word" in line
            assert f"process {i} ends with it" in line
    assert seconds < 100  # of which starting takes most


def test_one_that_fails_ends_the_others_with_its_sentence():
    codes, said, _ = ended("refused", 1)
    assert codes == [1, 1, 1]
    assert said[1].splitlines() == ["aster_jax: process 1: a=1; use a=2"]
    for i in (0, 2):
        assert "process 1 (" in said[i] and "has failed: a=1; use a=2; process" in said[i]
        assert "Traceback" not in said[i]


def test_an_error_nobody_expects_leaves_its_traceback_where_it_was():
    codes, said, _ = ended("failed", 0)
    assert codes == [1, 1, 1]
    assert "Traceback" in said[0] and "RuntimeError: a bug" in said[0]
    assert all("has failed: RuntimeError: a bug" in said[i] for i in (1, 2)), said


@pytest.mark.parametrize("who", [0, 1])
def test_one_that_nobody_joins_says_so(who):
    address = several.free_address()
    code = (
        "from aster_jax.lifetime import hosts\nhosts.FIND_S = 2\n"
        f"with hosts.joined({address!r}, 2, {who}):\n    print('never')"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100,
                          env={**os.environ, "JAX_PLATFORMS": "cpu"})  # fmt: skip
    assert made.returncode == 1 and not made.stdout
    assert "did not find each other within 2 s" in made.stderr and "Traceback" not in made.stderr


def test_one_that_is_told_to_go_is_heard_by_all_and_the_end_is_quiet():
    codes, said, _ = ended("leaving", 2)
    assert codes == [0, 0, 0] and said == ["", "", ""]


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 2])
def test_one_that_stands_still_ends_the_others_with_its_name(who):
    """JAX's heartbeat takes up to a minute for it. It ends itself once it may go on."""
    codes, said, seconds = ended("stopped", who)
    assert codes == [1, 1, 1], said
    for i in range(3):
        ours = [line for line in said[i].splitlines() if line.startswith("aster_jax:")]
        if i != who:
            (line,) = ours
            assert f"process {who} (" in line and "stands still" in line
    assert seconds < 150
