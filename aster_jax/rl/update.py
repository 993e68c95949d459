"""What one rollout changes: advantages, batches, one optimiser step per minibatch and pass.

A step whose trajectories are mostly lost, or of which none can be trained on, makes no
update; a minibatch whose loss or gradient is not finite leaves the state as it was (the
test stands inside `train.step`). Both are counted and said, and neither ends the run.
"""

import time

import jax
import numpy as np

from aster_jax import mesh as meshes
from aster_jax import settings, together, types
from aster_jax.model import attention, logprobs
from aster_jax.rl import batch as batches
from aster_jax.rl import corrections, grpo
from aster_jax.train import step

TOKEN_MEANS = (
    "entropy", "clip_frac", "dual_clip_frac", "ppo_kl", "logp_diff_mean", "reference_kl",
    "tis_frac", "token_mask_frac", "sequence_mask_frac",
)  # fmt: skip


def make(
    run, policy, state, scored: list[types.Scored], train_step, c, at: int, reference=None
):
    """(state, metrics, why it could not be used or ""): the update of one step's rollout.

    `c` are the stage's keys, `at` the step's number; `reference` the parameters that the KL
    term compares with, needed where there is one. The members of a group stand side by side
    in `scored`.
    """
    began = time.monotonic()
    rules = batches.rules(c)
    group_ids = np.arange(len(scored)) // c.group
    kept, kept_ids, advantages = batches.prepare(scored, group_ids, rules)
    values = _groups(scored, group_ids, kept, kept_ids, advantages, rules)
    why_not = _why_not(scored, kept, c, rules)
    share = shares(policy.cfg, run.mesh, c)[0]
    built = []
    if not why_not:
        built = _minibatches(kept, kept_ids, advantages, c, rules, len(scored), share)
    if built and share:
        values["rl/shared_frac"] = _shared(batch for batch, _ in built)
    built = [(meshes.put_rows(batch, run.mesh), used) for batch, used in built]
    old_s = 0.0
    if c.minibatches * c.updates > 1 or c.kl_coef:
        built = [(_with_logprobs(run, policy, state, c, reference, *b), b[1]) for b in built]
        jax.block_until_ready(built)
        old_s = time.monotonic() - began
    measured = []
    for batch, used in c.updates * built:
        state, numbers = train_step(state, batch, used)
        measured.append(_per_token(step.fetch(numbers, "rl", at)))
    values |= _over_minibatches(measured)
    skipped = sum(int(m["rl/skipped_nonfinite"]) for m in measured)
    values["rl/skipped_nonfinite"] = skipped
    values["rl/updates"] = len(measured) - skipped
    if measured and skipped == len(measured):
        why_not = "its loss or its gradient was not finite"
    if not built:
        values |= {"rl/clip_frac": 0.0, "rl/dual_clip_frac": 0.0, "rl/ppo_kl": 0.0}
        if kept:
            values |= _mismatch(run, policy, state, kept, kept_ids, c, rules, len(scored), share)
    values["rl/steps_without_update"] = int(not values["rl/updates"])
    values["rl/unusable"] = int(bool(why_not))
    values |= {"old_logprobs_s": old_s, "update_s": time.monotonic() - began - old_s}
    return state, values, why_not


def shares(cfg, mesh, c) -> tuple[bool, str]:
    """Whether an update computes what trajectories have in common once, and why (not)."""
    if not c.share_prefixes:
        return False, "as configured"
    kernel = meshes.lay_out(cfg, mesh).training_attention
    if kernel not in attention.UNTIL:
        return False, f"the {kernel} kernel is told of segments alone"
    if mesh.shape["context"] > 1:
        return False, "rows lie over several devices"
    return True, "attention knows what segments share"


def _groups(scored, group_ids, kept, kept_ids, advantages, rules) -> dict[str, float]:
    """Shares of the step's groups and tokens that the update is made of.

    `informative_frac`: groups whose members differ in reward, the only ones with an
    advantage. `trained_tokens_frac`: the policy's tokens that carry one. `overlong_mean`: what
    soft budgets took from the rewards, `void_masked_frac`: trajectories left out for a void
    turn; both only where they are on.
    """
    groups = np.unique(group_ids)
    informative = {g for g, a in zip(kept_ids, advantages) if a != 0}
    trained = sum(sum(s.trajectory.loss_mask) for s, a in zip(kept, advantages) if a != 0)
    written = sum(sum(s.trajectory.loss_mask) for s in scored)
    found = {
        "rl/informative_frac": len(informative) / len(groups),
        "rl/trained_tokens_frac": trained / max(written, 1),
        "rl/groups_short": len(batches.short_groups(scored, group_ids, rules)),
    }
    if rules.budgets:
        penalties = [batches.overlong(s.trajectory, rules) for s in scored]
        found["rl/overlong_mean"] = float(np.mean(penalties))
    if rules.mask_void:
        found["rl/void_masked_frac"] = float(np.mean([batches.has_void_turn(s) for s in scored]))
    return found


