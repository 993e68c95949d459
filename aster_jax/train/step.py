"""The one train step, shared by both losses: accumulate, clip, update.

SFT and RL differ only in the `loss_fn` they pass and in the batch it reads. The step is
one global SPMD program: parameters laid out by `mesh.RULES`, rows over the data axes.
"""

import functools
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from aster_jax import mesh as meshes
from aster_jax.model import config, transformer

# (params, cfg, batch of one microbatch) -> (summed loss, metrics that add up or end in _max)
LossFn = Callable[[dict, config.ModelConfig, object], tuple[jax.Array, dict]]


@flax.struct.dataclass
class TrainState:
    """Everything an update changes. `step` counts optimiser steps."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState


def fresh_state(params: dict, tx: optax.GradientTransformation, mesh) -> TrainState:
    """A state at step 0 around given parameters, every array in its place on the mesh."""

    def make(params):
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    specs = meshes.shardings(jax.eval_shape(make, params), mesh)
    return jax.jit(make, out_shardings=specs)(params)


def abstract_state(cfg: config.ModelConfig, tx: optax.GradientTransformation, mesh) -> TrainState:
    """Shapes, dtypes and shardings of a state; what a checkpoint is restored into."""

    def make(params):
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    return _placed(jax.eval_shape(make, transformer.abstract_params(cfg)), mesh)


def _placed(shapes, mesh):
    specs = meshes.shardings(shapes, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, specs
    )


def abstract_params(cfg: config.ModelConfig, mesh) -> dict:
    """Shapes, dtypes and shardings of the parameters alone."""
    return _placed(transformer.abstract_params(cfg), mesh)


def init_params(cfg: config.ModelConfig, seed: int, mesh) -> dict:
    """Random parameters made directly in their shards, never whole on one device."""
    specs = meshes.shardings(transformer.abstract_params(cfg), mesh)
    make = jax.jit(transformer.init_params, static_argnums=0, out_shardings=specs)
    return make(cfg, jax.random.key(seed))


def train_step(
    state: TrainState,
    batch_M,
    num_micro: jax.Array,
    *,
    cfg: config.ModelConfig,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, dict]:
    """One optimiser step over the first `num_micro` of M microbatches.

    The loss of a microbatch is a plain sum of terms already divided by the whole batch's
    normaliser, so the result does not depend on how rows fall into microbatches. M is
    fixed and `num_micro` traced: a short batch costs less and compiles nothing.

    Where the loss or the norm of the gradients is not finite the old state comes out, bit
    for bit, and the metric `skipped_nonfinite` is 1: one bad batch must not end a run whose
    state was donated to this very step.
    """

    def grads_of(i):
        batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batch_M)
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), grads = value_and_grad(state.params, cfg, batch)
        return grads, {"loss": loss, **metrics}

    def accumulate(i, carry):
        grads, metrics = carry
        new_grads, new_metrics = grads_of(i)
        return jax.tree.map(jnp.add, grads, new_grads), _merge(metrics, new_metrics)

    shapes = jax.eval_shape(grads_of, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    grads, metrics = jax.lax.fori_loop(0, num_micro, accumulate, zeros)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics["grad_norm"] = optax.tree.norm(grads)
    metrics["update_norm"] = optax.tree.norm(updates)
    metrics["param_norm"] = optax.tree.norm(state.params)
    new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    metrics["skipped_nonfinite"] = 1.0 - finite.astype(jnp.float32)
    return jax.tree.map(functools.partial(jnp.where, finite), new, state), metrics


def _merge(total: dict, new: dict) -> dict:
    """Metrics add up over microbatches, except that `*_max` keeps the largest."""
    return {
        name: jnp.maximum(total[name], value) if name.endswith("_max") else total[name] + value
        for name, value in new.items()
    }


def compile_step(
    state: TrainState,
    cfg: config.ModelConfig,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    mesh,
):
    """`train_step` jitted for this mesh: (state, batch, num_micro) -> (state, metrics).

    The state is donated and comes back in the same layout; batch arrays are [M, B, T]
    with B over the data axes; metrics are replicated scalars.
    """
    state_specs = meshes.shardings(state, mesh)
    rows = jax.sharding.PartitionSpec(None, meshes.BATCH_AXES)
    batch_spec = jax.sharding.NamedSharding(mesh, rows)
    replicated = meshes.replicated(mesh)
    return jax.jit(
        functools.partial(train_step, cfg=meshes.lay_out(cfg, mesh), loss_fn=loss_fn, tx=tx),
        in_shardings=(state_specs, batch_spec, replicated),
        out_shardings=(state_specs, replicated),
        donate_argnames=("state",),
    )


def fetch(metrics: dict, stage: str, step: int) -> dict[str, float]:
    """Metrics of step `step` (1-based) as `stage/name` floats, once it has been computed.

    A value that is not finite is left out, for it can be neither averaged nor drawn.
    `stage/skipped_nonfinite` always stands there: 1.0 if the step changed nothing.
    """
    values = {f"{stage}/{name}": float(np.asarray(value)) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
