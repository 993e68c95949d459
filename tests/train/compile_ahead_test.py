"""Training attention compiles for TPUs as the kernel, each device by itself.

By the compiler's own word, ahead of time and without the devices. Minutes each, so `-m slow`.
Needs what is not among the requirements: `pip install libtpu`.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CASE = {
    "topology": "v5e:2x2", "mesh": [2, 1, 2], "preset": "qwen3_0p6b", "layers": 2,
    "attention": "auto", "keep": False, "tokens": 4096,
}  # fmt: skip


def compiled(**changes):
    """What `tests.train.compile_ahead` says of a case."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the compiler is not installed: pip install libtpu")
    command = [sys.executable, "-m", "tests.train.compile_ahead", json.dumps(CASE | changes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_tpu_kernel_compiles_on_a_mesh():
    found = compiled()
    # Forward, again for the backward pass, and the two gradients; layers are one scan.
    assert found["attention"] == "tpu" and found["kernels"] == 4
    assert found["collectives"] == ["all-reduce"]


@pytest.mark.slow
def test_keeping_attention_computes_it_once():
    assert compiled(keep=True)["kernels"] == 3
