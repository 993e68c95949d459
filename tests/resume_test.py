"""SIGKILL at any moment, the same command again: the run ends with the same bits.

Kills come from inside the process (tests/smoke_run.py), so they always hit what they
name. What is compared is read back from the checkpoints: parameters and optimiser state.
"""

import json
import shutil
import signal

import jax
import numpy as np
import pytest

from aster_jax import mesh as meshes
from aster_jax import policy, settings, workdir
from aster_jax.train import checkpoint, optim, retention, step
from experiments import smoke
from tests import smoke_run

TIMES = {"wall_s", "queue_s", "time_s"}  # what a clock measured differs from run to run


@pytest.fixture(scope="module")
def whole():
    return smoke_run.finished()[0]


def last_state(path, stage):
    """Parameters after a stage's last step, as numpy arrays by name, the position, and the
    optimiser's state unless a later stage has begun, when it is deleted."""
    mesh = meshes.build(1, 1, 1, devices=jax.devices()[:1])
    run = workdir.Run(smoke.get_config(), path, mesh)
    cfg = policy.describe(run).cfg
    tx = optim.build(settings.optimiser(policy.section_of(run.config, stage)))
    last = run.summary(stage)["step"]
    with checkpoint.Checkpoints(path / stage / "checkpoints", retention.Keep()) as saved:
        assert saved.latest == last
        position = saved.position(last)
        found = saved.params(last, step.abstract_params(cfg, mesh))
        if not (path / stage / "checkpoints" / str(last) / checkpoint.DROPPED).exists():
            found, position = saved.restore_newest(step.abstract_state(cfg, tx, mesh))
            found = {"params": found.params, "opt_state": found.opt_state, "step": found.step}
        else:
            found = {"params": found}
    leaves, _ = jax.tree_util.tree_flatten_with_path(found)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}, position


def assert_same_state(one, other, stage):
    (a, position_a), (b, position_b) = last_state(one, stage), last_state(other, stage)
    assert position_a == position_b
    common = a.keys() & b.keys()
    assert len(common) > 10 and {k for k in a.keys() ^ b.keys() if "params" in k} == set()
    differing = [k for k in common if a[k].tobytes() != b[k].tobytes()]
    assert not differing, differing


def without_times(value):
    if isinstance(value, dict):
        return {
            k: without_times(v)
            for k, v in value.items()
            if k not in TIMES and not k.endswith(("_s", "_per_s"))
        }
    return [without_times(v) for v in value] if isinstance(value, list) else value


def records(path):
    return [without_times(json.loads(line)) for line in path.read_text().splitlines()]


def killed(path, place, *arguments):
    code, out, err, _ = smoke_run.launch(path, *arguments, kill_at=place)
    assert code == -signal.SIGKILL, f"{place} was never reached\n{out}\n{err}"
    return out


def terminated(path, place, *arguments):
    code, out, err, seconds = smoke_run.launch(path, *arguments, kill_at=f"term-{place}")
    assert code == 143, f"{place}: {code}\n{out}\n{err}"
    assert "left on SIGTERM" in out and "Traceback" not in err
    return out


def done(path, *arguments):
    code, out, err, _ = smoke_run.launch(path, *arguments)
    assert code == 0, f"{out}\n{err}"
    return out


def test_sft_killed_in_a_step_told_to_go_and_killed_in_a_save(whole, tmp_path):
    path = tmp_path / "run"
    smoke_run.begin_from(whole, path, "demos")
    only = "--config.stages=('demos','sft')"
    killed(path, "sft:18", only)  # the checkpoint of step 10 is written meanwhile
    assert not (path / "sft" / "DONE.json").exists()
    assert [r["step"] for r in smoke_run.metrics(path)] == list(range(1, 18))
    out = terminated(path, "sft:23", only)
    assert "resumed after step 10" in out
    assert (path / "sft" / "checkpoints" / "23").exists()
    out = killed(path, "save:50", only)
    assert "resumed after step 23" in out
    out = done(path, only)
    assert "resumed after step 40" in out or "resumed after step 50" in out
    assert_same_state(whole, path, "sft")
    expected = [r for r in smoke_run.metrics(whole) if r["stage"] == "sft"]
    assert without_times(smoke_run.metrics(path)) == without_times(expected)


def test_rl_killed_in_an_update_and_in_a_rollout(whole, tmp_path):
    _, heard, how = smoke_run.rewarded()

    def begin(name, steps):
        path = tmp_path / name
        smoke_run.begin_from(whole, path, "demos", "sft")
        # These programs differ from those of `whole`, by the minibatches.
        shutil.copytree(heard / "compiled", path / "compiled", dirs_exist_ok=True)
        stages = "--config.stages=('demos','sft','rl1')"
        return path, (stages, f"--config.rl1.steps={steps}", *how)

    undisturbed, arguments = begin("undisturbed", 3)
    done(undisturbed, *arguments)
    expected = smoke_run.metrics(undisturbed)
    assert expected[0]["rl/updates"] in (1, 2) and expected[0]["rl/grad_norm"] > 0
    path, arguments = begin("disturbed", 3)
    killed(path, "update:1", *arguments)
    assert not (path / "metrics.jsonl").exists()
    # The first phase of the second process is that of step 1 again, the third one of step 3;
    # the checkpoint of step 2 may still be on its way then, that of step 1 is not.
    killed(path, "rollout:3", *arguments)
    assert [r["step"] for r in smoke_run.metrics(path)] == [1, 2]
    out = done(path, *arguments)
    assert "resumed after step 1" in out or "resumed after step 2" in out
    assert_same_state(undisturbed, path, "rl1")
    assert without_times(smoke_run.metrics(path)) == without_times(expected)
    for number in (1, 2, 3):
        name = f"rl1/episodes/step_{number:06d}.jsonl"
        assert records(path / name) == records(undisturbed / name)


