"""Host lists in, device programs out: the engine's state and its compiled programs.

`Engine` owns device memory (weights in the rollout dtype, the slots) and turns the
scheduler's decisions into program calls of fixed shapes. `episode` is its only caller.
"""

import dataclasses

import jax
import numpy as np

from aster_jax.model import cache as kv
from aster_jax.model import config
from aster_jax.rollout import engine, sampling, scheduler


@dataclasses.dataclass(frozen=True)
class Start:
    """What a row needs to start decoding: pending token, limit and sampling identity."""

    pending: int
    left: int
    problem_uid: int
    sample: int


class Engine:
    """Slots and weights on the devices of one mesh.

    Args:
      cfg: model sizes.
      engine_cfg: engine sizes.
      how: sampling.
      stop_ids: token ids that end a turn.
      mesh: devices; slots are spread over its data axes.
    """

    def __init__(
        self,
        cfg: config.ModelConfig,
        engine_cfg: engine.EngineConfig,
        how: sampling.Sampling,
        stop_ids: tuple[int, ...],
        mesh: jax.sharding.Mesh,
    ):
        self.config = engine_cfg
        self._programs = engine.programs(cfg, engine_cfg, how, stop_ids, mesh)
        self._slots = None
        self._weights = None
        self._run_key = None
        self.cache_bytes = (
            kv.bytes_per_token(cfg, engine_cfg.dtype) * engine_cfg.slots * engine_cfg.capacity
        )

    def begin(self, params: dict, run_key: jax.Array) -> None:
        """Take the weights of this phase and an identity for its randomness; free all rows."""
        self._weights = self._programs.adopt(params)
        self._run_key = run_key
        if self._slots is None:
            self._slots = self._programs.empty()

    def reset(self) -> None:
        """Forget all rows, also those still decoding (after a phase was cut short)."""
        self._slots = self._programs.empty()

    def end(self) -> None:
        """Give the device memory back, so that the train step can have it."""
        self._slots = self._weights = None

    def warm_up(self, params: dict) -> None:
        """Compile every program now, so that a later compile can only be a mistake."""
        self.begin(params, jax.random.key(0))
        nobody = self.config.slots
        for bucket in self.config.prefill_buckets:
            chunk = scheduler.Chunk(nobody, 0, (0,), last=False)
            self.prefill(scheduler.Round(bucket, (chunk,)), {})
        for length in self._share_lengths():
            self.share(0, [], length, {})
        self.decode()

    def prefill(self, plan: scheduler.Round, starts: dict[int, Start]) -> None:
        """Write one round of chunks; rows whose chunk is the last one start decoding."""
        P = self.config.prefill_rows
        tokens_PC = np.zeros((P, plan.bucket), np.int32)
        offsets_P, counts_P = np.zeros(P, np.int32), np.zeros(P, np.int32)
        for i, chunk in enumerate(plan.chunks):
            tokens_PC[i, : len(chunk.tokens)] = chunk.tokens
            offsets_P[i], counts_P[i] = chunk.start, len(chunk.tokens)
        arm = self._arm(
            [
                (c.slot, c.start + len(c.tokens), starts[c.slot] if c.last else None)
                for c in plan.chunks
            ]
        )
        self._slots = self._programs.prefill(
            self._weights, self._slots, tokens_PC, offsets_P, counts_P, arm, self._run_key
        )

    def share(
        self, source: int, targets: list[int], length: int, starts: dict[int, Start]
    ) -> None:
        """Give the first `length` tokens of slot `source` to the slots `targets`."""
        P = self.config.prefill_rows
        bucket = next(b for b in self._share_lengths() if b >= length)
        for i in range(0, max(len(targets), 1), P):
            arm = self._arm([(t, length, starts[t]) for t in targets[i : i + P]])
            sources_P = np.full(P, source, np.int32)
            self._slots = self._programs.share(
                self._slots, sources_P, arm, self._run_key, bucket
            )

    def decode(self) -> engine.Drained:
        """Dispatch one decode call and return at once with its (future) results."""
        self._slots, drained = self._programs.decode(self._weights, self._slots)
        return drained

    def _share_lengths(self):
        lengths = [b for b in self.config.prefill_buckets if b < self.config.capacity]
        return [*lengths, self.config.capacity]

    def _arm(self, rows: list[tuple[int, int, Start | None]]) -> engine.Arm:
        P = self.config.prefill_rows
        columns = {f.name: np.zeros(P, np.int32) for f in dataclasses.fields(engine.Arm)}
        columns["row_P"][:] = self.config.slots
        columns["problem_P"] = np.zeros(P, np.uint32)
        for i, (slot, length, start) in enumerate(rows):
            columns["row_P"][i] = slot
            if start is None:
                continue
            columns["on_P"][i] = 1
            columns["length_P"][i], columns["pending_P"][i] = length, start.pending
            columns["left_P"][i] = start.left
            columns["problem_P"][i], columns["sample_P"][i] = start.problem_uid, start.sample
        columns["on_P"] = columns["on_P"].astype(bool)
        return engine.Arm(**columns)
