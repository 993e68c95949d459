"""Loading and exporting with a model spread over two processes."""

from aster_jax import weights
from tests import several
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
    made_by = several.play(WORK, str(where), str(tmp_path / "out"), count=2, devices=2)
    assert [code for code, *_ in made_by] == [0, 0], made_by
    found = weights.load(tmp_path / "out")
    made.assert_same(found.params, params)
    assert found.config == made.QWEN
