"""The policy loss against reference numbers, by hand, and against junk outside the mask."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax import types
from aster_jax.model import logprobs
from aster_jax.rl import grpo
from tests import shared_data

CFG = grpo.GrpoConfig(
    clip_low=0.2, clip_high=0.28, dual_clip=10.0, tis_cap=0.0, on_policy=False, temperature=1.0
)
TOLERANCE = dict(rtol=0, atol=1e-6)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def oracle():
    return dict(np.load(shared_data.path("rl/grpo_oracle_small.npz")))


def oracle_loss(z, std, tis, new_logp=None):
    """The reference's normalisation: a token mean over the whole batch."""
    advantage = grpo.advantages(z["rewards"], z["group_ids"], std)[:, None] * z["mask"]
    weights = z["mask"] / z["mask"].sum()
    cfg = dataclasses.replace(CFG, tis_cap=2.0 if tis else 0.0)
    new_logp = z["new_logp"] if new_logp is None else new_logp
    arrays = [jnp.asarray(x) for x in (z["old_logp"], z["rollout_logp"], advantage, weights)]
    return grpo.policy_loss(new_logp, *arrays, cfg)


@pytest.mark.parametrize("std", [True, False])
def test_reference_advantages(std):
    z = oracle()
    got = grpo.advantages(z["rewards"], z["group_ids"], std)
    assert got.dtype == np.float64
    key = "adv_std" if std else "adv_nostd"
    np.testing.assert_allclose(got[:, None] * z["mask"], z[key], **TOLERANCE)


@pytest.mark.parametrize("tis", [True, False])
@pytest.mark.parametrize("std", [True, False])
def test_reference_losses_and_gradients(float64, std, tis):
    z = oracle()
    name = f"{'std' if std else 'nostd'}_{'tis' if tis else 'notis'}"
    (loss, _), grads = jax.value_and_grad(
        lambda new: oracle_loss(z, std, tis, new), has_aux=True
    )(jnp.asarray(z["new_logp"]))
    assert loss.dtype == jnp.float64
    np.testing.assert_allclose(loss, z[f"loss_{name}"], **TOLERANCE)
    np.testing.assert_allclose(grads, z[f"grad_{name}"], **TOLERANCE)
    assert not grads[z["mask"] == 0].any()


@pytest.mark.parametrize("std", [True, False])
def test_reference_diagnostics(float64, std):
    z = oracle()
    _, metrics = oracle_loss(z, std, tis=False)
    name = "std" if std else "nostd"
    np.testing.assert_allclose(metrics["clip_frac"], z[f"clipfrac_{name}"], **TOLERANCE)
    np.testing.assert_allclose(metrics["dual_clip_frac"], z[f"clipfrac_dual_{name}"], **TOLERANCE)
    np.testing.assert_allclose(metrics["ppo_kl"], z["ppo_kl"], **TOLERANCE)


def test_advantages_by_hand():
    # Rewards 1, 0, 0: mean 1/3, std with n - 1 is sqrt(1/3).
    got = grpo.advantages(np.array([1.0, 0, 0]), np.array([4, 4, 4]), True)
    root = (1 / 3) ** 0.5
    np.testing.assert_allclose(got, [2 / 3 / root, -1 / 3 / root, -1 / 3 / root], rtol=1e-5)
    plain = grpo.advantages(np.array([1.0, 0, 0]), np.array([4, 4, 4]), False)
    np.testing.assert_allclose(plain, [2 / 3, -1 / 3, -1 / 3], rtol=1e-12)


def test_uniform_groups_give_exactly_zero():
    rewards = np.array([0.1, 0.1, 0.1, 1, 1, 0, 0.7, 0.7, 0.7])
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    got = grpo.advantages(rewards, groups, True)
    assert not got[:3].any() and not got[6:].any()
    assert got[3:6].all()


def test_a_group_of_one_keeps_its_reward():
    rewards, groups = np.array([1.0, 0.0, 1.0, 0.0]), np.array([7, 3, 5, 5])
    np.testing.assert_allclose(grpo.advantages(rewards, groups, False), [1, 0, 0.5, -0.5])
    np.testing.assert_allclose(grpo.advantages(rewards, groups, True)[0], 1 / (1 + 1e-6))


def one_token(ratio, advantage, rollout_ratio=1.0, cfg=CFG):
    new, old = jnp.log(jnp.asarray([ratio])), jnp.zeros(1)
    rollout = -jnp.log(jnp.asarray([rollout_ratio]))
    loss, _ = grpo.policy_loss(new, old, rollout, jnp.asarray([advantage]), jnp.ones(1), cfg)
    return float(loss)


