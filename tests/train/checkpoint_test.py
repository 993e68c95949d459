"""Checkpoints: bit-equal, also onto another mesh; only the newest kept; damage is named."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.train import checkpoint, optim, step

TX = optim.build(optim.OptimConfig(1e-2, 2, 0, 0.1, 0.9, 0.999, 0.01, 1.0))
POSITION = {"step": 3, "data": {"next_index": 12, "nested": [1, 2]}}


@pytest.fixture(scope="module")
def state(tiny, params, one_device):
    made = step.fresh_state(params, TX, one_device)
    # Moments that are not all zero.
    return jax.tree.map(lambda x: x + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), made)


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    with checkpoint.Checkpoints(directory, keep=2) as store:
        assert store.latest is None
        for number in (1, 2, 3):
            store.save(number, state, {**POSITION, "step": number})
    return directory


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_restores_every_bit_and_the_position(tiny, saved, state, one_device):
    with checkpoint.Checkpoints(saved, keep=2) as store:
        assert store.latest == 3
        restored, position = store.restore(3, step.abstract_state(tiny, TX, one_device))
    assert position == POSITION
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    equal(restored, state)


def test_restores_onto_another_mesh(tiny, saved, state, eight_devices):
    with checkpoint.Checkpoints(saved, keep=2) as store:
        restored, _ = store.restore(3, step.abstract_state(tiny, TX, eight_devices))
    equal(restored, state)
    embed = restored.params["embed"]["w"]
    assert {s.data.shape for s in embed.addressable_shards} == {(24, 16)}


def test_old_ones_go(saved):
    assert sorted(p.name for p in saved.iterdir() if p.name.isdigit()) == ["2", "3"]


def test_a_half_written_one_is_not_taken_for_whole(tiny, state, one_device, tmp_path):
    with checkpoint.Checkpoints(tmp_path, keep=2) as store:
        store.save(1, state, POSITION)
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with checkpoint.Checkpoints(tmp_path, keep=2) as store:
        assert store.latest == 1


# Orbax drops the coroutines of its other reads when one of them fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_is_named(tiny, state, one_device, tmp_path):
    with checkpoint.Checkpoints(tmp_path, keep=2) as store:
        store.save(1, state, POSITION)
    broken = 0
    for path in (tmp_path / "1" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            path.write_bytes(b"x" * 100)
            broken += 1
    assert broken
    with checkpoint.Checkpoints(tmp_path, keep=2) as store:
        with pytest.raises(ValueError, match="is damaged.*delete it, or use another") as caught:
            store.restore(1, step.abstract_state(tiny, TX, one_device))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
    gc.collect()


def test_another_model_is_named(tiny, saved, one_device):
    other = dataclasses.replace(tiny, d_ff=64)
    with checkpoint.Checkpoints(saved, keep=2) as store:
        with pytest.raises(ValueError, match="does not fit this model"):
            store.restore(3, step.abstract_state(other, TX, one_device))
