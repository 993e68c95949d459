"""Activations on meshes: each device has its part, and nothing is said elsewhere.

That no mesh changes a number is shown in `tests/train/invariance_test.py`.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from aster_jax import mesh as meshes
from aster_jax.model import config, logprobs, transformer
from aster_jax.model.layout import constrain


@pytest.fixture(scope="module")
def wide(tiny) -> config.ModelConfig:
    """Heads for eight devices, and fewer key/value heads than that."""
    return dataclasses.replace(tiny, num_heads=8)


def loss(params, cfg, tokens, positions, segments, weights):
    logp, entropy = logprobs.token_logprobs(params, cfg, tokens, positions, segments)
    return -jnp.sum(weights * logp), jnp.sum(weights * entropy)


grad = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)


def compiled(cfg, mesh, length):
    """The gradient's program for rows of `length`, one per device of the data axes."""
    shapes = transformer.abstract_params(cfg)
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes, meshes.shardings(shapes, mesh),
    )  # fmt: skip
    rows = jax.sharding.NamedSharding(mesh, P(meshes.BATCH_AXES))
    ints = jax.ShapeDtypeStruct((meshes.batch_shards(mesh), length), jnp.int32, sharding=rows)
    floats = jax.ShapeDtypeStruct(ints.shape, jnp.float32, sharding=rows)
    return grad.lower(params, cfg, ints, ints, ints, floats).compile()


def test_each_device_holds_its_own_rows_only(wide):
    """Without the table every device of `fsdp` keeps all rows, cut along the width."""
    mesh = meshes.build(1, 8, 1)
    cfg = dataclasses.replace(wide, remat=True, d_model=256, d_ff=1024)
    laid_out = compiled(meshes.lay_out(cfg, mesh), mesh, 128)
    free = compiled(cfg, mesh, 128)
    ours, theirs = (c.memory_analysis().temp_size_in_bytes for c in (laid_out, free))
    assert ours < theirs / 3, (ours, theirs)
    # The table of the vocabulary comes in once for the scores and once for their gradient.
    fetched = re.findall(r"= f32\[48,256\]\S* all-gather\(", laid_out.as_text())
    assert len(fetched) <= 2, fetched


def test_the_table_names_every_place_and_is_left_out_on_one_device(wide, one_device):
    assert meshes.lay_out(wide, one_device) is wide
    known = dict(meshes.lay_out(wide, meshes.build(1, 1, 8)).layout.specs)
    assert known["heads"] == P(meshes.BATCH_AXES, "context", "tensor")
    assert known["kv_heads"] == P(meshes.BATCH_AXES, "context")  # two do not divide over eight
    assert known["table"] == P("tensor", meshes.WIDTH) and known["table_rows"] == P("tensor", None)
    untied = dataclasses.replace(wide, tie_embeddings=False)
    known = dict(meshes.lay_out(untied, meshes.build(2, 2, 2)).layout.specs)
    assert known["kv_heads"] == known["heads"] == P(meshes.BATCH_AXES, "context", "tensor")
    assert known["table"] == P(meshes.WIDTH, "tensor") and known["table_rows"] == P(None, "tensor")


def test_inside_a_shard_map_nothing_is_said(wide):
    mesh = meshes.build(2, 2, 2)
    layout = meshes.lay_out(wide, mesh).layout

    def one(x):
        return constrain(x, layout, "residual") * 2.0

    by_hand = jax.shard_map(
        one, mesh=mesh, in_specs=P(meshes.BATCH_AXES), out_specs=P(meshes.BATCH_AXES),
        axis_names=set(meshes.BATCH_AXES), check_vma=False,
    )  # fmt: skip
    x = jnp.ones((8, 4, 32))
    assert "sharding_constraint" not in str(jax.make_jaxpr(by_hand)(x))
    assert "sharding_constraint" in str(jax.make_jaxpr(one)(x))
