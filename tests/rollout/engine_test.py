"""The compiled programs: what they sample, that nothing else changes it, and their limits.

Two rules stand behind most tests. A trajectory is a function of its identity: not of the
slot, the neighbours, the steps per dispatch, prompt sharing or the devices. And what the
engine reports is what the trainer's own forward says about the same tokens.
"""

import dataclasses
import re

import jax
import numpy as np
import pytest

from aster_jax import mesh as meshes
from aster_jax.model import logprobs, transformer
from aster_jax.rollout import device, engine, sampling
from tests.rollout import drive

CAPACITY = 96
KEY = jax.random.key(11)
SAMPLED = sampling.Sampling()
GREEDY = sampling.Sampling(temperature=0.0)
# Lengths around the edges of the buckets (4, 8), which hold all but the newest token.
LENGTHS = (1, 2, 4, 5, 6, 8, 9, 10, 16, 17, 18, 25)


def sizes(slots, steps):
    return engine.EngineConfig(
        slots=slots,
        capacity=CAPACITY,
        page_tokens=8,
        pool_tokens=slots * CAPACITY,
        steps_per_dispatch=steps,
        prefill_rows=3,
        prefill_buckets=(4, 8),
        dtype="float32",
        attention="auto",
    )


@pytest.fixture(scope="module")
def build(tiny, one_device):
    """Engines by (slots, K, sampling, stop ids, mesh), made once each."""
    made = {}

    def get(slots, steps, how=SAMPLED, stop_ids=(), mesh=one_device):
        name = (slots, steps, how, stop_ids, mesh)
        if name not in made:
            made[name] = device.Device(tiny, sizes(slots, steps), how, stop_ids, mesh)
        return made[name]

    return get


@pytest.fixture(scope="module")
def requests():
    """Twelve prompts, the first three with a second member of their group."""
    found = [(p, 100 + i, 0) for i, p in enumerate(drive.prompts(LENGTHS, 48))]
    return found + [(p, uid, 1) for p, uid, _ in found[:3]]


@pytest.fixture(scope="module")
def reference(build, params, requests):
    """16 slots, 8 steps per dispatch, every prompt computed on its own."""
    return drive.play(build(16, 8), params, KEY, requests, left=20)


def trainer(params, cfg, tokens, temperature=1.0):
    """The trainer's log-prob of every token, for sequences of any length."""
    return score(params, cfg, tokens, temperature)[0]


def score(params, cfg, tokens, temperature=1.0):
    """The trainer's log-probs and entropies."""
    T = 48
    padded = np.zeros((1, T), np.int32)
    padded[0, : len(tokens)] = tokens
    segments = (np.arange(T) < len(tokens)).astype(np.int32)[None]
    positions = np.arange(T, dtype=np.int32)[None]
    both = logprobs.score(params, padded, positions, segments, cfg=cfg, temperature=temperature)
    return [np.asarray(x)[0, : len(tokens)] for x in both]


def test_reported_log_probs_and_entropies_are_the_trainers(tiny, params, requests, reference):
    worst = 0.0
    for (prompt, _, _), out in zip(requests, reference, strict=True):
        assert len(out.tokens) == len(out.logprobs) == len(out.entropies) == 20
        logp, entropy = score(params, tiny, prompt + out.tokens)
        worst = max(worst, np.abs(logp[len(prompt) :] - out.logprobs).max())
        np.testing.assert_allclose(out.entropies, entropy[len(prompt) :], atol=2e-5)
    assert worst < 2e-5


@pytest.mark.slow
def test_float64_sums_leave_less_between_sampling_and_the_trainer(tiny, requests, one_device):
    """Sums of 512 and 1,024 products, spread like a trained model's: mostly their rounding."""
    gaps = {}
    for accum in ("float32", "float64"):
        cfg = dataclasses.replace(tiny, d_model=512, d_ff=1024, accum_dtype=accum)
        wide = transformer.init_params(cfg, jax.random.key(7))
        wide["embed"]["w"] *= 5
        run = device.Device(cfg, sizes(16, 8), SAMPLED, (), one_device)
        outs = drive.play(run, wide, KEY, requests[:6], left=20)
        gaps[accum] = np.concatenate([
            trainer(wide, cfg, prompt + out.tokens)[len(prompt) :] - out.logprobs
            for (prompt, _, _), out in zip(requests, outs, strict=False)
        ])  # fmt: skip
    rms = {accum: float(np.sqrt((gap**2).mean())) for accum, gap in gaps.items()}
    assert 0 < rms["float64"] < 0.5 * rms["float32"], rms


