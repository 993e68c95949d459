"""What every contender of the rollout benchmark plays: the same tokens, turn for turn.

`make` draws prompts, turns and tool results; `play` runs them through our host loop and
device programs. The sampling work is done in full and its token then replaced by the
forced one, the markup by one that reads the forced turns, the tool by one that waits and
answers with the forced result.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import threading
import time
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np

from aster_jax import mesh as meshes
from aster_jax import tools, types
from aster_jax.rollout import device, engine, episode, live, sampling

STOP = 17  # ends a turn; not the model's own end token, at which peers stop
RUN_KEY_SEED = 7


@dataclasses.dataclass(frozen=True)
class Workload:
    """Arrays as `rollout_peers` describes them; delays_R are the tool's seconds per call."""

    prompt_ids: np.ndarray
    prompt_lengths: np.ndarray
    forced_ids: np.ndarray
    forced_lengths: np.ndarray
    result_ids: np.ndarray
    result_lengths: np.ndarray
    delays_R: np.ndarray

    @property
    def tokens(self) -> int:
        """Tokens that are sampled."""
        return int(self.forced_lengths.sum())

    def save(self, path) -> None:
        """As the .npz that peers read."""
        arrays = dataclasses.asdict(self)
        del arrays["delays_R"]
        np.savez(path, **arrays)


def make(prompt: int, turn_lengths_RT, result: int, delays_R=None, seed: int = 0) -> Workload:
    """Random ids: prompts of `prompt` tokens, turns of the given lengths, results of `result`."""
    rng = np.random.default_rng(seed)
    lengths_RT = np.asarray(turn_lengths_RT)
    R, T = lengths_RT.shape
    forced_RTN = rng.integers(100, 49_000, (R, T, lengths_RT.max()))
    np.put_along_axis(forced_RTN, lengths_RT[..., None] - 1, STOP, axis=2)
    return Workload(
        prompt_ids=rng.integers(100, 49_000, (R, prompt)).astype(np.int32),
        prompt_lengths=np.full(R, prompt, np.int32),
        forced_ids=forced_RTN.astype(np.int32),
        forced_lengths=lengths_RT.astype(np.int32),
        result_ids=rng.integers(100, 49_000, (R, T, result)).astype(np.int32),
        result_lengths=np.full((R, T), result, np.int32),
        delays_R=np.zeros(R) if delays_R is None else np.asarray(delays_R),
    )


class ForcedTool:
    """An executor that answers after the row's delay; the code says which row and turn it is."""

    def __init__(self, work: Workload):
        self._work = work

    def open(self, seed):
        return object()

    def close(self, session):
        pass

    def submit(self, session, code):
        future = concurrent.futures.Future()
        row, turn = json.loads(code)
        delay_s = float(self._work.delays_R[row])
        result = tools.ToolResult("ok", code + "\n", "kept", wall_s=delay_s)
        if not delay_s:
            future.set_result(result)
        else:
            timer = threading.Timer(delay_s, future.set_result, [result])
            timer.daemon = True
            timer.start()
        return future


def _markup(work: Workload):
    """Turns are known by their tokens: (row, turn) is the code, the next ids the result."""
    R, T = work.forced_lengths.shape
    which = {}
    for r in range(R):
        for t in range(T):
            which[tuple(work.forced_ids[r, t, : work.forced_lengths[r, t]].tolist())] = (r, t)

    def parse_turn(ids, tokenizer, style):
        row, turn = which[tuple(ids)]
        kind = "answer" if turn == T - 1 else "call"
        return python_types.SimpleNamespace(kind=kind, text="", code=json.dumps([row, turn]))

    def tool_ids(text, tokenizer, style):
        row, turn = json.loads(text)
        return work.result_ids[row, turn].tolist()

    return python_types.SimpleNamespace(
        parse_turn=parse_turn, tool_ids=tool_ids, cut=lambda text, tokenizer, limit: text
    )


def _forced_sample(work: Workload, requests):
    """`sampling.sample` whose token is replaced by the one forced at that position."""
    run_key = jax.random.key(RUN_KEY_SEED)
    R, T = work.forced_lengths.shape
    rows = []
    for r in range(R):
        row = work.prompt_ids[r].tolist()
        for t in range(T):
            row += work.forced_ids[r, t, : work.forced_lengths[r, t]].tolist()
            row += work.result_ids[r, t].tolist()
        rows.append(row)
    table_RS = np.zeros((R, max(map(len, rows))), np.int32)
    for r, row in enumerate(rows):
        table_RS[r, : len(row)] = row
    keys = [jax.random.fold_in(jax.random.fold_in(run_key, q.uid), q.sample) for q in requests]
    keys_RX = np.stack([np.asarray(jax.random.key_data(key)) for key in keys])
    real = sampling.sample

    def sample(scores_BV, keys_B, positions_B, how):
        _, logp_B, entropy_B = real(scores_BV, keys_B, positions_B, how)
        same_BR = jnp.all(jax.random.key_data(keys_B)[:, None] == keys_RX[None], axis=-1)
        token_B = jnp.asarray(table_RS)[jnp.argmax(same_BR, axis=1), positions_B]
        return token_B, logp_B, entropy_B

    return sample


