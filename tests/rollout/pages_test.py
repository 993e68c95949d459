"""Pages under many interleavings: no page with two writers, nothing lost, nothing twice."""

import collections
import random

from aster_jax.rollout import pages


def check(pool, lengths, shared):
    """Every page is free or held, and only whole prompt pages have more than one holder."""
    holders = collections.defaultdict(list)
    for slot in lengths:
        for place, page in enumerate(pool.held(slot)):
            holders[pool.shard(slot), page].append((slot, place))
    assert pool.used == len(holders)
    for who in holders.values():
        places = {place for _, place in who}
        assert len(who) == 1 or (len(places) == 1 and all(p < shared[s] for s, p in who))
    for slot, length in lengths.items():
        assert len(pool.held(slot)) * 4 >= length


def test_random_interleavings():
    rng = random.Random(0)
    for _ in range(300):
        shards = rng.choice((1, 2))
        pool = pages.Pages(8, rng.randint(4, 30), 4, shards)
        lengths, shared = {}, collections.defaultdict(int)
        for _ in range(60):
            slot, spare = rng.randrange(8), rng.randint(0, 2)
            was = pool.used
            if slot in lengths and rng.random() < 0.3:
                pool.release(slot)
                del lengths[slot]
                shared.pop(slot, None)
            elif slot in lengths or rng.random() < 0.4:
                tokens = max(lengths.get(slot, 0), rng.randint(1, 40))
                if pool.reserve(slot, tokens, spare):
                    lengths[slot] = tokens
                else:
                    assert pool.used == was
            else:
                near = [s for s in lengths if pool.shard(s) == pool.shard(slot)]
                if near:
                    source = rng.choice(near)
                    length = rng.randint(0, lengths[source])
                    tokens = length + rng.randint(0, 9)
                    copies = pool.fork(source, slot, length, tokens or 1, spare)
                    if copies is None:
                        assert pool.used == was
                    else:
                        assert len(copies) == (length % 4 > 0)
                        lengths[slot] = tokens
                        shared[slot] = length // 4
                        shared[source] = max(shared[source], length // 4)
            check(pool, lengths, shared)
        for slot in list(lengths):
            pool.release(slot)
        assert pool.used == 0


def test_memory_follows_the_live_tokens():
    """64 ragged rows of groups of 8, the prompt of each group counted once."""
    rng = random.Random(1)
    pool = pages.Pages(64, 10_000, 32)
    live = 0
    for group in range(8):
        prompt = rng.randint(100, 600)
        live += prompt
        for slot in range(group * 8, group * 8 + 8):
            length = rng.randint(max(200, prompt), 4000)
            live += length - prompt
            if slot % 8:
                assert pool.fork(group * 8, slot, prompt, prompt) is not None
            for tokens in range(prompt, length + 1):
                assert pool.reserve(slot, tokens)
    assert pool.used * 32 <= 1.25 * live
