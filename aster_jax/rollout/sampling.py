"""Scores to a token and its log-probability: temperature, top-k, top-p, greedy.

A token is drawn by inversion: one uniform number per row and step, which is a pure
function of the row's key and the token's position. So a sample does not depend on the
slot it ran in, on its neighbours, or on how many steps were taken per dispatch; and it
costs one pass over the scores, where noise for every entry of the vocabulary would cost
as much as the model (on CPU, 32 rows of 49,152 scores: 1.3 ms against 48 ms).
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp

from aster_jax.errors import InputError

# Halvings of the threshold search; 2^-40 of the score range is below float32 resolution.
BISECTIONS = 40
# Entries of the vocabulary that are summed together first in a draw.
CHUNK = 128
# A uniform number comes from a grid of 2^-23, and 0 stands for all below: for half of it.
SMALLEST = 2.0**-24
# What is less likely than this is never drawn. It would only be by the rounding of sums,
# and then as often as tokens a million times as likely.
LEAST = 2.0**-42
# Below this, scores divided by the temperature may leave float32.
COLDEST = 1e-6


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to turn scores into a token.

    `temperature` 0 is greedy, others are at least `COLDEST`. `top_k` 0 and `top_p` 1 keep the whole vocabulary. The
    paper trains at 1.0 / no truncation and evaluates at 0.6 / 0.95 (section 3, 7).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        # Written so that what is no number is in no range.
        warm = self.temperature == 0 or COLDEST <= self.temperature < math.inf
        whole = 0 <= self.top_k < math.inf and self.top_k == int(self.top_k)
        if not (warm and 0 < self.top_p <= 1 and whole):
            raise InputError(
                f"temperature={self.temperature} (0, or {COLDEST} and more), top_p={self.top_p} "
                f"(0 < p <= 1), top_k={self.top_k} (a whole number, 0 = off): give values in "
                "these ranges"
            )


@flax.struct.dataclass
class Rows:
    """A `Sampling` of each row's own, as arrays: what a program takes that serves many askers."""

    temperature_B: jax.Array
    top_p_B: jax.Array
    top_k_B: jax.Array


def plain_rows(rows: int) -> Rows:
    """Rows that all sample as `Sampling()` does."""
    ones_B = jnp.ones((rows,), jnp.float32)
    return Rows(ones_B, ones_B, jnp.zeros((rows,), jnp.int32))