def test_told_to_go_in_a_measurement_the_step_waits_for_it(whole, tmp_path):
    """Also the last step of a stage, which must not end without what it is chosen by; and no step
    is recorded twice where the process after is killed."""
    how = ("--config.stages=('demos','sft','rl1')", "--config.rl1.steps=2", "--config.rl.eval_every=1",
           "--config.rl.eval_problems=4", "--config.rl.keep_best=True")  # fmt: skip

    def begin(name):
        smoke_run.begin_from(whole, tmp_path / name, "demos", "sft")
        return tmp_path / name

    undisturbed, path = begin("undisturbed"), begin("disturbed")
    done(undisturbed, *how)
    shutil.copytree(undisturbed / "compiled", path / "compiled", dirs_exist_ok=True)
    terminated(path, "rollout:2", *how)  # two phases a step: this one measures step 1
    assert not (path / "metrics.jsonl").exists()
    killed(path, "rollout:2", *how)  # measured; in the rollout of step 2
    assert [r["step"] for r in smoke_run.metrics(path)] == [1]
    terminated(path, "rollout:3", *how)  # measures step 1 again, plays step 2, measures it
    assert [r["step"] for r in smoke_run.metrics(path)] == [1]
    assert not (path / "rl1" / "DONE.json").exists()
    assert "resumed after step 2" in done(path, *how)
    expected = smoke_run.metrics(undisturbed)
    assert all("rl/eval_accuracy" in r for r in expected)
    assert without_times(smoke_run.metrics(path)) == without_times(expected)
    kept = [json.loads((p / "rl1" / "DONE.json").read_text())["best"] for p in (undisturbed, path)]
    assert kept[0] is not None and kept[0] == kept[1]
    params = [last_state(p, "rl1")[0] for p in (undisturbed, path)]
    assert all(params[0][k].tobytes() == params[1][k].tobytes() for k in params[0])


@pytest.mark.slow
def test_rl_killed_in_a_refill_draws_the_same_again(whole, tmp_path):
    """Steps of two problems out of four, so that a refill has others to draw."""
    _, heard, how = smoke_run.rewarded()

    def begin(name):
        path = tmp_path / name
        smoke_run.begin_from(whole, path, "demos", "sft")
        shutil.copytree(heard / "compiled", path / "compiled", dirs_exist_ok=True)
        return path

    how = ("--config.stages=('demos','sft','rl1')", "--config.rl1.steps=3", *how,
           "--config.rl.prompts=2", "--config.rl.refill_tries=2")  # fmt: skip
    undisturbed, path = begin("undisturbed"), begin("disturbed")
    done(undisturbed, *how)
    expected = smoke_run.metrics(undisturbed)
    drawn = [int(m["rl/prompts_drawn"]) for m in expected]
    assert max(drawn) > 2, drawn
    killed(path, "rollout:2", *how)  # of step 1 where that was refilled, else step 2 itself
    done(path, *how)
    assert_same_state(undisturbed, path, "rl1")
    assert without_times(smoke_run.metrics(path)) == without_times(expected)
    for number, prompts in enumerate(drawn, start=1):
        name = f"rl1/episodes/step_{number:06d}.jsonl"
        assert records(path / name) == records(undisturbed / name)
        assert len({r["problem_id"] for r in records(path / name)}) == prompts


@pytest.mark.slow
def test_sigterm_saves_the_last_whole_step_and_the_run_ends_with_the_same_bits(whole, tmp_path):
    """In SFT and in a rollout, far from any step that would be saved anyway."""
    path = tmp_path / "run"
    smoke_run.begin_from(whole, path, "demos")
    often = ("--config.stages=('demos','sft','rl1')", "--config.sft.save_every=100",
             "--config.rl.save_every=100")  # fmt: skip
    terminated(path, "sft:23", *often)
    assert (path / "sft" / "checkpoints" / "23").exists()
    assert len(smoke_run.metrics(path)) == 23
    out = terminated(path, "rollout:2", *often)
    assert "resumed after step 23" in out
    assert [p.name for p in (path / "rl1" / "checkpoints").iterdir()] == ["1"]
    assert "resumed after step 1" in done(path, *often)
    for stage in ("sft", "rl1"):
        assert_same_state(whole, path, stage)
    expected = [r for r in smoke_run.metrics(whole) if r["stage"] in ("sft", "rl1")]
    assert without_times(smoke_run.metrics(path)) == without_times(expected)
    times = [r["time_s"] for r in smoke_run.metrics(path) if r["stage"] == "sft"]
    assert times == sorted(times)  # the clock goes on where it was


@pytest.mark.slow
def test_two_runs_are_equal_even_when_one_is_killed_in_every_stage(whole, tmp_path):
    path = tmp_path / "run"
    for place in ("sft:25", "save:30", "rollout:2", "save:3", "rollout:6"):
        killed(path, place)
    done(path)
    for stage in ("sft", "rl1", "rl2"):
        assert_same_state(whole, path, stage)
    assert without_times(smoke_run.metrics(path)) == without_times(smoke_run.metrics(whole))
    for name in ("demos/demos.jsonl", "filter/kept.jsonl", "eval/results.json"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    for name in json.loads((whole / "eval" / "asked.json").read_text()):
        assert records(path / name) == records(whole / name)
    shutil.rmtree(path)
