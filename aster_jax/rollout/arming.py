"""What makes rows ready to decode: the program for it, and what it takes.

A program of its own, run after a prompt or a result has been written or shared: the hashes
that make keys of identities take long to compile, and there are many prefill programs.
"""

import flax.struct
import jax
import jax.numpy as jnp

from aster_jax.rollout import sampling


@flax.struct.dataclass
class Arm:
    """What makes P rows ready to decode: the pending token and the row's identity.

    `row_P` equal to the number of slots marks padding.
    """

    row_P: jax.Array
    length_P: jax.Array
    pending_P: jax.Array
    left_P: jax.Array
    problem_P: jax.Array
    sample_P: jax.Array
    how_P: sampling.Rows | None = None


def arm(slots, rows: Arm, run_key):
    """Make rows ready to decode; `slots` are the engine's, without their cache.

    Returns them, and the number of rows as a sign that it has run.
    """

    def fold(problem, sample):
        return jax.random.fold_in(jax.random.fold_in(run_key, problem), sample)

    keys_P = jax.vmap(fold)(rows.problem_P, rows.sample_P)

    def put(old_B, new_P):
        return old_B.at[rows.row_P].set(new_P, mode="drop")

    slots = slots.replace(
        length_B=put(slots.length_B, rows.length_P),
        pending_B=put(slots.pending_B, rows.pending_P),
        left_B=put(slots.left_B, rows.left_P),
        active_B=put(slots.active_B, jnp.ones_like(rows.row_P, bool)),
        key_B=put(slots.key_B, keys_P),
        how_B=jax.tree.map(put, slots.how_B, rows.how_P),
    )
    return slots, jnp.sum(rows.row_P < slots.length_B.shape[0])[None]
