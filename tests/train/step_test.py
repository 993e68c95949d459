"""The train step: golden numbers, and that neither microbatches nor devices change them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aster_jax import mesh as meshes
from aster_jax import types
from aster_jax.rl import grpo
from aster_jax.sft import loss
from aster_jax.train import optim, step

OPTIM = optim.OptimConfig(
    learning_rate=1e-2,
    warmup_steps=2,
    decay_steps=0,
    final_fraction=0.1,
    beta1=0.9,
    beta2=0.999,
    weight_decay=0.01,
    clip_norm=1.0,
)
TX = optim.build(OPTIM)
POLICY = functools.partial(
    grpo.loss_fn, grpo=grpo.GrpoConfig(0.2, 0.28, 10.0, 2.0, on_policy=False, temperature=1.0)
)
ROWS, LENGTH = 8, 12


def rows():
    """8 packed rows of two sequences each, some of their tokens weighted."""
    rng = np.random.default_rng(3)
    shape = (ROWS, LENGTH)
    segments = np.repeat([[1] * 7 + [2] * 4 + [0]], ROWS, axis=0)
    weights = (rng.random(shape) < 0.7) * (segments > 0)
    weights[:, [0, 7]] = 0
    return dict(
        tokens_BT=rng.integers(0, 48, shape).astype(np.int32),
        positions_BT=np.repeat([[*range(7), *range(4), 0]], ROWS, axis=0).astype(np.int32),
        segments_BT=segments.astype(np.int32),
        weights_BT=(weights / weights.sum()).astype(np.float32),
    )


def sft_batch(micro):
    split = {k: v.reshape(micro, ROWS // micro, LENGTH) for k, v in rows().items()}
    return types.SftBatch(**split)


def rl_batch(micro):
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(3, ROWS, LENGTH)).astype(np.float32)
    extra = dict(
        advantages_BU=noise[0], old_logprobs_BU=noise[1] - 4, rollout_logprobs_BU=noise[2] - 4
    )
    every = {**rows(), **extra}
    every["weights_BU"] = every.pop("weights_BT")
    return types.RlBatch(**{k: v.reshape(micro, ROWS // micro, LENGTH) for k, v in every.items()})


def fresh(params, mesh):
    return step.fresh_state(jax.tree.map(jnp.copy, params), TX, mesh)


def compiled(params, cfg, mesh, batch, loss_fn):
    """The step's program for this batch shape."""
    state = fresh(params, mesh)
    jitted = step.compile_step(state, cfg, loss_fn, TX, mesh)
    return jitted.lower(state, meshes.put_rows(batch, mesh), np.int32(1)).compile()


def steps(program, params, mesh, batch, count=1, used=None):
    """`count` steps on the same batch from the same start, and their metrics."""
    state, measured = fresh(params, mesh), []
    micro = jax.device_put(np.int32(used or len(batch.tokens_BT)), meshes.replicated(mesh))
    for _ in range(count):
        state, metrics = program(state, meshes.put_rows(batch, mesh), micro)
        measured.append(jax.tree.map(float, metrics))
    return state, measured


@pytest.fixture(scope="module")
def whole(tiny, params, one_device):
    """SFT with all rows in a single microbatch on one device."""
    return compiled(params, tiny, one_device, sft_batch(1), loss.loss_fn)


@pytest.fixture(scope="module")
def reference(whole, params, one_device):
    return steps(whole, params, one_device, sft_batch(1), 3)


GOLDEN = {
    "loss": [7.383313, 5.285808, 3.095432],
    "grad_norm": [7.320823, 5.510775, 4.007191],
    "entropy": [1.983899, 2.350253, 2.459934],
}


def test_golden_numbers(reference):
    """The whole of training in nine numbers."""
    state, measured = reference
    got = {name: [m[name] for m in measured] for name in GOLDEN}
    for name, expected in GOLDEN.items():
        assert got[name] == pytest.approx(expected, rel=2e-4), (
            f"the numbers of training changed: now {got}. If the change was meant (model, loss, "
            "initialisation or optimiser), say in its message why and put these numbers here; "
            "if not, results made before and after are not comparable"
        )
    assert int(state.step) == 3


