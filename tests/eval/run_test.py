"""The eval stage on an untrained model: its files, what is made again, and what is left alone.

One small run; every test changes something about what is there, as a kill, a tool or a user
would, and starts the stage again. A mark in a record tells whether it was made anew.
"""

import json
import shutil
import types as python_types
import weakref

import jax
import pytest

from aster_jax import config, types, workdir
from aster_jax import policy as policies
from aster_jax.eval import arms
from aster_jax.eval import run as evaluation
from aster_jax.report import records, tables
from tests.rollout import chatter


def settings(problems):
    c = config.default()
    c.name, c.stages = "t", ("eval",)
    c.model.show_tool = False
    c.model.d_model, c.model.d_ff = 32, 48
    c.problems.heldout = str(problems)
    c.rollout.slots, c.rollout.capacity, c.rollout.prefill_rows = 2, 96, 2
    c.rollout.pool_tokens, c.rollout.prefill_buckets = 192, (16,)
    c.eval.checkpoints = ("base",)
    c.eval.samples = 3
    c.eval.turn_tokens, c.eval.response_tokens, c.eval.context_tokens = 8, 16, 96
    return c


@pytest.fixture(scope="module")
def first(tmp_path_factory, one_device):
    """The stage as it is run first: 4 problems, one of which fills the context, 3 samples."""
    path = tmp_path_factory.mktemp("eval")
    problems = path / "held.jsonl"
    questions = ["What is 1+1?", "What is 2+2? " * 40, "What is 3+3?", "What is 4+4?"]
    lines = [json.dumps({"id": i, "question": q, "answer": "2"}) for i, q in enumerate(questions)]
    problems.write_text("\n".join(lines) + "\n")
    made = workdir.open_run(settings(problems), path / "run", one_device)
    chatter.build(made.directory("demos") / "tokenizer")
    made.finish("demos", {})
    assert not made.has_ended("eval")
    evaluation.run(made)
    return made


@pytest.fixture
def run(first, tmp_path):
    """A copy of the first run that a test may damage, under a config that it may change."""
    shutil.copytree(first.path, tmp_path / "run")
    return workdir.Run(config_of(first), tmp_path / "run", first.mesh)


def config_of(run, **changes):
    """The run's config with other keys of `eval`."""
    c = settings(run.config.problems.heldout)
    c.eval.update(changes)
    return c


def files(run):
    return {a.name: run.path / a.file for a in arms.wanted(run)}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(run):
    return json.loads((run.path / "eval" / "results.json").read_text())


def asked_and_earlier(run):
    found = records.read(run.path)
    return found.results, found.earlier


def without_times(records):
    return [
        {k: v for k, v in r.items() if k not in ("calls", "spans", "mark")}
        | {
            "calls": [{**c, "wall_s": 0, "queue_s": 0} for c in r["calls"]],
            "spans": [{**s, "end_s": 0} for s in r["spans"]],
        }
        for r in records
    ]


def put(path, records, torn=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + torn)


def marked(run, change=lambda i, record: {}):
    """Mark every record of the first arm and change some; the arm's file."""
    path = files(run)["main"]
    put(path, [{**r, "mark": i, **change(i, r)} for i, r in enumerate(read(path))])
    return path


def kept(path):
    """Marks of the records that were not made anew, in order."""
    return [r["mark"] for r in read(path) if "mark" in r]


def test_each_arm_has_its_line_and_its_file(first):
    found = results(first)
    assert [(r["checkpoint"], r["arm"]) for r in found] == [("base", a) for a in arms.NAMES]
    assert [r["max_calls"] for r in found] == [first.config.eval.max_calls, 0, 0]
    assert all(r["k"] == 3 and r["tokens"] == 16 and r["temperature"] == 1.0 for r in found)
    assert all(r["complete"] and r["n_problems"] == 3 for r in found)
    asked = json.loads((first.path / "eval" / "asked.json").read_text())
    assert asked == [r["file"] for r in found]
    assert [first.path / r["file"] for r in found] == list(files(first).values())
    assert json.loads((first.path / "eval" / "differences.json").read_text()) == []
    assert first.is_finished("eval") and evaluation.is_current(first)


def test_a_prompt_that_fills_the_context_is_left_out(first):
    assert first.summary("eval")["problems"] == 3
    for path in files(first).values():
        assert [(r["problem_id"], r["sample"]) for r in read(path)] == [
            (f"held/{i}", s) for i in (0, 2, 3) for s in range(3)
        ]
    assert {p.name for p in (first.path / "eval").iterdir()} == {
        *(p.name for p in files(first).values()), "asked.json", "results.json",
        "differences.json", "DONE.json",
    }  # fmt: skip


def test_the_forced_answer_belongs_to_the_episode(first):
    for r in read(files(first)["no_tool"]):
        assert r["spans"][0]["kind"] == "prompt"
        assert r["spans"][0]["text"].endswith(arms.FORCED_ANSWER)
        assert r["opener"] == arms.FORCED_ANSWER and r["num_calls"] == 0
    for name in ("main", "think"):
        assert all(r["opener"] == "" for r in read(files(first)[name]))


