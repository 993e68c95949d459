"""The device side of rollouts: four compiled programs over one donated state.

`prefill` writes given tokens (prompts, tool results) into rows, `share` copies a
prompt's cache to the rest of its group, `decode` samples up to K tokens per row, and
`adopt` turns training parameters into the form decoding reads. Which row does what next
is decided on the host (`scheduler`); tools and text never appear here.

A row's newest token is always *pending*: known, but not yet in the cache. Decoding feeds
it first, so a turn's stop token is written by the chunk that carries the tool's result,
and no position is lost or doubled at the seam.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aster_jax import mesh as meshes
from aster_jax.model import cache as kv
from aster_jax.model import config, transformer
from aster_jax.rollout import sampling


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Sizes that fix the set of compiled programs.

    slots: rows decoded together. capacity: tokens a row can hold. steps_per_dispatch: K,
    tokens per row between two looks of the host. prefill_rows: rows per prefill call.
    prefill_buckets: chunk lengths, ascending, in tokens. dtype: of weights and cache.
    """

    slots: int
    capacity: int
    steps_per_dispatch: int
    prefill_rows: int
    prefill_buckets: tuple[int, ...]
    dtype: str

    def __post_init__(self):
        if list(self.prefill_buckets) != sorted(set(self.prefill_buckets)):
            raise ValueError(f"prefill_buckets={self.prefill_buckets} must ascend")
        if min(self.slots, self.capacity, self.steps_per_dispatch, self.prefill_rows) < 1:
            raise ValueError(f"all sizes of the engine must be at least 1: {self}")


@flax.struct.dataclass
class Slots:
    """Everything a decode loop carries; donated to and returned by every program.

    Attributes:
      cache: keys and values of the tokens before the pending one.
      length_B: tokens in the cache, which is the pending token's position.
      pending_B: the newest token of each row.
      left_B: tokens the row may still sample before the host must look.
      active_B: whether the row decodes.
      key_B: the row's sampling key, folded from the identity of its trajectory.
    """

    cache: kv.KVCache
    length_B: jax.Array
    pending_B: jax.Array
    left_B: jax.Array
    active_B: jax.Array
    key_B: jax.Array


@flax.struct.dataclass
class Arm:
    """What makes P rows ready to decode: the pending token and the row's identity.

    `row_P` equal to the number of slots marks padding. `on_P` is false for a chunk that
    is followed by another chunk of the same row.
    """

    row_P: jax.Array
    on_P: jax.Array
    length_P: jax.Array
    pending_P: jax.Array
    left_P: jax.Array
    problem_P: jax.Array
    sample_P: jax.Array


