"""Where the engine that sampled and the trainer that learns disagree about a token.

Both compute the same log-probs, in other orders of sums and on some machines in another
precision. With k_t = p_old(o_t) / p_rollout(o_t), trainer over engine, three corrections,
which may be combined; each multiplies the loss of a token by a number without gradient:

    tis_cap        min(k_t, cap): truncated importance sampling
    token_mask     0 where k_t is outside [1 / it, it], else 1 (IcePop masks outside [0.5, 2] and
                   weighs the others by k_t: token_mask=2 together with tis_cap=2)
    sequence_mask  0 for the whole trajectory where exp(mean_t log k_t) is further from 1 than it
                   (0.01 is what is usual), else 1

Normalisers stay as they were: what is masked counts as a loss of 0. Pure.
"""

import jax
import jax.numpy as jnp


def factor(
    mismatch: jax.Array, mask: jax.Array, segments: jax.Array, cfg
) -> tuple[jax.Array | None, dict[str, jax.Array]]:
    """What each token's loss is multiplied by, None where nothing is on; and which tokens each
    correction touched, by the name of its metric.

    Args:
      mismatch: log k_t in nats, 0 outside `mask`; any shape.
      mask: the tokens that are trained on.
      segments: the number of each token's trajectory in its row, 0 for none.
      cfg: with tis_cap, token_mask, sequence_mask (`grpo.GrpoConfig`); 0 is off.
    """
    factors, touched = [], {}
    if cfg.tis_cap:
        ratio = jnp.exp(mismatch)
        factors.append(jnp.minimum(ratio, cfg.tis_cap))
        touched["tis_frac"] = ratio > cfg.tis_cap
    if cfg.token_mask:
        outside = jnp.abs(mismatch) > jnp.log(cfg.token_mask)
        factors.append(1.0 - outside)
        touched["token_mask_frac"] = outside
    if cfg.sequence_mask:
        ratio = jnp.exp(trajectory_mean(mismatch, mask, segments))
        outside = jnp.abs(ratio - 1) > cfg.sequence_mask
        factors.append(1.0 - outside)
        touched["sequence_mask_frac"] = outside
    if not factors:
        return None, {}
    product = factors[0]
    for other in factors[1:]:
        product = product * other
    return product, touched


def trajectory_mean(values: jax.Array, mask: jax.Array, segments: jax.Array) -> jax.Array:
    """The mean of `values` over the masked tokens of each trajectory, at every token of it.

    Trajectories stand in rows (the last axis), numbered by `segments` from 1. Where one has no
    masked token, 0.
    """
    length = values.shape[-1]

    def of_row(values_T, mask_T, segments_T):
        def total(x_T):
            # A row of T tokens holds fewer than T + 1 trajectories.
            return jax.ops.segment_sum(x_T, segments_T, num_segments=length + 1)

        counted_T = mask_T.astype(values_T.dtype)
        sums = total(jnp.where(mask_T, values_T, 0.0)) / jnp.maximum(total(counted_T), 1.0)
        return sums[segments_T]

    rows = [x.reshape(-1, length) for x in (values, mask, segments)]
    return jax.vmap(of_row)(*rows).reshape(values.shape)
