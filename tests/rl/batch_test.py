"""From scored trajectories to the batch: who is trained, what a token weighs, one gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aster_jax import config, types
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


KEEP = batch.Rules()
PLAIN = batch.Rules(divide_by_std=False)
CUT = ("turn_budget", "token_budget", "context_budget")
MASK = batch.Rules(ends={"deadline": "drop", **dict.fromkeys(CUT, "mask")})


@pytest.mark.parametrize(
    "end, verdict, rules, expected",
    [
        ("answered", "wrong", MASK, True),
        ("answered", "answer_too_costly", MASK, True),
        ("answered", "verifier_timeout", KEEP, False),
        ("answered", "verifier_error", KEEP, False),
        ("infrastructure", "wrong", KEEP, False),
        ("deadline", "wrong", KEEP, False),
        ("token_budget", "wrong", KEEP, True),
        ("token_budget", "wrong", MASK, False),
        ("turn_budget", "wrong", MASK, False),
        ("context_budget", "wrong", MASK, False),
        ("call_budget", "wrong", MASK, True),
        ("malformed", "wrong", MASK, True),
        ("malformed", "wrong", batch.Rules(ends={"malformed": "mask"}), False),
        ("call_budget", "wrong", batch.Rules(ends={"call_budget": "drop"}), False),
        ("deadline", "wrong", batch.Rules(ends={"deadline": "keep"}), True),
        ("deadline", "verifier_error", batch.Rules(ends={"deadline": "keep"}), False),
        ("infrastructure", "wrong", batch.Rules(ends={"infrastructure": "keep"}), False),
    ],
)
def test_who_takes_part(end, verdict, rules, expected):
    assert batch.is_trained(scored([0, 1], end=end, verdict=verdict), rules) is expected


def test_what_is_masked_is_compared_and_what_is_dropped_is_not():
    cut = [scored([0, 1], 1.0), scored([0, 1]), scored([0, 1], end="call_budget")]
    for treatment, expected in (("keep", [2 / 3, -1 / 3, -1 / 3]), ("mask", [2 / 3, -1 / 3]),
                                ("drop", [1 / 2, -1 / 2])):  # fmt: skip
        rules = batch.Rules(divide_by_std=False, ends={"call_budget": treatment})
        np.testing.assert_allclose(batch.prepare(cut, np.zeros(3, int), rules)[2], expected)


def test_a_treatment_that_no_end_has_is_refused():
    with pytest.raises(ValueError, match="on_malformed='soft'; choose one of keep, mask, drop"):
        batch.Rules(ends={"malformed": "soft"})


@pytest.mark.parametrize(
    "written, expected", [(10, 0.0), (80, 0.0), (90, -0.5), (95, -0.75), (100, -1.0)]
)
def test_the_soft_punishment_by_hand(written, expected):
    """Of 100 tokens the last 20: eq. 13 of DAPO with L_max = 100 and L_cache = 20."""
    rules = batch.Rules(ends={"token_budget": "soft"}, budgets={"token_budget": 100})
    trajectory = scored([0] * 30 + [1] * written).trajectory
    assert batch.overlong(trajectory, rules) == pytest.approx(expected)


def test_of_several_soft_budgets_the_strictest_counts():
    mask = [0] * 4 + [1] * 6 + [0] * 2 + [1] * 8
    spans = [("prompt", 0, 4), ("model", 4, 10), ("tool", 10, 12), ("model", 12, 20)]
    t = dataclasses.replace(trajectory(mask), spans=tuple(types.Span(*s) for s in spans))

    def punished(**budgets):
        return batch.overlong(t, batch.Rules(budgets=budgets, overlong_share=0.5))

    assert punished(turn_budget=10) == pytest.approx(-3 / 5)  # 8 of 10, from 5 on
    assert punished(token_budget=20) == pytest.approx(-4 / 10)  # 14 of 20, from 10 on
    assert punished(context_budget=32) == pytest.approx(-4 / 16)  # 20 of 32, from 16 on
    assert punished(token_budget=20, context_budget=32, turn_budget=10) == pytest.approx(-3 / 5)
    assert punished() == 0.0


def test_the_soft_punishment_tells_two_right_answers_apart():
    rules = batch.Rules(divide_by_std=False, budgets={"token_budget": 10})
    chosen = [scored([1] * 4, 1.0), scored([1] * 9, 1.0)]
    np.testing.assert_allclose(batch.prepare(chosen, np.zeros(2, int), rules)[2], [0.25, -0.25])
    assert batch.agreeing_groups(chosen, np.zeros(2, int), rules) == [0]  # in their outcome


@pytest.mark.parametrize(
    "statuses, turns, end, verdict, expected",
    [
        (["ok", "error"], 3, "answered", "wrong", 0),
        (["ok", "malformed"], 3, "answered", "exact", 1),
        (["malformed"] * 3, 3, "malformed", "no_answer", 3),
        (["ok"], 2, "turn_budget", "no_answer", 1),
        (["ok"], 1, "context_budget", "no_answer", 0),  # a whole call, its result had no room
        (["ok"], 2, "answered", "no_answer", 1),
        ([], 1, "answered", "wrong", 0),
        (["ok"] * 2, 4, "call_budget", "no_answer", 0),  # called again, twice too often
        (["ok"], 2, "deadline", "no_answer", 0),
    ],
)
def test_void_turns_by_hand(statuses, turns, end, verdict, expected):
    assert types.void_turns(statuses, turns, end, verdict) == expected


def test_a_void_turn_masks_its_trajectory_only_when_asked():
    call = types.CallRecord("", "malformed", "", 0.0, 0.0)
    void = scored([0, 1])
    void = dataclasses.replace(void, trajectory=dataclasses.replace(void.trajectory, calls=(call,)))
    chosen = [scored([0, 1], 1.0), void]
    assert len(batch.prepare(chosen, np.zeros(2, int), PLAIN)[0]) == 2
    masked = dataclasses.replace(PLAIN, mask_void=True)
    kept, _, advantages = batch.prepare(chosen, np.zeros(2, int), masked)
    assert kept == chosen[:1] and advantages.tolist() == [0.5]


def test_token_weights_by_hand():
    # Group 7 wrote 2 + 4 tokens, group 3 wrote 1: a mean over groups of token means.
    chosen = [scored([0, 1, 1]), scored([0, 1]), scored([1, 1, 0, 1, 1])]
    groups = np.array([7, 3, 7])
    for normalise, expected in (
        ("group", [1 / 12, 1 / 2, 1 / 12]),
        ("batch", [1 / 7] * 3),
        ("sequence", [1 / 6, 1 / 3, 1 / 12]),
        ("constant", [1 / 30] * 3),
    ):
        rules = batch.Rules(normalise=normalise, longest=10)
        np.testing.assert_allclose(batch.token_weights(chosen, groups, rules), expected)


@pytest.mark.parametrize("normalise", batch.NORMALISERS)
def test_a_group_without_a_token_weighs_nothing(normalise):
    """A deadline can end trajectories before their first token; a weight is a number all the same."""
    chosen = [scored([0, 0]), scored([0, 0]), scored([0, 1]), scored([0, 1])]
    rules = batch.Rules(normalise=normalise, longest=10)
    for some in (chosen, chosen[:2]):
        groups = np.arange(len(some)) // 2
        assert np.isfinite(batch.token_weights(some, groups, rules)).all()


@pytest.mark.parametrize(
    "loss, normalise, by_std",
    [("clip", "group", True), ("cispo", "group", True), ("gspo", "sequence", True),
     ("dr_grpo", "constant", False)],
)  # fmt: skip
def test_what_a_loss_brings_with_it(loss, normalise, by_std):
    c = config.default()
    c.rl.loss = loss
    found = batch.rules(config.rl_stage(c, "rl1"))
    assert (found.normalise, found.divide_by_std) == (normalise, by_std)
    assert found.longest == c.rl1.response_tokens


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
    kept, groups, advantages = batch.prepare(chosen, np.array([0, 0, 0, 1, 1, 1, 1]), PLAIN)
    weights = batch.token_weights(kept, groups, PLAIN)
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
    kept, groups, advantages = batch.prepare(members + whole, ids, KEEP)
    assert (0 in groups) is informative
    assert batch.short_groups(members + whole, ids, KEEP) == ([] if informative else [0])
    np.testing.assert_allclose(advantages[groups == 1], [0.5**0.5, -(0.5**0.5)], rtol=1e-5)
    # Not by a share of 0 either: one member cannot be compared with itself.
    rules = batch.Rules(min_group=0.0)
    assert batch.short_groups(members[:1] + members[-1:], np.array([0, 0]), rules) == [0]
    assert batch.agreeing_groups(members[:1] + members[-1:], np.array([0, 0]), rules) == []


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
            sums.append(batch.prepare(members, np.zeros(8, int), KEEP)[2].sum())
        assert abs(np.mean(sums)) < 1e-6


def test_a_member_that_a_budget_cut_stays_in_the_baseline():
    """Its tokens are left out of the loss, its reward is not left out of the mean."""
    chosen = [scored([0, 1], 1.0), *[scored([0, 1], 0.0, end="token_budget")] * 7]
    kept, _, advantages = batch.prepare(
        chosen, np.zeros(8, int), dataclasses.replace(MASK, divide_by_std=False)
    )
    assert kept == chosen[:1]
    np.testing.assert_allclose(advantages, [7 / 8])
    kept, _, advantages = batch.prepare(chosen, np.zeros(8, int), PLAIN)
    np.testing.assert_allclose(advantages, [7 / 8, *[-1 / 8] * 7])


@pytest.mark.parametrize("end", ["infrastructure", "deadline", "token_budget"])
def test_nothing_to_train_on_is_nothing(end):
    kept, groups, advantages = batch.prepare([scored([0, 1], end=end)] * 4, np.zeros(4, int), MASK)
    assert kept == [] and len(groups) == len(advantages) == 0


def test_build_by_hand():
    chosen = [scored([0, 1, 1]), scored([0, 1]), scored([0, 0, 1, 1])]
    advantages, weights = np.array([1.0, 0.0, -2.0]), np.array([0.25, 0.5, 0.125])
    made, used = batch.build(chosen, advantages, weights, 8, 2, 3)
    assert used == 1 and made.tokens_BT.shape == (3, 2, 8)
    long, short = chosen[2].trajectory, chosen[0].trajectory
    assert made.reference_logprobs_BU is None
    arrays = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    row = {name: x[0, 0] for name, x in arrays.items() if x is not None}
    assert row["tokens_BT"].tolist() == [*long.tokens, *short.tokens, 0]
    assert row["segments_BT"].tolist() == [1] * 4 + [2] * 3 + [0]
    assert row["positions_BT"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    np.testing.assert_allclose(row["weights_BU"], [0, 0, 0.125, 0.125, 0, 0.25, 0.25, 0])
    np.testing.assert_allclose(row["advantages_BU"], [0, 0, -2, -2, 0, 1, 1, 0])
    logp = [*long.logprobs, *short.logprobs, 0]
    np.testing.assert_allclose(row["rollout_logprobs_BU"], logp, rtol=1e-6)
    np.testing.assert_allclose(row["old_logprobs_BU"], logp, rtol=1e-6)
    assert not made.weights_BU[1:].any() and not made.weights_BU[0, 1].any()


def test_a_batch_without_advantage_is_empty_but_whole():
    made, used = batch.build([scored([0, 1])] * 2, np.zeros(2), np.full(2, 0.5), 4, 1, 2)
    assert used == 1 and not made.weights_BU.any() and made.tokens_BT.shape == (2, 1, 4)


def test_everyone_stays_where_the_loss_has_terms_for_all():
    made, _ = batch.build([scored([0, 1])] * 2, np.zeros(2), np.full(2, 0.5), 4, 1, 2, everyone=True)
    assert (made.weights_BU > 0).sum() == 2 and not made.advantages_BU.any()


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
        kept, ids, advantages = batch.prepare(
            [chosen[i] for i in order], np.asarray(groups)[order], KEEP
        )
        weights = batch.token_weights(kept, ids, KEEP)
        built, used = batch.build(kept, advantages, weights, row_tokens, micro_rows, max_micro)
        assert (built.tokens_BT.any(-1)).sum() < 9
        return gradient(tiny, params, built, used, cfg)

    loss, grads = run(np.arange(9), 24, 2, 4)
    other, regrads = run(np.array([4, 8, 1, 0, 7, 5, 3, 6, 2]), 12, 6, 1)
    assert loss == pytest.approx(other, rel=1e-4)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(regrads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * (float(jnp.abs(b).max()) + 1e-3))


def alike(length):
    """Groups of four: one, one that parts from it half-way, one that parts from that, and the
    second again."""
    rng, made = np.random.default_rng(0), []
    for g in range(3):
        first, second, third = rng.integers(0, 48, (3, length)).tolist()
        second = first[: length // 2] + second[length // 2 :]
        third = second[: 3 * length // 4] + third[3 * length // 4 : -1]
        for i, tokens in enumerate((first, second, third, second)):
            mask = [0, 0, *(rng.random(len(tokens) - 3) < 0.7).astype(int), 1]
            t = trajectory(mask, sample=4 * g + i)
            t = dataclasses.replace(t, tokens=tuple(tokens))
            made.append(types.Scored(t, float(i < 2), "wrong"))
    return made


@pytest.mark.parametrize(
    "length, row_tokens, changed",
    [(150, 384, {}), (12, 40, {"loss": "gspo"}), (12, 40, {"sequence_mask": 0.5, "entropy_coef": 0.1})],
    ids=str,
)
def test_what_trajectories_share_is_computed_once_and_changes_nothing(
    tiny, params, length, row_tokens, changed
):
    """In blocks of attention and in short rows; with terms that speak of whole trajectories."""
    cfg = grpo.GrpoConfig(0.2, 0.28, 10.0, 2.0, on_policy=False, temperature=0.8, **changed)
    kept, ids, advantages = batch.prepare(alike(length), np.arange(12) // 4, KEEP)
    weights = batch.token_weights(kept, ids, KEEP)

    def run(share):
        built, used = batch.build(kept, advantages, weights, row_tokens, 1, 12, share=share)
        return gradient(tiny, params, built, used, cfg), np.count_nonzero(built.segments_BT)

    (loss, grads), tokens = run(False)
    (other, regrads), fewer = run(True)
    assert tokens == sum(len(s.trajectory.tokens) for s in kept) and fewer < 0.6 * tokens
    assert loss == pytest.approx(other, rel=1e-4)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(regrads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * (float(jnp.abs(b).max()) + 1e-3))
