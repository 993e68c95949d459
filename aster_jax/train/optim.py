"""Config numbers to an optax chain: AdamW with a global-norm clip and a warm-up."""

import dataclasses
import math

import jax
import optax

from aster_jax.errors import InputError
from aster_jax.train import moments

MOMENTS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimiser of one stage.

    learning_rate is the peak; warmup_steps rise linearly to it. decay_steps > 0 follows a
    cosine from the peak to final_fraction of it over that many steps (warm-up included);
    0 stays constant, as the paper's RL does (section 3). clip_norm is the global gradient
    norm above which gradients are scaled down. moments_dtype is what Adam's two moments are
    kept in between steps (`moments`).
    """

    learning_rate: float
    warmup_steps: int
    decay_steps: int
    final_fraction: float
    beta1: float
    beta2: float
    weight_decay: float
    clip_norm: float
    moments_dtype: str = "float32"

    def __post_init__(self):
        for name in ("learning_rate", "weight_decay", "warmup_steps", "decay_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be 0 or more")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if not 0 <= self.final_fraction <= 1:
            raise InputError(f"final_fraction={self.final_fraction} must be between 0 and 1")
        if not 0 < self.clip_norm < math.inf:
            raise InputError(
                f"clip_norm={self.clip_norm} must be above 0: it scales gradients down to that "
                "norm; a large one never does"
            )
        if self.moments_dtype not in MOMENTS:
            raise InputError(f"moments_dtype={self.moments_dtype!r}; choose one of {MOMENTS}")
        if self.decay_steps and self.decay_steps <= self.warmup_steps:
            raise InputError(
                f"decay_steps={self.decay_steps} includes the warm-up and must exceed "
                f"warmup_steps={self.warmup_steps}; 0 keeps the rate constant"
            )


def schedule(cfg: OptimConfig) -> optax.Schedule:
    """Learning rate by optimiser step."""
    if cfg.decay_steps:
        return optax.warmup_cosine_decay_schedule(
            init_value=cfg.learning_rate / (cfg.warmup_steps + 1),
            peak_value=cfg.learning_rate,
            warmup_steps=cfg.warmup_steps,
            decay_steps=cfg.decay_steps,
            end_value=cfg.learning_rate * cfg.final_fraction,
        )
    if cfg.warmup_steps:
        first = cfg.learning_rate / (cfg.warmup_steps + 1)
        return optax.linear_schedule(first, cfg.learning_rate, cfg.warmup_steps)
    return optax.constant_schedule(cfg.learning_rate)


def build(cfg: OptimConfig) -> optax.GradientTransformation:
    """The gradient transformation; weight decay leaves norm scales alone."""

    def decays(params):
        # Norm scales are vectors per layer, [L, D] or [D]; they are named `scale`.
        return jax.tree_util.tree_map_with_path(
            lambda path, _: getattr(path[-1], "key", "") != "scale", params
        )

    adam = optax.scale_by_adam(b1=cfg.beta1, b2=cfg.beta2)
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        adam if cfg.moments_dtype == "float32" else moments.in_bfloat16(adam),
        optax.add_decayed_weights(cfg.weight_decay, mask=decays),
        optax.scale_by_learning_rate(schedule(cfg)),
    )
