"""The SFT stage: too few rows, probes, the accuracy to stop at, and starting again."""

import jax
import numpy as np
import pytest

from aster_jax import config, policy, types, workdir
from aster_jax.demos import render
from aster_jax.errors import GaveUp, Leaving
from aster_jax.sft import run as sft
from tests import smoke_run
from tests.rollout import chatter


def settings():
    c = config.default()
    c.name = "t"
    c.model.show_tool = False
    c.model.d_model, c.model.d_ff = 32, 48
    c.problems.families = ("prod",)
    c.rollout.slots, c.rollout.capacity, c.rollout.prefill_rows = 4, 192, 2
    c.rollout.prefill_buckets = (16,)
    c.rl1.turn_tokens, c.rl1.response_tokens, c.rl1.context_tokens = 6, 6, 192
    c.sft.rows, c.sft.micro_rows, c.sft.row_tokens = 4, 2, 32
    c.sft.steps, c.sft.save_every = 6, 2
    return c


@pytest.fixture
def begin(tmp_path, one_device):
    """A run whose demonstrations are `count` sequences of 24 tokens."""

    def make(c, name, count=12):
        run = workdir.open_run(c, tmp_path / name, one_device)
        chatter.build(run.directory("demos") / "tokenizer")
        rng = np.random.default_rng(0)
        demos = [
            types.Demo(
                f"p{i}", "prod", tuple(rng.integers(10, 90, 24).tolist()), (0,) * 4 + (1,) * 20, 0
            )
            for i in range(count)
        ]
        render.save_demos(run.path / "demos" / "demos.jsonl", demos)
        run.finish("demos", {})
        return run

    return make


def final(run):
    described = policy.describe(run)
    return jax.tree.map(np.asarray, policy.trained_params(run, described, "sft"))


def test_too_few_demonstrations_are_one_sentence(begin):
    run = begin(settings(), "few", count=3)
    with pytest.raises(ValueError, match="3 demonstrations fill 3 rows, a step needs sft.rows=4"):
        sft.run(run)
    assert not run.is_finished("sft")


