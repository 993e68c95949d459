"""From scored trajectories to the batch: who is trained, what a token weighs, one gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax import types
from aster_jax.rl import batch, grpo


def trajectory(mask, end="answered", problem="p", sample=0, seed=0):
    rng = np.random.default_rng([seed, sample, len(mask)])
    n = len(mask)
    logp = np.where(mask, -rng.random(n), 0.0)
    return types.Trajectory(
        problem_id=problem,
        sample=sample,
        tokens=tuple(rng.integers(0, 48, n).tolist()),
        loss_mask=tuple(mask),
        logprobs=tuple(logp.tolist()),
        entropies=(0.0,) * n,
        spans=(types.Span("prompt", 0, n),),
        calls=(),
        end=end,
        final_text="",
    )


def scored(mask, reward=0.0, verdict="wrong", **more):
    return types.Scored(trajectory(mask, **more), reward, verdict)


@pytest.mark.parametrize(
    "end, verdict, truncated, expected",
    [
        ("answered", "wrong", "mask", True),
        ("answered", "answer_too_costly", "mask", True),
        ("answered", "verifier_timeout", "keep", False),
        ("answered", "verifier_error", "keep", False),
        ("infrastructure", "wrong", "keep", False),
        ("deadline", "wrong", "keep", False),
        ("token_budget", "wrong", "keep", True),
        ("token_budget", "wrong", "mask", False),
        ("turn_budget", "wrong", "mask", False),
        ("context_budget", "wrong", "mask", False),
        ("call_budget", "wrong", "mask", True),
        ("malformed", "wrong", "mask", True),
    ],
)
def test_who_takes_part(end, verdict, truncated, expected):
    assert batch.is_trained(scored([0, 1], end=end, verdict=verdict), truncated) is expected


def test_token_weights_by_hand():
    # Group 7 wrote 2 + 4 tokens, group 3 wrote 1: a mean over groups of token means.
    chosen = [scored([0, 1, 1]), scored([0, 1]), scored([1, 1, 0, 1, 1])]
    groups = np.array([7, 3, 7])
    np.testing.assert_allclose(
        batch.token_weights(chosen, groups, "group"), [1 / 12, 1 / 2, 1 / 12]
    )
    np.testing.assert_allclose(batch.token_weights(chosen, groups, "batch"), [1 / 7] * 3)


def test_failures_of_ours_do_not_move_the_others():
    """A failed member neither counts in its group's mean nor in its tokens."""
    chosen = [
        scored([0, 1, 1], 1.0),
        scored([0, 1, 1], 0.0),
        scored([0, 1, 1], 0.0, end="infrastructure"),
        scored([0, 1], 1.0),
        scored([0, 1], 0.0),
        scored([0, 1], 0.0, end="deadline"),
        scored([0, 1], 0.0, verdict="verifier_timeout"),
    ]
    kept, groups, advantages = batch.prepare(
        chosen, np.array([0, 0, 0, 1, 1, 1, 1]), False, "keep"
    )
    weights = batch.token_weights(kept, groups, "group")
    assert kept == [chosen[0], chosen[1], chosen[3], chosen[4]]
    assert groups.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(advantages, [0.5, -0.5, 0.5, -0.5])
    np.testing.assert_allclose(weights, [1 / 8, 1 / 8, 1 / 4, 1 / 4])


@pytest.mark.parametrize("lost, informative", [(4, True), (5, False), (7, False)])
def test_what_is_left_of_a_group_is_no_baseline(lost, informative):
    """A group of eight that lost most of its members is left out, whatever the others got."""
    members = [scored([0, 1], 1.0), *[scored([0, 1], 0.0)] * (7 - lost)]
    members += [scored([0, 1], end="infrastructure")] * lost
    whole = [scored([0, 1], 1.0), scored([0, 1], 0.0)]
    ids = np.array([0] * 8 + [1] * 2)
    kept, groups, advantages = batch.prepare(members + whole, ids, True, "keep")
    assert (0 in groups) is informative
    assert batch.short_groups(members + whole, ids, 0.5) == ([] if informative else [0])
    np.testing.assert_allclose(advantages[groups == 1], [0.5**0.5, -(0.5**0.5)], rtol=1e-5)
    # Not by a share of 0 either: one member cannot be compared with itself.
    assert batch.short_groups(members[:1] + members[-1:], np.array([0, 0]), 0.0) == [0]


def test_the_estimate_stays_unbiased_when_members_are_lost():
    """Of a policy that is right at p = 0.9, advantages of a group add up to 0 on average."""
    rng = np.random.default_rng(0)
    for lost in (0.0, 0.3, 0.6, 0.8):
        sums = []
        for _ in range(400):
            members = [
                scored([0, 1], float(rng.random() < 0.9), end="deadline" if rng.random() < lost else "answered")
                for _ in range(8)
            ]
            sums.append(batch.prepare(members, np.zeros(8, int), True, "keep")[2].sum())
        assert abs(np.mean(sums)) < 1e-6


