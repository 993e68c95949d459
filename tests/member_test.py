"""A member of a study: the run's own command, in a process that goes when its parent does."""

import os
import signal
import subprocess
import sys


def test_a_member_ends_with_its_parent(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "aster_jax.member", "--config=smoke", f"--workdir={tmp_path}"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    process.stdin.close()  # as the kernel does for a parent that is gone
    try:
        assert process.wait(120) == 70
    finally:
        process.send_signal(signal.SIGKILL)