def test_the_report_reads_what_the_stage_wrote(first):
    found = records.read(first.path)
    assert len(found.results) == 3 and len(found.eval_rows) == 3 * 3 * 3
    assert len(records.episodes(first.path)) == 3 * 3 * 3
    assert "avg@3 at temperature 1 " in tables.headline(found.results).note


def test_what_is_there_needs_neither_tool_nor_weights(run, monkeypatch, capsys):
    marked(run)
    before = {p: p.stat().st_mtime_ns for p in files(run).values()}
    stands = results(run)

    def refuse(*_):
        raise AssertionError("weights are read though nothing is missing")

    monkeypatch.setattr(policies, "trained_params", refuse)
    evaluation.run(run)
    assert {p: p.stat().st_mtime_ns for p in files(run).values()} == before
    assert results(run) == stands
    assert "decoding attends" not in capsys.readouterr().out


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_killed_arm_goes_on(run, lockstep):
    # Killed in the second chunk of 8 (4 per slot): the first is whole, of the second nothing
    # or, torn, one of one. Killed once more, it would have left two parts.
    path = marked(run)
    before = read(path)
    path.unlink()
    parts = path.with_suffix(".parts")
    put(parts / "000001.jsonl", before[:5])
    put(parts / "000002.jsonl.partial", before[6:8], json.dumps(before[8])[:40])
    run.config.rollout.lockstep = lockstep
    evaluation.run(run)
    assert [(r["problem_id"], r["sample"]) for r in read(path)] == [
        (r["problem_id"], r["sample"]) for r in before
    ]
    # With a fixed schedule a chunk is made again as a whole: 5 was missing of the first, 8 of
    # the second.
    assert kept(path) == ([] if lockstep else [0, 1, 2, 3, 4, 6, 7])
    assert without_times(read(path)) == without_times(before)
    assert not parts.exists()


def test_only_what_the_tool_lost_is_asked_again(run):
    lost = {"end": "infrastructure", "reward": 0.0}
    path = marked(run, lambda i, r: lost if i in (1, 4) else {})
    before = read(files(run)["think"])
    expected = read(files(run)["main"])
    evaluation.run(run)
    assert kept(path) == [0, 2, 3, 5, 6, 7, 8]
    assert all(r["end"] != "infrastructure" for r in read(path))
    assert [r["sample"] for r in read(path)] == [r["sample"] for r in expected]
    assert read(files(run)["think"]) == before
    assert results(run)[0]["masked"] == 0 and evaluation.is_current(run)


def test_what_the_verifier_lost_is_judged_and_not_made_again(run, monkeypatch):
    gone = {"verdict": "verifier_error", "reward": 0.0, "end": "answered"}
    right = {**gone, "final_text": "\\boxed{2}"}
    path = marked(run, lambda i, r: right if i in (1, 4) else gone if i == 2 else {})

    def refuse(*_):
        raise AssertionError("weights are read though only verdicts are missing")

    monkeypatch.setattr(policies, "trained_params", refuse)
    evaluation.run(run)
    judged = read(path)
    assert kept(path) == list(range(9))
    assert [(r["reward"], r["verdict"]) for r in judged[1:5:3]] == [(1.0, "exact")] * 2
    assert judged[2]["verdict"] == "no_answer"
    assert results(run)[0]["avg_at_k"] == pytest.approx(2 / 9)


def test_lost_verdicts_are_asked_for_with_the_problems_own_scorers(run):
    asked = [python_types.SimpleNamespace(problem=types.Problem(i, "q", "7", "f", f"of {i}")) for i in "ab"]
    seen, filed = [], []
    had = python_types.SimpleNamespace(
        unjudged=lambda which: [{"problem_id": "b", "final_text": "it is 7", "gold": "7"}],
        new_part=lambda: "part",
        add=lambda part, records: filed.extend(records),
    )
    verifier = python_types.SimpleNamespace(score=lambda items: seen.extend(items) or [(1.0, "exact")])
    evaluation._judge_again(run, lambda: python_types.SimpleNamespace(verifier=verifier), had, asked)
    assert seen == [("it is 7", "7", "of b")]
    assert [(r["problem_id"], r["reward"]) for r in filed] == [("b", 1.0)]


def test_what_stays_lost_is_said_counted_as_wrong_and_tried_at_the_next_start(run, capsys):
    lost = {"end": "infrastructure", "reward": 0.0}
    path = marked(run, lambda i, r: lost if i == 1 else {})
    run.config.eval.deadline_s = 1e-9  # no time is left to ask again in this start
    evaluation.run(run)
    main = results(run)[0]
    assert (main["masked"], main["complete"], main["k"]) == (1, False, 3)
    assert main["avg_upper"] == pytest.approx(main["avg_at_k"] + 1 / 9)
    said = capsys.readouterr().out
    assert "0 cut by time, 1 lost, asked for again at the next start" in said
    assert run.is_finished("eval") and not evaluation.is_current(run)
    run.config.eval.deadline_s = 0.0
    run.config.rollout.retries = 0
    evaluation.run(run)
    assert kept(path) == [0, *range(2, 9)] and evaluation.is_current(run)


