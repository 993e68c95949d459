"""Adam's moments kept in bfloat16: half of the optimiser's memory, rounded without a bias.

The second moment changes by a thousandth per step and bfloat16 tells apart what differs by
four: rounded to the nearest it would stand still. Each value is rounded up or down by chance
instead, so that what is kept is right on average. The chance comes from the step's number,
so the same steps give the same bits. Where gradients have fallen to a tenth a second moment
is off by 7 % and a step by about half of that, in either direction (tests/train/moments_test.py).
"""

import jax
import jax.numpy as jnp
import optax


def in_bfloat16(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` with its float32 state, other than the count of steps, kept in bfloat16.

    `tx` computes in float32 as before: the state is widened for it and narrowed after it.
    """

    def init(params):
        return jax.tree.map(_nearest, tx.init(params))

    def update(grads, state, params=None):
        updates, new = tx.update(grads, jax.tree.map(_widened, state), params)
        key = jax.random.fold_in(jax.random.key(0), new.count)
        leaves, structure = jax.tree.flatten(new)
        narrow = [
            by_chance(x, jax.random.fold_in(key, i)) if x.dtype == jnp.float32 else x
            for i, x in enumerate(leaves)
        ]
        return updates, structure.unflatten(narrow)

    return optax.GradientTransformation(init, update)


def by_chance(x: jax.Array, key: jax.Array) -> jax.Array:
    """float32 as one of its two neighbours in bfloat16, the nearer one the more often.

    The mean over keys is `x`. What is not finite stays as it is.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    below = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    # A carry out of the lower half is the next number of bfloat16, whatever the sign.
    carried = (bits + below) & jnp.uint32(0xFFFF_0000)
    rounded = jax.lax.bitcast_convert_type(carried, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def _nearest(x):
    return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x


def _widened(x):
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
