"""A phase of a real run: config to engine, tool and verifier, problems to scored trajectories."""

import dataclasses
import json
import threading
import time

import pytest

from aster_jax import config, policy, settings as made_of, workdir
from aster_jax.errors import InputError, Leaving
from aster_jax.lifetime.notice import Notice
from aster_jax.rollout import journal, live, phase, record
from tests.rollout import chatter


def settings():
    c = config.default()
    c.name = "t"
    c.rollout.slots, c.rollout.capacity, c.rollout.prefill_rows = 6, 224, 3
    c.rollout.prefill_buckets = (8, 24)
    c.rollout.steps_per_dispatch = 8
    c.rollout.tool_result_tokens = 40
    c.rl1.turn_tokens, c.rl1.response_tokens, c.rl1.context_tokens = 40, 60, 224
    c.rl1.max_calls = 2
    return c


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    return chatter.build(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_device):
    return workdir.open_run(settings(), tmp_path_factory.mktemp("run"), one_device)


@pytest.fixture(scope="module")
def speaks(talker):
    return policy.Policy(talker.cfg, talker.tokenizer, chatter.STYLE, None)


def test_sections_become_values():
    c = settings()
    how = made_of.sampled(c.rollout)
    assert (how.temperature, how.top_p, how.top_k) == (1.0, 1.0, 0)
    limits = made_of.budgets(c, c.rl1)
    assert dataclasses.asdict(limits) == {
        "turn_tokens": 40,
        "response_tokens": 60,
        "context_tokens": 224,
        "max_calls": 2,
        "tool_result_tokens": 40,
        "max_malformed": c.rollout.max_malformed,
        "call_s": c.rollout.call_s,
        "trajectory_s": c.rollout.trajectory_s,
        "deadline_s": c.rollout.deadline_s,
    }


def test_requests_stand_group_by_group(speaks):
    asked = phase.requests(chatter.problems(2), 3, speaks, "7")
    assert [(r.problem.id, r.sample) for r in asked] == [
        ("p0", 0), ("p0", 1), ("p0", 2), ("p1", 0), ("p1", 1), ("p1", 2),
    ]  # fmt: skip
    assert asked[0].prompt == asked[2].prompt == speaks.prompt_ids(chatter.problems(2)[0].question)
    ids = speaks.opener_ids("7")
    assert ids and all(r.opener == ids and r.opener_text == "7" for r in asked)


def test_trajectories_come_back_in_order_with_their_rewards(run, speaks, talker, monkeypatch):
    c, shown = run.config, []
    monkeypatch.setattr(workdir.Run, "live", lambda *text: shown.append(text))
    # One of the answers that the model can give is right for every problem.
    asked_for = [dataclasses.replace(p, answer="qx") for p in chatter.problems(4)]
    asked = phase.requests(asked_for, 6, speaks)
    with phase.players(run, speaks, made_of.sampled(c.rollout)) as players:
        limits = made_of.budgets(c, c.rl1)

        def play(name):
            return phase.run_phase(run, speaks, players, talker.params, asked, limits, name)

        scored, stats = play("rl1/1")
        same, _ = play("rl1/1")
        other, _ = play("rl1/2")
    identities = [(s.trajectory.problem_id, s.trajectory.sample) for s in scored]
    assert identities == [(r.problem.id, r.sample) for r in asked]
    for s in scored:
        answered = s.trajectory.end == "answered"
        assert s.reward == float(answered and "\\boxed{qx}" in s.trajectory.final_text)
    assert shown == []  # no terminal: no progress is made up every round for nobody
    ids = [[s.trajectory.tokens for s in x] for x in (scored, same, other)]
    assert ids[0] == ids[1] and ids[0] != ids[2]
    numbers = record.summary(scored, stats)
    assert stats["compiles_after_warmup"] == 0
    assert numbers["phase_s"] > 0 and numbers["sampled_tokens"] == sum(
        sum(s.trajectory.loss_mask) for s in scored
    )


def test_prompts_that_fill_the_context_are_left_out_and_counted(run, speaks, capsys):
    short = chatter.problems(3)
    room = run.config.rl1.context_tokens
    long = dataclasses.replace(short[1], question="7" * room)
    assert phase.fitting(run, speaks, short, "rl1", room) == short
    assert capsys.readouterr().out == ""
    mixed = [short[0], long, short[2]]
    assert phase.fitting(run, speaks, mixed, "rl1", room) == [short[0], short[2]]
    assert f"1 of 3 problems have prompts that fill rl1.context_tokens={room}" in (
        capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="all of 1 problems .* raise it, and rollout.capacity"):
        phase.fitting(run, speaks, [long], "rl1", room)


