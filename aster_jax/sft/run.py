"""The SFT stage: demonstrations -> packed rows -> steps -> a checkpoint."""

import dataclasses
import math
import time

import jax
import numpy as np

from aster_jax import mesh as meshes
from aster_jax import policy as policies
from aster_jax import pools, settings, workdir
from aster_jax.data import packing
from aster_jax.demos import render
from aster_jax.errors import GaveUp, InputError, Leaving
from aster_jax.lifetime import changes
from aster_jax.rollout import phase, record
from aster_jax.sft import loss
from aster_jax.train import checkpoint, metrics, optim, step


@dataclasses.dataclass
class Progress:
    """Where the stage stands; `stopped` once a probe reached the accuracy to stop at.

    `probe` is the newest probe's accuracy, None while there is none and after a probe whose
    trajectories were all lost to the tool or the verifier. `unusable` counts steps in a row
    whose loss or gradient was not finite. `pending` holds the numbers of a step that has been
    made and waits for its probe, None otherwise.
    """

    step: int = 0
    stopped: bool = False
    probe: float | None = None
    unusable: int = 0
    pending: dict | None = None


def run(run: workdir.Run) -> None:
    """Train on the demonstrations until the last step, or the accuracy to stop at."""
    c = run.config.sft
    run.begin("sft")
    policy = policies.describe(run)
    if not (c.steps or c.epochs):
        run.finish("sft", {"step": 0, "stopped": False, "probe": None})
        return
    data, steps = _data(run, c)
    tx = optim.build(settings.optimiser(c))
    with checkpoint.Checkpoints(
        run.directory("sft") / "checkpoints", settings.kept(c), lambda text: run.say("sft", text)
    ) as saved:
        state, at, began_s = _start(run, policy, tx, data, saved)
        train_step = step.compile_step(state, policy.cfg, loss.loss_fn, tx, run.mesh)
        began = time.monotonic() - began_s
        with _prober(run, policy) as probe:
            while at.pending is not None or (at.step < steps and not at.stopped):
                try:
                    run.notice.check()
                    if at.pending is None:
                        batch, used = packing.sft_batch(next(data), c.micro_rows)
                        state, made = train_step(state, meshes.put_rows(batch, run.mesh), used)
                        at.step += 1
                        at.pending = step.fetch(made, "sft", at.step)
                    probed = probe(state.params, at.step)
                except Leaving:
                    _leave(saved, state, at, data)
                    raise
                values = _recorded(at, probed, c.stop_accuracy)
                run.record("sft", at.step, time.monotonic() - began, values)
                _say(run, at, steps, values)
                due = metrics.every(c.save_every, at.step, steps)
                if at.stopped or due or saved.owed:
                    saved.save(at.step, state, _position(at, data))
                _give_up(at, c)
        saved.settle(at.step, state, _position(at, data))
    run.finish("sft", {"step": at.step, "stopped": at.stopped, "probe": at.probe})


def _data(run, c):
    """The batches, and the number of steps that the config asks of them."""
    demos = render.load_demos(run.path / "demos" / "demos.jsonl")
    rows = packing.sft_rows(demos, c.row_tokens, run.config.seed)
    if len(rows) < c.rows:
        raise InputError(
            f"{len(demos)} demonstrations fill {len(rows)} rows, a step needs sft.rows={c.rows}; "
            "make more demonstrations or lower sft.rows"
        )
    steps = math.ceil(c.epochs * len(rows) / c.rows) if c.epochs else c.steps
    run.say(
        "sft",
        f"{len(demos)} demonstrations in {len(rows)} rows: {steps} steps of {c.rows} rows are "
        f"{steps * c.rows / len(rows):.1f} epochs" + ("" if c.epochs else " at most"),
    )
    return packing.sft_iterator(rows, c.rows, run.config.seed), steps


def _start(run, policy, tx, data, saved):
    """(state, progress, seconds spent before): fresh, or the newest checkpoint with the data
    where it was."""
    found = saved.restore_newest(step.abstract_state(policy.cfg, tx, run.mesh))
    if found is None:
        run.rewind("sft", 0)
        base = policies.base_params(run, policy)
        return step.fresh_state(base, tx, run.mesh), Progress(), 0.0
    state, position = found
    data.set_state(position["data"])
    at = Progress(**{f.name: position[f.name] for f in dataclasses.fields(Progress)})
    run.say("sft", f"resumed after step {at.step}")
    # One that waits is recorded once it is probed, and may have been by the process before.
    return state, at, run.rewind("sft", at.step - (at.pending is not None))


