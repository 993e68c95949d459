"""Loading and exporting with a model spread over two processes."""

import os
import socket
import subprocess
import sys

from aster_jax import weights
from tests.weights import made

WORK = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from aster_jax import mesh as meshes, weights
mesh = meshes.build(1, 2, 2)
place = lambda path, shape: jax.sharding.NamedSharding(mesh, meshes.spec_of(path, shape, mesh))
m = weights.load(sys.argv[3], sharding=place)
assert not m.params["layers"]["q"]["w"].is_fully_addressable
weights.export(m.params, m.config, None, sys.argv[4], max_file_bytes=30_000)
"""


def test_two_processes_load_their_shards_and_export_one_checkpoint(tmp_path):
    where, params = made.hf_directory(tmp_path / "in")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, address, str(i), str(where), str(tmp_path / "out")],
            env={**os.environ, **flags},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "".join(errors)[-3000:]
    found = weights.load(tmp_path / "out")
    made.assert_same(found.params, params)
    assert found.config == made.QWEN