def test_more_samples_extend_and_fewer_take_the_first(run):
    path = marked(run)
    more = workdir.Run(config_of(run, samples=4), run.path, run.mesh)
    assert not evaluation.is_current(more)
    evaluation.run(more)
    assert [(r["sample"], "mark" in r) for r in read(path)] == [
        (s, s < 3) for _ in range(3) for s in range(4)
    ]
    assert results(more)[0]["k"] == 4 and evaluation.is_current(more)
    written = path.stat().st_mtime_ns
    fewer = workdir.Run(config_of(run, samples=2), run.path, run.mesh)
    assert not evaluation.is_current(fewer)
    evaluation.run(fewer)
    assert results(fewer)[0]["k"] == 2 and evaluation.is_current(fewer)
    assert path.stat().st_mtime_ns == written


def test_other_settings_are_other_arms_beside_the_old_ones(run, capsys):
    path = marked(run)
    also = ({"name": "short", "response_tokens": 4, "samples": 1, "no_tool": False},)
    changed = workdir.Run(
        config_of(run, temperature=0.5, think=False, no_tool=False, also=also), run.path, run.mesh
    )
    assert not evaluation.is_current(changed)
    evaluation.run(changed)
    found = results(changed)
    assert [(r["evaluation"], r["arm"], r["temperature"]) for r in found] == [
        ("main", "main", 0.5), ("short", "main", 0.5), *(("main", arm, 1.0) for arm in arms.NAMES),
    ]
    assert [len(x) for x in asked_and_earlier(changed)] == [2, 3]
    assert (found[1]["tokens"], found[1]["k"]) == (4, 1)
    assert kept(path) == list(range(9)) and evaluation.is_current(changed)
    said = capsys.readouterr().out
    assert "base main    main  accuracy" in said and "base main    short  accuracy" in said
    # Asked for again, they are there.
    evaluation.run(run)
    assert [len(x) for x in asked_and_earlier(run)] == [3, 2]


def test_what_our_clock_cuts_is_a_bound_and_made_when_there_is_time(run, capsys):
    changes = {"samples": 4, "no_tool": False, "think": False}
    short = workdir.Run(config_of(run, deadline_s=1e-9, **changes), run.path, run.mesh)
    evaluation.run(short)
    main = results(short)[0]
    cut = main["cut"]  # of the 3 new ones, those that did not end in the first dispatch
    assert 0 < cut <= 3 and (main["masked"], main["complete"]) == (0, True)
    assert main["avg_upper"] == pytest.approx(main["avg_at_k"] + cut / 12)
    assert f"{cut} cut by time, 0 lost" in capsys.readouterr().out
    assert evaluation.is_current(short)  # it was asked under this limit, and has ended
    free = workdir.Run(config_of(run, **changes), run.path, run.mesh)
    assert not evaluation.is_current(free)
    evaluation.run(free)
    assert results(free)[0]["cut"] == 0 and evaluation.is_current(free)


def test_a_file_that_was_trained_on_is_said(run, capsys):
    # RL has begun on a file of problems, before one of them was named as held out.
    problems = run.path / "train.jsonl"
    put(problems, [{"question": f"What is {i}+{i}?", "answer": str(2 * i)} for i in range(1, 9)])
    run.config.problems.source = str(problems)
    put(run.path / "rl1" / "began.json", [{"keys": {}, "files": {}, "heldout": []}])
    evaluation.run(run)
    said = capsys.readouterr().out
    assert f"3 of the 3 problems of {run.config.problems.heldout} were among" in said
    assert "training problems of rl1" in said


def test_a_missing_file_is_for_the_stage_to_say(run):
    run.config.problems.heldout = str(run.path / "gone.jsonl")
    assert not evaluation.is_current(run)


def test_one_checkpoints_parameters_are_gone_when_the_next_ones_are_read(run, monkeypatch):
    run.finish("sft", {"step": 0})  # no steps: it has the base model's parameters
    run.config.eval.update({"checkpoints": ("base", "sft"), "samples": 1, "temperature": 0.5})
    read_one, alive, read_names = policies.trained_params, [], []

    def watched(run_, policy, checkpoint):
        assert not any(leaf() for leaf in alive)
        params = read_one(run_, policy, checkpoint)
        alive[:] = map(weakref.ref, jax.tree.leaves(params))
        read_names.append(checkpoint)
        return params

    monkeypatch.setattr(policies, "trained_params", watched)
    evaluation.run(run)
    assert alive and read_names == ["base", "base", "sft"]  # once for all arms; sft asks for base
