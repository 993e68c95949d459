"""The part of a mesh that is one process's, and the weights there, in two real processes."""

from tests import several

WORK = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from aster_jax import mesh as meshes
from aster_jax.errors import InputError
me = set(jax.local_devices())
for data, fsdp, tensor in ((8, 1, 1), (1, 8, 1), (2, 2, 2), (4, 1, 2), (1, 2, 4), (2, 1, 4)):
    mesh = meshes.build(data, fsdp, tensor)
    here = meshes.local(mesh)
    assert set(here.devices.flat) == me and here.axis_names == mesh.axis_names
    assert here.shape["tensor"] == tensor and meshes.batch_shards(here) == 4 // tensor
    # The tensor groups are those of the whole mesh, in their order.
    groups = {tuple(g) for g in mesh.devices.reshape(-1, tensor)}
    assert {tuple(g) for g in here.devices.reshape(-1, tensor)} <= groups
    # What is replicated but for `tensor` is all here, each device with the part it had.
    whole = np.arange(24.0).reshape(2, 4, 3)
    spec = PartitionSpec(None, "tensor")
    there = jax.make_array_from_callback(whole.shape, NamedSharding(mesh, spec), lambda i: whole[i])
    mine = meshes.as_local({"w": there}, here)["w"]
    assert mine.is_fully_addressable and np.array_equal(np.asarray(mine), whole)
for wrong in ((1, 1, 8),):
    try:
        meshes.local(meshes.build(*wrong))
        raise SystemExit("not refused")
    except InputError as e:
        assert "mesh.tensor=8 goes over several processes" in str(e)
print("fine")
"""


def test_each_process_has_whole_tensor_groups_of_its_own():
    made = several.play(WORK, count=2, devices=4)
    assert [code for code, *_ in made] == [0, 0], made
