"""The SFT stage: demonstrations -> packed rows -> steps -> a checkpoint."""

import dataclasses
import functools
import time

import jax
import numpy as np

from aster_jax import mesh as meshes
from aster_jax import policy as policies
from aster_jax import pools, settings, workdir
from aster_jax.data import packing
from aster_jax.demos import curate
from aster_jax.errors import InputError
from aster_jax.rollout import phase, record
from aster_jax.sft import loss
from aster_jax.train import checkpoint, metrics, optim, step


@dataclasses.dataclass
class Progress:
    """Where the stage stands; `stopped` once a probe reached the accuracy to stop at.

    `probe` is the newest probe's accuracy, None while there is none and after a probe whose
    trajectories were all lost to the tool or the verifier.
    """

    step: int = 0
    stopped: bool = False
    probe: float | None = None


def run(run: workdir.Run) -> None:
    """Train on the demonstrations until the last step, or the accuracy to stop at."""
    c = run.config.sft
    policy = policies.describe(run)
    demos = curate.load_demos(run.path / "demos" / "demos.jsonl")
    rows = packing.sft_rows(demos, c.row_tokens)
    if len(rows) < c.rows:
        raise InputError(
            f"{len(demos)} demonstrations fill {len(rows)} rows, a step needs sft.rows={c.rows}; "
            "make more demonstrations or lower sft.rows"
        )
    data = packing.sft_iterator(rows, c.rows, run.config.seed)
    tx = optim.build(policies.optim_config(c))
    directory, say = run.directory("sft") / "checkpoints", functools.partial(run.say, "sft")
    with checkpoint.Checkpoints(directory, settings.kept(c), say) as saved:
        state, at = _start(run, policy, tx, data, saved)
        train_step = step.compile_step(state, policy.cfg, loss.loss_fn, tx, run.mesh)
        began = time.monotonic()
        with _prober(run, policy) as probe:
            while at.step < c.steps and not at.stopped:
                rows_of_step = next(data)
                batch, used = packing.sft_batch(rows_of_step, c.micro_rows)
                state, measured = train_step(state, meshes.put_rows(batch, run.mesh), used)
                at.step += 1
                values = step.fetch(measured, "sft", at.step)
                if c.probe_every and at.step >= c.probe_from and at.step % c.probe_every == 0:
                    probed = probe(state.params, at.step)
                    values |= probed
                    at.probe, at.stopped = _judge(probed, c.stop_accuracy)
                metrics.append(run.path, "sft", at.step, time.monotonic() - began, values)
                _say(run, at, values)
                due = saved.owed or metrics.every(c.save_every, at.step, c.steps)
                if at.stopped or due:
                    position = {**dataclasses.asdict(at), "data": _position(data)}
                    saved.save(at.step, state, position)
    run.finish("sft", {"step": at.step, "stopped": at.stopped, "probe": at.probe})


def _start(run, policy, tx, data, saved):
    """A fresh state, or the newest checkpoint with the data where it was."""
    found = saved.restore_newest(step.abstract_state(policy.cfg, tx, run.mesh))
    if found is None:
        metrics.rewind(run.path, "sft", 0)
        base = policies.base_params(run, policy)
        return step.fresh_state(base, tx, run.mesh), Progress()
    state, position = found
    data.set_state(position.pop("data"))
    at = Progress(**position)
    metrics.rewind(run.path, "sft", at.step)
    run.say("sft", f"resumed after step {at.step}")
    return state, at


def _position(data):
    """The iterator's state as JSON (grain gives numpy integers in places)."""
    return jax.tree.map(lambda x: int(x) if isinstance(x, np.integer) else x, data.get_state())


class _prober:
    """Accuracy on problems of their own; the tool runs only when probes are asked for."""

    def __init__(self, run, policy):
        self._run, self._policy = run, policy
        self._players = None

    def __enter__(self):
        c = self._run.config
        if c.sft.probe_every:
            how = phase.sampling_of(c.rollout)
            self._context = phase.players(self._run, self._policy, how)
            self._players = self._context.__enter__()
            found = pools.select(c, "probe", c.sft.probe_problems)
            self._problems = phase.fitting(self._run, self._policy, found, "rl1")
        return self

    def __exit__(self, *failure):
        if self._players is not None:
            self._context.__exit__(*failure)

    def __call__(self, params, at_step):
        c = self._run.config
        scored, stats = phase.run_phase(
            self._run, self._policy, self._players, params,
            phase.requests(self._problems, 1, self._policy),
            phase.budgets(c, c.rl1), f"sft/probe/{at_step}",
        )
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


def _say(run, at, values):
    said = f"loss {values['sft/loss']:.3f}" if "sft/loss" in values else "loss not finite"
    text = f"step {at.step}/{run.config.sft.steps}  {said}"
    if "sft/probe_masked_frac" in values:
        masked = values["sft/probe_masked_frac"]
        if at.probe is not None:
            calls = values["sft/probe_calls_mean"]
            text += f"  probe accuracy {at.probe:.2f} with {calls:.1f} calls"
        if masked:
            text += f"  probe left out {100 * masked:.1f} %: tool, verifier or deadline"
        run.say("sft", text)
    elif at.step % 10 == 1 or at.step == run.config.sft.steps:
        run.say("sft", text)
    else:
        run.live("sft", text)