def test_sft_does_not_depend_on_microbatches(tiny, params, one_device, reference):
    single = compiled(params, tiny, one_device, sft_batch(8), loss.loss_fn)
    _, measured = steps(single, params, one_device, sft_batch(8))
    assert measured[0] == pytest.approx(reference[1][0], rel=1e-4)
    # M is the compiled size; what lies beyond `num_micro` is never looked at.
    poisoned = jax.tree.map(lambda x: np.concatenate([x[:5], np.full_like(x[5:], 7)]), sft_batch(8))
    blank = jax.tree.map(lambda x: np.concatenate([x[:5], np.zeros_like(x[5:])]), sft_batch(8))
    _, short = steps(single, params, one_device, poisoned, used=5)
    _, padded = steps(single, params, one_device, blank, used=8)
    assert short[0] == pytest.approx(padded[0], rel=1e-6)
    assert short[0]["tokens"] < measured[0]["tokens"]


def test_rl_does_not_depend_on_microbatches(tiny, params, one_device):
    first = []
    for micro in (1, 4):
        program = compiled(params, tiny, one_device, rl_batch(micro), POLICY)
        first.append(steps(program, params, one_device, rl_batch(micro))[1][0])
    assert first[0] == pytest.approx(first[1], rel=1e-4, abs=1e-6)


def test_eight_devices_equal_one(tiny, params, eight_devices, reference):
    program = compiled(params, tiny, eight_devices, sft_batch(2), loss.loss_fn)
    state, measured = steps(program, params, eight_devices, sft_batch(2), 3)
    for got, expected in zip(measured, reference[1], strict=True):
        assert got == pytest.approx(expected, rel=2e-4)
    embed = state.params["embed"]["w"]
    assert {s.data.shape for s in embed.addressable_shards} == {(24, 16)}
    moment = next(s for s in state.opt_state if hasattr(s, "mu")).mu["layers"]["down"]["w"]
    assert {s.data.shape for s in moment.addressable_shards} == {(2, 24, 16)}


def test_eight_devices_give_the_same_rl_step(tiny, params, one_device, eight_devices):
    first = []
    for mesh in (one_device, eight_devices):
        program = compiled(params, tiny, mesh, rl_batch(2), POLICY)
        first.append(steps(program, params, mesh, rl_batch(2))[1][0])
    assert first[1] == pytest.approx(first[0], rel=2e-4, abs=1e-6)


def test_the_state_is_donated(whole, params, one_device):
    state = fresh(params, one_device)
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    assert whole.memory_analysis().alias_size_in_bytes >= size
    batch = meshes.put_rows(sft_batch(1), one_device)
    new, _ = whole(state, batch, jax.device_put(np.int32(1), meshes.replicated(one_device)))
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves(new))


