"""Norm, rotation, embedding and einsum against numbers worked out by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import layers


def norm(x, scale, eps):
    module = layers.RMSNorm(len(scale), eps, "float32")
    return module.apply({"params": {"scale": jnp.asarray(scale)}}, jnp.asarray(x))


def test_rms_norm_by_hand():
    # rms(3, 4) = sqrt(12.5) = 3.53553
    np.testing.assert_allclose(
        norm([[3.0, 4.0]], [2.0, 0.5], 0.0), [[6 / 3.5355339, 2 / 3.5355339]], rtol=1e-6
    )
    # Mean square 1e-6 and eps 1e-6: divided by sqrt(2e-6), not by 1e-3.
    np.testing.assert_allclose(norm([[1e-3, 1e-3]], [1.0, 1.0], 1e-6), [[0.5**0.5] * 2], rtol=1e-6)


def test_rms_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(np.linspace(-3, 3, 256)[None], jnp.bfloat16)
    got = norm(x, np.ones(256, np.float32), 1e-6)
    assert got.dtype == jnp.bfloat16
    exact = norm(x.astype(jnp.float32), np.ones(256, np.float32), 1e-6)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(exact.astype(jnp.bfloat16)))


def test_gradient_of_the_norm_by_hand():
    """x = (3, 4), scale = 1: dy = (1, 0) gives (1 - 9/25, -12/25) / rms, and x / rms of dscale."""
    x, scale = jnp.asarray([[3.0, 4.0]]), jnp.ones((1, 2))
    y, back = jax.vjp(lambda x, scale: layers.normalise(0.0, x, scale), x, scale)
    dx, dscale = back(jnp.asarray([[1.0, 0.0]]))
    rms = math.sqrt(12.5)
    np.testing.assert_allclose(dx, [[16 / 25 / rms, -12 / 25 / rms]], rtol=1e-6)
    np.testing.assert_allclose(dscale, [[3 / rms, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(y, x / rms, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 7, 48), (2, 3, 4, 16)])
def test_gradient_of_the_norm_is_what_jax_derives(shape):
    def plain(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-3) * scale

    keys = jax.random.split(jax.random.key(1), 3)
    x, dy = (jax.random.normal(key, shape) for key in keys[:2])
    scale = 1 + jax.random.normal(keys[2], (1,) * (len(shape) - 1) + shape[-1:])
    expected = jax.vjp(plain, x, scale)[1](dy)
    found = jax.jit(lambda *a: jax.vjp(lambda x, s: layers.normalise(1e-3, x, s), *a)[1](dy))(x, scale)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def rotated(x, positions, tiny, theta):
    cfg = dataclasses.replace(tiny, head_dim=len(x), rope_theta=theta)
    x_BTNH = jnp.broadcast_to(jnp.asarray(x, jnp.float32), (1, len(positions), 1, len(x)))
    return np.asarray(layers.rotate(x_BTNH, jnp.asarray([positions]), cfg))[0, :, 0]


def test_rotation_by_hand(tiny):
    # H = 4, theta = 100: frequencies 1 and 0.1; pairs are (x0, x2) and (x1, x3).
    at_0, at_2 = rotated([1.0, 2.0, 3.0, 4.0], [0, 2], tiny, theta=100.0)
    np.testing.assert_array_equal(at_0, [1, 2, 3, 4])
    c, s, c1, s1 = math.cos(2), math.sin(2), math.cos(0.2), math.sin(0.2)
    by_hand = [c - 3 * s, 2 * c1 - 4 * s1, 3 * c + s, 4 * c1 + 2 * s1]
    np.testing.assert_allclose(at_2, by_hand, rtol=1e-6)


def test_scores_depend_on_the_distance_only(tiny):
    q = rotated([1.0, -2.0, 0.5, 3.0], [5, 105], tiny, theta=1e4)
    k = rotated([0.3, 1.0, -1.0, 2.0], [2, 102], tiny, theta=1e4)
    assert q[0] @ k[0] == pytest.approx(q[1] @ k[1], rel=1e-4)
    assert abs(q[0] @ k[0] - q[0] @ k[1]) > 0.1


def test_neighbours_differ_at_large_positions_in_bfloat16(tiny):
    cfg = dataclasses.replace(tiny, head_dim=2)
    x = jnp.ones((1, 2, 1, 2), jnp.bfloat16)
    got = layers.rotate(x, jnp.asarray([[32_768, 32_769]]), cfg)
    assert got.dtype == jnp.bfloat16
    for i, position in enumerate((32_768, 32_769)):
        by_hand = math.cos(position) - math.sin(position)
        assert float(got[0, i, 0, 0]) == pytest.approx(by_hand, abs=0.02)


def test_einsum_runs_in_the_compute_dtype_and_starts_at_fan_in_scale():
    module = layers.Einsum((64, 64), 64, "float32", "bfloat16", "float32")
    made = module.init(jax.random.key(0), "BD,DF->BF", jnp.ones((1, 64)))
    assert made["params"]["w"].dtype == jnp.float32
    assert float(made["params"]["w"].std()) == pytest.approx(64**-0.5, rel=0.05)
    assert module.apply(made, "BD,DF->BF", jnp.ones((1, 64))).dtype == jnp.bfloat16


def test_embed_picks_rows():
    w_VD = jnp.arange(6.0).reshape(3, 2)
    got = layers.Embed((3, 2), "float32", "float32").apply(
        {"params": {"w": w_VD}}, jnp.asarray([[2, 0]])
    )
    np.testing.assert_array_equal(got, [[[4, 5], [0, 1]]])


def test_a_weight_as_rows_by_hand():
    """[N=1, H=2, D=3] sums over heads: o = (h0 w0 + h1 w1), as trained and as rows."""
    w = jnp.asarray([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    rows_OI = layers.as_rows(w, 2)
    np.testing.assert_array_equal(rows_OI, [[1, 10], [2, 20], [3, 30]])
    heads_BTNH = jnp.asarray([[[[1.0, 0.5]]]])
    half = jnp.asarray([[[1.0, 0.5]]], jnp.bfloat16)
    for accum in ("float32", "float64"):
        module = layers.Einsum((1, 2, 3), 2, "float32", "float32", accum)
        for params in ({"w": w}, {"rows": rows_OI}):
            out_BTD = module.apply({"params": params}, "BTNH,NHD->BTD", heads_BTNH)
            np.testing.assert_allclose(out_BTD, [[[6, 12, 18]]])
        scores_BTO = layers.times_rows(half, rows_OI, accum, jnp.float32)
        assert scores_BTO.dtype == jnp.float32
        np.testing.assert_allclose(scores_BTO, [[[6, 12, 18]]])
