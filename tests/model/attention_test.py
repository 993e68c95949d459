"""Attention by hand: the softmax, which head reads which, and the two masks."""

import math

import jax.numpy as jnp
import numpy as np

from aster_jax.model import attention


def test_one_query_two_keys_by_hand():
    # H = 1, so no scaling: weights are softmax(0, ln 3) = (1/4, 3/4).
    q_BTNH = jnp.ones((1, 1, 1, 1))
    k_BKHS = jnp.asarray([[[[0.0, math.log(3.0)]]]])
    v_BKSH = jnp.asarray([[[[10.0], [20.0]]]])
    seen = attention.attend(q_BTNH, k_BKHS, v_BKSH, jnp.ones((1, 1, 2), bool))
    np.testing.assert_allclose(seen.ravel(), [17.5], rtol=1e-6)
    first_only = jnp.asarray([[[True, False]]])
    hidden = attention.attend(q_BTNH, k_BKHS, v_BKSH, first_only)
    np.testing.assert_allclose(hidden.ravel(), [10.0], rtol=1e-6)


def test_scores_are_divided_by_the_root_of_the_head_size():
    # H = 4: q.k = 4 x 0.5 ln 3 = 2 ln 3, divided by 2 gives ln 3.
    q_BTNH = jnp.ones((1, 1, 1, 4))
    k_BKHS = jnp.stack([jnp.zeros(4), jnp.full(4, 0.5 * math.log(3.0))], axis=-1)[None, None]
    v_BKSH = jnp.asarray([[[[10.0] * 4, [20.0] * 4]]])
    seen = attention.attend(q_BTNH, k_BKHS, v_BKSH, jnp.ones((1, 1, 2), bool))
    np.testing.assert_allclose(seen.ravel(), [17.5] * 4, rtol=1e-6)


def test_query_heads_share_neighbouring_key_heads():
    # N = 4, K = 2: heads 0 and 1 read key/value head 0, heads 2 and 3 read head 1.
    q_BTNH = jnp.ones((1, 3, 4, 2))
    k_BKHS = jnp.zeros((1, 2, 2, 5))
    v_BKSH = jnp.broadcast_to(jnp.asarray([7.0, 9.0]).reshape(1, 2, 1, 1), (1, 2, 5, 2))
    out = attention.attend(q_BTNH, k_BKHS, v_BKSH, jnp.ones((1, 3, 5), bool))
    np.testing.assert_allclose(out[0, 1, :, 0], [7, 7, 9, 9], rtol=1e-6)


def test_a_query_that_may_see_nothing_gives_finite_numbers():
    q_BTNH, v_BKSH = jnp.ones((1, 1, 1, 2)), jnp.ones((1, 1, 3, 2))
    out = attention.attend(q_BTNH, jnp.ones((1, 1, 2, 3)), v_BKSH, jnp.zeros((1, 1, 3), bool))
    assert np.isfinite(out).all()


def test_segments_hide_each_other_and_the_future():
    mask = attention.causal_segments(jnp.asarray([[1, 1, 2, 0]]))
    np.testing.assert_array_equal(
        mask[0], [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )


def test_cache_mask_reaches_up_to_the_own_position():
    mask = attention.upto_position(jnp.asarray([[0, 2]]), 4)
    np.testing.assert_array_equal(mask[0], [[1, 0, 0, 0], [1, 1, 1, 0]])