@pytest.mark.parametrize(
    "ratio, advantage, expected",
    [
        (1.1, 2.0, -2.2),  # inside the bounds
        (1.5, 2.0, -2.56),  # a good token gains no more above 1.28
        (0.5, 2.0, -1.0),  # and is pulled back without a bound
        (0.5, -1.0, 0.8),  # a bad token gains no more below 0.8
        (1.5, -1.0, 1.5),  # and is pushed down without a bound
        (25.0, -1.0, 10.0),  # until the dual clip
        (25.0, 1.0, -1.28),
    ],
)
def test_one_token_by_hand(ratio, advantage, expected):
    assert one_token(ratio, advantage) == pytest.approx(expected, rel=1e-5)


def test_importance_weight_is_capped_on_one_side():
    cfg = dataclasses.replace(CFG, tis_cap=2.0)
    assert one_token(1.0, 1.0, 5.0, cfg) == pytest.approx(-2.0, rel=1e-5)
    assert one_token(1.0, 1.0, 0.1, cfg) == pytest.approx(-0.1, rel=1e-5)
    assert one_token(1.0, 1.0, 5.0) == pytest.approx(-1.0, rel=1e-5)


@pytest.mark.parametrize("junk", [1e30, -1e30, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("tis_cap", [0.0, 2.0])
def test_what_stands_outside_the_mask_does_not_matter(junk, tis_cap):
    cfg = dataclasses.replace(CFG, tis_cap=tis_cap)
    weights = jnp.asarray([0.5, 0.0, 0.5])
    clean = [jnp.asarray(x) for x in ([-1.0, -1, -2], [-1.1, -1, -1.5], [-1.0, -1, -1.4])]
    dirty = [x.at[1].set(junk) for x in clean]
    advantage = jnp.asarray([1.0, 0.0, -1.0])

    def loss(new, old, rollout):
        return grpo.policy_loss(new, old, rollout, advantage, weights, cfg)

    (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(*clean)
    (junk_value, junk_metrics), junk_grad = jax.value_and_grad(loss, has_aux=True)(*dirty)
    assert float(value) == float(junk_value)
    np.testing.assert_array_equal(grad, junk_grad)
    assert jax.tree.map(float, metrics) == jax.tree.map(float, junk_metrics)


def test_log_ratios_are_bounded():
    new = jnp.asarray([500.0])
    arrays = (jnp.zeros(1), jnp.zeros(1), -jnp.ones(1), jnp.ones(1))
    (loss, metrics), grad = jax.value_and_grad(
        lambda x: grpo.policy_loss(x, *arrays, CFG), has_aux=True
    )(new)
    assert float(loss) == 10.0 and float(grad[0]) == 0.0
    assert float(metrics["ppo_kl"]) == -20.0


def pair(loss, ratios=(1.5, 0.9), advantage=1.0):
    """Loss and gradient by log-prob of one trajectory of two tokens, each at weight 1/2."""
    cfg = dataclasses.replace(CFG, loss=loss)

    def value(new):
        arrays = (jnp.zeros(2), jnp.zeros(2), jnp.full(2, advantage), jnp.full(2, 0.5))
        return grpo.policy_loss(new, *arrays, cfg)

    new = jnp.log(jnp.asarray(ratios))
    (loss, metrics), grad = jax.value_and_grad(value, has_aux=True)(new)
    return float(loss), np.asarray(grad), {k: float(v) for k, v in metrics.items()}


def test_clip_by_hand():
    loss, grad, metrics = pair("clip")
    assert loss == pytest.approx(-(1.28 + 0.9) / 2) and metrics["clip_frac"] == 0.5
    np.testing.assert_allclose(grad, [0, -0.45], rtol=1e-5)


def test_gspo_by_hand():
    """One ratio for both tokens, sqrt(1.5 x 0.9): inside the bounds though one token is not."""
    loss, grad, metrics = pair("gspo")
    root = (1.5 * 0.9) ** 0.5
    assert root < 1.28 and loss == pytest.approx(-root, rel=1e-5) and metrics["clip_frac"] == 0.0
    np.testing.assert_allclose(grad, [-root / 2] * 2, rtol=1e-5)  # s / |y| for each token
    loss, grad, metrics = pair("gspo", (1.5, 1.5))
    assert loss == pytest.approx(-1.28, rel=1e-5) and metrics["clip_frac"] == 1.0
    assert not grad.any()


def test_cispo_by_hand():
    """The weight of the first token is cut to 1.28 and its gradient stays."""
    loss, grad, metrics = pair("cispo")
    expected = -(1.28 * np.log(1.5) + 0.9 * np.log(0.9)) / 2
    assert loss == pytest.approx(expected, rel=1e-5) and metrics["clip_frac"] == 0.5
    np.testing.assert_allclose(grad, [-0.64, -0.45], rtol=1e-5)
    _, grad, _ = pair("cispo", (0.01, 1.0), advantage=-2.0)  # no bound below
    np.testing.assert_allclose(grad, [0.01, 1.0], rtol=1e-5)


def test_dr_grpo_is_clip_under_other_weights():
    assert pair("dr_grpo")[0] == pair("clip")[0]


@pytest.mark.parametrize("loss", grpo.LOSSES)
def test_trajectories_of_one_row_do_not_mix(loss):
    """Two in one row, or one in each of two."""
    cfg = dataclasses.replace(CFG, loss=loss, sequence_mask=0.2, tis_cap=2.0, token_mask=3.0)
    rng = np.random.default_rng(3)
    arrays = [rng.normal(-1, 0.4, 8).astype(np.float32) for _ in range(3)]
    arrays += [np.repeat([1.0, -1.0], 4), np.full(8, 0.1)]
    segments = np.repeat([1, 2], 4)
    one, found = grpo.policy_loss(*arrays, cfg, segments=segments)
    two, parted = grpo.policy_loss(*(x.reshape(2, 4) for x in arrays), cfg)
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    for name in found:
        assert float(found[name]) == pytest.approx(float(parted[name]), rel=1e-6), name


def test_kl_to_the_reference_by_hand():
    new, known = jnp.log(jnp.asarray([0.5, 0.2, 0.3])), jnp.log(jnp.asarray([0.25, 0.4, 0.3]))
    got = grpo.reference_kl(new, known, jnp.asarray([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(got, [0.5 - np.log(0.5) - 1, 2 - np.log(2) - 1, 0], rtol=1e-5)
    # Over all tokens that the policy might draw it is the true KL.
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    got = grpo.reference_kl(jnp.log(p), jnp.log(q), jnp.ones(3))
    assert float(jnp.sum(p * got)) == pytest.approx(float(np.sum(p * np.log(p / q))), rel=1e-5)


def test_terms_beside_the_policy_loss_are_added_under_the_weights(tiny, params):
    batch = small_batch()
    batch = batch.replace(reference_logprobs_BU=batch.old_logprobs_BU)
    plain, metrics = grpo.loss_fn(params, tiny, batch, CFG)
    cfg = dataclasses.replace(CFG, kl_coef=0.5, entropy_coef=0.25)
    loss, more = grpo.loss_fn(params, tiny, batch, cfg)
    logp, entropy = logprobs.token_logprobs(
        params, tiny, batch.tokens_BT, batch.positions_BT, batch.segments_BT
    )
    kl = grpo.reference_kl(logp, batch.reference_logprobs_BU, batch.weights_BU)
    expected = plain + jnp.sum(batch.weights_BU * (0.5 * kl - 0.25 * entropy))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert set(more) - set(metrics) == {"reference_kl"}


def test_on_policy_has_ratio_one_and_the_policy_gradient(tiny, params):
    batch = small_batch()
    on = dataclasses.replace(CFG, on_policy=True)
    loss_fn = functools.partial(grpo.loss_fn, grpo=on)
    run = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), static_argnums=1)
    (loss, metrics), grads = run(params, tiny, batch)
    expected = -np.sum(batch.weights_BU * batch.advantages_BU)
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert float(metrics["clip_frac"]) == float(metrics["ppo_kl"]) == 0.0

    def reinforce(p):
        logp, _ = logprobs.token_logprobs(
            p, tiny, batch.tokens_BT, batch.positions_BT, batch.segments_BT
        )
        return -jnp.sum(batch.weights_BU * batch.advantages_BU * logp)

    expected = jax.jit(jax.grad(reinforce))(params)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * (float(jnp.abs(b).max()) + 1e-3))


def small_batch():
    rng = np.random.default_rng(0)
    shape = (2, 8)
    weights = np.asarray(rng.random(shape) < 0.6, np.float32) / 10
    weights[:, 0] = 0
    logp = rng.normal(-2, 0.5, shape).astype(np.float32)
    return types.RlBatch(
        tokens_BT=rng.integers(0, 48, shape).astype(np.int32),
        positions_BT=np.tile(np.arange(8, dtype=np.int32), (2, 1)),
        segments_BT=np.ones(shape, np.int32),
        weights_BU=weights,
        advantages_BU=np.repeat(np.asarray([[1.5], [-0.5]], np.float32), 8, axis=1),
        old_logprobs_BU=logp,
        rollout_logprobs_BU=logp,
    )


def test_logp_diff_by_hand():
    old, rollout = jnp.array([-1.0, -2.0, jnp.nan]), jnp.array([-1.5, -2.0, 0.0])
    found = grpo.logp_diff(old, rollout, jnp.array([0.25, 0.75, 0.0]))
    assert found == {"logp_diff_mean": 0.125, "logp_diff_max": 0.5}
