"""The cache: what is written where, what is dropped, and what a copy carries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import cache, config


def layer(rows=3, capacity=4, K=1, H=2):
    return jnp.zeros((rows, K, H, capacity)), jnp.zeros((rows, K, capacity, H))


def new(values):
    """Keys [B, T, 1, 2] that hold a number twice, and values that hold its negative."""
    x_BTKH = jnp.repeat(jnp.asarray(values, jnp.float32)[:, :, None, None], 2, axis=-1)
    return x_BTKH, -x_BTKH


def test_write_puts_every_token_at_its_position():
    k, v = cache.write(*layer(), *new([[1, 2], [3, 4]]), jnp.asarray([2, 0]), jnp.asarray([[0, 1], [3, 1]]))
    np.testing.assert_array_equal(k[:, 0, 1], [[0, 4, 0, 3], [0, 0, 0, 0], [1, 2, 0, 0]])
    np.testing.assert_array_equal(v[:, 0, :, 0], [[0, -4, 0, -3], [0, 0, 0, 0], [-1, -2, 0, 0]])


@pytest.mark.parametrize("position", [-1, -4, 4, 5, 1 << 30])
def test_positions_outside_are_dropped_not_clamped(position):
    positions = jnp.asarray([[3, position]])
    k, v = cache.write(*layer(), *new([[1, 2]]), jnp.asarray([1]), positions)
    np.testing.assert_array_equal(k[:, 0, 0], [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(v[:, 0, :, 1], [[0, 0, 0, 0], [0, 0, 0, -1], [0, 0, 0, 0]])


def test_a_row_outside_is_dropped():
    k, v = cache.write(*layer(), *new([[5]]), jnp.asarray([3]), jnp.asarray([[0]]))
    assert not k.any() and not v.any()


def test_read_is_the_inverse_of_write():
    key = jax.random.key(0)
    k_BTKH, v_BTKH = jax.random.normal(key, (2, 2, 3, 2, 4))
    rows, positions = jnp.asarray([4, 1]), jnp.asarray([[5, 0, 2], [1, 2, 3]])
    at = cache.write(*layer(5, 6, 2, 4), k_BTKH, v_BTKH, rows, positions)
    got_k, got_v = cache.read(*at, rows, positions)
    np.testing.assert_array_equal(got_k, k_BTKH)
    np.testing.assert_array_equal(got_v, v_BTKH)


def numbered(tiny, rows=3, capacity=4):
    empty = cache.init(tiny, rows, capacity, "float32")
    return jax.tree.map(lambda x: jnp.arange(1.0, x.size + 1).reshape(x.shape), empty)


def test_clone_copies_the_prefix_only_and_drops_padding(tiny):
    before = numbered(tiny)
    after = cache.clone(before, jnp.asarray([0, 0]), jnp.asarray([2, 3]), length=2)
    for k, was in zip(after.k_BKHS, before.k_BKHS, strict=True):
        np.testing.assert_array_equal(k[2, ..., :2], was[0, ..., :2])
        np.testing.assert_array_equal(k[2, ..., 2:], was[2, ..., 2:])
        np.testing.assert_array_equal(k[:2], was[:2])
    for v, was in zip(after.v_BKSH, before.v_BKSH, strict=True):
        np.testing.assert_array_equal(v[2, :, :2], was[0, :, :2])
        np.testing.assert_array_equal(v[2, :, 2:], was[2, :, 2:])
        np.testing.assert_array_equal(v[:2], was[:2])


def test_take_gives_the_named_rows(tiny):
    before = numbered(tiny)
    some = cache.take(before, jnp.asarray([2, 0]))
    assert (some.rows, some.capacity) == (2, 4)
    np.testing.assert_array_equal(some.k_BKHS[1], before.k_BKHS[1][jnp.asarray([2, 0])])


def test_sizes_of_the_4b_model():
    cfg = config.PRESETS["qwen3_4b"]
    # keys and values x 36 layers x 8 heads x 128 x 2 bytes
    assert cache.bytes_per_token(cfg, "bfloat16") == 147_456
    made = jax.eval_shape(lambda: cache.init(cfg, 2, 16, "bfloat16"))
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))
    assert total == 2 * 16 * 147_456
