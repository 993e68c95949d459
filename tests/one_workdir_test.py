"""One training run, and what somebody may want of it later, from the same workdir.

Budgets, temperatures and held-out files beside the first ones, a mistake corrected on the
way, more RL steps under another number of rows; and a second run from what it exported.
"""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from aster_jax.train import checkpoint
from tests import smoke_run


@pytest.fixture(scope="module")
def whole():
    return smoke_run.finished()[0]


def results(path):
    found = json.loads((path / "eval" / "results.json").read_text())
    return {(r["evaluation"], r["checkpoint"], r["arm"], r["step"]): r for r in found}


def test_trained_once_and_evaluated_as_often_as_asked(whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    held = tmp_path / "held.jsonl"
    rows = [{"question": f"What is {n} times {n + 3}?", "answer": str(n * (n + 3))} for n in range(5)]
    held.write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = results(path)
    assert {key[3] for key in before} == {0, 60, 3, 2}  # steps of base, sft, rl1, rl2

    more = (
        "{'name': 'cool', 'temperature': 0.6, 'top_p': 0.95, 'no_tool': False},"
        "{'name': 'short', 'response_tokens': 64, 'no_tool': False, 'think': False},"
        f"{{'name': 'other', 'heldout': '{held}', 'no_tool': False, 'think': False}},"
    )
    wrong = more.replace("0.95", "1.5")
    only = ("--config.eval.checkpoints=('sft','rl2')",)
    code, out, err, _ = smoke_run.launch(path, f"--config.eval.also=({wrong})", *only)
    assert code == 1 and "'cool'" in err and "top_p=1.5" in err and "Traceback" not in err

    code, out, err, _ = smoke_run.launch(
        path, f"--config.eval.also=({more})", *only, "--config.rl2.steps=7",
        "--config.rl.micro_rows=4", "--config.rl.eval_every=3", "--config.rl.eval_samples=2",
        "--config.rl.eval_problems=4",
    )  # fmt: skip
    assert code == 0, f"{out}\n{err}"
    assert "rl1    finished before, skipped" in out and "resumed after step 2" in out
    steps = [r["step"] for r in smoke_run.metrics(path) if r["stage"] == "rl2"]
    assert steps == list(range(1, 8))
    measured = {r["step"] for r in smoke_run.metrics(path) if "rl/eval_accuracy" in r}
    assert measured == {3, 6, 7} and "validation 0." in out
    assert json.loads((path / "rl2" / "DONE.json").read_text())["best"] in (3, 6, 7)
    made = results(path)
    assert all(made[key] == before[key] for key in before)  # old results stay beside the new ones
    new = {key for key in made if key not in before}
    assert new == {
        *(("main", "rl2", arm, 7) for arm in ("main", "no_tool", "think")),
        *((name, c, arm, s) for name, arms in (("cool", ("main", "think")), ("short", ("main",)),
          ("other", ("main",))) for c, s in (("sft", 60), ("rl2", 7)) for arm in arms),
    }  # fmt: skip
    assert made["cool", "sft", "main", 60]["temperature"] == 0.6
    assert made["short", "sft", "main", 60]["tokens"] == 64
    assert made["other", "sft", "main", 60]["n_problems"] == 5
    history = (path / "config_history.jsonl").read_text()
    assert '"rl2.steps": [2, 7]' in history and '"rl.micro_rows": [8, 4]' in history
    again = smoke_run.launch(path, f"--config.eval.also=({more})", *only, "--config.rl2.steps=7",
                             "--config.rl.micro_rows=4")  # fmt: skip
    assert again[0] == 0 and "eval   finished before, skipped" in again[1]


def exported(whole, stage, out):
    command = ["--workdir", str(whole), "--checkpoint", stage, "--out", str(out)]
    return smoke_run.command("aster_jax.export", *command)


def heard(path):
    """Question -> an answer that some trajectories of RL step 1 gave and others did not."""
    said = {}
    for line in (path / "rl1" / "episodes" / "step_000001.jsonl").read_text().splitlines():
        r = json.loads(line)
        boxed = r["spans"][-1]["text"].rpartition("\\boxed{")[2].partition("}")[0]
        said.setdefault(r["question"], []).append(boxed if boxed.isdigit() else "")
    return {q: max(set(a) - {""}, default="") for q, a in said.items() if len(set(a)) > 1}


@pytest.mark.slow
def test_rl_from_an_export_makes_the_same_first_update(whole, tmp_path):
    """A fresh workdir, no demonstrations and no SFT: a model that somebody else has trained.

    The smoke model is right too rarely for an update. So the step is played once to see what
    the model says, which does not depend on the answers, and some of it is declared right.
    """
    code, out, err = exported(whole, "sft", tmp_path / "sft")
    assert code == 0 and "step 60" in out, err
    questions = [
        f"What is the least common multiple of {a} and {b}, modulo 577?"
        for a, b in ((84, 36), (45, 63), (56, 72), (24, 90))
    ]
    problems = tmp_path / "problems.jsonl"

    def play(name, right, *arguments):
        rows = [{"id": str(i), "question": q, "answer": right.get(q, "-1")}
                for i, q in enumerate(questions)]  # fmt: skip
        problems.write_text("".join(json.dumps(r) + "\n" for r in rows))
        path = tmp_path / name
        if arguments:
            path.mkdir()
            shutil.copytree(tmp_path / "heard" / "compiled", path / "compiled")
        else:
            smoke_run.begin_from(whole, path, "demos", "sft")
        code, out, err, _ = smoke_run.launch(
            path, "--config.stages=('rl1',)", "--config.rl1.steps=1",
            f"--config.problems.source={problems}", f"--config.rl.prompts={len(questions)}",
            *arguments,
        )  # fmt: skip
        assert code == 0, f"{out}\n{err}"
        return path, out

    play("heard", {})
    right = heard(tmp_path / "heard")
    assert right
    first, _ = play("first", right)
    second, out = play("second", right, f"--config.model.source={tmp_path / 'sft'}")
    assert "untrained by this run" in out
    one, other = (smoke_run.metrics(path)[-1] for path in (first, second))
    assert one["rl/updates"] == 1 and one["rl/grad_norm"] > 0
    assert {k: v for k, v in one.items() if k.startswith("rl/")} == {
        k: v for k, v in other.items() if k.startswith("rl/")
    }
    weights = []
    for path in (first, second):
        code, _, err = exported(path, "rl1", tmp_path / f"{path.name}_rl1")
        assert code == 0, err
        weights.append(
            safetensors.numpy.load_file(tmp_path / f"{path.name}_rl1" / "model.safetensors")
        )
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])


