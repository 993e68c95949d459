"""Drives an engine by hand, without tools or text: what the tests of the engine play with."""

import dataclasses

import jax
import numpy as np

from aster_jax.rollout import device, scheduler


@dataclasses.dataclass
class Played:
    """What was sampled for one request."""

    tokens: list = dataclasses.field(default_factory=list)
    logprobs: list = dataclasses.field(default_factory=list)
    raw: list = dataclasses.field(default_factory=list)
    stopped: bool = False


def write(engine, writes, starts):
    """Prefill (slot, start, tokens) writes and arm their rows."""
    c = engine.config
    for plan in scheduler.chunk_rounds(writes, c.prefill_rows, c.prefill_buckets):
        engine.prefill(plan, starts)


def drain(engine, played):
    """Decode until no row is active; `played` maps slots to where their tokens go."""
    steps = 0
    while True:
        drained = jax.device_get(engine.decode())
        if not drained.steps:
            return steps
        steps += int(drained.steps)
        for slot, out in played.items():
            n = int(drained.count_B[slot])
            out.tokens += drained.tokens_BK[slot, :n].tolist()
            out.logprobs += drained.logprobs_BK[slot, :n].tolist()
            out.raw += drained.raw_logprobs_BK[slot, :n].tolist()
            out.stopped |= bool(drained.stopped_B[slot])


def play(engine, params, key, requests, left, share=False):
    """Sample up to `left` tokens for every (prompt, problem uid, sample) request.

    Requests take turns on the slots there are. With `share` a prompt is computed once per
    admission and copied to the rows that have the same one.
    """
    engine.begin(params, key)
    table = scheduler.SlotTable(engine.config.slots, len(requests))
    done = {}
    while not table.done:
        admitted = table.admit()
        starts = {
            slot: device.Start(requests[i][0][-1], left, *requests[i][1:]) for slot, i in admitted
        }
        leaders, followers = {}, {}
        for slot, i in admitted:
            leader = leaders.setdefault(tuple(requests[i][0]), slot) if share else slot
            if leader != slot:
                followers.setdefault((leader, len(requests[i][0]) - 1), []).append(slot)
        later = {s for slots in followers.values() for s in slots}
        writes = [(s, 0, list(requests[i][0][:-1])) for s, i in admitted if s not in later]
        write(engine, writes, starts)
        for (leader, length), slots in followers.items():
            engine.share(leader, slots, length, starts)
        played = {slot: Played() for slot, _ in admitted}
        drain(engine, played)
        for slot, i in admitted:
            done[i] = played[slot]
            table.release(slot)
    engine.end()
    return [done[i] for i in range(len(requests))]


def prompts(lengths, vocab, seed=0):
    """Random prompts of the given lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n).tolist() for n in lengths]
