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
    entropies: list = dataclasses.field(default_factory=list)
    stopped: bool = False


def reach(engine, start, length):
    """Tokens in the cache when a row with this start has used up its limit."""
    return min(length + start.left, engine.config.capacity)


def write(engine, writes, starts):
    """Prefill (slot, start, tokens) writes and arm their rows; pages for all they may do."""
    for slot, at, tokens in writes:
        assert engine.pages.reserve(slot, reach(engine, starts[slot], at + len(tokens)))
    buckets = engine.config.prefill_buckets
    for plan in scheduler.chunk_rounds(writes, engine.prefill_rows, buckets, engine.pages.shard):
        engine.prefill(plan, starts)


def share(engine, leader, slots, length, starts):
    """Fork the first `length` tokens of one slot to others of its shard."""
    forks = []
    for slot in slots:
        tokens = reach(engine, starts[slot], length)
        copies = engine.pages.fork(leader, slot, length, tokens)
        forks.append(device.Fork(slot, length, tuple(copies)))
    engine.share(forks, starts)


def drain(engine, played):
    """Decode until no row is active; `played` maps slots to where their tokens go."""
    steps = 0
    while True:
        drained, rows = engine.decode(list(played))
        drained = jax.device_get(drained)
        if not drained.steps.max():
            return steps
        steps += int(drained.steps.max())
        for slot, out in played.items():
            row = rows[slot]
            n = int(drained.count_A[row])
            out.tokens += drained.tokens_AK[row, :n].tolist()
            out.logprobs += drained.logprobs_AK[row, :n].tolist()
            out.entropies += drained.entropies_AK[row, :n].tolist()
            out.stopped |= bool(drained.stopped_A[row])


def play(engine, params, key, requests, left, share_prompts=False):
    """Sample up to `left` tokens for every (prompt, problem uid, sample) request.

    Requests take turns on the slots there are. With `share_prompts` a prompt is computed
    once per admission and shard, and shared with the rows that have the same one.
    """
    engine.begin(params, key)
    table = scheduler.SlotTable(engine.config.slots, len(requests), engine.shards)
    done = {}
    while not table.done:
        admitted = table.admit()
        starts = {
            slot: device.Start(requests[i][0][-1], left, *requests[i][1:]) for slot, i in admitted
        }
        leaders, followers = {}, {}
        for slot, i in admitted:
            name = (engine.pages.shard(slot), tuple(requests[i][0]))
            leader = leaders.setdefault(name, slot) if share_prompts else slot
            if leader != slot:
                followers.setdefault((leader, len(requests[i][0]) - 1), []).append(slot)
        later = {s for slots in followers.values() for s in slots}
        writes = [(s, 0, list(requests[i][0][:-1])) for s, i in admitted if s not in later]
        write(engine, writes, starts)
        for (leader, length), slots in followers.items():
            share(engine, leader, slots, length, starts)
        played = {slot: Played() for slot, _ in admitted}
        drain(engine, played)
        for slot, i in admitted:
            done[i] = played[slot]
            table.release(slot)
            engine.pages.release(slot)
    engine.end()
    return [done[i] for i in range(len(requests))]


def prompts(lengths, vocab, seed=0):
    """Random prompts of the given lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n).tolist() for n in lengths]
