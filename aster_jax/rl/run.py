"""The RL loop: problems -> trajectories -> rewards -> advantages -> one train step.

Both stages of the paper run here; they differ in where they start, in their problems and
in their budgets (config sections rl1 and rl2).
"""

import dataclasses
import functools
import json
import time

import jax
import numpy as np

from aster_jax import mesh as meshes
from aster_jax import policy as policies
from aster_jax import pools, settings, types, workdir
from aster_jax.data import problems
from aster_jax.errors import InputError
from aster_jax.model import logprobs
from aster_jax.rl import batch as batches
from aster_jax.rl import filter as filters
from aster_jax.rl import grpo
from aster_jax.rollout import phase, record
from aster_jax.train import checkpoint, metrics, optim, step


def run(run: workdir.Run, stage: str) -> None:
    """One RL stage, from its start or from its newest checkpoint."""
    c = run.config
    policy = policies.describe(run)
    pool = _pool(run, policy, stage)
    tx = optim.build(policies.optim_config(c.rl))
    how = phase.sampling_of(c.rollout)
    loss_fn = functools.partial(grpo.loss_fn, grpo=_grpo_config(c))
    directory = run.directory(stage)
    kept = settings.kept(c.rl)
    say = functools.partial(run.say, stage)
    with checkpoint.Checkpoints(directory / "checkpoints", kept, say) as saved:
        state, done = _start(run, stage, policy, tx, saved)
        train_step = step.compile_step(state, policy.cfg, loss_fn, tx, run.mesh)
        began = time.monotonic()
        with phase.players(run, policy, how) as players:
            for at in range(done + 1, c[stage].steps + 1):
                chosen = [pool[i] for i in problems.batch(len(pool), c.rl.prompts, at - 1, c.seed)]
                scored, stats = phase.run_phase(
                    run, policy, players, state.params,
                    phase.requests(chosen, c.rl.group, policy),
                    phase.budgets(c, c[stage]), f"{stage}/{at}",
                )
                # Before the update: when that fails, they are what there is to look at.
                _write_episodes(run, policy, stage, at, scored, chosen)
                state, values = _update(run, policy, state, scored, train_step, stage, at)
                values |= {f"rollout/{k}": v for k, v in record.summary(scored, stats).items()}
                metrics.append(run.path, stage, at, time.monotonic() - began, values)
                _say(run, stage, at, values)
                if saved.owed or metrics.every(c.rl.save_every, at, c[stage].steps):
                    saved.save(at, state, {"step": at})
    run.finish(stage, {"step": c[stage].steps, "problems": len(pool)})


def _pool(run, policy, stage) -> list[types.Problem]:
    """Training problems: all of them in stage 1, what the filter left in stage 2."""
    c = run.config
    pool = pools.select(c, "train", c.problems.num_train)
    if stage == "rl2" and ("filter" in c.stages or run.is_finished("filter")):
        pool = filters.keep(pool, run.directory("filter") / "kept.jsonl")
    pool = phase.fitting(run, policy, pool, stage)
    if len(pool) < c.rl.prompts:
        raise InputError(
            f"{stage} has {len(pool)} problems, a step needs rl.prompts={c.rl.prompts}; "
            "add problems or lower rl.prompts"
        )
    return pool


def _grpo_config(c) -> grpo.GrpoConfig:
    return grpo.GrpoConfig(
        clip_low=c.rl.clip_low,
        clip_high=c.rl.clip_high,
        dual_clip=c.rl.dual_clip,
        tis_cap=c.rl.tis_cap,
        on_policy=c.rl.minibatches == 1,
        temperature=c.rollout.temperature,
    )


def _start(run, stage, policy, tx, saved):
    """The previous stage's parameters with a fresh optimiser, or the newest checkpoint."""
    found = saved.restore_newest(step.abstract_state(policy.cfg, tx, run.mesh))
    if found is None:
        metrics.rewind(run.path, stage, 0)
        params = policies.trained_params(run, policy, policies.STARTS_FROM[stage])
        return step.fresh_state(params, tx, run.mesh), 0
    state, position = found
    metrics.rewind(run.path, stage, position["step"])
    run.say(stage, f"resumed after step {position['step']}")
    return state, position["step"]


