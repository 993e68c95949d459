"""Accuracy under smaller budgets, by hand."""

from aster_jax.report import budgets, collapse
from tests.report import made_run


def rows(*used):
    return [
        collapse.measure(made_run.episode(num_model_tokens=tokens, reward=reward))
        for tokens, reward in used
    ]


def test_one_that_used_more_counts_as_wrong():
    found = budgets.curves(rows((10, 1.0), (20, 0.0), (30, 1.0), (40, 0.0)))
    assert found["rl2"]["tokens"] == [[10, 0.25], [30, 0.5], [40, 0.5]]
    assert found["rl2"]["calls"] == [[2, 0.5]]
    assert [budgets.at(found["rl2"]["tokens"], b) for b in (9, 10, 29, 99)] == [0.0, 0.25, 0.25, 0.5]


def test_other_arms_and_evaluations_are_left_out():
    other = [collapse.measure(made_run.episode(**c)) for c in ({"arm": "think"}, {"evaluation": "x"})]
    assert budgets.curves(other) == {}
    assert budgets.figure({}) is None and budgets.tables_of({}) == []


def test_tables_have_few_columns_and_end_at_the_whole():
    made = budgets.curves(rows(*((i, float(i % 3 > 0)) for i in range(1, 100))))
    tokens, calls = budgets.tables_of(made)
    assert len(tokens.columns) == 1 + budgets.TOKEN_POINTS
    assert tokens.rows[0][-1] == "66.7" and calls.rows[0][-1] == "66.7"
    assert budgets.figure(made).startswith(b"\x89PNG")
