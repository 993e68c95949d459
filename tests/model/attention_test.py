"""Attention by hand: the softmax, which head reads which, the mask, and pages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import attention, cache, packed_attention


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
    mask = attention.causal(packed_attention.ends(jnp.asarray([[1, 1, 2, 0]])))
    np.testing.assert_array_equal(
        mask[0], [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    )


def paged(lengths, T, seed=0):
    """Queries at the last T positions of rows whose keys lie on scattered pages of 4."""
    B, W, S, K, H = len(lengths), 5, 4, 2, 8
    keys = jax.random.split(jax.random.key(seed), 4)
    q_BTNH = jax.random.normal(keys[0], (B, T, 4, H))
    k_ZKHS = jax.random.normal(keys[1], (B * W, K, H, S))
    v_ZKSH = jax.random.normal(keys[3], (B * W, K, S, H))
    table_BW = jax.random.permutation(keys[2], B * W).reshape(B, W)
    positions_BT = jnp.asarray(lengths)[:, None] - T + jnp.arange(T)[None]
    return q_BTNH, cache.Layer(k_ZKHS, v_ZKSH, heads_first=False), table_BW, positions_BT


@pytest.mark.parametrize("T", [1, 3])
def test_pages_give_what_the_same_keys_side_by_side_give(T):
    q, cached, table, positions = paged([3, 4, 5, 8, 9, 20], T)
    k_BKHS = cached.keys[table].transpose(0, 2, 3, 1, 4).reshape(6, 2, 8, 20)
    v_BKSH = cached.values[table].transpose(0, 2, 1, 3, 4).reshape(6, 2, 20, 8)
    mask_BTS = jnp.arange(20)[None, None] <= positions[:, :, None]
    expected = attention.attend(q, k_BKHS, v_BKSH, mask_BTS)
    out = attention.attend_pages(q, cached, table, positions)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    keys = cached.keys.transpose(1, 0, 3, 2)
    heads_first = cache.Layer(keys, cached.values.swapaxes(0, 1), heads_first=True)
    out = attention.attend_pages(q, heads_first, table, positions)
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("T", [1, 3])
def test_rows_in_groups_give_what_they_give_together(T, monkeypatch):
    args = paged([3, 4, 5, 8, 9, 20], T)
    together = attention.attend_pages(*args)
    for rows in (1, 2, 3, 4):  # 4 does not divide them
        monkeypatch.setattr(attention, "ROWS_AT_ONCE", rows)
        np.testing.assert_allclose(attention.attend_pages(*args), together, atol=1e-6)


def test_a_group_goes_no_further_than_its_longest_row(monkeypatch):
    """Fetches of pages, counted: the short group of two ends after one, the other after five."""
    monkeypatch.setattr(attention, "ROWS_AT_ONCE", 2)
    fetched, page = [], cache.page

    def counted(cached, pages_B):
        jax.debug.callback(lambda pages: fetched.append(len(pages)), pages_B)
        return page(cached, pages_B)

    monkeypatch.setattr(cache, "page", counted)
    jax.block_until_ready(attention.attend_pages(*paged([3, 4, 9, 20], 1)))
    jax.effects_barrier()
    assert fetched == [2] * (1 + 5)


def test_a_long_neighbour_changes_no_bit_and_padding_is_finite():
    q, cached, table, positions = paged([6, 7, 20], 2)
    out = attention.attend_pages(q, cached, table, positions)
    short = positions.at[2].set(jnp.asarray([0, 20]))
    again = attention.attend_pages(q, cached, table.at[2, 1:].set(15), short)
    np.testing.assert_array_equal(again[:2], out[:2])
    assert np.isfinite(again).all() and not again[2, 1].any()
    nobody = attention.attend_pages(q, cached, jnp.full_like(table, 15), jnp.full_like(positions, 20))
    assert not nobody.any()
