"""The weighted pieces of the transformer, each over `self.param`.

One of the two files of the model that import linen. The modules hold no state besides
`params`; stock `linen.Embed`/`Dense` are avoided because they accept no output sharding.
"""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from aster_jax.model import config, matmul


class Einsum(nn.Module):
    """A matmul written as an einsum; `shape` is the weight's, in the equation's letters.

    `fan_in` is the number of inputs summed per output, for the initial scale. The weight
    is `w` as trained, or `rows` as decoded with (`as_rows`).
    """

    shape: tuple[int, ...]
    fan_in: int
    param_dtype: str
    compute_dtype: str
    accum_dtype: str

    @nn.compact
    def __call__(self, equation: str, x: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.compute_dtype)
        if self.has_variable("params", "rows"):
            rows_OI = self.get_variable("params", "rows").astype(dtype)
            _, w_axes, out_axes = re.split(",|->", equation)
            outputs = [n for axis, n in zip(w_axes, self.shape, strict=True) if axis in out_axes]
            x_BTI = x.astype(dtype).reshape(*x.shape[:2], -1)
            y_BTO = times_rows(x_BTI, rows_OI, self.accum_dtype)
            return y_BTO.reshape(*x.shape[:2], *outputs)
        init = nn.initializers.normal(stddev=self.fan_in**-0.5)
        w = self.param("w", init, self.shape, jnp.dtype(self.param_dtype))
        return matmul.einsum(equation, x.astype(dtype), w.astype(dtype), self.accum_dtype)


def as_rows(w: jax.Array, input_axes: int) -> jax.Array:
    """A weight [*inputs, *outputs] as [outputs, inputs], which `times_rows` reads."""
    return w.reshape(math.prod(w.shape[:input_axes]), -1).T


def times_rows(x_BTI: jax.Array, rows_OI: jax.Array, accum_dtype: str, dtype=None) -> jax.Array:
    """x rows^T, [B, T, O], with the weight as the first operand; `dtype` is the result's.

    XLA's CPU matmul copies its second operand into another order on every call. For the
    few rows of a decode step that costs more than the products themselves, unless the
    second operand is the small one: the layers take half the time at 8 to 32 rows.
    """
    y_OBT = matmul.einsum("OI,BTI->OBT", rows_OI, x_BTI, accum_dtype, dtype)
    return y_OBT.transpose(1, 2, 0)


class Embed(nn.Module):
    """The token table, [V, D]."""

    shape: tuple[int, int]
    param_dtype: str
    compute_dtype: str

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        init = nn.initializers.normal(stddev=0.02)
        w_VD = self.param("w", init, self.shape, jnp.dtype(self.param_dtype))
        return w_VD[tokens_BT].astype(jnp.dtype(self.compute_dtype))


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, computed in float32 whatever comes in."""

    size: int
    eps: float
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (self.size,), jnp.dtype(self.param_dtype))
        scale = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (self.size,))
        return normalise(self.eps, x.astype(jnp.float32), scale).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalise(eps: float, x: jax.Array, scale: jax.Array) -> jax.Array:
    """x / rms(x) * scale over the last axis; all but the last of `scale` are of length 1.

    The gradient is written out because the sum that it needs is a matmul on a CPU
    (`matmul.inner`): the gradient of a norm takes a seventh of the time.
    """
    return _normalise(eps, x, scale)[0]


def _normalise(eps, x, scale):
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(mean_square + eps)
    return x * inverse * scale, (x, inverse, scale)


def _normalise_backward(eps, residuals, cotangent):
    x, inverse, scale = residuals
    wanted = cotangent * scale
    shared = matmul.inner(wanted, x)[..., None] / x.shape[-1]
    dx = inverse * (wanted - x * (inverse**2 * shared))
    dscale = jnp.sum(cotangent * (x * inverse), axis=range(x.ndim - 1), keepdims=True)
    return dx, dscale


normalise.defvjp(_normalise, _normalise_backward)


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, cfg: config.ModelConfig) -> jax.Array:
    """Rotary positions in the half-split form that Hugging Face checkpoints use.

    Angles are float32: at position 32,768 bfloat16 could not tell neighbours apart.
    """
    half = cfg.head_dim // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / half
    frequencies = (cfg.rope_theta ** -exponents).reshape(1, 1, 1, half)
    angles = positions_BT[:, :, None, None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)