def _shared(built) -> float:
    """The share of trained trajectories' tokens that others have computed for them."""
    pairs = [(np.count_nonzero(b.segments_BT), np.count_nonzero(b.members_BU)) for b in built]
    computed, all_of_them = map(sum, zip(*pairs))
    return 1 - computed / all_of_them


def _why_not(scored, kept, c, rules) -> str:
    """Why a step can make no update, "" if it can."""
    lost = [s for s in scored if not batches.is_counted(s, rules)]
    if len(scored) - len(lost) < c.min_step * len(scored) or len(lost) == len(scored):
        ends = sorted({_lost_to(s) for s in lost})
        return f"{len(lost)} of {len(scored)} trajectories were lost ({', '.join(ends)})"
    if not kept:
        if lost:
            return "in no group enough trajectories are left that can be trained on"
        ends = ", ".join(sorted({s.trajectory.end for s in scored}))
        return f"every trajectory is masked, by its end ({ends}; rl.on_...) or for a void turn"
    return ""


def _lost_to(scored) -> str:
    end, verdict = scored.trajectory.end, scored.verdict
    named = {"infrastructure": "the tool", "deadline": "a deadline"}
    return named[end] if end in named else verdict if verdict.startswith("verifier_") else end


def _minibatches(kept, kept_ids, advantages, c, rules, total, share):
    """(batch, microbatches in use) for every minibatch with a gradient.

    Where every group agrees there is none, and Adam must not drift without one. Terms of the
    loss beside the advantages always have one.
    """
    everyone = c.kl_coef > 0 or c.entropy_coef > 0
    per_mini = total // c.group // c.minibatches
    max_micro = -(-per_mini * c.group // c.micro_rows)
    built = []
    for mini in range(c.minibatches):
        members = np.flatnonzero(kept_ids // per_mini == mini)
        if not len(members) or not (everyone or np.any(advantages[members])):
            continue
        chosen = [kept[i] for i in members]
        weights = batches.token_weights(chosen, kept_ids[members], rules)
        sizes = c.row_tokens, c.micro_rows, max_micro
        built.append(batches.build(chosen, advantages[members], weights, *sizes, everyone, share))
    return built


def _mismatch(run, policy, state, kept, kept_ids, c, rules, total, share) -> dict:
    """How far rollout and trainer log-probs are apart in a step that makes no update, and how
    many tokens the corrections would have touched.

    Over all its trajectories; an update measures the ones that it trains on.
    """
    weights = batches.token_weights(kept, kept_ids, rules)
    max_micro = -(-total // c.micro_rows)  # whatever is kept, as it sizes a program
    batch, used = batches.build(
        kept, np.ones(len(kept)), weights, c.row_tokens, c.micro_rows, max_micro, share=share
    )
    put = meshes.put_rows(batch, run.mesh)
    old = together.gather(_scored_by(run, policy, state.params, put, used))
    mask = np.asarray(batch.weights_BU > 0)
    counts = mask.astype(np.float32)
    apart = grpo.logp_diff(old, batch.rollout_logprobs_BU, counts)
    difference = np.where(mask, old - batch.rollout_logprobs_BU, 0.0)
    _, touched = corrections.factor(
        difference, mask, batch.trajectory_BU, settings.policy_loss(run.config, c)
    )
    apart |= {name: (counts * x).sum() for name, x in touched.items()}
    found = {f"rl/{name}": float(x) for name, x in apart.items()}
    return _per_token({**found, "rl/tokens": float(counts.sum())})


def _per_token(values: dict) -> dict:
    """Sums over trained tokens as means over them."""
    tokens = values.pop("rl/tokens", 0.0) or 1.0
    return {k: v / tokens if k.removeprefix("rl/") in TOKEN_MEANS else v for k, v in values.items()}


def _over_minibatches(measured: list[dict]) -> dict[str, float]:
    """One number per metric: the mean over minibatches, or the largest."""
    names = dict.fromkeys(name for m in measured for name in m)
    return {
        name: float(
            (max if name.endswith("_max") else np.mean)([m[name] for m in measured if name in m])
        )
        for name in names
    }


def _with_logprobs(run, policy, state, c, reference, batch, used) -> types.RlBatch:
    """The batch with the log-probs that its loss needs beside the policy's own: the trainer's
    before any update of this step where there are several, and the reference policy's."""
    if c.minibatches * c.updates > 1:
        old = _scored_by(run, policy, state.params, batch, used)
        batch = batch.replace(old_logprobs_BU=old)
    if c.kl_coef:
        known = _scored_by(run, policy, reference, batch, used)
        batch = batch.replace(reference_logprobs_BU=known)
    return batch


def _scored_by(run, policy, params, batch, used) -> jax.Array:
    """The log-probs of a batch's tokens under `params`, as the trainer computes them: one
    program for all microbatches, and where the batch is, there they stay."""
    arrays = batch.tokens_BT, batch.positions_BT, batch.segments_BT, batch.until_BT, batch.places_BU
    score = logprobs.batch_scorer(
        meshes.lay_out(policy.cfg, run.mesh), run.config.rollout.temperature,
        batch.tokens_BT.sharding,
    )  # fmt: skip
    return score(params, *arrays, used)