def test_a_prompt_that_fits_exactly_leaves_one_token(run, speaks):
    problem = chatter.problems(1)[0]
    opener = len(speaks.opener_ids("7"))
    room = len(speaks.prompt_ids(problem.question)) + 1 + opener
    assert phase.fitting(run, speaks, [problem], "rl1", room, "7") == [problem]
    with pytest.raises(ValueError, match="all of 1 problems"):
        phase.fitting(run, speaks, [problem], "rl1", room - 1, "7")


class Failing:
    """A verifier that breaks; `score` is all of it that a phase uses."""

    def __init__(self, waits_s=0.0):
        self.waits_s = waits_s

    def score(self, items):
        time.sleep(self.waits_s)
        raise RuntimeError("no process could be started")


def played(run, speaks, talker, verifier, asked, **more):
    c = run.config
    with phase.players(run, speaks, made_of.sampled(c.rollout)) as players:
        players = dataclasses.replace(players, verifier=verifier or players.verifier)
        limits = made_of.budgets(c, c.rl1)
        return phase.run_phase(run, speaks, players, talker.params, asked, limits, "rl1/1", **more)


def test_a_verifier_that_fails_is_a_verdict_and_leaves_its_traceback(run, speaks, talker):
    asked = phase.requests(chatter.problems(2), 2, speaks)
    scored, _ = played(run, speaks, talker, Failing(), asked)
    assert {s.verdict for s in scored} == {"verifier_error"} and len(scored) == 4
    assert "no process could be started" in (run.path / "error.log").read_text()


def test_a_verdict_that_never_comes_is_waited_for_no_longer_than_said(
    run, speaks, talker, monkeypatch
):
    monkeypatch.setattr(phase, "VERDICT_S", 1.0)
    asked = phase.requests(chatter.problems(1), 2, speaks)
    began = time.monotonic()
    scored, _ = played(run, speaks, talker, Failing(waits_s=20.0), asked)
    assert {s.verdict for s in scored} == {"verifier_timeout"}
    assert time.monotonic() - began < 18.0


def test_a_verdict_that_comes_after_the_end_leaves_no_file(
    run, speaks, monkeypatch, tmp_path
):
    monkeypatch.setattr(phase, "VERDICT_S", 0.05)
    monkeypatch.setattr(phase, "LOOK_S", 0.01)
    come = threading.Event()

    class Late:
        def score(self, items):
            come.wait(60)
            return [(1.0, "ok")]

    asked = phase.requests(chatter.problems(1), 1, speaks)
    ended = live.fresh(asked[0], 0, made_of.budgets(run.config, run.config.rl1))
    ended = ended.trajectory("answered", "1")
    episodes = journal.Journal(tmp_path / "step.jsonl")
    judged = phase._Judging(run, speaks, Late(), asked, episodes, {})
    judged.begin(0, ended)
    assert [s.verdict for s in judged.scored([ended])] == ["verifier_timeout"]
    episodes.seal([])
    come.set()
    judged._threads.shutdown(wait=True)
    assert judged.count == 1 and [p.name for p in tmp_path.iterdir()] == ["step.jsonl"]


def test_episodes_are_written_as_they_end_and_not_made_twice(run, speaks, talker, tmp_path):
    asked = phase.requests(chatter.problems(3), 2, speaks)
    where = {"stage": "rl1", "step": 1, "checkpoint": "rl1", "arm": "main", "lineage": 5}
    episodes = journal.Journal(tmp_path / "step.jsonl")
    scored, stats = played(run, speaks, talker, None, asked, episodes=episodes, where=where)
    assert stats["kept_episodes"] == 0
    lines = episodes.read()
    assert len(lines) == 6 and not (tmp_path / "step.jsonl").exists()
    # Five of them are there when the run goes on, one with our failure: two are to be made.
    kept = [{**r, "end": "infrastructure"} if i == 0 else r for i, r in enumerate(lines[:5])]
    episodes.discard()
    for line in kept:
        episodes.add(line)
    again, stats = played(
        run, speaks, talker, None, asked, episodes=episodes, where=where, reuse=True
    )
    assert stats["kept_episodes"] == 4
    assert [s.trajectory.tokens for s in again] == [s.trajectory.tokens for s in scored]
    assert [s.reward for s in again] == [s.reward for s in scored]
    # Those of another policy are of no use.
    other = {**where, "lineage": 6}
    _, stats = played(run, speaks, talker, None, asked, episodes=episodes, where=other, reuse=True)
    assert stats["kept_episodes"] == 0