def sample(
    scores_BV: jax.Array, keys_B: jax.Array, positions_B: jax.Array, how: Sampling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(token_B, logprob_B, entropy_B).

    `logprob_B` is under the distribution sampled from, after temperature and truncation;
    `entropy_B` is that distribution's before truncation. When greedy both are of the plain
    softmax of the scores. Both float32, in nats. `keys_B` are row keys; `positions_B` the
    index of the new token.
    """
    scores_BV = scores_BV.astype(jnp.float32)
    scores_BV = scores_BV - jnp.max(scores_BV, axis=-1, keepdims=True)
    warm_BV = scores_BV / (how.temperature or 1.0)
    whole_B, entropy_B = _entropy(warm_BV)
    if how.temperature == 0:
        token_B = jnp.argmax(scores_BV, axis=-1)
        return token_B, _pick(scores_BV, token_B) - jnp.log(whole_B), entropy_B
    if how.top_k:
        warm_BV = _truncate(warm_BV, lambda keep: jnp.sum(keep, axis=-1), how.top_k)
    if how.top_p < 1:
        mass_BV = jnp.exp(warm_BV)
        enough_B = how.top_p * jnp.sum(mass_BV, axis=-1)
        warm_BV = _truncate(
            warm_BV, lambda keep: jnp.sum(jnp.where(keep, mass_BV, 0), axis=-1), enough_B
        )

    token_B, total_B = _draw(jnp.exp(warm_BV), jax.vmap(_uniform)(keys_B, positions_B))
    if how == Sampling():
        total_B = whole_B  # the same sum without the rounding of a running one
    return token_B, _pick(warm_BV, token_B) - jnp.log(total_B), entropy_B


def sample_rows(
    scores_BV: jax.Array, keys_B: jax.Array, positions_B: jax.Array, how: Rows
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`sample` with every row's own way; truncation is computed where a row asks for it."""
    scores_BV = scores_BV.astype(jnp.float32)
    scores_BV = scores_BV - jnp.max(scores_BV, axis=-1, keepdims=True)
    greedy_B = how.temperature_B == 0
    warm_BV = scores_BV / jnp.where(greedy_B, 1.0, how.temperature_B)[:, None]
    whole_B, entropy_B = _entropy(warm_BV)
    limited_B, nucleus_B = how.top_k_B > 0, how.top_p_B < 1

    def likeliest(x_BV):
        most_B = jnp.where(limited_B, how.top_k_B, x_BV.shape[-1])
        cut_BV = _truncate(x_BV, lambda keep: jnp.sum(keep, axis=-1), most_B)
        return jnp.where(limited_B[:, None], cut_BV, x_BV)

    def nucleus(x_BV):
        mass_BV = jnp.exp(x_BV)
        enough_B = how.top_p_B * jnp.sum(mass_BV, axis=-1)
        cut_BV = _truncate(
            x_BV, lambda keep: jnp.sum(jnp.where(keep, mass_BV, 0), axis=-1), enough_B
        )
        return jnp.where(nucleus_B[:, None], cut_BV, x_BV)

    kept_BV = jax.lax.cond(jnp.any(limited_B), likeliest, lambda x_BV: x_BV, warm_BV)
    kept_BV = jax.lax.cond(jnp.any(nucleus_B), nucleus, lambda x_BV: x_BV, kept_BV)
    token_B, total_B = _draw(jnp.exp(kept_BV), jax.vmap(_uniform)(keys_B, positions_B))
    plain_B = (how.temperature_B == 1) & ~limited_B & ~nucleus_B
    total_B = jnp.where(plain_B | greedy_B, whole_B, total_B)
    token_B = jnp.where(greedy_B, jnp.argmax(scores_BV, axis=-1), token_B)
    picked_B = jnp.where(greedy_B, _pick(scores_BV, token_B), _pick(kept_BV, token_B))
    return token_B, picked_B - jnp.log(total_B), entropy_B


def _uniform(key, position):
    return jax.random.uniform(jax.random.fold_in(key, position))


def _entropy(scores_BV):
    """(total_B, entropy_B): the sum of exp(scores), and the entropy of their softmax in nats.

    Scores are at most 0, with 0 among them: the entropy is log(total) - mean of the scores.
    """
    mass_BV = jnp.exp(scores_BV)
    total_B = jnp.sum(mass_BV, axis=-1)
    weighted_B = jnp.sum(jnp.where(mass_BV > 0, mass_BV * scores_BV, 0), axis=-1)
    return total_B, jnp.maximum(jnp.log(total_B) - weighted_B / total_B, 0)


def _pick(x_BV, token_B):
    return jnp.take_along_axis(x_BV, token_B[:, None], axis=-1)[:, 0]


def _draw(mass_BV, uniform_B):
    """(token_B, total_B): the first token at which the running sum passes uniform x total.

    First among sums of `CHUNK` entries, then inside one of them, so that only one short
    running sum is needed per row. A token with less than `LEAST` of the mass is never drawn.
    """
    B, V = mass_BV.shape
    mass_BXC = jnp.pad(mass_BV, ((0, 0), (0, -V % CHUNK))).reshape(B, -1, CHUNK)
    sums_BX = jnp.sum(mass_BXC, axis=-1)
    # Summed in parts, a running sum may rise by a rounding where there is no mass.
    upto_BX = jnp.where(sums_BX > 0, jnp.cumsum(sums_BX, axis=-1), 0)
    total_B = jnp.max(upto_BX, axis=-1)
    floor_B1 = LEAST * total_B[:, None]
    upto_BX = jnp.where(sums_BX > CHUNK * floor_B1, upto_BX, 0)
    # Rounding must not carry the aim to the end itself, which nothing passes.
    aim_B = jnp.maximum(uniform_B, SMALLEST) * total_B
    aim_B = jnp.minimum(aim_B, jnp.nextafter(jnp.max(upto_BX, axis=-1), 0.0))
    chunk_B = jnp.argmax(upto_BX > aim_B[:, None], axis=-1)
    mass_BC = jnp.take_along_axis(mass_BXC, chunk_B[:, None, None], axis=1)[:, 0]
    likely_BC = mass_BC > floor_B1
    before_B = _pick(upto_BX, chunk_B) - _pick(sums_BX, chunk_B)
    passed_BC = (before_B[:, None] + jnp.cumsum(mass_BC, axis=-1) > aim_B[:, None]) & likely_BC
    # Summed in another order the chunk may fall short of the aim: then its last entry is meant.
    last_B = CHUNK - 1 - jnp.argmax(likely_BC[:, ::-1], axis=-1)
    inside_B = jnp.where(jnp.any(passed_BC, axis=-1), jnp.argmax(passed_BC, axis=-1), last_B)
    return chunk_B * CHUNK + inside_B, total_B


def _truncate(scores_BV, amount, enough):
    """Keep the likeliest tokens until `amount(kept)` >= `enough`; the others become -inf.

    A threshold search instead of a sort: sorting 151,936 scores per row and step is what
    makes truncated sampling slow elsewhere. Ties at the threshold are kept.
    """
    high_B1 = jnp.max(scores_BV, axis=-1, keepdims=True)
    low_B1 = jnp.maximum(jnp.min(scores_BV, axis=-1, keepdims=True), high_B1 - 100.0)

    def halve(_, bounds):
        low_B1, high_B1 = bounds
        middle_B1 = (low_B1 + high_B1) / 2
        holds_B1 = (amount(scores_BV >= middle_B1) >= enough)[:, None]
        return jnp.where(holds_B1, middle_B1, low_B1), jnp.where(holds_B1, high_B1, middle_B1)

    low_B1, _ = jax.lax.fori_loop(0, BISECTIONS, halve, (low_B1, high_B1))
    return jnp.where(scores_BV >= low_B1, scores_BV, -jnp.inf)
