"""The matmul of the forward: one einsum, and what its products are added up in.

Weights, attention and the scores over the vocabulary all come here. Gradients add up in
float32 whatever the config says.
"""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp


def einsum(
    equation: str, a: jax.Array, b: jax.Array, accum_dtype: str, dtype=None, scope: str = ""
) -> jax.Array:
    """`jnp.einsum` of two operands; `dtype` is the result's, else it is the operands'.

    `scope` names what is computed, the gradients too, which know of no scope around the call.

    With `accum_dtype` float64 products and sums are float64 and the result is rounded once,
    so that it hardly depends on the order of the sum, which differs with the number of rows.
    """
    return _einsum(equation, accum_dtype, jnp.dtype(dtype or a.dtype), scope, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _einsum(equation, accum_dtype, dtype, scope, a, b):
    with jax.named_scope(scope) if scope else contextlib.nullcontext():
        return _product(equation, accum_dtype, dtype, a, b)


def _product(equation, accum_dtype, dtype, a, b):
    if accum_dtype != "float64":
        return jnp.einsum(equation, a, b, preferred_element_type=dtype)
    with jax.enable_x64(True):  # without it JAX would silently stay in float32
        exact = jnp.einsum(equation, a.astype(jnp.float64), b.astype(jnp.float64))
        return exact.astype(dtype)


def _forward(equation, accum_dtype, dtype, scope, a, b):
    return _einsum(equation, accum_dtype, dtype, scope, a, b), (a, b)


def _backward(equation, accum_dtype, dtype, scope, operands, cotangent):
    """Each gradient is asked for in the order of its operand.

    JAX would multiply in another order and transpose; of that XLA's CPU compiler makes copies
    of the larger operand and the slowest of its loops: the gradients of weights took 1.3 to
    1.7 times as long.
    """
    a, b = operands
    of_a, of_b, of_result = re.split(",|->", equation)
    with jax.named_scope(scope) if scope else contextlib.nullcontext():
        da = _plain(f"{of_result},{of_b}->{of_a}", cotangent, b.astype(dtype))
        db = _plain(f"{of_a},{of_result}->{of_b}", a.astype(dtype), cotangent)
    return da.astype(a.dtype), db.astype(b.dtype)


def _plain(equation, a, b):
    """`jnp.einsum` without the axes of length 1, such as a microbatch of one row.

    The CPU compiler takes two summed axes for a reason to transpose the first operand.
    """
    of_a, of_b, of_result = re.split(",|->", equation)
    sizes = dict(zip(of_a + of_b, a.shape + b.shape, strict=True))
    for axis in (name for name, size in sizes.items() if size == 1):
        equation = equation.replace(axis, "")
    out = jnp.einsum(equation, a.squeeze(), b.squeeze())
    return out.reshape([sizes[axis] for axis in of_result])


_einsum.defvjp(_forward, _backward)


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """sum(a * b) over the last axis, added up in float32.

    On a CPU as a matmul: XLA's loop over the products takes ten times as long.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jax.lax.platform_dependent(a, b, cpu=_dots, default=_sums)


def _dots(a, b):
    return jnp.einsum("...i,...i->...", a, b)


def _sums(a, b):
    return jnp.sum(a * b, axis=-1)