def _update(run, policy, state, scored, train_step, stage, at):
    """Optimiser steps of one rollout, one per minibatch of prompts."""
    c = run.config.rl
    group_ids = np.repeat(np.arange(c.prompts), c.group)
    scored, group_ids, advantages = batches.prepare(
        scored, group_ids, c.divide_by_std, c.truncated
    )
    values = {"rl/informative_frac": _informative(advantages, group_ids)}
    per_mini = c.prompts // c.minibatches
    max_micro = -(-per_mini * c.group // c.micro_rows)
    built = []
    for mini in range(c.minibatches):
        members = np.flatnonzero(group_ids // per_mini == mini)
        if not np.any(advantages[members]):
            continue  # every group agrees: no gradient, and Adam must not drift without one
        chosen = [scored[i] for i in members]
        weights = batches.token_weights(chosen, group_ids[members], c.normalise)
        built.append(
            batches.build(
                chosen, advantages[members], weights, c.row_tokens, c.micro_rows, max_micro
            )
        )
    if c.minibatches > 1:
        built = [(_with_old_logprobs(run, policy, state, *b), b[1]) for b in built]
    measured = []
    for batch, used in built:
        state, numbers = train_step(state, meshes.put_rows(batch, run.mesh), used)
        measured.append(_normalised(step.fetch(numbers, "rl", at), batch))
    for name in dict.fromkeys(name for m in measured for name in m):
        pick = max if name.endswith("_max") else np.mean
        values[name] = float(pick([m[name] for m in measured if name in m]))
    values["rl/updates"] = len(built)
    if not built:
        values |= _mismatch(run, policy, state, scored, group_ids)
    return state, values


def _mismatch(run, policy, state, scored, group_ids) -> dict:
    """How far rollout and trainer log-probs are apart in a step that makes no update.

    Over all its trajectories; an update measures the ones that it trains on.
    """
    c = run.config.rl
    weights = batches.token_weights(scored, group_ids, c.normalise)
    max_micro = -(-len(scored) // c.micro_rows)
    made = batches.build(
        scored, np.ones(len(scored)), weights, c.row_tokens, c.micro_rows, max_micro
    )
    batch = _with_old_logprobs(run, policy, state, *made)
    apart = grpo.logp_diff(batch.old_logprobs_BT, batch.rollout_logprobs_BT, batch.weights_BT)
    return _normalised({f"rl/{name}": float(x) for name, x in apart.items()}, batch)


def _informative(advantages, group_ids) -> float:
    """Share of groups whose members differ in reward: the only ones with a gradient."""
    groups = np.unique(group_ids)
    return float(np.mean([np.any(advantages[group_ids == g] != 0) for g in groups]))


def _normalised(values: dict, batch: types.RlBatch) -> dict:
    """Token means over the trained tokens (uniform groups weigh in the loss, not here)."""
    weight = float(np.sum(batch.weights_BT))
    means = ("entropy", "clip_frac", "dual_clip_frac", "ppo_kl", "logp_diff_mean")
    return {k: v / weight if k.removeprefix("rl/") in means else v for k, v in values.items()}


def _with_old_logprobs(run, policy, state, batch, used) -> types.RlBatch:
    """The batch with log-probs recomputed by the trainer before any update of this step."""
    old = np.zeros_like(batch.old_logprobs_BT)
    for i in range(used):
        micro = meshes.put_rows(
            (batch.tokens_BT[i], batch.positions_BT[i], batch.segments_BT[i]), run.mesh, axis=0
        )
        temperature = run.config.rollout.temperature
        logp, _ = logprobs.score(state.params, *micro, cfg=policy.cfg, temperature=temperature)
        old[i] = jax.device_get(logp)
    return batch.replace(old_logprobs_BT=old)


def _write_episodes(run, policy, stage, at, scored, chosen):
    """All trajectories of a step in one file, whole or absent."""
    by_id = {p.id: p for p in chosen}
    where = {"stage": stage, "step": at, "checkpoint": stage, "arm": "main"}
    lines = [
        json.dumps(
            record.to_record(s, by_id[s.trajectory.problem_id], policy.tokenizer, where)
        )
        for s in scored
    ]
    directory = run.directory(f"{stage}/episodes")
    metrics.replace(directory / f"step_{at:06d}.jsonl", "\n".join(lines) + "\n")


def _say(run, stage, at, values):
    masked = values["rollout/masked_frac"]
    run.say(
        stage,
        f"step {at}/{run.config[stage].steps}  reward {values['rollout/reward_mean']:.3f}  "
        f"calls {values['rollout/calls_mean']:.2f}  informative {values['rl/informative_frac']:.2f}  "
        f"{values['rollout/tokens_per_s']:.0f} tok/s"
        + (f"  left out {100 * masked:.1f} %" if masked else ""),
    )
