"""Every program of a run, from its config alone: traced with shapes, nothing allocated."""

import dataclasses
import functools
import types as python_types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from aster_jax import config as configs
from aster_jax import mesh as meshes
from aster_jax import policy, settings, types
from aster_jax.data import prefixes
from aster_jax.model import config as model_config
from aster_jax.model import logprobs, transformer
from aster_jax.rl import grpo, update
from aster_jax.rollout import engine
from aster_jax.sft import loss
from aster_jax.train import optim, step
from launch.plan import absent

# Fields of a batch of RL that are there where trajectories share tokens, and all of integers.
SHARED = ("until_BT", "places_BU", "members_BU")
INTEGERS = ("tokens_BT", "positions_BT", "segments_BT", *SHARED)
# Stop ids change no size; a run takes them from its tokenizer.
STOP_IDS = (0,)


@dataclasses.dataclass(frozen=True)
class Program:
    """One program: how to trace it, and bytes per device that lie beside its arguments.

    `phase` is "update" or "rollout": keys of which section make it smaller. `counted` traces
    what an update's matmuls are counted from: attention in loops and kernels hides its own.
    """

    name: str
    phase: str
    trace: Callable[[], jax.stages.Traced]
    beside: int
    counted: Callable[[], jax.stages.Traced] | None = None


def model(c) -> model_config.ModelConfig:
    """The model's sizes: a preset of that name, else from the checkpoint or the config."""
    name = c.model.source.rsplit("/", 1)[-1].lower().replace("-", "_").replace(".", "p")
    if name not in model_config.PRESETS:
        return policy.expected_config(python_types.SimpleNamespace(config=c))
    how = {key: c.model[key] for key in policy.HOW}
    return dataclasses.replace(model_config.PRESETS[name], **how)


def of_run(c, cfg: model_config.ModelConfig, mesh) -> list[Program]:
    """All programs of the config's stages, the same program once."""
    training = _training(c, cfg, mesh)
    return [*training, *_rollout(c, cfg, mesh)]


def state_bytes(c, cfg, mesh) -> tuple[int, int]:
    """Bytes per device of the parameters, and of the optimiser's moments (the largest)."""
    kinds = {keys.moments_dtype: keys for keys in (c.sft, *_rl_stages(c).values())}
    largest = kinds["float32" if "float32" in kinds else "bfloat16"]
    state = step.abstract_state(cfg, optim.build(settings.optimiser(largest)), mesh)
    params = absent.shard_bytes(state.params)
    return params, absent.shard_bytes(state) - params


def reference_bytes(c, cfg, mesh) -> int:
    """Bytes per device of the policy that the KL term of RL compares with; 0 without one."""
    if not any(keys.kl_coef for keys in _rl_stages(c).values()):
        return 0
    return state_bytes(c, cfg, mesh)[0]


def _rl_stages(c):
    return {name: configs.rl_stage(c, name) for name in ("rl1", "rl2") if name in c.stages}


