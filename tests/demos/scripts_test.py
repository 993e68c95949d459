"""What a dense script is: state that later cells need, numbers copied once, one-line cells."""

import re

import pytest

from aster_jax.demos import families, scripts, walks
from aster_jax.errors import InputError

ALL = tuple(f for f in families.FAMILIES if f not in walks.SIZES)  # those have tests of their own


def steps_of(family, seed=0):
    problem = families.generate(family, seed, 2)
    return problem, scripts.dense(family, families.numbers(problem))


@pytest.mark.parametrize("family", ALL)
def test_numbers_of_the_question_stand_in_the_first_cell_only(family):
    problem, steps = steps_of(family)
    given = set(map(str, families.numbers(problem)))
    assert given <= set(re.findall(r"\d+", steps[0].code))
    for step in steps[1:]:
        assert not re.findall(r"\d{2,}", step.code)


@pytest.mark.parametrize("family", ALL)
def test_every_cell_but_the_check_is_needed(family):
    # Leave one cell out and run the rest: the last one fails or gives another value.
    problem, steps = steps_of(family)
    assert run(steps) == problem.answer
    for i, step in enumerate(steps[:-1]):
        rest = [s for s in steps if s is not step]
        assert (run(rest) == problem.answer) == step.thought.startswith("Check"), step


def run(steps):
    """The value of the last cell in plain Python, or None if a cell fails."""
    names = {}
    for step in steps:
        *statements, last = step.code.split("; ")
        try:
            exec("; ".join(statements), names)
            value = eval(last, names)
        except NameError:
            return None
    return str(value)


@pytest.mark.parametrize("family", ALL)
def test_cells_are_one_line_and_need_no_json_escapes(family):
    _, steps = steps_of(family)
    for step in (*steps, *scripts.sparse(family, families.numbers(steps_of(family)[0]))):
        assert not set('\n"\\') & set(step.code + step.slip)


@pytest.mark.parametrize("family", ALL)
def test_sparse_is_one_call(family):
    problem, _ = steps_of(family)
    (step,) = scripts.sparse(family, families.numbers(problem))
    assert run([step]) == problem.answer


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("per_call, calls", [(2, 3), (3, 2), (5, 1), (9, 1)])
def test_a_coarser_cut_is_the_same_solution(family, per_call, calls):
    problem, fine = steps_of(family)
    steps = scripts.dense(family, families.numbers(problem), per_call)
    assert len(steps) == calls and run(steps) == problem.answer
    assert "; ".join(s.code for s in steps) == "; ".join(s.code for s in fine)


def test_what_has_no_solution_in_text_says_so():
    problem, _ = steps_of("prod")
    with pytest.raises(InputError, match="'prod' has no solution in text; only walk1"):
        scripts.in_text("prod", families.numbers(problem))
    walk = families.generate("walk1", 0, 2)
    step = scripts.check("walk1", families.numbers(walk))
    assert step.thought.endswith(f"x = {walk.answer}\nCheck.") and eval(step.code) is True
