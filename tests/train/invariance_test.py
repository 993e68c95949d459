"""What training computes depends on the sequences alone: not on rows, microbatches or devices.

Losses and gradients in float32, of both losses at once, to 1e-5 of the largest of an array.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax import mesh as meshes
from aster_jax import types
from aster_jax.data import packing, prefixes
from aster_jax.model import config, transformer
from aster_jax.rl import grpo
from aster_jax.sft import loss

ROWS, LENGTH, SEQUENCES = 8, 16, 16
# Ids by what they stand for: what counts, the masked end of a sequence, padding.
COUNTED, TAIL, PADDING = range(40), range(40, 44), range(44, 48)
POLICY = functools.partial(
    grpo.loss_fn, grpo=grpo.GrpoConfig(0.2, 0.28, 10.0, 2.0, on_policy=False, temperature=1.0)
)
CASES = (
    # data x fsdp x tensor, context
    ((8, 1, 1), 1, {}),
    pytest.param((1, 8, 1), 1, {"tie_embeddings": False}, marks=pytest.mark.slow),
    ((1, 1, 8), 1, {}),
    ((2, 2, 2), 1, {"remat": True}),
    pytest.param((1, 4, 1), 2, {"tie_embeddings": False, "remat": True}, marks=pytest.mark.slow),
    ((1, 2, 2), 2, {}),
    pytest.param((2, 1, 1), 4, {"tie_embeddings": False}, marks=pytest.mark.slow),
    ((1, 1, 2), 4, {"remat": True}),
)


@pytest.fixture(scope="module")
def wide(tiny) -> config.ModelConfig:
    """Heads for eight devices, and fewer key/value heads than that."""
    return dataclasses.replace(tiny, num_heads=8)


@functools.cache
def sequences() -> list[dict]:
    """Of 4 to 8 tokens, two at the end and some others masked, with all that the losses read."""
    rng = np.random.default_rng(5)
    made = []
    for _ in range(SEQUENCES):
        length = int(rng.integers(2, 7))
        weights = rng.random(length + 2) * (rng.random(length + 2) < 0.8)
        weights[[0, -2, -1]] = 0
        noise = rng.normal(size=(3, length + 2))
        made.append({
            "tokens": [*rng.choice(COUNTED, length), *rng.choice(TAIL, 2)],
            "weights": weights / SEQUENCES, "advantages": noise[0],
            "logprobs": noise[1] - 4, "old": noise[1] - 4 + 0.3 * noise[2],
        })  # fmt: skip
    return made


def microbatches(rows: list[list[int]]) -> list[tuple[types.SftBatch, types.RlBatch]]:
    """Rows of sequences by number, 8 at a time, the last filled up with empty ones."""
    count = -(-len(rows) // ROWS)
    laid = packing.layout(sequences(), rows, LENGTH)
    arrays, _ = packing.microbatches(laid, ROWS, count)
    rng = np.random.default_rng(6)
    padding = rng.choice(PADDING, arrays["tokens"].shape)
    tokens = np.where(arrays["segments"] > 0, arrays["tokens"], padding).astype(np.int32)
    given = {"positions_BT": arrays["positions"], "segments_BT": arrays["segments"]}
    weights = arrays["weights"].astype(np.float32)
    given["tokens_BT"] = tokens
    policy = {
        "weights_BU": weights,
        "advantages_BU": arrays["advantages"], "old_logprobs_BU": arrays["old"],
        "rollout_logprobs_BU": arrays["logprobs"],
    }  # fmt: skip
    policy = {name: x.astype(np.float32) for name, x in policy.items()}

    def at(i, some):
        return {name: x[i] for name, x in some.items()}

    return [
        (
            types.SftBatch(**at(i, given), weights_BT=weights[i]),
            types.RlBatch(**at(i, given), **at(i, policy)),
        )
        for i in range(count)
    ]


def both(params, cfg, sft, rl):
    """The sum of both losses, unevenly, and each of them."""
    one, _ = loss.loss_fn(params, cfg, sft)
    other, _ = POLICY(params, cfg, rl)
    return one + 0.7 * other, (one, other)


grad = jax.jit(jax.value_and_grad(both, has_aux=True), static_argnums=1)


def computed(params, cfg, rows, place=lambda batch: batch):
    """((SFT loss, RL loss), gradients) summed over microbatches."""
    found = []
    for batch in microbatches(rows):
        (_, losses), grads = grad(params, cfg, *place(batch))
        found.append((losses, grads))
    return jax.tree.map(lambda *parts: sum(np.asarray(x) for x in parts), *found)


@functools.cache
def params_of(cfg):
    made = jax.jit(transformer.init_params, static_argnums=0)(cfg, jax.random.key(7))
    return {**made, "embed": {"w": made["embed"]["w"] * 20.0}}


@functools.cache
def alone(cfg):
    """Every sequence in a row of its own, on one device."""
    return computed(params_of(cfg), cfg, [[i] for i in range(SEQUENCES)])


def assert_same(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()), rtol=0)


def pairs(order) -> list[list[int]]:
    """Rows of two sequences each."""
    return [list(map(int, order[i : i + 2])) for i in range(0, SEQUENCES, 2)]


def test_rows_and_microbatches_change_nothing(wide):
    params, expected = params_of(wide), alone(wide)
    assert abs(expected[0][0]) > 0.1 and abs(expected[0][1]) > 0.01
    packed = pairs(range(SEQUENCES))
    assert_same(computed(params, wide, packed), expected)
    assert_same(computed(params, wide, packed[::-1]), expected)
    assert_same(computed(params, wide, pairs(np.random.default_rng(1).permutation(16))), expected)
    # Split 3 and 5 rows, with empty ones in their place.
    split = [computed(params, wide, rows) for rows in (packed[:3], packed[3:])]
    assert_same(jax.tree.map(lambda a, b: a + b, *split), expected)


@pytest.mark.parametrize("shape, context, changes", CASES, ids=str)
def test_no_mesh_changes_loss_or_gradients(wide, shape, context, changes):
    """With rows in another order, remat, and a table of its own for the scores."""
    cfg = dataclasses.replace(wide, **changes)
    plain = dataclasses.replace(cfg, remat=False)
    mesh = meshes.build(*shape, context=context)
    params = params_of(plain)
    placed = jax.device_put(params, meshes.shardings(params, mesh))
    got = computed(
        placed, meshes.lay_out(cfg, mesh), pairs(range(SEQUENCES))[::-1],
        lambda batch: meshes.put_rows(batch, mesh, axis=0),
    )  # fmt: skip
    assert_same(got, alone(plain))
    if not cfg.tie_embeddings:  # what stands in padding, or behind all that counts, is not felt
        felt = np.abs(got[1]["embed"]["w"]).max(axis=1)
        assert (felt[[*PADDING, *TAIL]] == 0).all() and (felt[list(COUNTED)] > 0).sum() > 25


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_tokens_that_sequences_share_are_computed_once_on_any_mesh(wide, shape):
    """Each sequence and one that differs from it in its last three tokens, in one row."""
    twins = []
    for s, other in zip(sequences(), sequences()[::-1], strict=True):
        twins += [s, {**s, "tokens": [*s["tokens"][:-3], *other["tokens"][-3:]]}]
    twins = twins[:ROWS * 2]

    def batch(layout):
        rows = [sorted(pair, key=lambda i: twins[i]["tokens"]) for pair in zip(*[iter(range(ROWS * 2))] * 2)]
        arrays = layout(twins, rows, LENGTH)
        names = {"advantages": "advantages", "weights": "weights", "old_logprobs": "old",
                 "rollout_logprobs": "logprobs", "places": "places", "members": "members"}  # fmt: skip
        fields = {f"{name}_BU": arrays[own] for name, own in names.items() if own in arrays}
        fields |= {f"{name}_BT": arrays[name] for name in ("tokens", "segments", "positions")}
        fields |= {"until_BT": arrays["until"]} if "until" in arrays else {}
        return types.RlBatch(**fields)

    policy = jax.jit(jax.value_and_grad(POLICY, has_aux=True), static_argnums=1)
    params, mesh = params_of(wide), meshes.build(*shape, devices=jax.devices()[: np.prod(shape)])
    (expected, _), gradients = policy(params, wide, batch(packing.layout))
    placed = jax.device_put(params, meshes.shardings(params, mesh))
    shared = batch(prefixes.layout)
    assert np.count_nonzero(shared.segments_BT) < np.count_nonzero(shared.members_BU)
    put = meshes.put_rows(shared, mesh, axis=0)
    (loss, _), found = policy(placed, meshes.lay_out(wide, mesh), put)
    assert_same((loss, found), (expected, gradients))
