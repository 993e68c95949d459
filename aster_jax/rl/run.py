"""The RL loop: problems -> trajectories -> rewards -> advantages -> one train step -> record.

Both stages of the paper run here; they differ in where they start, in their problems and
in the keys they override (config sections rl1 and rl2). What stands around the loop has
rooms of its own: `play.py`, the trajectories of a step; `update.py`, what one rollout changes;
`validate.py`, what is measured on problems that are never trained on; `progress.py`, where a
stage stands and how it goes on.
"""

import concurrent.futures
import functools
import time
from collections.abc import Callable

from aster_jax import config as configs
from aster_jax import policy as policies
from aster_jax import pools, settings, together, types, workdir
from aster_jax.errors import InputError, Leaving
from aster_jax.lifetime import changes
from aster_jax.report import alarms, collapse
from aster_jax.rl import filter as filters
from aster_jax.rl import grpo, play, progress, update, validate
from aster_jax.rollout import journal, phase, record
from aster_jax.train import checkpoint, metrics, optim, step


def run(run: workdir.Run, stage: str) -> None:
    """One RL stage, from its start or from its newest checkpoint."""
    c = configs.rl_stage(run.config, stage)
    left = changes.left_out(run.config, run.begin(stage))
    policy = policies.describe(run)
    pool = _pool(run, policy, stage, c, left)
    prompts = _prompts(run, stage, c, len(pool))
    tx = optim.build(settings.optimiser(c))
    loss_fn = functools.partial(grpo.loss_fn, grpo=settings.policy_loss(run.config, c))
    directory = run.directory(stage)
    with (
        checkpoint.Checkpoints(
            directory / "checkpoints", settings.kept(c), lambda text: run.say(stage, text)
        ) as saved,
        phase.players(run, policy, settings.sampled(run.config.rollout)) as players,
    ):
        state, at, began_s = progress.start(run, stage, policy, tx, saved)
        reference = progress.reference(run, stage, policy, c)
        train_step = step.compile_step(state, policy.cfg, loss_fn, tx, run.mesh)
        _say_shared(run, stage, policy, c)
        began = time.monotonic() - began_s
        measure = validate.Measure(run, policy, players, stage, c, left, saved.best_score)
        table = play.Table(run, policy, players, stage, c, pool, prompts)
        calls = metrics.history(run.path, alarms.RL_STAGES, alarms.CALLS)
        make = functools.partial(_step, run, stage, policy, c, pool, table, train_step, reference)
        dropped, score = False, None
        while at.pending is not None or at.step < c.steps:
            dropped = dropped or progress.drop_moments(run, stage, saved)
            try:
                run.notice.check()
                if at.pending is None:
                    state, at = make(state, at)
                measured = measure(state.params, at.step)
            except Leaving:
                progress.leave(saved, state, at)
                raise
            values, why_not = at.pending["values"] | measured, at.pending["why_not"]
            now, at = at.step, progress.ended(at)
            run.record(stage, now, time.monotonic() - began, values)
            _say(run, stage, c, now, values, why_not)
            _watch(run, stage, calls, values)
            score = values.get("rl/eval_accuracy")
            if metrics.every(c.save_every, now, c.steps) or saved.owed or measure.is_best(values):
                saved.save(now, state, progress.position(at), score)
            progress.give_up(at, c, stage, why_not)
        saved.settle(at.step, state, progress.position(at), score)
        progress.drop_moments(run, stage, saved)
        best = saved.best
    run.finish(stage, {"step": at.step, "best": best, "problems": len(pool)})


