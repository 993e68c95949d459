"""A phase of a real run: config to engine, tool and verifier, problems to scored trajectories."""

import dataclasses

import pytest

from aster_jax import config, policy, workdir
from aster_jax.rollout import phase, record
from tests.rollout import chatter


def settings():
    c = config.default()
    c.name = "t"
    c.rollout.slots, c.rollout.capacity, c.rollout.prefill_rows = 6, 224, 3
    c.rollout.prefill_buckets = (8, 24)
    c.rollout.steps_per_dispatch = 8
    c.rollout.tool_result_tokens = 12
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
    how = phase.sampling_of(c.rollout)
    assert (how.temperature, how.top_p, how.top_k) == (1.0, 1.0, 0)
    limits = phase.budgets(c, c.rl1)
    assert dataclasses.asdict(limits) == {
        "turn_tokens": 40,
        "response_tokens": 60,
        "context_tokens": 224,
        "max_calls": 2,
        "tool_result_tokens": 12,
        "max_malformed": c.rollout.max_malformed,
        "call_s": c.rollout.call_s,
        "trajectory_s": c.rollout.trajectory_s,
        "deadline_s": c.rollout.deadline_s,
    }


def test_requests_stand_group_by_group(speaks):
    asked = phase.requests(chatter.problems(2), 3, speaks, (5,))
    assert [(r.problem.id, r.sample) for r in asked] == [
        ("p0", 0), ("p0", 1), ("p0", 2), ("p1", 0), ("p1", 1), ("p1", 2),
    ]  # fmt: skip
    assert asked[0].prompt == asked[2].prompt == speaks.prompt_ids(chatter.problems(2)[0].question)
    assert all(r.opener == (5,) for r in asked)


def test_trajectories_come_back_in_order_with_their_rewards(run, speaks, talker):
    c = run.config
    # One of the answers that the model can give is right for every problem.
    asked_for = [dataclasses.replace(p, answer="qx") for p in chatter.problems(4)]
    asked = phase.requests(asked_for, 6, speaks)
    with phase.players(run, speaks, phase.sampling_of(c.rollout)) as players:
        limits = phase.budgets(c, c.rl1)

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
    assert phase.fitting(run, speaks, short, "rl1") == short
    assert capsys.readouterr().out == ""
    assert phase.fitting(run, speaks, [short[0], long, short[2]], "rl1") == [short[0], short[2]]
    assert f"1 of 3 problems have prompts that fill rl1.context_tokens={room}" in (
        capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="all of 1 problems .* raise it, and rollout.capacity"):
        phase.fitting(run, speaks, [long], "rl1")


def test_a_prompt_that_fits_exactly_leaves_one_token(run, speaks):
    problem = chatter.problems(1)[0]
    c = settings()
    c.rl1.context_tokens = len(speaks.prompt_ids(problem.question)) + 2
    tight = workdir.Run(c, run.path, run.mesh)
    assert phase.fitting(tight, speaks, [problem], "rl1", (5,)) == [problem]
    with pytest.raises(ValueError, match="all of 1 problems"):
        phase.fitting(tight, speaks, [problem], "rl1", (5, 5))
