"""GRPO on one page: group advantages and the clipped policy loss of ASTER.

For a prompt with trajectories o_1..o_G and outcome rewards r_i (paper, section 3):

    A_i   = (r_i - mean(r)) / (std(r) + 1e-6)          std with G - 1; 0 for a uniform group
    rho_t = exp(clip(log p_new(o_t) - log p_old(o_t), -20, 20))
    l_t   = max(-A rho_t, -A clip(rho_t, 1 - 0.2, 1 + 0.28));  where A < 0: min(l_t, -10 A)
    loss  = mean over prompts of  sum_{i,t} l_t / sum_i |o_i|

No KL term and no entropy bonus. Departures from the textbook, each a switch: (1) asymmetric
clip; (2) dual clip; (3) normalisation per group, over all tokens the policy wrote for one
prompt, or over the whole batch; (4) TIS: l_t times min(p_old / p_rollout, cap), no gradient
through the weight, for when engine and trainer disagree.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from aster_jax import types
from aster_jax.errors import InputError
from aster_jax.model import config, logprobs

MAX_LOG_RATIO = 20.0  # nats; keeps exp() finite, as in the reference implementation
STD_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class GrpoConfig:
    """Switches of the policy loss.

    clip_low, clip_high: distance of the ratio's bounds from 1. dual_clip: c of the bound
    -c A for negative advantages. tis_cap: 0 turns truncated importance sampling off.
    on_policy: one update per rollout, where old and new policy are the same by definition
    and `old_logprobs` need not be computed. temperature: that of the rollout; the trained
    distribution is the sampled one.
    """

    clip_low: float
    clip_high: float
    dual_clip: float
    tis_cap: float
    on_policy: bool
    temperature: float

    def __post_init__(self):
        if not 0 <= self.clip_low < 1 or not 0 <= self.clip_high < math.inf:
            raise InputError(
                f"clip_low={self.clip_low} (0 <= it < 1), clip_high={self.clip_high} (>= 0): "
                "the ratio is held between 1 - clip_low and 1 + clip_high"
            )
        if not 1 <= self.dual_clip < math.inf:
            raise InputError(
                f"dual_clip={self.dual_clip} must be at least 1: it bounds the loss where the "
                "advantage is negative, and 1 is an unchanged policy's"
            )
        if not 0 <= self.tis_cap < math.inf:
            raise InputError(f"tis_cap={self.tis_cap} must be 0 (off) or more")


def advantages(rewards: np.ndarray, group_ids: np.ndarray, divide_by_std: bool) -> np.ndarray:
    """One advantage per trajectory from the rewards of its group, in float64.

    A group of one has nothing to compare with: mean 0, std 1, as in the reference. Training
    makes no such group: see `batch.prepare`.
    """
    rewards = np.asarray(rewards, np.float64)
    out = np.zeros_like(rewards)
    for group in np.unique(group_ids):
        members = np.flatnonzero(group_ids == group)
        if len(members) == 1:
            out[members] = rewards[members] / (1 + STD_EPS if divide_by_std else 1)
            continue
        if np.ptp(rewards[members]) == 0:
            continue  # exactly 0: a mean of equal fractions is not always that fraction
        centred = rewards[members] - rewards[members].mean()
        if divide_by_std:
            centred = centred / (rewards[members].std(ddof=1) + STD_EPS)
        out[members] = centred
    return out


def policy_loss(
    new_logp: jax.Array,
    old_logp: jax.Array,
    rollout_logp: jax.Array,
    advantage: jax.Array,
    weights: jax.Array,
    cfg: GrpoConfig,
    counts: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of l_t and its diagnostics; any shape, all arguments alike.

    `weights` are 0 outside the policy's own tokens and otherwise carry the normalisation;
    whatever else stands at weight 0 does not matter. Diagnostics are sums under `counts`,
    None for the weights themselves.
    """
    counts = weights if counts is None else counts
    mask = weights > 0
    log_ratio = jnp.where(mask, jnp.clip(new_logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO), 0.0)
    ratio = jnp.exp(log_ratio)
    plain = -advantage * ratio
    clipped = -advantage * jnp.clip(ratio, 1 - cfg.clip_low, 1 + cfg.clip_high)
    worst = jnp.maximum(plain, clipped)
    bound = -advantage * cfg.dual_clip
    loss = jnp.where(advantage < 0, jnp.minimum(worst, bound), worst)
    mismatch = jnp.where(mask, old_logp - rollout_logp, 0.0)
    if cfg.tis_cap:
        loss = loss * jax.lax.stop_gradient(jnp.minimum(jnp.exp(mismatch), cfg.tis_cap))

    def mean(x):
        return jnp.sum(jnp.where(mask, counts * x, 0.0))

    metrics = {
        "clip_frac": mean(clipped > plain),
        "dual_clip_frac": mean((worst > bound) & (advantage < 0)),
        "ppo_kl": mean(-log_ratio),
        **logp_diff(old_logp, rollout_logp, counts),
    }
    return jnp.sum(jnp.where(mask, weights * loss, 0.0)), metrics


def logp_diff(old_logp: jax.Array, rollout_logp: jax.Array, weights: jax.Array) -> dict:
    """Weighted sum and maximum of how far trainer and rollout are apart, where weights are not 0."""
    apart = jnp.where(weights > 0, jnp.abs(old_logp - rollout_logp), 0.0)
    return {"logp_diff_mean": jnp.sum(weights * apart), "logp_diff_max": jnp.max(apart)}


def loss_fn(
    params: dict, cfg: config.ModelConfig, batch: types.RlBatch, grpo: GrpoConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The policy loss of one microbatch's share of the batch.

    Diagnostics are sums over its trained tokens, whose number is `tokens`: a group's tokens
    weigh in the loss by the group, but a share of clipped tokens is one of tokens.
    """
    logp_BT, entropy_BT = logprobs.token_logprobs(
        params, cfg, batch.tokens_BT, batch.positions_BT, batch.segments_BT, grpo.temperature,
        wanted_BT=batch.weights_BT > 0,
    )  # fmt: skip
    old_BT = jax.lax.stop_gradient(logp_BT) if grpo.on_policy else batch.old_logprobs_BT
    counts_BT = (batch.weights_BT > 0).astype(jnp.float32)
    loss, metrics = policy_loss(
        logp_BT, old_BT, batch.rollout_logprobs_BT, batch.advantages_BT, batch.weights_BT, grpo,
        counts_BT,
    )  # fmt: skip
    metrics["entropy"] = jnp.sum(counts_BT * entropy_BT)
    metrics["tokens"] = jnp.sum(counts_BT)
    return loss, metrics
