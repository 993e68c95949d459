"""The loop's own decisions: how many problems a step has, and which pool it draws from."""

import threading

import pytest

from aster_jax import config, types
from aster_jax.errors import InputError
from aster_jax.rl import run as rl


class Said:
    """A run that only listens."""

    def __init__(self, c):
        self.config, self.lines = c, []

    def say(self, stage, text):
        self.lines.append(text)


@pytest.mark.parametrize(
    "found, minibatches, prompts, said",
    [(99, 1, 16, 0), (16, 1, 16, 0), (5, 1, 5, 1), (7, 2, 6, 1), (3, 2, 2, 1)],
)
def test_a_small_pool_makes_small_steps(found, minibatches, prompts, said):
    """What the filter leaves may be less than a step: no reason to end a run that is paid for."""
    c = config.default()
    c.rl.minibatches = minibatches
    run = Said(c)
    assert rl._prompts(run, "rl2", config.rl_stage(c, "rl2"), found) == prompts
    assert len(run.lines) == said and all(str(found) in text for text in run.lines)


def test_a_pool_that_is_no_step_at_all_is_an_error_with_a_remedy(monkeypatch, tmp_path):
    c = config.default()
    c.stages, c.rl.minibatches = ("rl2",), 2
    problem = types.Problem("p", "q", "1", "f")
    monkeypatch.setattr(rl.pools, "train", lambda *_: [problem])
    monkeypatch.setattr(rl.phase, "fitting", lambda run, policy, pool, *_: pool)
    run = Said(c)
    run.has_ended = lambda stage: False
    with pytest.raises(InputError, match="rl2 has 1 problems, .*filter.min_kept"):
        rl._pool(run, None, "rl2", config.rl_stage(c, "rl2"), [])


def test_episodes_are_written_while_the_update_runs():
    updating, written = threading.Event(), threading.Event()

    def write():
        assert updating.wait(60)
        written.set()
        return {"calls": 2.0}

    def make():
        updating.set()
        assert written.wait(60)
        return "state"

    made, told, waited_s = rl._while_writing(write, make)
    assert made == "state" and told == {"calls": 2.0} and 0 <= waited_s < 60


def test_episodes_are_there_when_an_update_fails():
    failing, there = threading.Event(), []

    def make():
        failing.set()
        raise ZeroDivisionError

    def write():
        assert failing.wait(60)
        there.append("episodes")

    with pytest.raises(ZeroDivisionError):
        rl._while_writing(write, make)
    assert there == ["episodes"]
