"""Peak host memory of loading and exporting, measured in a process of its own."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from aster_jax.weights import convert
from tests.weights import made

# A thread samples the private memory (RssAnon: what a memory-mapped file adds is not in it)
# while `work` runs; the peak above the level before it is what is judged.
MEASURE = """
import json, sys, threading, time
import jax
from aster_jax import mesh as meshes, weights
from tests.weights import made

def held():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(s.split()[1]) for s in lines if s.startswith("RssAnon"))

def peak_of(work):
    before, seen, done = held(), [0], threading.Event()
    def sample():
        while not done.is_set():
            seen.append(held() - before)
            time.sleep(0.0005)
    thread = threading.Thread(target=sample)
    thread.start()
    result = work()
    done.set()
    thread.join()
    return max(seen), result

mesh = meshes.build(1, 4, 2)
place = lambda path, shape: jax.sharding.NamedSharding(mesh, meshes.spec_of(path, shape, mesh))
weights.load(sys.argv[1], sharding=place)  # first use of everything
load_peak, m = peak_of(lambda: weights.load(sys.argv[2], sharding=place))
export = lambda: weights.export(m.params, m.config, None, sys.argv[3], max_file_bytes=8 << 20)
export_peak, _ = peak_of(export)
print(json.dumps({"load": load_peak, "export": export_peak}))
"""

MIB = 1 << 20


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_loading_needs_the_shards_and_one_tensor_exporting_one_tensor(tmp_path):
    cfg = dataclasses.replace(
        made.QWEN, vocab_size=16_384, d_model=512, d_ff=1024, num_layers=16, head_dim=64
    )
    small, _ = made.hf_directory(tmp_path / "small")
    large, params = made.hf_directory(tmp_path / "large", cfg, max_file_bytes=32 * MIB)
    del params
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = [sys.executable, "-c", MEASURE, str(small), str(large), str(tmp_path / "out")]
    done = subprocess.run(
        run, env={**os.environ, **flags}, capture_output=True, text=True, check=True
    )
    peak = json.loads(done.stdout)
    sizes = [4 * int(np.prod(convert.param_shape(e, cfg))) for e in convert.entries(cfg)]
    total, largest = sum(sizes), max(sizes)
    assert total > 5 * largest  # else the bound would allow a second copy of everything
    assert peak["load"] < total + largest + 16 * MIB, (peak, total, largest)
    # The largest tensor as it comes from its shards, transposed, and one shard on its way.
    assert peak["export"] < 3 * largest < total, (peak, total, largest)
