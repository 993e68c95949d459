"""The recipe's optimiser and policy loss, as the benchmarks of the train step use them."""

import functools

import optax

from aster_jax.rl import grpo
from aster_jax.train import optim


def optimiser(moments_dtype: str) -> optax.GradientTransformation:
    """As in the recipe."""
    return optim.build(
        optim.OptimConfig(
            learning_rate=1e-6, warmup_steps=0, decay_steps=0, final_fraction=1.0, beta1=0.9,
            beta2=0.95, weight_decay=0.0, clip_norm=1.0, moments_dtype=moments_dtype,
        )
    )  # fmt: skip


def policy(on_policy: bool):
    """The paper's loss, temperature 1."""
    return functools.partial(grpo.loss_fn, grpo=grpo.GrpoConfig(0.2, 0.28, 10.0, 0.0, on_policy, 1.0))
