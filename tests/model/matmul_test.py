"""Sums in float64: exact where float32 is not, with gradients as ever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax.model import matmul


def test_float64_sums_by_hand():
    """Neither 1e8 + 1 nor 8193^2 is a float32; order and products cost nothing here."""
    one = jax.jit(lambda a, b: matmul.einsum("I,I->", a, b, "float64"))
    for order in ([1e8, 1.0, -1e8], [1.0, 1e8, -1e8], [1e8, -1e8, 1.0]):
        exact = one(jnp.asarray(order), jnp.ones(3))
        assert exact == 1 and exact.dtype == jnp.float32
    product = one(jnp.asarray([8193.0, -(2.0**26)]), jnp.asarray([8193.0, 1.0]))
    assert product == 2 * 8192 + 1  # 8193^2 = 2^26 + 2 * 8192 + 1
    halves = matmul.einsum("I,I->", *[jnp.asarray([1.0, 3.0], jnp.bfloat16)] * 2, "float64")
    assert halves == 10 and halves.dtype == jnp.bfloat16


def test_gradients_of_float64_sums_by_hand():
    """d(2 x.w) = 2 w and 2 x, also under a scan with recomputation, in the inputs' dtypes."""
    x, w = jnp.asarray([3.0, -1.0]), jnp.asarray([[2.0, 5.0], [1.0, 4.0]])

    def total(x, w_LI):
        def add(carry, w_I):
            return carry + 2 * matmul.einsum("I,I->", x, w_I, "float64"), None

        return jax.lax.scan(jax.checkpoint(add), 0.0, w_LI)[0]

    value, (dx, dw) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(x, w)
    assert value == 2 * (1 + -1) and dx.dtype == dw.dtype == jnp.float32
    np.testing.assert_array_equal(dx, [6, 18])
    np.testing.assert_array_equal(dw, [[6, -2], [6, -2]])


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [("BTD,DNH->BTNH", (1, 5, 4), (4, 3, 2)), ("BTNH,NHD->BTD", (2, 5, 3, 2), (3, 2, 4)),
     ("BTD,DNH->BTNH", (1, 1, 4), (4, 1, 2)), ("BKRS,BKSH->BKRH", (2, 1, 5, 3), (2, 1, 3, 4))],
)  # fmt: skip
def test_gradients_are_those_of_einsum(equation, a, b):
    """In the shapes of their operands, axes of length 1 included."""
    keys = jax.random.split(jax.random.key(0), 2)
    operands = [jax.random.normal(k, s) for k, s in zip(keys, (a, b), strict=True)]

    def grads(product):
        return jax.grad(lambda a, b: jnp.sum(jnp.sin(product(a, b))), argnums=(0, 1))(*operands)

    found = grads(lambda a, b: matmul.einsum(equation, a, b, "float32"))
    expected = grads(lambda a, b: jnp.einsum(equation, a, b))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_inner_by_hand():
    """In float32, also of narrow operands: 256 + 1 is no bfloat16."""
    a = jnp.asarray([[[16.0, 1.0], [2.0, 3.0]]], jnp.bfloat16)
    found = matmul.inner(a, a)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, [[257.0, 13.0]])