def test_a_member_that_a_budget_cut_stays_in_the_baseline():
    """Its tokens are left out of the loss, its reward is not left out of the mean."""
    chosen = [scored([0, 1], 1.0), *[scored([0, 1], 0.0, end="token_budget")] * 7]
    kept, _, advantages = batch.prepare(chosen, np.zeros(8, int), False, "mask")
    assert kept == chosen[:1]
    np.testing.assert_allclose(advantages, [7 / 8])
    kept, _, advantages = batch.prepare(chosen, np.zeros(8, int), False, "keep")
    np.testing.assert_allclose(advantages, [7 / 8, *[-1 / 8] * 7])


@pytest.mark.parametrize("end", ["infrastructure", "deadline", "token_budget"])
def test_nothing_to_train_on_is_nothing(end):
    kept, groups, advantages = batch.prepare([scored([0, 1], end=end)] * 4, np.zeros(4, int), True, "mask")
    assert kept == [] and len(groups) == len(advantages) == 0


def test_build_by_hand():
    chosen = [scored([0, 1, 1]), scored([0, 1]), scored([0, 0, 1, 1])]
    advantages, weights = np.array([1.0, 0.0, -2.0]), np.array([0.25, 0.5, 0.125])
    made, used = batch.build(chosen, advantages, weights, 8, 2, 3)
    assert used == 1 and made.tokens_BT.shape == (3, 2, 8)
    long, short = chosen[2].trajectory, chosen[0].trajectory
    row = {f.name: getattr(made, f.name)[0, 0] for f in dataclasses.fields(made)}
    assert row["tokens_BT"].tolist() == [*long.tokens, *short.tokens, 0]
    assert row["segments_BT"].tolist() == [1] * 4 + [2] * 3 + [0]
    assert row["positions_BT"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    np.testing.assert_allclose(row["weights_BT"], [0, 0, 0.125, 0.125, 0, 0.25, 0.25, 0])
    np.testing.assert_allclose(row["advantages_BT"], [0, 0, -2, -2, 0, 1, 1, 0])
    logp = [*long.logprobs, *short.logprobs, 0]
    np.testing.assert_allclose(row["rollout_logprobs_BT"], logp, rtol=1e-6)
    np.testing.assert_allclose(row["old_logprobs_BT"], logp, rtol=1e-6)
    assert not made.weights_BT[1:].any() and not made.weights_BT[0, 1].any()


def test_a_batch_without_advantage_is_empty_but_whole():
    made, used = batch.build([scored([0, 1])] * 2, np.zeros(2), np.full(2, 0.5), 4, 1, 2)
    assert used == 1 and not made.weights_BT.any() and made.tokens_BT.shape == (2, 1, 4)


def gradient(tiny, params, built, used, cfg):
    loss_fn = jax.jit(
        jax.value_and_grad(functools.partial(grpo.loss_fn, grpo=cfg), has_aux=True),
        static_argnums=1,
    )
    total, metrics = None, 0.0
    for i in range(used):
        (loss, _), grads = loss_fn(params, tiny, jax.tree.map(lambda x: x[i], built))
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
        metrics += float(loss)
    return metrics, total


def test_packing_order_and_dropping_of_rows_without_gradient_change_nothing(tiny, params):
    """The whole RL gradient: packed tightly, one per row, and in another order."""
    rng = np.random.default_rng(8)
    chosen, groups = [], []
    for g in range(3):
        for i in range(3):
            mask = [0, 0, *(rng.random(3 + g + i) < 0.7).astype(int), 1]
            reward = 1.0 if g == 1 else float(i == 0)  # group 1 is uniform
            chosen.append(scored(mask, reward, sample=3 * g + i))
            groups.append(g)
    cfg = grpo.GrpoConfig(0.2, 0.28, 10.0, 2.0, on_policy=False, temperature=1.0)

    def run(order, row_tokens, micro_rows, max_micro):
        prepared = batch.prepare(
            [chosen[i] for i in order], np.asarray(groups)[order], True, "keep"
        )
        kept, ids, advantages = prepared
        weights = batch.token_weights(kept, ids, "group")
        built, used = batch.build(kept, advantages, weights, row_tokens, micro_rows, max_micro)
        assert (built.tokens_BT.any(-1)).sum() < 9
        return gradient(tiny, params, built, used, cfg)

    loss, grads = run(np.arange(9), 24, 2, 4)
    other, regrads = run(np.array([4, 8, 1, 0, 7, 5, 3, 6, 2]), 12, 6, 1)
    assert loss == pytest.approx(other, rel=1e-4)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(regrads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * (float(jnp.abs(b).max()) + 1e-3))