class Reprefilling(episode.Rollout):
    """The same loop as a peer without live rows: after every tool result all is computed anew."""

    def _append_result(self, live, text):
        super()._append_result(live, text)
        self._rows.set_aside(live)


class Synchronous(episode.Rollout):
    """The same loop in batches: slots are refilled when the slowest row of the batch has ended."""

    def run(self, requests):
        slots = self._device.config.slots
        made = []
        for i in range(0, len(requests), slots):
            made += super().run(requests[i : i + slots])
        return made


@contextlib.contextmanager
def _replaced(module, **names):
    before = {name: getattr(module, name) for name in names}
    for name, value in names.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


class Stage:
    """Our engine set up for one workload; `play` may be called again and again.

    Args:
      model: from `weights.load`.
      work: what is played.
      slots, steps: rows at once, and tokens per dispatch.
      lockstep, ahead: schedule of the host loop.
      all_rows: decode every slot at every step, ended rows too, as fixed batches do.
    """

    def __init__(self, model, work, slots, steps=8, lockstep=True, ahead=0, all_rows=False):
        self._model, self._work, self._lockstep, self._ahead = model, work, lockstep, ahead
        R, T = work.forced_lengths.shape
        longest = work.prompt_ids.shape[1] + T * (work.forced_ids.shape[2] + work.result_ids.shape[2])
        capacity = -(-(longest + 1) // 64) * 64
        sizes = engine.EngineConfig(
            slots=slots, capacity=capacity, page_tokens=64, pool_tokens=slots * capacity,
            steps_per_dispatch=steps, prefill_rows=min(8, slots), prefill_buckets=(16, 64, 128),
            dtype="float32", attention="auto",
        )  # fmt: skip
        self._budgets = live.Budgets(
            turn_tokens=10_000, response_tokens=100_000, context_tokens=capacity,
            max_calls=T, tool_result_tokens=10_000, max_malformed=0,
            call_s=3600.0, trajectory_s=36_000.0, deadline_s=36_000.0,
        )  # fmt: skip
        self._requests = [
            live.Request(types.Problem(f"row {r}", "", "", ""), 0, tuple(work.prompt_ids[r].tolist()))
            for r in range(R)
        ]
        self._markup = _markup(work)
        fewest = slots if all_rows else engine.FEWEST_ROWS
        engine.programs.cache_clear()  # programs hold the forced tokens of another workload
        with (
            _replaced(sampling, sample=_forced_sample(work, self._requests)),
            _replaced(engine, FEWEST_ROWS=fewest),
        ):
            mesh = meshes.build(1, 1, 1, jax.devices()[:1])
            self._device = device.Device(model.config, sizes, sampling.Sampling(), (STOP,), mesh)
            self._device.warm_up(model.params)
        self._fewest = fewest

    def play(self, loop=episode.Rollout) -> collections.Counter:
        """One phase; its counters and `wall_s`, the hand-over of the weights included.

        Raises AssertionError if other tokens came out than were forced.
        """
        work = self._work
        began = time.perf_counter()
        self._device.begin(self._model.params, jax.random.key(RUN_KEY_SEED))
        with _replaced(episode, chat=self._markup), _replaced(engine, FEWEST_ROWS=self._fewest):
            phase = loop(
                self._device, ForcedTool(work), None, "", self._budgets, self._lockstep,
                self._ahead, 0,
            )  # fmt: skip
            made = phase.run(self._requests)
        phase.stats["wall_s"] = time.perf_counter() - began
        for r, t in enumerate(made):
            turns = [t.tokens[s.start : s.stop] for s in t.spans if s.kind == "model"]
            wanted = [
                tuple(work.forced_ids[r, i, : work.forced_lengths[r, i]].tolist())
                for i in range(work.forced_lengths.shape[1])
            ]
            assert turns == wanted and t.end == "answered", (r, t.end)
        assert phase.stats["compiles_after_warmup"] == 0
        return phase.stats
