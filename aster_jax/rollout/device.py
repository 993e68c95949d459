"""Host lists in, device programs out: the engine's state and its compiled programs.

`Device` owns device memory (weights in the rollout dtype, the slots) and turns decisions
of the host loop into program calls of fixed shapes. Every call returns at once; `placement`
and `episode` are the callers.
"""

import collections
import dataclasses

import jax
import numpy as np

from aster_jax import mesh as meshes
from aster_jax.model import cache as kv
from aster_jax.model import config
from aster_jax.rollout import arming, engine, pages, sampling, scheduler


@dataclasses.dataclass(frozen=True)
class Start:
    """What a row needs to start decoding: pending token, limit and sampling identity.

    `how` it samples counts on a device where rows sample each in their own way.
    """

    pending: int
    left: int
    problem_uid: int
    sample: int
    how: sampling.Sampling = sampling.Sampling()


@dataclasses.dataclass(frozen=True)
class Fork:
    """A slot that begins with another one's first `length` tokens, and what to copy for it."""

    slot: int
    length: int
    copies: tuple[tuple[int, int], ...]


class Device:
    """Slots and weights on the devices of one mesh, and whose page is whose (`pages`).

    Args:
      cfg: model sizes.
      engine_cfg: engine sizes.
      how: sampling; None where each row comes with its own.
      stop_ids: token ids that end a turn.
      mesh: devices; slots are spread over its data axes. Of several processes each has a
        Device of the same mesh, and uses its own part of it.
    """

    def __init__(
        self,
        cfg: config.ModelConfig,
        engine_cfg: engine.EngineConfig,
        how: sampling.Sampling | None,
        stop_ids: tuple[int, ...],
        mesh: jax.sharding.Mesh,
    ):
        self.config = engine_cfg
        self._is_mixed = how is None
        self._mesh = meshes.local(mesh)
        self.shards = meshes.batch_shards(self._mesh)
        self._is_part = self._mesh is not mesh
        self._rows = meshes.by_row(self._mesh)
        self._programs = engine.programs(cfg, engine_cfg, how, stop_ids, mesh)
        self._slots = None
        self._weights = None
        self._run_key = None
        self._programs_at_first = None
        self._forget()
        self.cache_bytes = (
            kv.bytes_per_token(cfg, engine_cfg.dtype)
            * engine_cfg.page_tokens * engine_cfg.pool_pages(self.shards) * self.shards
        )  # fmt: skip

    def begin(self, params: dict, run_key: jax.Array) -> None:
        """Take the weights of this phase and an identity for its randomness; free all rows."""
        self._take(params, run_key)

    def _take(self, params, run_key):
        self._weights = None  # never two copies of them
        weights = self._programs.adopt(params)
        self._weights = meshes.as_local(weights, self._mesh) if self._is_part else weights
        self._run_key = run_key
        self._forget()
        if self._slots is None:
            self._slots = self._programs.empty()

    def reset(self) -> None:
        """Forget all rows, also those still decoding (when a phase is cut short)."""
        self._forget()
        self._slots = None  # never two caches
        self._slots = self._programs.empty()

    def _forget(self):
        c = self.config
        pool_pages = c.pool_pages(self.shards) * self.shards
        self.pages = pages.Pages(c.slots, pool_pages, c.page_tokens, self.shards)

    def end(self) -> None:
        """Give the device memory back, so that the train step can have it."""
        self._slots = self._weights = None

    def warm_up(self, params: dict) -> None:
        """Compile every program now, so that a later compile can only be a mistake."""
        self._take(params, jax.random.key(0))
        for bucket in self.config.prefill_buckets:
            for rows in self._write_rows:
                self._write(scheduler.Round(bucket, ()), rows)
        self._share([])
        self._arm([])
        for rows in self.config.decode_rows(self.shards):
            self._decode([], rows)
        self._programs_at_first = self._compiled()

    @property
    def is_warm(self) -> bool:
        """Whether every program has been compiled."""
        return self._programs_at_first is not None

    @property
    def compiles_after_warm_up(self) -> int:
        """Programs compiled since: anything but 0 is a mistake in this package."""
        return self._compiled() - self._programs_at_first if self.is_warm else 0

    def _compiled(self):
        programs = (getattr(self._programs, f.name) for f in dataclasses.fields(self._programs))
        return sum(program._cache_size() for program in programs)

    def prefill(self, plan: scheduler.Round, starts: dict[int, Start]) -> jax.Array:
        """Write one round of chunks; rows whose chunk is the last one can decode then.

        The smallest program runs that takes all chunks, so which one depends on their number
        alone. The answer is a marker: an array that is there when this has run.
        """
        slots = [c.slot for c in plan.chunks]
        marker = self._write(plan, self._fewest(slots, self._write_rows))
        last = [(c.slot, c.start + len(c.tokens), starts[c.slot]) for c in plan.chunks if c.last]
        if last:
            self._arm(last)
        return marker

    def _write(self, plan, rows):
        """One call of the prefill program of that many rows per shard."""
        slots = [c.slot for c in plan.chunks]
        at, P = self._places(slots, rows), rows * self.shards
        tokens_PC = np.zeros((P, plan.bucket), np.int32)
        offsets_P, counts_P = np.zeros((2, P), np.int32)
        for i, chunk in zip(at, plan.chunks, strict=True):
            tokens_PC[i, : len(chunk.tokens)] = chunk.tokens
            offsets_P[i], counts_P[i] = chunk.start, len(chunk.tokens)
        table_PW = self._table(at, slots, P)
        cache, marker = self._programs.prefill(
            self._weights, self._slots.cache,
            *self._by_row((tokens_PC, offsets_P, counts_P, table_PW)),
        )  # fmt: skip
        self._slots = self._slots.replace(cache=cache)
        return marker

    def share(self, forks: list[Fork], starts: dict[int, Start]) -> list[jax.Array]:
        """Make rows that were forked from others (`pages.fork`) ready to decode.

        The answer is a marker for every program call that this took.
        """
        waiting, markers = list(forks), []
        while waiting:
            now, seen = [], collections.Counter()
            for fork in waiting:
                shard = self.pages.shard(fork.slot)
                if seen[shard] < self.prefill_rows:
                    now.append(fork)
                seen[shard] += 1
            self._share(now)
            markers.append(self._arm([(f.slot, f.length, starts[f.slot]) for f in now]))
            waiting = [fork for fork in waiting if fork not in now]
        return markers

    def _share(self, forks):
        P = self.prefill_rows * self.shards
        at = self._places([f.slot for f in forks], self.prefill_rows)
        sources_P, targets_P = np.full((2, P), self.pages.per_shard, np.int32)
        for i, fork in zip(at, forks, strict=True):
            for source, target in fork.copies:
                sources_P[i], targets_P[i] = source, target
        cache, _ = self._programs.share(self._slots.cache, *self._by_row((sources_P, targets_P)))
        self._slots = self._slots.replace(cache=cache)

    def _arm(self, rows: list[tuple[int, int, Start]]) -> jax.Array:
        """Make rows ready to decode: slots, lengths in the cache, and how they start."""
        at = self._places([slot for slot, _, _ in rows], self.prefill_rows)
        arm = self._by_row(self._arms(at, rows))
        slots, marker = self._programs.arm(self._slots.replace(cache=None), arm, self._run_key)
        self._slots = slots.replace(cache=self._slots.cache)
        return marker

    def decode(self, slots: list[int]) -> tuple[engine.Drained, dict[int, int]]:
        """Sample for some slots.

        Gives the (future) results, on their way to the host, and in which of their rows
        each slot is. `steps` of the results is the marker. Rows of like length lie side by
        side: attention goes through a group of rows as far as its longest.
        """
        slots = sorted(slots, key=lambda slot: len(self.pages.held(slot)))
        return self._decode(slots, self._fewest(slots, self._decode_rows))

    def _decode(self, slots, rows):
        at = self._places(slots, rows)
        rows_A = np.full(rows * self.shards, self._per_shard, np.int32)
        rows_A[at] = [slot % self._per_shard for slot in slots]
        table_AW = self._table(at, slots, rows * self.shards)
        self._slots, drained = self._programs.decode(
            self._weights, self._slots, *self._by_row((rows_A, table_AW))
        )
        for x in jax.tree.leaves(drained):
            x.copy_to_host_async()
        return drained, dict(zip(slots, at, strict=True))

    # Every argument with a row axis is split evenly over the shards.

    def _by_row(self, arguments):
        """Arguments as programs take them: of several processes, where each device's rows are."""
        return jax.device_put(arguments, self._rows) if self._is_part else arguments

    @property
    def _per_shard(self):
        return self.config.slots // self.shards

    @property
    def prefill_rows(self) -> int:
        """Rows of one prefill call per shard, at most."""
        return self._write_rows[-1]

    @property
    def _write_rows(self):
        return self.config.write_rows(self.shards)

    @property
    def _decode_rows(self):
        return self.config.decode_rows(self.shards)

    def _fewest(self, slots: list[int], programs: tuple[int, ...]) -> int:
        """Rows per shard of the smallest program that takes all these slots."""
        most = max(collections.Counter(map(self.pages.shard, slots)).values())
        return min(rows for rows in programs if rows >= most)

    def _places(self, slots: list[int], rows: int) -> list[int]:
        """The row of each slot in arguments that have `rows` rows per shard."""
        seen, places = collections.Counter(), []
        for slot in slots:
            shard = self.pages.shard(slot)
            places.append(shard * rows + seen[shard])
            seen[shard] += 1
        return places

    def _table(self, places, slots, rows):
        table = np.full((rows, self.config.row_pages), self.pages.per_shard, np.int32)
        for i, slot in zip(places, slots, strict=True):
            held = self.pages.held(slot)
            table[i, : len(held)] = held
        return table

    def _arms(self, places: list[int], rows: list[tuple[int, int, Start]]) -> arming.Arm:
        P = self.prefill_rows * self.shards
        names = [f.name for f in dataclasses.fields(arming.Arm) if f.name != "how_P"]
        columns = {name: np.zeros(P, np.int32) for name in names}
        columns["row_P"][:] = self._per_shard
        columns["problem_P"] = np.zeros(P, np.uint32)
        for i, (slot, length, start) in zip(places, rows, strict=True):
            columns["row_P"][i] = slot % self._per_shard
            columns["length_P"][i], columns["pending_P"][i] = length, start.pending
            columns["left_P"][i] = start.left
            columns["problem_P"][i], columns["sample_P"][i] = start.problem_uid, start.sample
        return arming.Arm(**columns, how_P=self._ways(places, rows) if self._is_mixed else None)

    def _ways(self, places, rows) -> sampling.Rows:
        """How each row samples, where that is its own."""
        P = self.prefill_rows * self.shards
        heat_P, top_p_P = np.ones((2, P), np.float32)
        top_k_P = np.zeros(P, np.int32)
        for i, (_, _, start) in zip(places, rows, strict=True):
            how = start.how
            heat_P[i], top_p_P[i], top_k_P[i] = how.temperature, how.top_p, how.top_k
        return sampling.Rows(heat_P, top_p_P, top_k_P)
