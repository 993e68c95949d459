"""GRPO on one page: group advantages, and the policy losses that can be chosen from.

For a prompt with trajectories o_1..o_G and outcome rewards r_i (paper, section 3):

    A_i   = (r_i - mean(r)) / (std(r) + 1e-6)          std with G - 1; 0 for a uniform group
    rho_t = exp(clip(log p_new(o_t) - log p_old(o_t), -20, 20))
    l_t   = max(-A rho_t, -A clip(rho_t, 1 - 0.2, 1 + 0.28));  where A < 0: min(l_t, -10 A)
    loss  = mean over prompts of  sum_{i,t} l_t / sum_i |o_i|

Departures, each a switch (`config.py`), none of them on by default:

    clip, dr_grpo   l_t as above; dr_grpo has no std and a constant in place of the sum of |o_i|
                    (arXiv 2503.20783; both are made in `batch.py`)
    gspo            rho is one of the trajectory, exp(mean_t log-ratio), and every trajectory
                    weighs the same (arXiv 2507.18071)
    cispo           l_t = -A sg(min(rho_t, 1 + 0.28)) log p_new(o_t): what is clipped is a weight,
                    and no token loses its gradient (MiniMax-M1, arXiv 2506.13585)

and what multiplies or masks l_t where engine and trainer disagree (`corrections.py`), a KL
term to the stage's first policy, and an entropy bonus.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from aster_jax import types
from aster_jax.errors import InputError
from aster_jax.model import config, logprobs
from aster_jax.rl import corrections

LOSSES = ("clip", "gspo", "cispo", "dr_grpo")
MAX_LOG_RATIO = 20.0  # nats; keeps exp() finite, as in the reference implementation
STD_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class GrpoConfig:
    """Switches of the policy loss.

    clip_low, clip_high: distance of the ratio's bounds from 1. dual_clip: c of the bound
    -c A for negative advantages. tis_cap, token_mask, sequence_mask: see `corrections.py`;
    0 turns each off. on_policy: one update per rollout, where old and new policy are the same
    by definition and `old_logprobs` need not be computed. temperature: that of the rollout;
    the trained distribution is the sampled one. loss: one of `LOSSES`. kl_coef: of the KL term
    to the reference policy; entropy_coef: of the entropy bonus, per nat.
    """

    clip_low: float
    clip_high: float
    dual_clip: float
    tis_cap: float
    on_policy: bool
    temperature: float
    loss: str = "clip"
    token_mask: float = 0.0
    sequence_mask: float = 0.0
    kl_coef: float = 0.0
    entropy_coef: float = 0.0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise InputError(f"loss={self.loss!r}; choose one of {LOSSES}")
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
        for name in ("tis_cap", "sequence_mask", "kl_coef", "entropy_coef"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be 0 (off) or more")
        if self.token_mask and not 1 < self.token_mask < math.inf:
            raise InputError(
                f"token_mask={self.token_mask} must be 0 (off) or more than 1: tokens are left out "
                "whose ratio is above it or below 1 / it"
            )


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
    segments: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of l_t and its diagnostics; any shape, all arguments alike.

    `weights` are 0 outside the policy's own tokens and otherwise carry the normalisation;
    whatever else stands at weight 0 does not matter. Diagnostics are sums under `counts`,
    None for the weights themselves. `segments` tell the trajectories of a row (the last axis)
    apart; None for one per row. Only what speaks of whole trajectories looks at them.
    """
    counts = weights if counts is None else counts
    segments = jnp.ones(weights.shape, jnp.int32) if segments is None else segments
    mask = weights > 0
    log_ratio = jnp.where(mask, jnp.clip(new_logp - old_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO), 0.0)
    if cfg.loss == "gspo":
        log_ratio = jnp.where(mask, corrections.trajectory_mean(log_ratio, mask, segments), 0.0)
    ratio = jnp.exp(log_ratio)
    if cfg.loss == "cispo":
        loss, shares = _cispo(new_logp, ratio, advantage, mask, cfg)
    else:
        loss, shares = _clipped(ratio, advantage, cfg)
    mismatch = jnp.where(mask, old_logp - rollout_logp, 0.0)
    factor, triggered = corrections.factor(mismatch, mask, segments, cfg)
    if factor is not None:
        loss = loss * jax.lax.stop_gradient(factor)

    def mean(x):
        return jnp.sum(jnp.where(mask, counts * x, 0.0))

    metrics = {
        **{name: mean(x) for name, x in (shares | triggered).items()},
        "ppo_kl": mean(-log_ratio),
        **logp_diff(old_logp, rollout_logp, counts),
    }
    return jnp.sum(jnp.where(mask, weights * loss, 0.0)), metrics