@pytest.mark.parametrize(
    "slots, steps, share",
    [(1, 32, False), (1, 8, False), (3, 1, True), (3, 8, False), (16, 1, True), (16, 8, True), (16, 32, False)],
)
def test_trajectories_do_not_depend_on_the_schedule(
    build, params, requests, reference, slots, steps, share
):
    again = drive.play(build(slots, steps), params, KEY, requests, left=20, share_prompts=share)
    assert [p.tokens for p in again] == [p.tokens for p in reference]
    for a, b in zip(again, reference, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-5)


def test_the_same_phase_twice_is_bit_equal(build, params, requests, reference):
    again = drive.play(build(16, 8), params, KEY, requests, left=20)
    assert again == reference


def test_eight_devices_give_the_same_trajectories(
    build, params, requests, reference, eight_devices
):
    again = drive.play(build(16, 8, mesh=eight_devices), params, KEY, requests, left=20, share_prompts=True)
    assert [p.tokens for p in again] == [p.tokens for p in reference]


def test_group_members_and_phases_differ(build, params, requests, reference):
    for first, second in zip(reference[:3], reference[12:], strict=True):
        assert first.tokens != second.tokens
    other = drive.play(build(16, 8), params, jax.random.key(12), requests[:3], left=20)
    assert all(a.tokens != b.tokens for a, b in zip(other, reference, strict=False))


def test_tempered_log_probs_are_those_of_the_sampled_distribution(build, tiny, params):
    warm = build(3, 8, sampling.Sampling(temperature=0.7))
    prompt = drive.prompts([7], 48)[0]
    out = drive.play(warm, params, KEY, [(prompt, 1, 0)], left=12)[0]
    ids = prompt + out.tokens
    logp, entropy = score(params, tiny, ids, 0.7)
    np.testing.assert_allclose(out.logprobs, logp[7:], atol=3e-5)
    np.testing.assert_allclose(out.entropies, entropy[7:], atol=3e-5)


def test_greedy_takes_the_most_likely_token(build, tiny, params):
    prompt = drive.prompts([6], 48, seed=5)[0]
    out = drive.play(build(3, 8, GREEDY), params, KEY, [(prompt, 1, 0)], left=6)[0]
    ids = list(prompt)
    for token in out.tokens:
        every = [trainer(params, tiny, ids + [v])[-1] for v in (token, (token + 7) % 48, 3)]
        assert np.argmax(every) == 0 or every[0] == max(every)
        ids.append(token)


def test_a_row_ends_at_a_stop_id(build, params, requests, reference):
    stop = reference[5].tokens[11]
    stopping = build(16, 8, stop_ids=(stop, 47))
    again = drive.play(stopping, params, KEY, requests, left=20)
    assert again[5].stopped
    for a, b in zip(again, reference, strict=True):
        ends = [i for i, t in enumerate(b.tokens) if t in (stop, 47)]
        cut = ends[0] + 1 if ends else 20
        assert a.tokens == b.tokens[:cut] and a.stopped == bool(ends)


@pytest.mark.parametrize("left", [1, 7, 8, 9])
def test_a_row_ends_at_its_limit(build, params, requests, reference, left):
    again = drive.play(build(16, 8), params, KEY, requests[:4], left=left)
    assert [p.tokens for p in again] == [p.tokens[:left] for p in reference[:4]]
    assert not any(p.stopped for p in again)