def _step(run, stage, policy, c, pool, table, train_step, reference, state, at):
    """(state, progress) after one more step, whose metrics wait in the progress."""
    now = at.step + 1
    where = {"stage": stage, "step": now, "checkpoint": stage, "arm": "main", "lineage": at.lineage}
    path = run.directory(stage) / "episodes" / f"step_{now:06d}.jsonl"
    episodes = journal.Journal(path, together.index())
    played = table.step(state.params, now, episodes, where)
    (state, values, why_not), tool_use, write_s = _while_writing(
        functools.partial(_write_episodes, episodes, played.drawn, policy, pool, where),
        functools.partial(
            update.make, run, policy, state, played.scored, train_step, c, now, reference
        ),
    )
    values["rl/prompts_drawn"] = played.prompts
    summary = record.summary(played.drawn, played.stats)
    values |= {f"rollout/{k}": v for k, v in summary.items()}
    values |= tool_use
    values |= progress.seconds(played.stats, write_s, values)
    return state, progress.after(at, values, why_not)


def _pool(run, policy, stage, c, left) -> list[types.Problem]:
    """Training problems: all of them in stage 1, what the filter left in stage 2."""
    pool = pools.train(run.config, left)
    if stage == "rl2" and ("filter" in run.config.stages or run.has_ended("filter")):
        pool = filters.keep(pool, run.directory("filter") / "kept.jsonl")
    pool = phase.fitting(run, policy, pool, stage, c.context_tokens)
    if len(pool) < c.minibatches:
        raise InputError(
            f"{stage} has {len(pool)} problems, a step needs one for each of "
            f"rl.minibatches={c.minibatches}; add problems, raise filter.min_kept, or leave "
            f"{stage} out of stages"
        )
    return pool


def _prompts(run, stage, c, found: int) -> int:
    """Problems per step: what is asked, or as many as there are; said when that is less."""
    prompts = min(c.prompts, found // c.minibatches * c.minibatches)
    if prompts < c.prompts:
        run.say(stage, f"only {found} problems: steps of {prompts} instead of {c.prompts}")
    return prompts


def _say_shared(run, stage, policy, c) -> None:
    share, why = update.shares(policy.cfg, run.mesh, c)
    how = "once" if share else "by each alone"
    run.say(stage, f"updates compute what trajectories have in common {how}: {why}")


def _while_writing(write: Callable, make: Callable) -> tuple:
    """(what `make` gives, what `write` gives, seconds it was waited for): episodes are written
    while the update runs. When that fails, they are what there is to look at."""
    with concurrent.futures.ThreadPoolExecutor(1, "aster-write") as beside:
        writing = beside.submit(write)
        made = make()
        began = time.monotonic()
        written = writing.result()
        return made, written, time.monotonic() - began


def _write_episodes(episodes, scored, policy, pool, where) -> dict[str, float]:
    """All trajectories of a step in one file, in order; the metrics of what they do with the
    tool."""
    if not together.is_first():
        return {}
    by_id = {p.id: p for p in pool}
    records = [
        record.to_record(s, by_id[s.trajectory.problem_id], policy.tokenizer, where)
        for s in scored
    ]
    episodes.seal(records)
    return collapse.metrics(collapse.summarise([collapse.measure(r) for r in records]))


def _watch(run, stage, calls: list[float], values) -> None:
    """Add the step's calls per trajectory to those before, and say what is newly alarming."""
    if alarms.CALLS in values:
        calls.append(values[alarms.CALLS])
        if alarms.is_news(calls):
            run.say(stage, alarms.in_training(calls))


def _say(run, stage, c, now, values, why_not):
    lost = values["rollout/masked_frac"]
    text = f"step {now}/{c.steps}"
    for name, shown in (("reward_mean", "reward {:.3f}"), ("calls_mean", "calls {:.2f}")):
        if f"rollout/{name}" in values:  # no mean of nothing
            text += "  " + shown.format(values[f"rollout/{name}"])
    text += (
        f"  informative {values['rl/informative_frac']:.2f}  "
        f"{values['rollout/tokens_per_s']:.0f} tok/s"
    )
    text += f"  left out {100 * lost:.1f} %" if lost else ""
    if "rl/eval_accuracy" in values:
        text += f"  validation {values['rl/eval_accuracy']:.3f}"
    text += run.eta(stage, c.steps)
    run.say(stage, text + (f"  no update: {why_not}" if why_not else ""))
