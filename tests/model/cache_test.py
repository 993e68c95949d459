"""The cache: what is written where, what is dropped, and what a copy carries."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import cache, config

TABLE = jnp.asarray([[2, 0], [4, 4], [1, 3]])  # 4 pages of 2 tokens; row 1 has none


@pytest.fixture(params=["xla", "gpu"])
def laid_out(tiny, request):
    """Both layouts."""
    return dataclasses.replace(tiny, attention=request.param)


def empty(cfg):
    """A layer of 4 pages of 2 tokens, one head of size 2."""
    one = dataclasses.replace(cfg, num_layers=1, num_kv_heads=1, head_dim=2)
    return cache.init(one, 4, 2, "float32").layers[0]


def content(layer):
    """Keys and values in the order of pages, [Z, S, H]."""
    order = (1, 0, 2, 3) if layer.heads_first else (0, 1, 3, 2)
    keys = layer.keys.transpose(order)
    values = layer.values.swapaxes(0, 1) if layer.heads_first else layer.values
    return keys[:, 0], values[:, 0]


def new(values):
    """Keys [B, T, 1, 2] that hold a number twice, and values that hold its negative."""
    x_BTKH = jnp.repeat(jnp.asarray(values, jnp.float32)[:, :, None, None], 2, axis=-1)
    return x_BTKH, -x_BTKH


def test_write_puts_every_token_on_its_page(laid_out):
    positions = jnp.asarray([[0, 3], [0, 1], [2, 1]])
    k_BTKH, v_BTKH = new([[1, 2], [3, 4], [5, 6]])
    written = cache.write(empty(laid_out), k_BTKH, v_BTKH, TABLE, positions)
    k, v = content(written)
    np.testing.assert_array_equal(k[..., 1], [[0, 2], [0, 6], [1, 0], [5, 0]])
    np.testing.assert_array_equal(v[..., 0], [[0, -2], [0, -6], [-1, 0], [-5, 0]])


def test_a_page_comes_back_as_it_was_written(laid_out):
    positions = jnp.asarray([[0, 3], [0, 1], [2, 1]])
    k_BTKH, v_BTKH = new([[1, 2], [3, 4], [5, 6]])
    written = cache.write(empty(laid_out), k_BTKH.at[..., 1].add(10), v_BTKH, TABLE, positions)
    k_BKHS, v_BKSH = cache.page(written, TABLE[:, 1])  # row 1 has no page there
    np.testing.assert_array_equal(k_BKHS[:, 0], [[[0, 2], [0, 12]], [[0, 0]] * 2, [[5, 0], [15, 0]]])
    np.testing.assert_array_equal(v_BKSH[:, 0], [[[0, 0], [-2, -2]], [[0, 0]] * 2, [[-5, -5], [0, 0]]])


@pytest.mark.parametrize("position", [-1, -4, 4, 5, 1 << 30])
def test_positions_outside_are_dropped_not_clamped(laid_out, position):
    positions = jnp.asarray([[3, position]])
    k, v = content(cache.write(empty(laid_out), *new([[1, 2]]), TABLE[:1], positions))
    np.testing.assert_array_equal(k[..., 0], [[0, 1], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(v[..., 1], [[0, -1], [0, 0], [0, 0], [0, 0]])


def test_copy_carries_whole_pages_and_drops_padding(laid_out):
    pool = cache.init(laid_out, 4, 2, "float32")
    assert (pool.pages, pool.page_tokens, pool.layers[0].heads) == (4, 2, laid_out.num_kv_heads)
    before = jax.tree.map(lambda x: jnp.arange(1.0, x.size + 1).reshape(x.shape), pool)
    after = cache.copy(before, jnp.asarray([0, 1, 4]), jnp.asarray([2, 4, 4]))
    axis = 1 if laid_out.attention == "gpu" else 0
    for now, was in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(now, jnp.take(was, jnp.asarray([0, 1, 0, 3]), axis))


@pytest.mark.parametrize("attention", ["xla", "gpu"])
def test_sizes_of_the_4b_model(attention):
    cfg = dataclasses.replace(config.PRESETS["qwen3_4b"], attention=attention)
    # keys and values x 36 layers x 8 heads x 128 x 2 bytes
    assert cache.bytes_per_token(cfg, "bfloat16") == 147_456
    made = jax.eval_shape(lambda: cache.init(cfg, 2, 16, "bfloat16"))
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))
    assert total == 2 * 16 * 147_456
