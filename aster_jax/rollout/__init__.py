"""Rollouts: trajectories sampled from a model with a live tool. `Engine` is the library's door."""

from aster_jax.rollout.generate import Engine
from aster_jax.rollout.sampling import Sampling

__all__ = ["Engine", "Sampling"]
