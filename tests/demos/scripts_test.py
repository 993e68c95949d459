"""What a dense script is: state that later cells need, numbers copied once, one-line cells."""

import re

import pytest

from aster_jax.demos import families, scripts

ALL = tuple(families.FAMILIES)


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
