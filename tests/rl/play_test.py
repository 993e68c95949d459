"""What a step draws and what it keeps: refills by hand, bounded, and the same when made again."""

import pytest

from aster_jax import config, types, workdir
from aster_jax.data import problems
from aster_jax.policy import Policy
from aster_jax.rl import play
from tests.rl import update_test

POOL = [types.Problem(f"p{i}", "q", "1", "f") for i in range(12)]


class Phases:
    """Stands in for the engine and the tool: group i of a problem's four earns what is told."""

    def __init__(self, rewards, ends=None):
        self.rewards, self.ends, self.asked, self.reused = rewards, ends or {}, [], []

    def __call__(self, run, policy, players, params, asked, limits, name, episodes, where, reuse):
        self.asked.append((name, [r.problem.id for r in asked[::4]]))
        self.reused.append(reuse)
        scored = []
        for r in asked:
            reward = self.rewards(r.problem.id, r.sample)
            end = self.ends.get(r.problem.id, "answered")
            made = update_test.trajectory(int(r.problem.id[1:]), r.sample, 3, end)
            scored.append(types.Scored(made, reward, "exact" if reward else "wrong"))
        return scored, {"phase_s": 1.0, "sampled_tokens": 10, "pages_peak": len(asked)}


@pytest.fixture
def table(tmp_path, one_device, monkeypatch):
    def made(phases, tries, lockstep=True):
        c = config.default()
        c.name, c.rl.group, c.rl.refill_tries, c.rollout.lockstep = "t", 4, tries, lockstep
        run = workdir.Run(c, tmp_path, one_device)
        monkeypatch.setattr(play.phase, "run_phase", phases)
        monkeypatch.setattr(Policy, "prompt_ids", lambda self, question: (1, 2))
        speaks = Policy(None, None, "chatml", None)
        return play.Table(run, speaks, None, "rl1", config.rl_stage(c, "rl1"), POOL, 3)

    return made


FIRST = [f"p{i}" for i in problems.batch(12, 3, 0, 0)]


def differ(problem, sample):
    """Every second problem's members differ; the others agree."""
    return float(sample == 0 and int(problem[1:]) % 2 == 0)


def test_without_tries_a_step_is_what_was_drawn(table):
    phases = Phases(lambda problem, sample: 0.0)
    played = table(phases, 0).step({}, 1, None, {})
    assert phases.asked == [("rl1/1", FIRST)] and phases.reused == [False]
    assert played.scored == played.drawn and len(played.drawn) == 12 and played.prompts == 3
    assert played.stats == {"phase_s": 1.0, "sampled_tokens": 10, "pages_peak": 12}


def test_groups_that_agree_are_replaced_in_their_places(table):
    phases = Phases(differ)
    played = table(phases, 9).step({}, 1, None, {})
    found = [s.trajectory.problem_id for s in played.scored[::4]]
    odd = [i for i, p in enumerate(FIRST) if int(p[1:]) % 2]
    assert odd and all(int(p[1:]) % 2 == 0 for p in found)
    assert [p for i, p in enumerate(found) if i not in odd] == [p for p in FIRST if not int(p[1:]) % 2]
    # Nothing is played twice, the members of a group stay together, and all of it is kept.
    names = [p for _, ids in phases.asked for p in ids]
    assert len(set(names)) == len(names) == played.prompts
    assert [s.trajectory.problem_id for s in played.drawn[::4]] == names
    assert len({s.trajectory.problem_id for s in played.scored[:4]}) == 1
    assert played.stats["phase_s"] == len(phases.asked) and played.stats["pages_peak"] == 12
    assert [name for name, _ in phases.asked[1:]] == [
        f"rl1/1/refill{i}" for i in range(1, len(phases.asked))
    ]


def test_tries_are_bounded_and_so_is_the_pool(table):
    phases = Phases(lambda problem, sample: 1.0)
    played = table(phases, 2).step({}, 1, None, {})
    assert [len(ids) for _, ids in phases.asked] == [3, 3, 3] and played.prompts == 9
    assert [s.trajectory.problem_id for s in played.scored[::4]] == FIRST  # what there is
    phases = Phases(lambda problem, sample: 1.0)
    assert table(phases, 50).step({}, 1, None, {}).prompts == len(POOL)


def test_groups_that_the_tool_lost_are_not_drawn_again(table):
    ends = {FIRST[0]: "infrastructure"}
    phases = Phases(lambda problem, sample: float(sample == 0), ends)
    assert table(phases, 3).step({}, 1, None, {}).prompts == 3


def test_a_step_that_is_made_again_draws_the_same(table):
    once, again = Phases(differ), Phases(differ)
    first, second = (table(p, 4).step({}, 2, None, {}) for p in (once, again))
    assert once.asked == again.asked and first == second
    other = Phases(differ)
    table(other, 4).step({}, 3, None, {})
    assert other.asked[1:] != once.asked[1:]


def test_refills_go_on_in_the_steps_own_journal(table):
    """The first phase decides whether old episodes count; the refills never empty the journal."""
    for lockstep in (True, False):
        phases = Phases(differ)
        table(phases, 1, lockstep).step({}, 1, None, {})
        assert phases.reused == [not lockstep, True]
