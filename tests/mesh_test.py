"""The sharding table as a whole tree, its errors, and that nothing depends on the mesh."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from aster_jax import mesh as meshes
from aster_jax.model import transformer
from aster_jax.rollout import engine, sampling
from aster_jax.train import optim, step

OPTIM = optim.OptimConfig(1e-3, 0, 0, 0.1, 0.9, 0.999, 0.01, 1.0)

# A Qwen3's whole tree; what is not written is replicated along that axis.
WIDTH = ("fsdp", "context")
EXPECTED = {
    "embed/w": P("tensor", WIDTH),
    "final_norm/scale": P(),
    "layers/attn_norm/scale": P(),
    "layers/down/w": P(None, "tensor", WIDTH),
    "layers/gate/w": P(None, WIDTH, "tensor"),
    "layers/k/w": P(None, WIDTH, "tensor", None),
    "layers/k_norm/scale": P(),
    "layers/mlp_norm/scale": P(),
    "layers/o/w": P(None, "tensor", None, WIDTH),
    "layers/q/w": P(None, WIDTH, "tensor", None),
    "layers/q_norm/scale": P(),
    "layers/up/w": P(None, WIDTH, "tensor"),
    "layers/v/w": P(None, WIDTH, "tensor", None),
}


def named(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {meshes.path_name(path): leaf for path, leaf in leaves}


def padded(spec, rank):
    return tuple(spec) + (None,) * (rank - len(spec))


def test_every_parameter_and_its_moments_have_the_expected_layout(tiny, eight_devices):
    state = named(step.abstract_state(tiny, optim.build(OPTIM), eight_devices))
    seen = set()
    for path, leaf in state.items():
        known = next((name for name in EXPECTED if path.endswith("/" + name)), None)
        if known is None:
            assert leaf.shape == () and leaf.sharding.spec == P(), path
            continue
        seen.add(path.removesuffix("/" + known))
        assert padded(leaf.sharding.spec, leaf.ndim) == padded(EXPECTED[known], leaf.ndim), path
    assert "params" in seen and len(seen) == 3  # the parameters and Adam's two moments
    assert sum(path.startswith("params/") for path in state) == len(EXPECTED)


def test_an_unknown_parameter_is_an_error(eight_devices):
    with pytest.raises(ValueError, match="no sharding rule matches parameter 'layers/router/w'"):
        meshes.spec_of("layers/router/w", (2, 32, 8), eight_devices)


def test_an_axis_that_does_not_divide_is_named(eight_devices):
    with pytest.raises(ValueError, match=r"axis 2 of params/layers/up/w \(33\).*tensor=2"):
        meshes.spec_of("params/layers/up/w", (2, 32, 33), eight_devices)
    with pytest.raises(ValueError, match=r"axis 1 of layers/q/w \(31\).*fsdp=2"):
        meshes.spec_of("layers/q/w", (2, 31, 4, 16), eight_devices)


def test_few_key_heads_are_replicated_not_split(tiny, eight_devices):
    spec = meshes.spec_of("layers/k/w", (2, 32, 1, 16), eight_devices)
    assert padded(spec, 4) == (None, WIDTH, None, None)
    single = dataclasses.replace(tiny, num_kv_heads=1)
    assert meshes.kv_heads_axis(single, eight_devices) is None
    assert meshes.kv_heads_axis(tiny, eight_devices) == "tensor"


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1), (-1, 16, 1), (2, 2, 1), (2, 2, 2, 2)])
def test_a_mesh_that_does_not_use_all_devices_is_refused(shape):
    data, fsdp, tensor, *context = shape
    with pytest.raises(ValueError, match="does not use the 8 devices"):
        meshes.build(data, fsdp, tensor, context=(context or [1])[0])


def test_minus_one_takes_what_is_left():
    sizes = {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    assert dict(meshes.build(-1, 2, 2).shape) == sizes
    assert meshes.batch_shards(meshes.build(-1, 1, 2)) == 4
    longer = meshes.build(-1, 2, 1, context=2)
    assert dict(longer.shape) == {"data": 2, "fsdp": 2, "context": 2, "tensor": 1}
    assert meshes.batch_shards(longer) == 4


def test_rollouts_spread_their_rows_over_devices_that_share_a_row_in_training(eight_devices):
    assert meshes.for_rollouts(eight_devices) is eight_devices
    mesh = meshes.build(1, 2, 2, context=2)
    rollouts = meshes.for_rollouts(mesh)
    assert dict(rollouts.shape) == {"data": 1, "fsdp": 4, "context": 1, "tensor": 2}
    assert list(rollouts.devices.flat) == list(mesh.devices.flat)


def test_the_engine_takes_the_weights_from_the_mesh_they_were_trained_on(tiny, params):
    mesh = meshes.build(1, 2, 2, context=2)
    placed = jax.device_put(params, meshes.shardings(params, mesh))
    sizes = engine.EngineConfig(8, 32, 8, 256, 4, 4, (8,), "float32", "auto")
    how = sampling.Sampling(1.0, 1.0, 0)
    adopted = engine.programs(tiny, sizes, how, (47,), meshes.for_rollouts(mesh)).adopt(placed)
    expected = jax.jit(transformer.for_decoding)(params)
    for a, b in zip(jax.tree.leaves(adopted), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert adopted["layers"][0]["q"]["rows"].sharding.mesh.shape["context"] == 1


def test_devices_that_share_a_row_hold_different_parameters(tiny):
    mesh = meshes.build(1, 2, 2, context=2)
    made = step.init_params(tiny, 0, mesh)
    assert {s.data.shape for s in made["embed"]["w"].addressable_shards} == {(24, 8)}
    assert {s.data.shape for s in made["layers"]["gate"]["w"].addressable_shards} == {(2, 8, 24)}
    with pytest.raises(ValueError, match=r"axis 1 of layers/q/w \(34\).*fsdp=2 x context=2"):
        meshes.spec_of("layers/q/w", (2, 34, 4, 16), mesh)


def test_rows_are_spread_and_complete(eight_devices):
    rows = np.arange(4 * 8 * 3).reshape(4, 8, 3)
    placed = meshes.put_rows({"x": rows}, eight_devices)["x"]
    np.testing.assert_array_equal(np.asarray(placed), rows)
    assert {s.data.shape for s in placed.addressable_shards} == {(4, 2, 3)}
    flat = meshes.put_rows(rows, eight_devices, axis=0)
    np.testing.assert_array_equal(np.asarray(flat), rows)
    assert {s.data.shape for s in flat.addressable_shards} == {(1, 8, 3)}


def test_decoding_weights_are_replicated_over_the_data_axes(tiny, eight_devices):
    specs = meshes.rollout_shardings(tiny, eight_devices)
    shapes = jax.eval_shape(lambda: transformer.for_decoding(
        transformer.init_params(tiny, jax.random.key(0))
    ))
    assert jax.tree.structure(specs) == jax.tree.structure(shapes)
    used = {name for s in jax.tree.leaves(specs) for name in s.spec}
    assert used == {"tensor", None}
    assert padded(specs["layers"][1]["q"]["rows"].spec, 2) == ("tensor", None)
    assert padded(specs["layers"][1]["o"]["rows"].spec, 2) == (None, "tensor")
    assert padded(specs["layers"][0]["down"]["rows"].spec, 2) == (None, "tensor")


def test_parameters_really_are_sharded(tiny, eight_devices):
    made = step.init_params(tiny, 0, eight_devices)
    embed = made["embed"]["w"]
    assert {s.data.shape for s in embed.addressable_shards} == {(24, 16)}
    gate = made["layers"]["gate"]["w"]
    assert {s.data.shape for s in gate.addressable_shards} == {(2, 16, 24)}


def test_parameters_have_the_same_shapes_however_a_model_is_laid_out(tiny, eight_devices):
    """Also where attention is a kernel, which takes rows by the number of devices only."""
    for kernel in ("xla", "tpu", "gpu"):
        laid = dataclasses.replace(meshes.lay_out(tiny, eight_devices), training_attention=kernel)
        assert transformer.abstract_params(laid) == transformer.abstract_params(tiny)