def _position(at, data) -> dict:
    """Progress and the iterator's state as JSON (grain gives numpy integers in places)."""
    where = jax.tree.map(lambda x: int(x) if isinstance(x, np.integer) else x, data.get_state())
    return {**dataclasses.asdict(at), "data": where}


def _leave(saved, state, at, data):
    """Save what is whole, if it is not on disk yet, when the machine is taken away."""
    if at.step and (at.step != saved.latest or at.pending is not None):
        saved.save(at.step, state, _position(at, data))
    saved.wait()


def _recorded(at, probed, stop_accuracy) -> dict:
    """The metrics of the step that was pending; progress knows of it and of its probe."""
    values, at.pending = {**at.pending, **probed}, None
    at.unusable = at.unusable + 1 if values["sft/skipped_nonfinite"] else 0
    if probed:
        at.probe, at.stopped = _judge(probed, stop_accuracy)
    return values


def _give_up(at, c):
    if at.unusable >= c.max_unusable:
        raise GaveUp(
            f"sft ends at step {at.step}: in {at.unusable} steps in a row the loss or the gradient "
            f"was not finite (sft.max_unusable={c.max_unusable}). The model is as before them; a "
            "lower sft.learning_rate, or a look at the demonstrations, may help"
        )


class _prober:
    """Accuracy on problems of their own; the tool runs only when probes are asked for."""

    def __init__(self, run, policy):
        self._run, self._policy = run, policy
        self._players = None

    def __enter__(self):
        c = self._run.config
        if c.sft.probe_every:
            how = settings.sampled(c.rollout)
            self._context = phase.players(self._run, self._policy, how)
            self._players = self._context.__enter__()
            left = changes.left_out(c, self._run.begin("sft"))
            found = pools.validation(c, left, c.sft.probe_problems)
            self._problems = phase.fitting(
                self._run, self._policy, found, "rl1", c.rl1.context_tokens
            )
        return self

    def __exit__(self, *failure):
        if self._players is not None:
            self._context.__exit__(*failure)

    def __call__(self, params, at_step):
        c = self._run.config
        every, first = c.sft.probe_every, c.sft.probe_from
        if not every or at_step < first or at_step % every:
            return {}
        scored, stats = phase.run_phase(
            self._run, self._policy, self._players, params,
            phase.requests(self._problems, 1, self._policy),
            settings.budgets(c, c.rl1), f"sft/probe/{at_step}",
        )  # fmt: skip
        return _probed(record.summary(scored, stats))


def _judge(probed: dict[str, float], stop_accuracy: float) -> tuple[float | None, bool]:
    """A probe's accuracy, and whether training stops at it; a lost probe stops nothing."""
    if "sft/probe_accuracy" not in probed:
        return None, False
    accuracy = probed["sft/probe_accuracy"]
    return accuracy, 0 < stop_accuracy <= accuracy


def _probed(numbers: dict[str, float]) -> dict[str, float]:
    """What a probe adds to the step's metrics; no accuracy when no trajectory counts."""
    shown = {"masked_frac": "masked_frac", "reward_mean": "accuracy", "calls_mean": "calls_mean"}
    return {f"sft/probe_{name}": numbers[k] for k, name in shown.items() if k in numbers}


def _say(run, at, steps, values):
    text = f"step {at.step}/{steps}"
    text += f"  loss {values['sft/loss']:.3f}" if "sft/loss" in values else ""
    if values["sft/skipped_nonfinite"]:
        run.say("sft", f"{text}  no update: the loss or the gradient was not finite")
    elif "sft/probe_masked_frac" in values:
        masked = values["sft/probe_masked_frac"]
        if at.probe is not None:
            calls = values["sft/probe_calls_mean"]
            text += f"  probe accuracy {at.probe:.2f} with {calls:.1f} calls"
        if masked:
            text += f"  probe left out {100 * masked:.1f} %: tool, verifier or deadline"
        run.say("sft", text + run.eta("sft", steps))
    elif at.step % 10 == 1 or at.step == steps:
        run.say("sft", text + run.eta("sft", steps))
    else:
        run.live("sft", text + run.eta("sft", steps))