@flax.struct.dataclass
class Drained:
    """What one decode dispatch produced: `count_B` tokens per row, then padding."""

    tokens_BK: jax.Array
    logprobs_BK: jax.Array
    raw_logprobs_BK: jax.Array
    count_B: jax.Array
    stopped_B: jax.Array
    steps: jax.Array


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled programs of one configuration; nothing else runs during a phase."""

    empty: callable
    adopt: callable
    prefill: callable
    share: callable
    decode: callable


def _arm(slots: Slots, arm: Arm, run_key: jax.Array) -> Slots:
    def fold(problem, sample):
        return jax.random.fold_in(jax.random.fold_in(run_key, problem), sample)

    rows_P = jnp.where(arm.on_P, arm.row_P, slots.length_B.shape[0])
    keys_P = jax.vmap(fold)(arm.problem_P, arm.sample_P)

    def put(old_B, new_P):
        return old_B.at[rows_P].set(new_P, mode="drop")

    return slots.replace(
        length_B=put(slots.length_B, arm.length_P),
        pending_B=put(slots.pending_B, arm.pending_P),
        left_B=put(slots.left_B, arm.left_P),
        active_B=put(slots.active_B, jnp.ones_like(arm.on_P)),
        key_B=put(slots.key_B, keys_P),
    )


def prefill(params, slots, tokens_PC, starts_P, counts_P, arm, run_key, *, cfg):
    """Write `counts_P` tokens of P rows at positions `starts_P`.., then arm those rows.

    Offsets are traced, so one program serves prompts and tool results at any position.
    """
    capacity = slots.cache.capacity
    order_1C = jnp.arange(tokens_PC.shape[1])[None]
    valid_PC = order_1C < counts_P[:, None]
    positions_PC = jnp.where(valid_PC, starts_P[:, None] + order_1C, capacity)
    some = kv.take(slots.cache, arm.row_P)
    _, some = transformer.forward(params, cfg, tokens_PC, positions_PC, cache=some)
    from_P = jnp.arange(arm.row_P.shape[0])
    pairs = []
    for every, mine in zip(_layers(slots.cache), _layers(some), strict=True):
        new = kv.read(*mine, from_P, positions_PC)
        pairs.append(kv.write(*every, *new, arm.row_P, positions_PC))
    cache = kv.KVCache(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))
    return _arm(slots.replace(cache=cache), arm, run_key)


def _layers(cache: kv.KVCache):
    return list(zip(cache.k_BKHS, cache.v_BKSH, strict=True))


def share(slots, sources_P, arm, run_key, length):
    """Copy the first `length` (static) positions of rows `sources_P` to `arm.row_P`."""
    cache = kv.clone(slots.cache, sources_P, arm.row_P, length)
    return _arm(slots.replace(cache=cache), arm, run_key)


def decode(params, slots, *, cfg, how, stop_ids, steps):
    """Sample up to `steps` tokens per active row; a row ends at a stop id or its limit.

    Returns the new slots and the `Drained` tokens. Rows that ended, wait for a tool or
    are free write nothing and advance nothing.
    """
    B = slots.length_B.shape[0]
    blank = Drained(
        tokens_BK=jnp.zeros((B, steps), jnp.int32),
        logprobs_BK=jnp.zeros((B, steps), jnp.float32),
        raw_logprobs_BK=jnp.zeros((B, steps), jnp.float32),
        count_B=jnp.zeros((B,), jnp.int32),
        stopped_B=jnp.zeros((B,), bool),
        steps=jnp.zeros((), jnp.int32),
    )

    def step(carry):
        slots, out = carry
        on_B = slots.active_B
        positions_B = jnp.where(on_B, slots.length_B, slots.cache.capacity)
        hidden_BTD, cache = transformer.forward(
            params, cfg, slots.pending_B[:, None], positions_B[:, None], cache=slots.cache
        )
        scores_BV = transformer.logits(params, cfg, hidden_BTD)[:, 0]
        token_B, logp_B, raw_B = sampling.sample(scores_BV, slots.key_B, slots.length_B + 1, how)
        stop_B = jnp.zeros_like(on_B)
        for stop in stop_ids:
            stop_B = stop_B | (token_B == stop)
        left_B = slots.left_B - on_B
        slots = slots.replace(
            cache=cache,
            length_B=slots.length_B + on_B,
            pending_B=jnp.where(on_B, token_B, slots.pending_B).astype(jnp.int32),
            left_B=left_B,
            active_B=on_B & ~stop_B & (left_B > 0),
        )

        def record(x_BK, new_B):
            column = jnp.where(on_B, new_B, 0).astype(x_BK.dtype)[:, None]
            return jax.lax.dynamic_update_slice_in_dim(x_BK, column, out.steps, axis=1)

        out = Drained(
            tokens_BK=record(out.tokens_BK, token_B),
            logprobs_BK=record(out.logprobs_BK, logp_B),
            raw_logprobs_BK=record(out.raw_logprobs_BK, raw_B),
            count_B=out.count_B + on_B,
            stopped_B=out.stopped_B | (on_B & stop_B),
            steps=out.steps + 1,
        )
        return slots, out

    def go_on(carry):
        slots, out = carry
        return (out.steps < steps) & jnp.any(slots.active_B)

    return jax.lax.while_loop(go_on, step, (slots, blank))


def _empty(cfg, engine_cfg) -> Slots:
    B = engine_cfg.slots
    return Slots(
        cache=kv.init(cfg, B, engine_cfg.capacity, engine_cfg.dtype),
        length_B=jnp.zeros((B,), jnp.int32),
        pending_B=jnp.zeros((B,), jnp.int32),
        left_B=jnp.zeros((B,), jnp.int32),
        active_B=jnp.zeros((B,), bool),
        key_B=jax.random.split(jax.random.key(0), B),
    )


def _shardings(cfg, mesh, engine_cfg):
    rows = NamedSharding(mesh, PartitionSpec(meshes.BATCH_AXES))
    heads = meshes.kv_heads_axis(cfg, mesh)
    cached = NamedSharding(mesh, PartitionSpec(meshes.BATCH_AXES, heads, None, None))
    abstract = jax.eval_shape(functools.partial(_empty, cfg, engine_cfg))
    by_row = jax.tree.map(lambda _: rows, abstract)
    return by_row.replace(cache=jax.tree.map(lambda _: cached, abstract.cache))


@functools.lru_cache(maxsize=32)
def programs(
    cfg: config.ModelConfig,
    engine_cfg: EngineConfig,
    how: sampling.Sampling,
    stop_ids: tuple[int, ...],
    mesh: Mesh,
) -> Programs:
    """The programs of one configuration, built once per process.

    Slots are sharded by row over the data axes and by key/value head over `tensor`;
    weights are replicated over the data axes, so decoding needs no collective there.
    """
    rows = engine_cfg.slots
    if rows % meshes.batch_shards(mesh):
        raise ValueError(
            f"rollout.slots={rows} must be a multiple of the {meshes.batch_shards(mesh)} "
            "devices along data x fsdp; choose another number of slots"
        )
    cfg = dataclasses.replace(cfg, compute_dtype=engine_cfg.dtype, remat=False)
    slot_specs = _shardings(cfg, mesh, engine_cfg)
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_row = NamedSharding(mesh, PartitionSpec(meshes.BATCH_AXES))
    weights = meshes.rollout_shardings(cfg, mesh)

    def adopt(params):
        params = jax.tree.map(lambda x: x.astype(jnp.dtype(engine_cfg.dtype)), params)
        return transformer.unstack(params)

    jit = functools.partial(jax.jit, out_shardings=slot_specs, donate_argnames=("slots",))
    return Programs(
        empty=jax.jit(functools.partial(_empty, cfg, engine_cfg), out_shardings=slot_specs),
        adopt=jax.jit(adopt, out_shardings=weights),
        prefill=jit(
            functools.partial(prefill, cfg=cfg),
            in_shardings=(weights, slot_specs) + (everywhere,) * 5,
        ),
        share=jit(
            share, static_argnums=4, in_shardings=(slot_specs,) + (everywhere,) * 3
        ),
        decode=jax.jit(
            functools.partial(
                decode, cfg=cfg, how=how, stop_ids=stop_ids, steps=engine_cfg.steps_per_dispatch
            ),
            in_shardings=(weights, slot_specs),
            out_shardings=(slot_specs, Drained(*(by_row,) * 5, steps=everywhere)),
            donate_argnames=("slots",),
        ),
    )