def test_a_row_can_be_filled_to_the_last_position(build, tiny, params):
    """Prompt and sampled tokens fill the capacity exactly; the newest needs no entry."""
    prompt = drive.prompts([CAPACITY - 5], 48, seed=2)[0]
    outs = drive.play(build(3, 1), params, KEY, [(prompt, 5, 0), (prompt[:9], 6, 0)], left=5)
    assert len(outs[0].tokens) == 5
    ids = np.asarray([prompt + outs[0].tokens], np.int32)
    positions = np.arange(CAPACITY, dtype=np.int32)[None]
    logp, _ = logprobs.score(params, ids, positions, np.ones_like(ids), cfg=tiny)
    np.testing.assert_allclose(outs[0].logprobs, np.asarray(logp)[0, -5:], atol=2e-5)
    alone = drive.play(build(3, 1), params, KEY, [(prompt[:9], 6, 0)], left=5)
    assert alone[0].tokens == outs[1].tokens


# Result lengths around the bucket edges; a written chunk is one longer or one shorter.
RESULTS = (1, 3, 4, 5, 7, 8, 9, 2, 6, 12)


@pytest.mark.parametrize("turns", [1, 2, 10, 50])
def test_live_rows_continue_as_a_full_prefill_would(tiny, params, one_device, build, turns):
    """Greedy, token for token, with neighbours that are at other stages.

    At 50 turns every result length meets every position in a page of 8.
    """
    if turns > 10:
        roomy = dataclasses.replace(sizes(3, 8), capacity=600, pool_tokens=1800)
        greedy = device.Device(tiny, roomy, GREEDY, (), one_device)
    else:
        greedy = build(3, 8, GREEDY)
    prompt, neighbour = drive.prompts([5, 13], 48, seed=turns)
    results = drive.prompts((RESULTS * 5)[:turns] if turns > 2 else (8, 4)[:turns], 48, seed=9)
    greedy.begin(params, KEY)
    live, other = drive.Played(), drive.Played()
    starts = {0: device.Start(prompt[-1], 2, 1, 0), 2: device.Start(neighbour[-1], 40, 2, 0)}
    drive.write(greedy, [(0, 0, prompt[:-1]), (2, 0, neighbour[:-1])], starts)
    ids, sampled = list(prompt), 0
    for turn, result in enumerate(results):
        drive.drain(greedy, {0: live, 2: other})
        ids += live.tokens[sampled:]
        sampled = len(live.tokens)
        # The seam: the newest sampled token is not in the cache, so the chunk starts with it.
        at = len(ids) - 1
        ids += result
        left = 6 if turn == turns - 1 else 1 + turn % 3
        drive.write(greedy, [(0, at, ids[at:-1])], {0: device.Start(ids[-1], left, 1, 0)})
    drive.drain(greedy, {0: live, 2: other})
    greedy.reset()
    fresh = drive.Played()
    drive.write(greedy, [(1, 0, ids[:-1])], {1: device.Start(ids[-1], 6, 1, 0)})
    drive.drain(greedy, {1: fresh})
    greedy.end()
    assert live.tokens[sampled:] == fresh.tokens and len(fresh.tokens) == 6
    np.testing.assert_allclose(live.logprobs[sampled:], fresh.logprobs, atol=2e-5)
    assert len(other.tokens) == 40
    alone = drive.play(greedy, params, KEY, [(neighbour, 2, 0)], left=40)
    assert alone[0].tokens == other.tokens


def test_rows_that_wait_write_and_advance_nothing(build, params):
    greedy = build(3, 8, GREEDY)
    greedy.begin(params, KEY)
    waiting, running = drive.prompts([6, 6], 48, seed=3)
    starts = {0: device.Start(waiting[-1], 2, 1, 0), 1: device.Start(running[-1], 30, 2, 0)}
    drive.write(greedy, [(0, 0, waiting[:-1]), (1, 0, running[:-1])], starts)
    first, at = greedy.decode([0, 1, 2])
    assert first.count_A[np.asarray([at[slot] for slot in range(3)])].tolist() == [2, 8, 0]
    assert first.steps == 8
    mine = [greedy.pages.held(slot)[0] for slot in (0, 1)]
    before = jax.device_get((greedy._slots.length_B, greedy._slots.cache))
    greedy.decode([1, 0])
    after = jax.device_get((greedy._slots.length_B, greedy._slots.cache))
    assert after[0].tolist() == [before[0][0], before[0][1] + 8, before[0][2]]
    others = [p for p in range(before[1].pages) if p not in greedy.pages.held(1)]
    assert mine[0] in others
    for was, now in zip(jax.tree.leaves(before[1]), jax.tree.leaves(after[1]), strict=True):
        np.testing.assert_array_equal(was[others], now[others])
        assert (was != now).any()
    greedy.end()


