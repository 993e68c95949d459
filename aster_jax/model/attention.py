"""Grouped-query attention over a full sequence or over a cache: one rule, one place.

The reference path in plain XLA. Scores and softmax are float32.
"""

import jax
import jax.numpy as jnp

# Not -inf: a row that may attend to nothing (padding) must give finite numbers.
MASKED = -1e30


def causal_segments(segments_BT: jax.Array) -> jax.Array:
    """Mask for packed rows: attend to earlier tokens of the same segment.

    Segment 0 is padding; it attends to itself only through the same rule and its outputs
    are never used.
    """
    length = segments_BT.shape[1]
    order_T = jnp.arange(length)
    causal_TS = order_T[:, None] >= order_T[None, :]
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return causal_TS[None] & same_BTS


def upto_position(positions_BT: jax.Array, capacity: int) -> jax.Array:
    """Mask for a cache: index s is position s, so attend to s <= own position."""
    return jnp.arange(capacity)[None, None, :] <= positions_BT[:, :, None]


def attend(
    q_BTNH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, mask_BTS: jax.Array
) -> jax.Array:
    """softmax(q k / sqrt(H)) v with N query heads sharing K key/value heads."""
    B, T, N, H = q_BTNH.shape
    K = k_BKHS.shape[1]
    G = N // K
    q_BKRH = q_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 1, 3, 4).reshape(B, K, T * G, H)
    scores_BKRS = jnp.einsum(
        "BKRH,BKHS->BKRS", q_BKRH * H**-0.5, k_BKHS, preferred_element_type=jnp.float32
    )
    scores_BKTGS = scores_BKRS.reshape(B, K, T, G, -1)
    scores_BKTGS = jnp.where(mask_BTS[:, None, :, None, :], scores_BKTGS, MASKED)
    weights_BKRS = jax.nn.softmax(scores_BKTGS, axis=-1).reshape(scores_BKRS.shape)
    out_BKRH = jnp.einsum("BKRS,BKSH->BKRH", weights_BKRS.astype(v_BKSH.dtype), v_BKSH)
    out_BTKGH = out_BKRH.reshape(B, K, T, G, H).transpose(0, 2, 1, 3, 4)
    return out_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype)
