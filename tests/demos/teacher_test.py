"""Styles of demonstrations beyond calls on a fixed script: text, checks, cuts and mixtures."""

import collections

import pytest

from aster_jax import tools
from aster_jax.demos import collect, families, teacher, walks
from aster_jax.errors import InputError


@pytest.fixture(scope="module")
def problems():
    return families.problems(tuple(walks.SIZES), "demos", 9, 0, 2)


@pytest.fixture(scope="module")
def executor():
    with tools.Executor(tools.ToolConfig(preload=())) as made:
        yield made


def steps_in(problem):
    return len(walks.values(*families.numbers(problem)))


@pytest.mark.parametrize("style, calls", [
    ("dense", lambda n: n), ("told", lambda n: n), ("dense/4", lambda n: -(-n // 4)),
    ("sparse", lambda n: 1), ("check", lambda n: 1), ("text", lambda n: 0),
])  # fmt: skip
def test_every_style_of_a_walk_is_right(problems, executor, style, calls):
    for t in collect.collect(problems, style, executor):
        assert t.final_text.endswith(f"The answer is \\boxed{{{t.problem.answer}}}.")
        assert t.statuses == ("ok",) * calls(steps_in(t.problem))
        asked = t.problem.question + (teacher.REQUEST if style == "told" else "")
        assert t.messages[0]["content"] == asked
        results = [m["content"] for m in t.messages if m["role"] == "tool"]
        assert results == ["True"] or style != "check"


def test_slips_are_made_and_repaired(problems, executor):
    made = collect.collect(problems, "dense", executor, slip_share=1.0)
    assert all(collections.Counter(t.statuses)["error"] == 1 for t in made)
    assert all(len(t.statuses) == steps_in(t.problem) + 1 for t in made)


def test_a_mixture_is_drawn_at_its_odds():
    wheel = teacher.read_styles("text*3, dense/2")
    assert wheel == [("text", 1)] * 3 + [("dense", 2)]
    many = families.problems(("walk1",), "demos", 400, 0, 2)
    plans = [teacher.plan(p, "text*3,dense/2", 0.0, 0) for p in many]
    drawn = collections.Counter((p.style, p.per_call) for p in plans)
    assert set(drawn) == {("text", 1), ("dense", 2)}
    assert 0.68 < drawn["text", 1] / len(many) < 0.82
    assert plans == [teacher.plan(p, "text*3,dense/2", 0.0, 0) for p in many]


@pytest.mark.parametrize("text", ["", "chatty", "dense/0", "dense*0", "dense,", "text 3", "dense/2/2"])
def test_what_is_no_style_is_named(text):
    with pytest.raises(InputError, match="demos.style"):
        teacher.read_styles(text)