def _training(c, cfg, mesh) -> list[Program]:
    made: dict[tuple, list] = {}
    if "sft" in c.stages and (c.sft.steps or c.sft.epochs):
        shape = (c.sft.rows // c.sft.micro_rows, c.sft.micro_rows, c.sft.row_tokens)
        trace = functools.partial(_step, c.sft, cfg, mesh, loss.loss_fn, types.SftBatch, shape)
        made["sft", shape] = ["sft step", trace, 0]
    _, moments = state_bytes(c, cfg, mesh)
    reference = reference_bytes(c, cfg, mesh)
    for stage, keys in _rl_stages(c).items():
        members = keys.prompts // keys.minibatches * keys.group
        shape = (-(-members // keys.micro_rows), keys.micro_rows, keys.row_tokens)
        wanted = functools.partial(grpo.loss_fn, grpo=settings.policy_loss(c, keys))
        shared = update.shares(cfg, mesh, keys)[0]
        trace = functools.partial(_step, keys, cfg, mesh, wanted, types.RlBatch, shape, shared)
        parts = [(("rl", shape), "step", trace, reference)]
        if keys.minibatches * keys.updates > 1 or keys.kl_coef:
            score = functools.partial(_score, c, cfg, mesh, shape, shared)
            parts.append((("old", shape), "old log-probs", score, moments + reference))
        for key, name, trace, beside in parts:
            before = made[key][0].removesuffix(f" {name}") + "+" if key in made else ""
            made[key] = [f"{before}{stage} {name}", trace, beside]
    plain = dataclasses.replace(cfg, training_attention="whole")

    def counted(trace):
        return functools.partial(trace.func, *(plain if x is cfg else x for x in trace.args))

    return [Program(name, "update", t, beside, counted(t)) for name, t, beside in made.values()]


def _step(keys, cfg, mesh, loss_fn, batch_type, shape, shared=False):
    tx = optim.build(settings.optimiser(keys))
    state = step.abstract_state(cfg, tx, mesh)
    batch = batch_type(**{
        field.name: _rows(shape, field.name, mesh, shared)
        for field in dataclasses.fields(batch_type)
        if (field.name != "reference_logprobs_BU" or keys.kl_coef)
        and (field.name not in SHARED or shared)
    })  # fmt: skip
    count = _placed((), jnp.int32, mesh, jax.sharding.PartitionSpec())
    return step.compile_step(state, cfg, loss_fn, tx, mesh).trace(state, batch, count)


def _rows(shape, name, mesh, shared):
    """A field of a batch of rows [M, B, T]; where tokens are shared, trajectories have more."""
    if shared and name.endswith("_BU"):
        shape = (*shape[:2], prefixes.READ * shape[2])
    spec = jax.sharding.PartitionSpec(None, meshes.BATCH_AXES)
    return _placed(shape, jnp.int32 if name in INTEGERS else jnp.float32, mesh, spec)


def _score(c, cfg, mesh, shape, shared):
    names = ("tokens_BT", "positions_BT", "segments_BT", *SHARED[:2])
    arrays = [None if n in SHARED and not shared else _rows(shape, n, mesh, shared) for n in names]
    count = _placed((), jnp.int32, mesh, jax.sharding.PartitionSpec())
    score = logprobs.batch_scorer(
        meshes.lay_out(cfg, mesh), c.rollout.temperature, arrays[0].sharding
    )
    return score.trace(step.abstract_params(cfg, mesh), *arrays, count)


def _placed(shape, dtype, mesh, spec):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(mesh, spec))


def _rollout(c, cfg, mesh) -> list[Program]:
    """The engine's: weights as decoded with, prefills of most rows, and the largest decode."""
    sizes, trains_on = settings.engine_sizes(c.rollout), mesh
    mesh = meshes.for_rollouts(mesh)
    shards = meshes.batch_shards(mesh)
    ways = {"": settings.sampled(c.rollout)}
    if "eval" in c.stages:
        ways["eval "] = settings.sampled(settings.evaluations(c)["main"])
    made = engine.programs(cfg, sizes, ways[""], STOP_IDS, mesh)
    trained = step.abstract_params(cfg, trains_on)
    params, moments = state_bytes(c, cfg, trains_on)
    weights = jax.eval_shape(made.adopt, trained)
    slots = jax.eval_shape(made.empty)
    P, W = sizes.write_rows(shards)[-1] * shards, sizes.row_pages
    beside = moments + reference_bytes(c, cfg, trains_on)
    state = params + beside
    found = [Program("adopt weights", "rollout", lambda: made.adopt.trace(trained), beside)]
    for C in sizes.prefill_buckets:
        args = (weights, slots.cache, _ints(P, C), _ints(P), _ints(P), _ints(P, W))
        trace = functools.partial(made.prefill.trace, *args)
        found.append(Program(f"prefill {C}", "rollout", trace, state))
    rows = sizes.decode_rows(shards)[-1] * shards
    seen = set()
    for prefix, how in ways.items():
        if how in seen:
            continue
        seen.add(how)
        decode = engine.programs(cfg, sizes, how, STOP_IDS, mesh).decode
        trace = functools.partial(decode.trace, weights, slots, _ints(rows), _ints(rows, W))
        found.append(Program(f"{prefix}decode", "rollout", trace, state))
    return found


def rollout_bytes(c, cfg, mesh) -> tuple[int, int]:
    """Bytes per device of the weights as decoded with, and of all pages of the cache."""
    sizes, mesh = settings.engine_sizes(c.rollout), meshes.for_rollouts(mesh)
    weights = jax.eval_shape(
        transformer.for_decoding, transformer.abstract_params(cfg)
    )
    itemsize = jnp.dtype(sizes.dtype).itemsize
    shardings = meshes.rollout_shardings(cfg, mesh)
    leaves = zip(jax.tree.leaves(weights), jax.tree.leaves(shardings), strict=True)
    held = sum(int(np.prod(s.shard_shape(x.shape))) * itemsize for x, s in leaves)
    shards = meshes.batch_shards(mesh)
    heads = mesh.shape["tensor"] if meshes.kv_heads_axis(cfg, mesh) else 1
    token = 2 * cfg.num_layers * cfg.num_kv_heads // heads * cfg.head_dim * itemsize
    return held, sizes.pool_pages(shards) * sizes.page_tokens * token


def _ints(*shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
