"""The device side of rollouts: five compiled programs over one donated state.

`prefill` writes given tokens (prompts, tool results) into rows, `share` gives a prompt to
the rest of its group, `arm` makes rows ready to decode, `decode` samples up to K tokens for
each of some rows, and `adopt` turns training parameters into the form decoding reads.
Which row does what next (`scheduler`) and on which pages (`pages`) is decided on the host
and comes in with each call; tools and text never appear here.

Slots and pages are split over the data axes of the mesh. Each device runs its own part
and numbers its slots and pages from 0, so decoding needs no collective there.

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
from aster_jax.errors import InputError
from aster_jax.model import cache as kv
from aster_jax.model import config, kernels, transformer
from aster_jax.rollout import arming, sampling

# Decoding fewer rows than this is hardly faster: reading the weights is what it costs.
FEWEST_ROWS = 8
# From one prefill program to the next smaller one. Halves would be twice as many to compile.
FEWER_ROWS = 4


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Sizes that fix the set of compiled programs.

    slots: rows under way at once. capacity: tokens a row can hold. page_tokens: tokens per
    page of the cache. pool_tokens: tokens that all pages hold. steps_per_dispatch: K,
    tokens per row between two looks of the host. prefill_rows: rows per prefill call, at most.
    prefill_buckets: chunk lengths, ascending, in tokens. dtype: of weights and cache.
    attention: what decodes, as in `kernels.choose`.
    """

    slots: int
    capacity: int
    page_tokens: int
    pool_tokens: int
    steps_per_dispatch: int
    prefill_rows: int
    prefill_buckets: tuple[int, ...]
    dtype: str
    attention: str

    def __post_init__(self):
        lengths = list(self.prefill_buckets)
        if not lengths or lengths != sorted(set(lengths)) or lengths[0] < 1:
            raise InputError(
                f"prefill_buckets={self.prefill_buckets} must be ascending lengths of at least 1"
            )
        sizes = (self.slots, self.capacity, self.page_tokens, self.pool_tokens)
        if min(*sizes, self.steps_per_dispatch, self.prefill_rows) < 1:
            raise InputError(f"all sizes of the engine must be at least 1: {self}")

    @property
    def row_pages(self) -> int:
        """Pages of a row that is full."""
        return -(-self.capacity // self.page_tokens)

    def pool_pages(self, shards: int) -> int:
        """Pages of each of `shards` devices."""
        return self.pool_tokens // self.page_tokens // shards

    def decode_rows(self, shards: int) -> tuple[int, ...]:
        """Rows per device of the decode programs, ascending: all slots, a half, a quarter..."""
        sizes = [self.slots // shards]
        while sizes[-1] // 2 >= FEWEST_ROWS:
            sizes.append(sizes[-1] // 2)
        return tuple(reversed(sizes))

    def write_rows(self, shards: int) -> tuple[int, ...]:
        """Rows per device of the prefill programs, ascending: all, a quarter, ... down to 1 to 3."""
        sizes = [max(1, self.prefill_rows // shards)]
        while sizes[-1] >= FEWER_ROWS:
            sizes.append(sizes[-1] // FEWER_ROWS)
        return tuple(reversed(sizes))


@flax.struct.dataclass
class Slots:
    """Everything a decode loop carries; donated to and returned by every program.

    Attributes:
      cache: pages with keys and values of the tokens before each row's pending one.
      length_B: tokens in the cache, which is the pending token's position.
      pending_B: the newest token of each row.
      left_B: tokens the row may still sample before the host must look.
      active_B: whether the row decodes.
      key_B: the row's sampling key, folded from the identity of its trajectory.
      how_B: how each row samples; None where all sample in the one compiled in.
    """

    cache: kv.KVCache
    length_B: jax.Array
    pending_B: jax.Array
    left_B: jax.Array
    active_B: jax.Array
    key_B: jax.Array
    how_B: sampling.Rows | None = None


@flax.struct.dataclass
class Drained:
    """What one decode dispatch produced: `count_A` tokens per row, then padding.

    Rows are in the order they were asked for. `steps` has one entry per device of the
    data axes: each stops when its own rows have.
    """

    tokens_AK: jax.Array
    logprobs_AK: jax.Array
    entropies_AK: jax.Array
    count_A: jax.Array
    stopped_A: jax.Array
    steps: jax.Array


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled programs of one configuration; nothing else runs during a phase."""

    empty: callable
    adopt: callable
    prefill: callable
    share: callable
    arm: callable
    decode: callable


def prefill(params, cache, tokens_PC, starts_P, counts_P, table_PW, *, cfg):
    """Write `counts_P` tokens of P rows at positions `starts_P`...

    Offsets are traced, so one program serves prompts and tool results at any position.
    Returns the new cache, and the number of tokens written as a sign that it has run.
    """
    beyond = table_PW.shape[1] * cache.page_tokens
    order_1C = jnp.arange(tokens_PC.shape[1])[None]
    valid_PC = order_1C < counts_P[:, None]
    positions_PC = jnp.where(valid_PC, starts_P[:, None] + order_1C, beyond)
    _, cache = transformer.forward(
        params, cfg, tokens_PC, positions_PC, cache=cache, table_BW=table_PW
    )
    return cache, jnp.sum(counts_P)[None]


def share(cache, sources_P, targets_P):
    """Copy pages `sources_P` to pages `targets_P`.

    Returns the new cache, and the number of pages copied as a sign that it has run.
    """
    return kv.copy(cache, sources_P, targets_P), jnp.sum(targets_P < cache.pages)[None]


def decode(params, slots, rows_A, table_AW, *, cfg, how, stop_ids, steps):
    """Sample up to `steps` tokens for each of the rows `rows_A` that is active.

    A row ends at a stop id or its limit. Returns the new slots and the `Drained` tokens.
    Rows that are not named cost nothing; an entry equal to the number of slots is padding.
    """
    B = slots.length_B.shape[0]
    mine = jax.tree.map(lambda x_B: x_B.at[rows_A].get(mode="clip"), slots.replace(cache=None))
    mine = mine.replace(cache=slots.cache, active_B=mine.active_B & (rows_A < B))
    step = functools.partial(
        _step, params, table_AW=table_AW, cfg=cfg, how=how, stop_ids=stop_ids
    )

    def go_on(carry):
        mine, out = carry
        return (out.steps[0] < steps) & jnp.any(mine.active_B)

    blank = _blank(rows_A.shape[0], steps)
    mine, out = jax.lax.while_loop(go_on, lambda carry: step(*carry), (mine, blank))
    slots = jax.tree.map(
        lambda old_B, new_A: old_B.at[rows_A].set(new_A, mode="drop"),
        slots.replace(cache=None),
        mine.replace(cache=None),
    )
    return slots.replace(cache=mine.cache), out


def _blank(rows, steps) -> Drained:
    return Drained(
        tokens_AK=jnp.zeros((rows, steps), jnp.int32),
        logprobs_AK=jnp.zeros((rows, steps), jnp.float32),
        entropies_AK=jnp.zeros((rows, steps), jnp.float32),
        count_A=jnp.zeros((rows,), jnp.int32),
        stopped_A=jnp.zeros((rows,), bool),
        steps=jnp.zeros((1,), jnp.int32),
    )


def _step(params, slots, out, *, table_AW, cfg, how, stop_ids):
    """One token for every row of `slots` (here those of the call) that is active."""
    on_A = slots.active_B
    beyond = table_AW.shape[1] * slots.cache.page_tokens
    positions_A = jnp.where(on_A, slots.length_B, beyond)
    hidden_ATD, cache = transformer.forward(
        params, cfg, slots.pending_B[:, None], positions_A[:, None],
        cache=slots.cache, table_BW=table_AW,
    )  # fmt: skip
    scores_AV = transformer.logits(params, cfg, hidden_ATD)[:, 0]
    draw, how = (sampling.sample, how) if how else (sampling.sample_rows, slots.how_B)
    token_A, logp_A, entropy_A = draw(scores_AV, slots.key_B, slots.length_B + 1, how)
    stop_A = jnp.zeros_like(on_A)
    for stop in stop_ids:
        stop_A = stop_A | (token_A == stop)
    left_A = slots.left_B - on_A
    slots = slots.replace(
        cache=cache,
        length_B=slots.length_B + on_A,
        pending_B=jnp.where(on_A, token_A, slots.pending_B).astype(jnp.int32),
        left_B=left_A,
        active_B=on_A & ~stop_A & (left_A > 0),
    )

    def record(x_AK, new_A):
        column = jnp.where(on_A, new_A, 0).astype(x_AK.dtype)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(x_AK, column, out.steps[0], axis=1)

    return slots, Drained(
        tokens_AK=record(out.tokens_AK, token_A),
        logprobs_AK=record(out.logprobs_AK, logp_A),
        entropies_AK=record(out.entropies_AK, entropy_A),
        count_A=out.count_A + on_A,
        stopped_A=out.stopped_A | (on_A & stop_A),
        steps=out.steps + 1,
    )


def adopt(params, *, dtype):
    """Training parameters in the dtype and the form that decoding reads.

    Norm scales stay as they are: the trainer multiplies by them in float32, whatever it
    computes in.
    """

    def cast(path, x):
        return x if path[-1].key == "scale" else x.astype(jnp.dtype(dtype))

    return transformer.for_decoding(jax.tree_util.tree_map_with_path(cast, params))


def _empty(cfg, engine_cfg, shards, how) -> Slots:
    B, pages = engine_cfg.slots, engine_cfg.pool_pages(shards) * shards
    return Slots(
        cache=kv.init(cfg, pages, engine_cfg.page_tokens, engine_cfg.dtype),
        length_B=jnp.zeros((B,), jnp.int32),
        pending_B=jnp.zeros((B,), jnp.int32),
        left_B=jnp.zeros((B,), jnp.int32),
        active_B=jnp.zeros((B,), bool),
        key_B=jax.random.split(jax.random.key(0), B),
        how_B=sampling.plain_rows(B) if how is None else None,
    )


def check(engine_cfg: EngineConfig, shards: int) -> None:
    """ValueError where the sizes do not go with the number of devices along the data axes."""
    if engine_cfg.slots % shards:
        raise InputError(
            f"rollout.slots={engine_cfg.slots} must be a multiple of the {shards} "
            "devices along data x fsdp; choose another number of slots"
        )
    if engine_cfg.pool_pages(shards) < engine_cfg.row_pages:
        raise InputError(
            f"rollout.pool_tokens={engine_cfg.pool_tokens} gives each of {shards} devices "
            f"{engine_cfg.pool_pages(shards)} pages of {engine_cfg.page_tokens} tokens, a row of "
            f"rollout.capacity={engine_cfg.capacity} needs {engine_cfg.row_pages}; raise "
            "pool_tokens or lower capacity"
        )


def part(engine_cfg: EngineConfig, count: int) -> EngineConfig:
    """The sizes of each of `count` processes: its share of slots, pages and prefill rows."""
    return dataclasses.replace(
        engine_cfg, slots=engine_cfg.slots // count, pool_tokens=engine_cfg.pool_tokens // count,
        prefill_rows=max(1, engine_cfg.prefill_rows // count),
    )  # fmt: skip


def attention(
    cfg: config.ModelConfig, engine_cfg: EngineConfig, mesh: Mesh
) -> tuple[str, str]:
    """What decode attention runs on here, and why; ValueError where it cannot be had."""
    table = (engine_cfg.slots // meshes.batch_shards(mesh), engine_cfg.row_pages)
    first = mesh.devices.flat[0]
    capability = str(getattr(first, "compute_capability", ""))
    return kernels.choose(
        engine_cfg.attention, first.platform, cfg, engine_cfg.dtype, engine_cfg.page_tokens,
        table, capability,
    )  # fmt: skip


def _as_run(cfg, engine_cfg, mesh) -> config.ModelConfig:
    kernel, _ = attention(cfg, engine_cfg, mesh)
    return dataclasses.replace(cfg, compute_dtype=engine_cfg.dtype, remat=False, attention=kernel)


@functools.lru_cache(maxsize=32)
def programs(
    cfg: config.ModelConfig,
    engine_cfg: EngineConfig,
    how: sampling.Sampling | None,
    stop_ids: tuple[int, ...],
    mesh: Mesh,
) -> Programs:
    """The programs of one configuration, built once per process.

    With `how` None each row samples in its own way, which it is armed with. Rows and pages
    are split by hand over the data axes, key/value heads over `tensor` by the compiler;
    weights are replicated over the data axes. Of several processes each runs all of them on
    its own part of the mesh (`meshes.local`), except that `adopt` is one program of all.
    """
    trained, mesh = mesh, meshes.local(mesh)
    shards = meshes.batch_shards(mesh)
    check(engine_cfg, shards)
    cfg = _as_run(cfg, engine_cfg, mesh)
    rows, everywhere = PartitionSpec(meshes.BATCH_AXES), PartitionSpec()
    empty = functools.partial(_empty, cfg, engine_cfg, shards, how)
    abstract = jax.eval_shape(empty)

    def layout(cached):
        return jax.tree.map(lambda _: rows, abstract).replace(cache=cached)

    # Of each array, the axes that are split by hand, and its whole layout.
    heads = meshes.kv_heads_axis(cfg, mesh)
    cache = [kv.specs(abstract.cache, meshes.BATCH_AXES, axis) for axis in (None, heads)]
    slots = [layout(specs) for specs in cache]
    weights = meshes.rollout_shardings(cfg, mesh)
    handed = weights if mesh is trained else meshes.rollout_shardings(cfg, trained)

    def named(specs):
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

    def split(program, params, held, inputs):
        """Run `program` on every device of the data axes with its part of what is held."""
        partial, whole = held
        by_hand = jax.shard_map(
            program, mesh=mesh, in_specs=(*params, partial, *inputs),
            out_specs=(partial, rows), axis_names=set(meshes.BATCH_AXES), check_vma=False,
        )  # fmt: skip
        return jax.jit(
            by_hand,
            in_shardings=((weights,) * len(params) + (named(whole), *named(inputs))),
            out_shardings=(named(whole), named(rows)),
            donate_argnums=len(params),
        )

    sample = functools.partial(
        decode, cfg=cfg, how=how, stop_ids=stop_ids, steps=engine_cfg.steps_per_dispatch
    )
    return Programs(
        empty=jax.jit(empty, out_shardings=named(slots[1])),
        adopt=jax.jit(functools.partial(adopt, dtype=engine_cfg.dtype), out_shardings=handed),
        prefill=split(functools.partial(prefill, cfg=cfg), (everywhere,), cache, (rows,) * 4),
        share=split(share, (), cache, (rows,) * 2),
        arm=split(arming.arm, (), [layout(None)] * 2, (rows, everywhere)),
        decode=split(sample, (everywhere,), slots, (rows,) * 2),
    )
