"""The cache: what is written where, what is dropped, and what a copy carries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import cache, config

TABLE = jnp.asarray([[2, 0], [4, 4], [1, 3]])  # 4 pages of 2 tokens; row 1 has none


def layer():
    return jnp.zeros((1, 4, 2, 2)), jnp.zeros((1, 4, 2, 2))


def new(values):
    """Keys [B, T, 1, 2] that hold a number twice, and values that hold its negative."""
    x_BTKH = jnp.repeat(jnp.asarray(values, jnp.float32)[:, :, None, None], 2, axis=-1)
    return x_BTKH, -x_BTKH


def test_write_puts_every_token_on_its_page():
    positions = jnp.asarray([[0, 3], [0, 1], [2, 1]])
    k, v = cache.write(*layer(), *new([[1, 2], [3, 4], [5, 6]]), TABLE, positions)
    np.testing.assert_array_equal(k[0, :, :, 1], [[0, 2], [0, 6], [1, 0], [5, 0]])
    np.testing.assert_array_equal(v[0, :, :, 0], [[0, -2], [0, -6], [-1, 0], [-5, 0]])


@pytest.mark.parametrize("position", [-1, -4, 4, 5, 1 << 30])
def test_positions_outside_are_dropped_not_clamped(position):
    positions = jnp.asarray([[3, position]])
    k, v = cache.write(*layer(), *new([[1, 2]]), TABLE[:1], positions)
    np.testing.assert_array_equal(k[0, :, :, 0], [[0, 1], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(v[0, :, :, 1], [[0, -1], [0, 0], [0, 0], [0, 0]])


def test_copy_carries_whole_pages_and_drops_padding(tiny):
    empty = cache.init(tiny, 4, 2, "float32")
    assert (empty.pages, empty.page_tokens) == (4, 2)
    before = jax.tree.map(lambda x: jnp.arange(1.0, x.size + 1).reshape(x.shape), empty)
    after = cache.copy(before, jnp.asarray([0, 1, 4]), jnp.asarray([2, 4, 4]))
    for now, was in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(now, was[:, jnp.asarray([0, 1, 0, 3])])


def test_sizes_of_the_4b_model():
    cfg = config.PRESETS["qwen3_4b"]
    # keys and values x 36 layers x 8 heads x 128 x 2 bytes
    assert cache.bytes_per_token(cfg, "bfloat16") == 147_456
    made = jax.eval_shape(lambda: cache.init(cfg, 2, 16, "bfloat16"))
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))
    assert total == 2 * 16 * 147_456