def test_rows_of_like_length_lie_side_by_side(build, params):
    """And every row's tokens are still its own."""
    greedy = build(3, 8, GREEDY)
    ids = drive.prompts([30, 4, 17], 48, seed=5)
    greedy.begin(params, KEY)
    starts = {slot: device.Start(x[-1], 8, slot, 0) for slot, x in enumerate(ids)}
    drive.write(greedy, [(slot, 0, x[:-1]) for slot, x in enumerate(ids)], starts)
    drained, at = greedy.decode([0, 1, 2])
    assert sorted(at, key=at.get) == [1, 2, 0]
    tokens_AK = jax.device_get(drained).tokens_AK
    greedy.end()
    for slot, x in enumerate(ids):
        alone = drive.play(greedy, params, KEY, [(x, slot, 0)], left=8)[0]
        assert tokens_AK[at[slot]].tolist() == alone.tokens


def test_in_bfloat16_the_scales_stay_the_trainers(tiny, params, one_device):
    """Scales train in float32; as bfloat16 they would move in steps of 1/128."""
    bumpy = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 1.001 if path[-1].key == "scale" else x, params
    )
    half = dataclasses.replace(sizes(3, 8), dtype="bfloat16")
    run = device.Device(tiny, half, GREEDY, (), one_device)
    run.begin(bumpy, KEY)
    for path, x in jax.tree_util.tree_leaves_with_path(run._weights):
        is_scale = path[-1].key == "scale"
        assert x.dtype == ("float32" if is_scale else "bfloat16"), path
    names = [name for name, leaves in bumpy["layers"].items() if "scale" in leaves]
    assert len(names) >= 2
    for i, layer in enumerate(run._weights["layers"]):
        for name in names:
            np.testing.assert_array_equal(layer[name]["scale"], bumpy["layers"][name]["scale"][i])
    np.testing.assert_array_equal(run._weights["final_norm"]["scale"], bumpy["final_norm"]["scale"])
    run.end()
    asked = [(drive.prompts([6], 48)[0], 1, 0)]
    moved, plain = (drive.play(run, w, KEY, asked, left=8)[0] for w in (bumpy, params))
    assert moved.logprobs != plain.logprobs


def test_a_call_takes_the_fewest_rows_that_hold_its_writes():
    assert sizes(16, 8).write_rows(1) == (3,)
    for rows, shards, programs in ((16, 1, (1, 4, 16)), (8, 1, (2, 8)), (64, 2, (2, 8, 32)), (2, 8, (1,))):
        assert dataclasses.replace(sizes(16, 8), prefill_rows=rows).write_rows(shards) == programs


@pytest.fixture(scope="module")
def broad(tiny, one_device):
    """Prefill programs of 1, 4 and 16 rows; a row may be long."""
    cfg = dataclasses.replace(sizes(16, 8), prefill_rows=16, prefill_buckets=(8,))
    return device.Device(tiny, cfg, GREEDY, (), one_device)


@pytest.mark.parametrize("count, rows", [(1, 1), (2, 4), (4, 4), (5, 16)])
def test_what_a_row_holds_does_not_depend_on_the_rows_of_its_call(broad, params, count, rows):
    """Prompt and result written with `count` - 1 others, and with 15: the same keys and values,
    but for the rounding of sums in another order (1.4e-6 of keys around 1)."""
    prompt, result = drive.prompts([20, 7], 48, seed=4)
    held = []
    for together in (count, 16):
        broad.begin(params, KEY)
        starts = {slot: device.Start(0, 2, 1, slot) for slot in range(together)}
        taken = broad._fewest(list(starts), broad._write_rows)
        assert taken == (rows if together == count else 16)
        drive.write(broad, [(slot, 0, prompt) for slot in range(together)], starts)
        drive.write(broad, [(slot, 20, result) for slot in range(together)], starts)
        layers = jax.device_get(broad._slots.cache.layers)
        pages = broad.pages.held(0)
        held.append([x.keys[pages] for x in layers] + [x.values[pages] for x in layers])
        broad.end()
    assert max(np.abs(x).max() for x in held[0]) > 0.1
    for few, many in zip(*held, strict=True):
        np.testing.assert_allclose(few, many, atol=1e-5)


