"""Scores to a token and its log-probability: temperature, top-k, top-p, greedy.

The noise of a token is a pure function of its row's key and its position, so a sample
does not depend on the slot it ran in, on its neighbours, or on how many steps were
taken per dispatch.
"""

import dataclasses

import jax
import jax.numpy as jnp

# Halvings of the threshold search; 2^-40 of the score range is below float32 resolution.
BISECTIONS = 40


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to turn scores into a token.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 keep the whole vocabulary. The
    paper trains at 1.0 / no truncation and evaluates at 0.6 / 0.95 (section 3, 7).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"temperature={self.temperature} (>= 0), top_p={self.top_p} (0 < p <= 1), "
                f"top_k={self.top_k} (>= 0, 0 = off): give values in these ranges"
            )


def sample(
    scores_BV: jax.Array, keys_B: jax.Array, positions_B: jax.Array, how: Sampling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(token_B, logprob_B, raw_logprob_B).

    `logprob_B` is under the distribution sampled from (after temperature and truncation;
    the plain one when greedy), `raw_logprob_B` under the plain softmax of the scores.
    Both float32, in nats. `keys_B` are row keys; `positions_B` the index of the new token.
    """
    scores_BV = scores_BV.astype(jnp.float32)
    plain_BV = jax.nn.log_softmax(scores_BV, axis=-1)
    if how.temperature == 0:
        token_B = jnp.argmax(scores_BV, axis=-1)
        raw_B = _pick(plain_BV, token_B)
        return token_B, raw_B, raw_B
    logp_BV = plain_BV
    if how.temperature != 1:
        logp_BV = jax.nn.log_softmax(scores_BV / how.temperature, axis=-1)
    if how.top_k:
        logp_BV = _truncate(logp_BV, lambda keep: jnp.sum(keep, axis=-1), how.top_k)
    if how.top_p < 1:
        probs_BV = jnp.exp(logp_BV)
        logp_BV = _truncate(
            logp_BV, lambda keep: jnp.sum(jnp.where(keep, probs_BV, 0), axis=-1), how.top_p
        )

    def noise(key, position):
        return jax.random.gumbel(jax.random.fold_in(key, position), scores_BV.shape[-1:])

    token_B = jnp.argmax(logp_BV + jax.vmap(noise)(keys_B, positions_B), axis=-1)
    return token_B, _pick(logp_BV, token_B), _pick(plain_BV, token_B)


def _pick(logp_BV, token_B):
    return jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]


def _truncate(logp_BV, amount, enough):
    """Keep the likeliest tokens until `amount(kept)` >= `enough`, and renormalise.

    A threshold search instead of a sort: sorting 151,936 scores per row and step is what
    makes truncated sampling slow elsewhere. Ties at the threshold are kept.
    """
    high_B1 = jnp.max(logp_BV, axis=-1, keepdims=True)
    low_B1 = jnp.maximum(jnp.min(logp_BV, axis=-1, keepdims=True), high_B1 - 100.0)

    def halve(_, bounds):
        low_B1, high_B1 = bounds
        middle_B1 = (low_B1 + high_B1) / 2
        holds_B1 = (amount(logp_BV >= middle_B1) >= enough)[:, None]
        return jnp.where(holds_B1, middle_B1, low_B1), jnp.where(holds_B1, high_B1, middle_B1)

    low_B1, _ = jax.lax.fori_loop(0, BISECTIONS, halve, (low_B1, high_B1))
    kept_BV = jnp.where(logp_BV >= low_B1, logp_BV, -jnp.inf)
    return kept_BV - jax.nn.logsumexp(kept_BV, axis=-1, keepdims=True)
