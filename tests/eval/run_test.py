"""The eval stage on an untrained model: its files, what is made again, and what is left out."""

import json

import pytest

from aster_jax import config, workdir
from aster_jax.eval import run as evaluation
from tests.rollout import chatter

ARMS = ("main", "no_tool")


def settings(problems):
    c = config.default()
    c.name = "t"
    c.model.show_tool = False
    c.model.d_model, c.model.d_ff = 32, 48
    c.problems.heldout = str(problems)
    c.rollout.slots, c.rollout.capacity, c.rollout.prefill_rows = 6, 96, 3
    c.rollout.prefill_buckets = (16,)
    c.eval.checkpoints = ("base",)
    c.eval.samples = 2
    c.eval.turn_tokens, c.eval.response_tokens, c.eval.context_tokens = 8, 16, 96
    return c


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_device):
    path = tmp_path_factory.mktemp("eval")
    problems = path / "held.jsonl"
    questions = ["What is 1+1?", "What is 2+2? " * 40, "What is 3+3?"]
    lines = [json.dumps({"id": i, "question": q, "answer": "2"}) for i, q in enumerate(questions)]
    problems.write_text("\n".join(lines) + "\n")
    made = workdir.open_run(settings(problems), path / "run", one_device)
    chatter.build(made.directory("demos") / "tokenizer")
    made.finish("demos", {})
    return made


@pytest.fixture(scope="module")
def evaluated(run):
    evaluation.run(run)
    return run


def test_each_arm_has_its_line(evaluated):
    results = json.loads((evaluated.path / "eval" / "results.json").read_text())
    assert [(r["checkpoint"], r["arm"]) for r in results] == [("base", a) for a in ARMS]
    assert [r["max_calls"] for r in results] == [evaluated.config.eval.max_calls, 0]
    assert all(r["k"] == 2 and r["tokens"] == 16 and r["temperature"] == 1.0 for r in results)


def test_a_prompt_that_fills_the_context_is_left_out(evaluated):
    assert evaluated.summary("eval")["problems"] == 2
    for arm in ARMS:
        text = (evaluated.path / "eval" / f"base_{arm}.jsonl").read_text()
        records = [json.loads(line) for line in text.splitlines()]
        assert [(r["problem_id"], r["sample"]) for r in records] == [
            ("held/0", 0), ("held/0", 1), ("held/2", 0), ("held/2", 1),
        ]  # fmt: skip


def test_the_forced_answer_belongs_to_the_episode(evaluated):
    text = (evaluated.path / "eval" / "base_no_tool.jsonl").read_text()
    for r in map(json.loads, text.splitlines()):
        assert r["spans"][0]["kind"] == "prompt"
        assert r["spans"][0]["text"].endswith(evaluation.FORCED_ANSWER)
        assert r["num_calls"] == 0


def test_what_was_left_out_is_said_for_every_arm(tmp_path, one_device, capsys):
    stage = workdir.Run(config.default(), tmp_path, one_device)
    numbers = {"avg_at_k": 0.5, "avg_low": 0.4, "avg_high": 0.6, "n_problems": 9, "k": 1}
    for arm in ARMS:
        for masked in (3, 0):
            said = {**numbers, "checkpoint": "sft", "arm": arm, "calls_mean": 2.0}
            evaluation._say(stage, {**said, "masked": masked})
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("left out 3: tool, verifier or deadline") for line in lines[::2]] == [
        True, True,
    ]  # fmt: skip
    assert all(line.endswith("calls 2.00") for line in lines[1::2])


def test_what_was_evaluated_is_not_evaluated_again(evaluated):
    directory = evaluated.path / "eval"
    main, forced = (directory / f"base_{arm}.jsonl" for arm in ARMS)
    before, results = forced.read_bytes(), (directory / "results.json").read_text()
    written = main.stat().st_mtime_ns
    # As a kill leaves it: one arm whole, the other begun.
    forced.rename(directory / "base_no_tool.jsonl.partial")
    (directory / "DONE.json").unlink()
    evaluation.run(evaluated)
    assert main.stat().st_mtime_ns == written
    assert forced.read_bytes() == before
    assert (directory / "results.json").read_text() == results
    assert evaluated.is_finished("eval")