def test_nothing_compiles_after_the_warm_up(tiny, params, one_device):
    """Every length, row count and turn runs in the programs that were compiled at first."""
    fresh = device.Device(tiny, sizes(5, 4), SAMPLED, (47,), one_device)
    fresh.warm_up(params)
    jitted = [getattr(fresh._programs, f.name) for f in dataclasses.fields(fresh._programs)]
    before = [program._cache_size() for program in jitted]
    assert all(before)
    many = [(p, i, i % 3) for i, p in enumerate(drive.prompts(range(1, 30), 48))]
    drive.play(fresh, params, KEY, many, left=9)
    drive.play(fresh, jax.tree.map(lambda x: x + 1, params), KEY, many[::2] * 2, left=3, share_prompts=True)
    assert [program._cache_size() for program in jitted] == before


def test_the_slots_are_updated_in_place(build, params):
    small = build(3, 8, GREEDY)
    small.begin(params, KEY)
    old = small._slots
    drive.write(small, [(0, 0, [1, 2])], {0: device.Start(3, 2, 0, 0)})
    assert all(x.is_deleted() for x in jax.tree.leaves(old))
    lowered = small._programs.decode.lower(
        small._weights, small._slots, np.zeros(3, np.int32), np.zeros((3, 12), np.int32)
    )
    cached = sum(x.nbytes for x in jax.tree.leaves(small._slots.cache))
    assert lowered.compile().memory_analysis().alias_size_in_bytes >= cached
    assert small.cache_bytes == cached
    small.end()


def test_impossible_sizes_are_refused(tiny, eight_devices):
    with pytest.raises(ValueError, match=r"prefill_buckets=\(8, 4\) must be ascending"):
        dataclasses.replace(sizes(4, 1), prefill_buckets=(8, 4))
    with pytest.raises(ValueError, match="at least 1"):
        sizes(0, 1)
    with pytest.raises(ValueError, match="rollout.slots=6 must be a multiple of the 4"):
        device.Device(tiny, sizes(6, 1), SAMPLED, (), eight_devices)
    small = dataclasses.replace(sizes(4, 1), pool_tokens=95)
    with pytest.raises(ValueError, match="pool_tokens=95 gives each of 1 devices 11 pages of 8"):
        device.Device(tiny, small, SAMPLED, (), meshes.build(1, 1, 1, jax.devices()[:1]))


def test_no_collective_where_only_data_is_split(tiny, params):
    mesh = meshes.build(8, 1, 1, jax.devices()[:8])
    spread = device.Device(tiny, sizes(16, 4), SAMPLED, (47,), mesh)
    spread.begin(params, KEY)
    rows, table = np.zeros(16, np.int32), np.zeros((16, 12), np.int32)
    lowered = spread._programs.decode.lower(spread._weights, spread._slots, rows, table)
    wanted = r".*(?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+)\S*\(.*"
    found = re.findall(wanted, lowered.compile().as_text())
    assert found == []
    spread.end()


def test_the_part_of_a_process_gives_each_device_what_it_had():
    whole = engine.EngineConfig(64, 400, 4, 320 * 64, 4, 8, (16,), "float32", "auto")
    for count, devices in ((2, 8), (4, 4), (16, 16)):
        part = engine.part(whole, count)
        assert part.slots // (devices // count) == whole.slots // devices
        assert part.pool_pages(devices // count) == whole.pool_pages(devices)
        assert part.decode_rows(devices // count) == whole.decode_rows(devices)
        assert part.prefill_rows >= 1
