"""Moments in bfloat16: no bias, where rounding to the nearest stands still; the error, measured."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aster_jax.train import moments, optim
from tests.train.optim_test import config


def test_rounding_by_chance_is_right_on_average_and_exact_where_it_can_be():
    x = jnp.asarray([1.0, 1.0 + 2.0**-10, -3.0 - 2.0**-9, 1e-30, 0.0, -0.0])
    keys = jax.random.split(jax.random.key(1), 4096)
    made = np.asarray(jax.vmap(lambda k: moments.by_chance(x, k))(keys), np.float32)
    assert {*made[:, 0]} == {1.0} and {*made[:, 4]} == {0.0}
    assert {*made[:, 1]} == {1.0, 1.0 + 2.0**-7}  # the two neighbours, one in eight times
    assert (made[:, 1] > 1).mean() == pytest.approx(1 / 8, abs=0.02)
    np.testing.assert_allclose(made.mean(axis=0)[:4], x[:4], rtol=3e-4)
    ends = moments.by_chance(jnp.asarray([jnp.inf, -jnp.inf, jnp.nan]), keys[0])
    assert np.isposinf(ends[0]) and np.isneginf(ends[1]) and np.isnan(ends[2])


def trained(tx, steps=1500, size=2048):
    """(second moment, updates of the last step) where gradients fall to a tenth on the way."""

    @jax.jit
    def one(state, key, scale):
        grads = {"w": scale * jax.random.normal(key, (size,))}
        updates, state = tx.update(grads, state, {"w": jnp.zeros(size)})
        return state, updates

    state = tx.init({"w": jnp.zeros(size)})
    for i, key in enumerate(jax.random.split(jax.random.key(3), steps)):
        state, updates = one(state, key, 1.0 if i < steps // 5 else 0.1)
    return np.asarray(state.nu["w"], np.float32), np.asarray(updates["w"])


def to_nearest(tx):
    """What the key would do without the chance."""

    def narrow(tree):
        return jax.tree.map(lambda x: moments._nearest(x), tree)

    def update(grads, state, params=None):
        updates, new = tx.update(grads, jax.tree.map(moments._widened, state), params)
        return updates, narrow(new)

    return optax.GradientTransformation(lambda p: narrow(tx.init(p)), update)


def test_the_second_moment_is_right_where_the_nearest_stands_still():
    adam = optax.scale_by_adam(b1=0.9, b2=0.999)
    exact, exact_updates = trained(adam)
    got, updates = trained(moments.in_bfloat16(adam))
    assert got.mean() == pytest.approx(exact.mean(), rel=0.01)
    assert np.sqrt(np.mean((got / exact - 1) ** 2)) < 0.1
    apart = np.sqrt(np.mean((updates - exact_updates) ** 2) / np.mean(exact_updates**2))
    assert apart < 0.06
    stuck, _ = trained(to_nearest(adam))
    assert stuck.mean() > 2 * exact.mean()  # what has been large never becomes small again


def test_the_key_narrows_both_moments_and_nothing_else():
    params = {"layers": {"q": {"w": jnp.ones((4, 8))}}}
    state = optim.build(config(moments_dtype="bfloat16")).init(params)
    kinds = [x.dtype for x in jax.tree.leaves(state) if x.ndim]
    assert kinds == [jnp.bfloat16, jnp.bfloat16]
    plain = optim.build(config()).init(params)
    assert [x.dtype for x in jax.tree.leaves(plain) if x.ndim] == [jnp.float32] * 2
    assert jax.tree.structure(plain) == jax.tree.structure(state)
    with pytest.raises(ValueError, match="moments_dtype='float16'; choose one of"):
        config(moments_dtype="float16")
