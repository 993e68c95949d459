"""The matmul of the forward: one einsum, and what its products are added up in.

Weights, attention and the scores over the vocabulary all come here. Gradients add up in
float32 whatever the config says.
"""

import functools

import jax
import jax.numpy as jnp


def einsum(equation: str, a: jax.Array, b: jax.Array, accum_dtype: str, dtype=None) -> jax.Array:
    """`jnp.einsum` of two operands; `dtype` is the result's, else it is the operands'.

    With `accum_dtype` float64 products and sums are float64 and the result is rounded once,
    so that it hardly depends on the order of the sum, which differs with the number of rows.
    """
    if accum_dtype == "float64":
        return _in_float64(equation, dtype or a.dtype, a, b)
    return jnp.einsum(equation, a, b, preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_float64(equation, dtype, a, b):
    with jax.enable_x64(True):  # without it JAX would silently stay in float32
        exact = jnp.einsum(equation, a.astype(jnp.float64), b.astype(jnp.float64))
        return exact.astype(dtype)


def _forward(equation, dtype, a, b):
    return _in_float64(equation, dtype, a, b), (a, b)


def _backward(equation, dtype, operands, cotangent):
    plain = functools.partial(jnp.einsum, equation, preferred_element_type=dtype)
    return jax.vjp(plain, *operands)[1](cotangent)


_in_float64.defvjp(_forward, _backward)