def _clipped(ratio, advantage, cfg):
    """(l_t, what became of it): the clipped loss with its bound for bad trajectories."""
    plain = -advantage * ratio
    clipped = -advantage * jnp.clip(ratio, 1 - cfg.clip_low, 1 + cfg.clip_high)
    worst = jnp.maximum(plain, clipped)
    bound = -advantage * cfg.dual_clip
    loss = jnp.where(advantage < 0, jnp.minimum(worst, bound), worst)
    dual = (worst > bound) & (advantage < 0)
    return loss, {"clip_frac": clipped > plain, "dual_clip_frac": dual}


def _cispo(new_logp, ratio, advantage, mask, cfg):
    """(l_t, what became of it): log-probs under a weight that is bounded above and given."""
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, 1 + cfg.clip_high))
    loss = -advantage * weight * jnp.where(mask, new_logp, 0.0)
    bounded = ratio > 1 + cfg.clip_high
    return loss, {"clip_frac": bounded, "dual_clip_frac": jnp.zeros_like(bounded)}


def logp_diff(old_logp: jax.Array, rollout_logp: jax.Array, weights: jax.Array) -> dict:
    """Weighted sum and maximum of how far trainer and rollout are apart, where weights are not 0."""
    apart = jnp.where(weights > 0, jnp.abs(old_logp - rollout_logp), 0.0)
    return {"logp_diff_mean": jnp.sum(weights * apart), "logp_diff_max": jnp.max(apart)}


def reference_kl(new_logp: jax.Array, reference_logp: jax.Array, weights: jax.Array) -> jax.Array:
    """KL to the reference policy from its own samples, per token: e^d - d - 1 with
    d = log p_ref - log p_new ("k3", Schulman 2020: unbiased and never negative). 0 where the
    weights are."""
    mask = weights > 0
    d = jnp.where(mask, reference_logp - new_logp, 0.0)
    d = jnp.clip(d, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return jnp.exp(d) - d - 1


def loss_fn(
    params: dict, cfg: config.ModelConfig, batch: types.RlBatch, grpo: GrpoConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The policy loss of one microbatch's share of the batch.

    Diagnostics are sums over its trained tokens, whose number is `tokens`: a group's tokens
    weigh in the loss by the group, but a share of clipped tokens is one of tokens.
    """
    found = logprobs.token_logprobs(
        params, cfg, batch.tokens_BT, batch.positions_BT, batch.segments_BT, grpo.temperature,
        entropy_grad=grpo.entropy_coef > 0, wanted_BT=batch.wanted_BT, until_BT=batch.until_BT,
    )  # fmt: skip
    logp_BU, entropy_BU = map(batch.read, found)
    old_BU = jax.lax.stop_gradient(logp_BU) if grpo.on_policy else batch.old_logprobs_BU
    counts_BU = (batch.weights_BU > 0).astype(jnp.float32)
    loss, metrics = policy_loss(
        logp_BU, old_BU, batch.rollout_logprobs_BU, batch.advantages_BU, batch.weights_BU, grpo,
        counts_BU, batch.trajectory_BU,
    )  # fmt: skip
    if grpo.kl_coef:
        kl_BU = reference_kl(logp_BU, batch.reference_logprobs_BU, batch.weights_BU)
        loss += grpo.kl_coef * jnp.sum(batch.weights_BU * kl_BU)
        metrics["reference_kl"] = jnp.sum(counts_BU * kl_BU)
    if grpo.entropy_coef:
        loss -= grpo.entropy_coef * jnp.sum(batch.weights_BU * entropy_BU)
    metrics["entropy"] = jnp.sum(counts_BU * entropy_BU)
    metrics["tokens"] = jnp.sum(counts_BU)
    return loss, metrics
