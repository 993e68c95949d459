"""The schedule by hand, the clip, and what weight decay touches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.train import optim


def config(**changes):
    values = dict(
        learning_rate=0.1,
        warmup_steps=0,
        decay_steps=0,
        final_fraction=0.1,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        clip_norm=1e9,
    )
    return optim.OptimConfig(**{**values, **changes})


def test_constant():
    rate = optim.schedule(config())
    assert [float(rate(i)) for i in (0, 7, 10_000)] == [0.1] * 3


def test_warm_up_by_hand():
    # Three steps at 1/4, 2/4 and 3/4 of the peak, then the peak.
    rate = optim.schedule(config(warmup_steps=3))
    np.testing.assert_allclose([rate(i) for i in range(6)], [0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rtol=1e-6)


def test_cosine_by_hand():
    rate = optim.schedule(config(warmup_steps=2, decay_steps=10, final_fraction=0.2))
    # Peak at step 2; half way of the cosine (step 6) the mean of 0.1 and 0.02; then 0.02.
    np.testing.assert_allclose(
        [rate(i) for i in (0, 2, 6, 10, 50)], [0.1 / 3, 0.1, 0.06, 0.02, 0.02], rtol=1e-5
    )


def tree(value):
    return {
        "layers": {"q": {"w": jnp.full((2, 3), value)}, "q_norm": {"scale": jnp.full(3, value)}},
        "embed": {"w": jnp.full((2, 2), value)},
        "final_norm": {"scale": jnp.full(2, value)},
    }


def test_weight_decay_leaves_norm_scales_alone():
    tx = optim.build(config(weight_decay=0.5))
    params = tree(2.0)
    updates, _ = tx.update(tree(0.0), tx.init(params), params)
    # -lr x decay x weight = -0.1 x 0.5 x 2
    np.testing.assert_allclose(updates["layers"]["q"]["w"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["embed"]["w"], -0.1, rtol=1e-6)
    assert not updates["layers"]["q_norm"]["scale"].any()
    assert not updates["final_norm"]["scale"].any()


def test_first_adam_step_moves_by_the_learning_rate():
    tx = optim.build(config())
    params = tree(2.0)
    updates, _ = tx.update(tree(-3.0), tx.init(params), params)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, 0.1, rtol=1e-5)


@pytest.mark.parametrize("clip_norm, expected", [(1.0, 0.5), (100.0, 1.0)])
def test_clip_by_global_norm(clip_norm, expected):
    # Four numbers of 1: norm 2. Adam's second moment shows what came through the clip.
    tx = optim.build(config(clip_norm=clip_norm))
    params = {"embed": {"w": jnp.zeros((2, 2))}}
    _, state = tx.update({"embed": {"w": jnp.ones((2, 2))}}, tx.init(params), params)
    adam = next(s for s in state if hasattr(s, "mu"))
    np.testing.assert_allclose(adam.mu["embed"]["w"], 0.1 * expected, rtol=1e-6)
