"""What one rollout changes, on a tiny model: real updates, steps without one, and why."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from aster_jax import config, policy, settings, types, workdir
from aster_jax import mesh as meshes
from aster_jax.rl import batch as batches
from aster_jax.rl import grpo, update
from aster_jax.train import optim, step


def trajectory(problem, sample, written, end="answered", seed=0):
    """Two given ids and `written` sampled ones."""
    rng = np.random.default_rng([seed, problem, sample])
    n = 2 + written
    return types.Trajectory(
        problem_id=f"p{problem}",
        sample=sample,
        tokens=tuple(rng.integers(0, 48, n).tolist()),
        loss_mask=(0, 0) + (1,) * written,
        logprobs=(0.0, 0.0) + (-1.0,) * written,
        entropies=(0.0,) * n,
        spans=(types.Span("prompt", 0, 2), types.Span("model", 2, n)),
        calls=(),
        end=end,
        final_text="",
    )


def rollout(rewards, ends=None):
    """Groups of four from a list of rewards."""
    ends = ["answered"] * len(rewards) if ends is None else ends
    return [
        types.Scored(trajectory(i // 4, i % 4, 3 + i % 3, end), r, "exact" if r else "wrong")
        for i, (r, end) in enumerate(zip(rewards, ends, strict=True))
    ]


@pytest.fixture(scope="module")
def setting(tmp_path_factory, one_device, tiny):
    """(run, policy, keys of a stage with two minibatches, optimiser, compiled step)."""
    c = config.default()
    c.name = "t"
    c.rl.group, c.rl.prompts, c.rl.minibatches = 4, 4, 2
    c.rl.row_tokens, c.rl.micro_rows, c.rl.learning_rate = 16, 2, 1e-2
    run = workdir.Run(c, tmp_path_factory.mktemp("run"), one_device)
    stage = config.rl_stage(c, "rl1")
    tx = optim.build(settings.optimiser(stage))
    loss_fn = functools.partial(grpo.loss_fn, grpo=settings.policy_loss(c, stage))
    abstract = step.abstract_state(tiny, tx, one_device)
    made = step.compile_step(abstract, tiny, loss_fn, tx, one_device)
    return run, policy.Policy(tiny, None, "chatml", None), stage, tx, made


def apply(setting, params, scored):
    run, speaks, stage, tx, train_step = setting
    state = step.fresh_state(jax.tree.map(lambda x: x + 0, params), tx, run.mesh)
    before = jax.tree.map(np.asarray, state.params)
    state, values, why_not = update.make(run, speaks, state, scored, train_step, stage, 1)
    changed = any(
        (np.asarray(a) != b).any()
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(before), strict=True)
    )
    return values, why_not, changed


def test_a_step_by_hand(setting, params):
    """Two of four groups differ in reward, one in each minibatch."""
    scored = rollout([1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0])
    values, why_not, changed = apply(setting, params, scored)
    assert changed and why_not == ""
    assert values["rl/updates"] == 2 and values["rl/steps_without_update"] == 0
    assert values["rl/informative_frac"] == 0.5 and values["rl/groups_short"] == 0
    written = [sum(s.trajectory.loss_mask) for s in scored]
    expected = (sum(written[:4]) + sum(written[12:])) / sum(written)
    assert values["rl/trained_tokens_frac"] == pytest.approx(expected)
    assert 0 <= values["rl/clip_frac"] <= 1 and values["rl/entropy"] > 0
    assert values["rl/grad_norm"] > 0 and values["rl/skipped_nonfinite"] == 0


def test_what_trajectories_share_is_computed_once_and_told(setting, tiny, params):
    """Groups that write alike up to their last token, with and without it; two passes as well."""
    run, speaks, stage, tx, train_step = setting
    scored = []
    for s in rollout([1, 0, 0, 0] * 4):
        t = s.trajectory
        alike = trajectory(int(t.problem_id[1:]), 0, len(t.tokens) - 2).tokens[:-1]
        t = dataclasses.replace(t, tokens=(*alike, t.tokens[-1]))
        scored.append(dataclasses.replace(s, trajectory=t))
    found = {}
    for share in (True, False):
        own = stage.copy_and_resolve_references()
        with own.unlocked():
            own.share_prefixes = share
        assert update.shares(tiny, run.mesh, own)[0] == share
        state = step.fresh_state(jax.tree.map(lambda x: x + 0, params), tx, run.mesh)
        state, values, _ = update.make(run, speaks, state, scored, train_step, own, 1)
        found[share] = values, state.params
    (shared, one), (alone, other) = found[True], found[False]
    assert 0.3 < shared.pop("rl/shared_frac") < 1 and "rl/shared_frac" not in alone
    for name, value in alone.items():
        if not name.endswith("_s"):
            assert shared[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(b).max())


def test_who_shares(setting, tiny, eight_devices):
    run, _, stage, _, _ = setting
    assert update.shares(tiny, eight_devices, stage)[0]
    cut = meshes.build(1, 4, 1, context=2)
    assert update.shares(tiny, cut, stage) == (False, "rows lie over several devices")


def test_where_every_group_agrees_nothing_changes_and_nothing_is_wrong(setting, params):
    values, why_not, changed = apply(setting, params, rollout([1] * 8 + [0] * 8))
    assert not changed and why_not == ""
    assert values["rl/steps_without_update"] == 1 and values["rl/unusable"] == 0
    assert values["rl/clip_frac"] == values["rl/ppo_kl"] == 0.0
    assert "rl/tis_frac" not in values
    assert values["rl/logp_diff_max"] > 0  # the model is not the one that wrote them


@pytest.mark.parametrize(
    "ends, reason",
    [
        (["infrastructure"] * 16, "16 of 16 trajectories were lost .the tool"),
        (["deadline"] * 9 + ["answered"] * 7, "9 of 16 trajectories were lost .a deadline"),
        (["infrastructure"] * 8 + ["deadline"] * 8, "lost .a deadline, the tool"),
    ],
)
def test_a_step_that_is_mostly_lost_makes_no_update(setting, params, ends, reason):
    values, why_not, changed = apply(setting, params, rollout([1, 0, 0, 0] * 4, ends))
    assert not changed
    assert re.search(reason, why_not), why_not
    assert values["rl/unusable"] == values["rl/steps_without_update"] == 1


def test_a_short_group_is_left_out_and_counted(setting, params):
    ends = ["infrastructure"] * 3 + ["answered"] * 13
    values, why_not, changed = apply(setting, params, rollout([0, 0, 0, 1] + [1, 0, 0, 0] * 3, ends))
    assert changed and not why_not
    assert values["rl/groups_short"] == 1 and values["rl/informative_frac"] == 0.75


def test_nothing_but_cut_trajectories_is_told_as_it_is(setting, params):
    run, speaks, stage, tx, train_step = setting
    masked = config.rl_stage(run.config, "rl1").copy_and_resolve_references()
    with masked.unlocked():
        masked.on_token_budget = "mask"
    scored = rollout([0] * 16, ["token_budget"] * 16)
    state = step.fresh_state(jax.tree.map(lambda x: x + 0, params), tx, run.mesh)
    _, values, why_not = update.make(run, speaks, state, scored, train_step, masked, 1)
    assert "every trajectory is masked, by its end (token_budget" in why_not
    assert values["rl/unusable"] == 1


def test_a_gradient_that_is_no_number_changes_nothing_and_is_counted(
    setting, params, monkeypatch
):
    build = batches.build

    def poisoned(*args):
        made, used = build(*args)
        return made.replace(advantages_BU=np.full_like(made.advantages_BU, np.nan)), used

    monkeypatch.setattr(batches, "build", poisoned)
    scored = rollout([1, 0, 0, 0] * 4)
    values, why_not, changed = apply(setting, params, scored)
    assert not changed and "not finite" in why_not
    assert values["rl/skipped_nonfinite"] == 2 and values["rl/updates"] == 0


@pytest.mark.parametrize(
    "changed, logged",
    [
        ({"loss": "gspo"}, ()),
        ({"loss": "cispo"}, ()),
        ({"loss": "dr_grpo"}, ()),
        ({"token_mask": 2.0, "tis_cap": 2.0, "sequence_mask": 0.01},
         ("tis_frac", "token_mask_frac", "sequence_mask_frac")),
        ({"kl_coef": 0.1, "entropy_coef": 0.01}, ("reference_kl",)),
        ({"on_token_budget": "soft", "mask_void": True}, ("overlong_mean", "void_masked_frac")),
        ({"updates": 3, "minibatches": 1}, ()),
    ],
)  # fmt: skip
def test_every_switch_makes_an_update_and_logs_what_it_does(setting, tiny, params, changed, logged):
    run, speaks, stage, tx, _ = setting
    stage = stage.copy_and_resolve_references()
    with stage.unlocked():
        stage.update(changed)
    loss_fn = functools.partial(grpo.loss_fn, grpo=settings.policy_loss(run.config, stage))
    abstract = step.abstract_state(tiny, tx, run.mesh)
    train_step = step.compile_step(abstract, tiny, loss_fn, tx, run.mesh)
    state = step.fresh_state(jax.tree.map(lambda x: x + 0, params), tx, run.mesh)
    scored = rollout([1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0])
    state, values, why_not = update.make(
        run, speaks, state, scored, train_step, stage, 1, reference=params
    )
    made = 3 if "updates" in changed else 2
    assert why_not == "" and (values["rl/updates"], int(state.step)) == (made, made)
    assert values["rl/skipped_nonfinite"] == 0
    # The model is not the one that wrote them, so that no trajectory passes the last mask.
    assert (values["rl/grad_norm"] > 0) == ("sequence_mask" not in changed)
    for name in logged:  # shares, but for the penalty (-1 to 0) and the KL, which has no bound
        assert abs(values[f"rl/{name}"]) <= (float("inf") if name == "reference_kl" else 1)
    assert ("rl/reference_kl" in values) == ("kl_coef" in changed)


def test_corrections_are_measured_where_no_update_is_made(setting, params):
    """The engine is said to have been sure (-1 nat); the model is not, so every mask would act."""
    run, speaks, stage, tx, train_step = setting
    stage = stage.copy_and_resolve_references()
    with stage.unlocked():
        stage.update({"token_mask": 2.0, "tis_cap": 2.0, "sequence_mask": 0.01})
    state = step.fresh_state(jax.tree.map(lambda x: x + 0, params), tx, run.mesh)
    scored = rollout([1] * 8 + [0] * 8)
    _, values, _ = update.make(run, speaks, state, scored, train_step, stage, 1)
    assert values["rl/updates"] == 0 and values["rl/sequence_mask_frac"] == 1.0
    assert 0 < values["rl/token_mask_frac"] <= 1 and 0 <= values["rl/tis_frac"] <= 1


def test_all_passes_over_a_rollout_compare_with_the_policy_that_made_it(setting, params):
    run, speaks, stage, tx, train_step = setting
    stage = stage.copy_and_resolve_references()
    with stage.unlocked():
        stage.updates = 3
    seen = []

    def spy(state, batch, used):
        seen.append(np.asarray(batch.old_logprobs_BU))
        return train_step(state, batch, used)

    state = step.fresh_state(jax.tree.map(lambda x: x + 0, params), tx, run.mesh)
    update.make(run, speaks, state, rollout([1, 0, 0, 0] * 4), spy, stage, 1)
    assert len(seen) == 6  # two minibatches, three times
    for first, *later in (seen[::2], seen[1::2]):
        assert all((first == other).all() for other in later) and first.any()


def test_terms_for_all_train_where_every_group_agrees(setting, tiny, params):
    """Without them such a step makes no update (above); the reference starts as the policy."""
    run, speaks, stage, tx, _ = setting
    stage = stage.copy_and_resolve_references()
    with stage.unlocked():
        stage.kl_coef, stage.minibatches = 1.0, 1
    loss_fn = functools.partial(grpo.loss_fn, grpo=settings.policy_loss(run.config, stage))
    train_step = step.compile_step(
        step.abstract_state(tiny, tx, run.mesh), tiny, loss_fn, tx, run.mesh
    )
    state = step.fresh_state(jax.tree.map(lambda x: x + 0, params), tx, run.mesh)
    _, values, _ = update.make(
        run, speaks, state, rollout([1] * 8 + [0] * 8), train_step, stage, 1, reference=params
    )
    assert values["rl/updates"] == 1 and values["rl/informative_frac"] == 0.0
    assert values["rl/reference_kl"] == pytest.approx(0.0, abs=1e-5)
    assert values["rl/grad_norm"] == pytest.approx(0.0, abs=1e-3)