def test_it_learns_and_starts_again_where_it_was(begin, monkeypatch):
    whole = begin(settings(), "whole")
    sft.run(whole)
    lines = smoke_run.metrics(whole.path)
    assert [r["step"] for r in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["sft/loss"] < lines[0]["sft/loss"]
    assert whole.summary("sft") == {"step": 6, "stopped": False, "probe": None}
    broken = begin(settings(), "broken")
    append = sft.metrics.append

    def full_disk(path, stage, step, *rest):
        if step == 5:
            raise OSError(28, "No space left on device")
        append(path, stage, step, *rest)

    monkeypatch.setattr(sft.metrics, "append", full_disk)
    with pytest.raises(OSError, match="No space"):
        sft.run(broken)
    assert not broken.is_finished("sft")
    monkeypatch.undo()
    sft.run(broken)
    assert [r["sft/loss"] for r in smoke_run.metrics(broken.path)] == [
        r["sft/loss"] for r in lines
    ]
    for a, b in zip(jax.tree.leaves(final(whole)), jax.tree.leaves(final(broken)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_epochs_are_passes_over_the_demonstrations(begin, capsys):
    c = settings()
    c.sft.epochs, c.sft.steps = 2.0, 0
    run = begin(c, "epochs", count=10)
    sft.run(run)
    assert run.summary("sft")["step"] == 5  # two passes over ten rows, four to a step
    assert "5 steps of 4 rows are 2.0 epochs" in capsys.readouterr().out


def test_no_steps_need_no_demonstrations(tmp_path, one_device):
    c = settings()
    c.sft.steps = 0
    run = workdir.open_run(c, tmp_path, one_device)
    chatter.build(run.directory("demos") / "tokenizer")
    run.finish("demos", {})
    sft.run(run)
    assert run.summary("sft")["step"] == 0 and not (tmp_path / "sft" / "checkpoints").exists()


def test_numbers_that_are_none_are_counted_and_end_it_after_so_many(begin, monkeypatch):
    c = settings()
    c.sft.max_unusable = 2
    batch = sft.packing.sft_batch
    poisoned = []

    def poison(rows, micro_rows):
        made, used = batch(rows, micro_rows)
        poisoned.append(len(poisoned) + 1)
        if poisoned[-1] in (2, 4, 5):
            made = made.replace(weights_BT=np.full_like(made.weights_BT, np.nan))
        return made, used

    monkeypatch.setattr(sft.packing, "sft_batch", poison)
    run = begin(c, "poisoned")
    with pytest.raises(GaveUp, match="sft ends at step 5: in 2 steps in a row"):
        sft.run(run)
    lines = smoke_run.metrics(run.path)
    assert [r["sft/skipped_nonfinite"] for r in lines] == [0, 1, 0, 1, 1]
    # The same command goes on when the cause is gone, from a state that is as good as ever.
    monkeypatch.undo()
    sft.run(run)
    assert run.summary("sft")["step"] == 6
    assert np.isfinite(smoke_run.metrics(run.path)[-1]["sft/loss"])


def test_probes_are_measured_from_the_step_asked_for(begin):
    c = settings()
    c.sft.probe_every, c.sft.probe_from, c.sft.probe_problems = 1, 5, 3
    c.sft.stop_accuracy = 0.5
    run = begin(c, "probed")
    sft.run(run)
    probed = [r["step"] for r in smoke_run.metrics(run.path) if "sft/probe_accuracy" in r]
    assert probed == [5, 6]
    # Six tokens of random digits are no right answer: it runs to the last step.
    assert run.summary("sft") == {"step": 6, "stopped": False, "probe": 0.0}


def test_a_step_that_waits_for_its_probe_is_recorded_once_however_often_it_is_probed(
    begin, monkeypatch
):
    """Told to go in the probe of step 3; killed after it has been probed; and once more."""
    c = settings()
    c.sft.save_every, c.sft.probe_every, c.sft.probe_problems = 100, 3, 3
    run = begin(c, "waiting")

    monkeypatch.setattr(sft._prober, "__call__", _leave_at_3)
    with pytest.raises(Leaving):
        sft.run(run)
    assert [r["step"] for r in smoke_run.metrics(run.path)] == [1, 2]
    monkeypatch.undo()
    monkeypatch.setattr(sft.packing, "sft_batch", _die)
    with pytest.raises(RuntimeError, match="killed"):
        sft.run(run)
    assert [r["step"] for r in smoke_run.metrics(run.path)] == [1, 2, 3]
    monkeypatch.undo()
    sft.run(run)
    found = smoke_run.metrics(run.path)
    assert [r["step"] for r in found] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in found if "sft/probe_accuracy" in r] == [3, 6]


def _leave_at_3(self, params, at_step):
    if at_step == 3:
        raise Leaving
    return {}


def _die(*_):
    raise RuntimeError("killed")


def test_a_probe_whose_trajectories_were_all_lost_has_no_accuracy_and_stops_nothing(begin, capsys):
    probed = sft._probed({"masked_frac": 1.0})
    assert probed == {"sft/probe_masked_frac": 1.0}
    assert sft._judge(probed, 0.5) == sft._judge(probed, 0.0) == (None, False)
    assert sft._judge({"sft/probe_accuracy": 0.5}, 0.5) == (0.5, True)
    assert sft._judge({"sft/probe_accuracy": 0.5}, 0.0) == (0.5, False)
    values = {"sft/loss": 1.0, "sft/skipped_nonfinite": 0.0, **probed}
    sft._say(begin(settings(), "lost"), sft.Progress(step=5), 9, values)
    said = capsys.readouterr().out
    assert "probe left out 100.0 %" in said and "accuracy" not in said