@pytest.mark.parametrize(
    "stage, workdir, text",
    [("rl2", "absent", "config.json is missing"), ("rl1", "", "already holds a checkpoint")],
)
def test_an_export_that_cannot_be_is_one_sentence(whole, tmp_path, stage, workdir, text):
    (tmp_path / "model.safetensors").write_text("")
    command = ["--workdir", str(tmp_path / workdir) if workdir else str(whole),
               "--checkpoint", stage, "--out", str(tmp_path)]  # fmt: skip
    code, out, err = smoke_run.command("aster_jax.export", *command)
    assert code == 1 and text in err and "Traceback" not in err and not out


@pytest.mark.slow
def test_a_finished_stage_whose_last_checkpoint_is_damaged_makes_it_again(whole, tmp_path):
    """Before anything has started from it; the parameters are the same bits."""
    path = tmp_path / "run"
    smoke_run.begin_from(whole, path, "demos", "sft")
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in smoke_run.metrics(whole) if r["stage"] == "sft")
    )
    checkpoints = path / "sft" / "checkpoints"
    if (checkpoints / "60" / checkpoint.DROPPED).exists():  # rl1 of `whole` has begun from it
        shutil.rmtree(path / "sft")
        code, _, err, _ = smoke_run.launch(path, "--config.stages=('demos','sft')")
        assert code == 0, err
    before = {p.name for p in checkpoints.iterdir()}
    assert before == {"50", "60"}
    files = [p for p in (checkpoints / "60" / "params").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    code, out, err, _ = smoke_run.launch(path, "--config.stages=('demos','sft')")
    assert code == 0, f"{out}\n{err}"
    assert "made again" in out and "resumed after step 50" in out
    assert (path / "sft" / "damaged" / "60").exists()
    models = []
    for source in (whole, path):
        code, _, err = exported(source, "sft", tmp_path / f"out_{source.parent.name}_{source.name}")
        assert code == 0, err
        models.append(safetensors.numpy.load_file(
            tmp_path / f"out_{source.parent.name}_{source.name}" / "model.safetensors"))  # fmt: skip
    for name in models[0]:
        np.testing.assert_array_equal(models[0][name], models[1][name])