def test_a_phase_that_has_to_leave_leaves(run, speaks, talker):
    leaving = dataclasses.replace(run, notice=Asked())
    asked = phase.requests(chatter.problems(2), 2, speaks)
    with pytest.raises(Leaving):
        played(leaving, speaks, talker, None, asked)


class Asked(Notice):
    """A notice that has been given."""

    def is_given(self):
        return True


def test_an_interrupted_phase_waits_for_no_verdict(run, speaks, talker, monkeypatch):
    """Ctrl-C while answers are being compared: the comparisons are not waited for."""
    asked = phase.requests(chatter.problems(1), 1, speaks)
    made, _ = played(run, speaks, talker, None, asked)

    def one_ends_and_then_ctrl_c(loop, requests):
        loop._on_end(0, made[0].trajectory)
        raise KeyboardInterrupt

    monkeypatch.setattr(phase.episode.Rollout, "run", one_ends_and_then_ctrl_c)
    judging = Failing(waits_s=30.0)
    with phase.players(run, speaks, made_of.sampled(run.config.rollout)) as players:
        players = dataclasses.replace(players, verifier=judging)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            phase.run_phase(
                run, speaks, players, talker.params, asked,
                made_of.budgets(run.config, run.config.rl1), "rl1/1",
            )  # fmt: skip
        assert time.monotonic() - began < 25.0


def test_a_host_that_cannot_isolate_is_told_before_the_first_stage(run, monkeypatch):
    tried = []

    def cannot(config):
        assert config.preload == ()  # nothing is loaded for a look
        tried.append(config)
        raise RuntimeError("no tier from A1 to B2 works here")

    monkeypatch.setattr(phase.tools, "Executor", cannot)
    with pytest.raises(InputError, match="no tier from A1 to B2 .* doctor"):
        phase.check_tool(run)
    assert len(tried) == phase.STARTS


def test_a_tool_that_dies_while_it_starts_is_started_again(run, monkeypatch):
    executor, tried = phase.tools.Executor, []

    def dies_once(config):
        tried.append(config)
        if len(tried) == 1:
            raise RuntimeError("at start: the supervisor is gone")
        return executor(config)

    monkeypatch.setattr(phase.tools, "Executor", dies_once)
    phase.check_tool(run)
    assert len(tried) == 2


def test_gold_answers_that_cannot_be_compared_are_named_by_file_and_row(tmp_path, one_device, capsys):
    golds = ["7", "\\frac{1}{2}", "1, \\ldots, 7", "8"]
    path = tmp_path / "p.jsonl"
    rows = [{"question": f"Question {i}?", "answer": gold} for i, gold in enumerate(golds)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    c = settings()
    c.problems.source = str(path)
    phase.check_golds(workdir.Run(c, tmp_path, one_device))
    said = [line for line in capsys.readouterr().out.splitlines() if "row" in line]
    assert len(said) == 1 and f"{path} row 3" in said[0] and "ldots" in said[0]


def test_the_verifier_gets_what_the_tool_may_do():
    c = settings()
    c.tools.min_tier, c.tools.allow_unsafe = "C", True
    how = phase.verifying(c)
    assert (how.min_tier, how.allow_unsafe) == ("C", True)


def test_counters_of_several_processes_add_up_and_seconds_are_of_the_slowest():
    found = phase._over_processes([
        {"phase_s": 2.0, "sampled_tokens": 10, "pool_pages": 8},
        {"phase_s": 3.5, "sampled_tokens": 4, "pool_pages": 8, "rows_set_aside": 1},
    ])  # fmt: skip
    assert found == {"phase_s": 3.5, "sampled_tokens": 14, "pool_pages": 16, "rows_set_aside": 1}


def test_processes_on_one_host_share_its_processors(monkeypatch):
    c = config.default()
    alone = phase.tool_config(c), phase.verifying(c)
    assert alone[0] == made_of.tool(c) and alone[1].max_running == 0
    monkeypatch.setattr(phase.together, "beside", lambda: 2)
    monkeypatch.setattr(phase.os, "cpu_count", lambda: 8)
    assert phase.tool_config(c).max_running == 8 and phase.verifying(c).max_running == 4
    monkeypatch.setattr(phase.os, "cpu_count", lambda: 1)
    assert phase.tool_config(c).max_running == 1 and phase.verifying(c).max_running == 1
    c.tools.max_running = 5  # who says how many, means it
    assert phase.tool_config(c).max_running == 5