def test_the_same_steps_twice_are_bit_equal(whole, params, one_device, reference):
    again, _ = steps(whole, params, one_device, sft_batch(1), 3)
    for a, b in zip(jax.tree.leaves(reference[0]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_merge_adds_and_keeps_maxima():
    assert step._merge({"a": 1.0, "b_max": 2.0}, {"a": 3.0, "b_max": 1.0}) == {"a": 4, "b_max": 2}


def unguarded(state, batch_M, num_micro, cfg):
    """A step as it would be without a look at whether its numbers are finite."""

    def add(i, total):
        batch = jax.tree.map(lambda x: x[i], batch_M)
        grads = jax.grad(lambda p: loss.loss_fn(p, cfg, batch)[0])(state.params)
        return jax.tree.map(jnp.add, total, grads)

    grads = jax.lax.fori_loop(0, num_micro, add, jax.tree.map(jnp.zeros_like, state.params))
    updates, opt_state = TX.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return step.TrainState(state.step + 1, params, opt_state)


def test_a_finite_step_has_the_bits_of_an_unguarded_one(tiny, whole, params, one_device):
    plain = jax.jit(functools.partial(unguarded, cfg=tiny), donate_argnums=0)
    state = fresh(params, one_device)
    for _ in range(3):
        state = plain(state, sft_batch(1), np.int32(1))
    guarded, measured = steps(whole, params, one_device, sft_batch(1), 3)
    assert_same_bits(guarded, state)
    assert [m["skipped_nonfinite"] for m in measured] == [0, 0, 0]


def bits(tree):
    return [np.array(x, copy=True) for x in jax.tree.leaves(tree)]


def assert_same_bits(one, other):
    for a, b in zip(bits(one), bits(other), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("bad", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow), 1e20])
def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(tiny, params, one_device, bad):
    """Also where the loss is finite and only the gradients' norm overflows (1e20)."""
    program = compiled(params, tiny, one_device, sft_batch(2), loss.loss_fn)
    used = jax.device_put(np.int32(2), meshes.replicated(one_device))
    good = meshes.put_rows(sft_batch(2), one_device)
    poisoned = sft_batch(2)
    poisoned.weights_BT[1, 2, 3] = bad
    poisoned = meshes.put_rows(poisoned, one_device)
    state, _ = program(fresh(params, one_device), good, used)
    before = bits(state)
    state, metrics = program(state, poisoned, used)
    for a, b in zip(before, bits(state), strict=True):
        assert a.tobytes() == b.tobytes()
    values = step.fetch(metrics, "sft", 2)
    assert values["sft/skipped_nonfinite"] == 1 and "sft/grad_norm" not in values
    assert ("sft/loss" in values) == (bad == 1e20)
    assert all(np.isfinite(v) for v in values.values()) and values["sft/param_norm"] > 0
    state, metrics = program(state, good, used)
    assert step.fetch(metrics, "sft", 3)["sft/skipped_nonfinite"] == 0
    never, _ = steps(program, params, one_device, sft_batch(2), 2)
    assert_same_bits(state, never)


def test_rl_skips_too_and_on_every_device(tiny, params, eight_devices):
    program = compiled(params, tiny, eight_devices, rl_batch(2), POLICY)
    poisoned = rl_batch(2)
    poisoned.advantages_BU[0, 3] = np.nan
    state, (measured,) = steps(program, params, eight_devices, poisoned)
    assert measured["skipped_nonfinite"] == 1 and int(state.step) == 0
    assert_same_bits(state, fresh(params, eight_devices))


def test_holding_on_to_the_old_state_costs_no_copy_of_it(tiny, one_device, whole, params):
    """Temporaries stay what the gradients and their sum need, whatever becomes of the step."""
    state = fresh(params, one_device)
    batch = meshes.put_rows(sft_batch(1), one_device)
    plain = jax.jit(functools.partial(unguarded, cfg=tiny), donate_argnums=0)
    without = plain.lower(state, batch, np.int32(1)).compile().memory_analysis()
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    grown = whole.memory_analysis().temp_size_in_bytes - without.temp_size_in_bytes
    assert grown < size / 4


def test_fetch_names_by_stage_and_leaves_out_what_is_not_finite():
    measured = {"loss": np.float32(1.5), "skipped_nonfinite": jnp.zeros(())}
    assert step.fetch(measured, "rl", 3) == {"rl/loss": 1.5, "rl/skipped_nonfinite": 0.0}
    measured = {"loss": jnp.asarray(-np.inf), "kl": np.nan, "skipped_nonfinite": jnp.ones(())}
    assert step.fetch(measured, "rl", 4) == {"rl/skipped_nonfinite": 1.0}


def test_initial_parameters_depend_on_the_seed_not_on_the_mesh(tiny, one_device, eight_devices):
    one, eight = (step.init_params(tiny, 3, m) for m in (one_device, eight_devices))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)
    other = step.init_params(tiny, 4, one_device)
    assert np.abs(np.asarray(one["embed"]["w"]) - np.asarray(other["embed"]["w"])).max() > 0.01
