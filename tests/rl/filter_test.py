"""The filter between the stages: which visit counts and who goes."""

import json

import pytest

from aster_jax import types
from aster_jax.rl import filter as filters


def record(problem, step, reward, end="answered", verdict="right"):
    return dict(problem_id=problem, step=step, reward=reward, end=end, verdict=verdict)


def test_the_last_visit_counts():
    visits = filters.last_visits(
        [
            record("a", 1, 1.0), record("a", 1, 1.0), record("a", 7, 0.0), record("a", 7, 1.0),
            record("b", 9, 1.0), record("b", 2, 0.0),
        ]
    )  # fmt: skip
    assert visits == {"a": filters.Visit(7, 2, 0.5), "b": filters.Visit(9, 1, 1.0)}


def test_failures_of_ours_are_no_visit():
    visits = filters.last_visits(
        [
            record("a", 1, 1.0),
            record("a", 2, 0.0, end="infrastructure"),
            record("b", 1, 0.0, verdict="verifier_timeout"),
            record("c", 3, 1.0),
            record("c", 3, 0.0, verdict="verifier_error"),
        ]
    )
    assert visits == {"a": filters.Visit(1, 1, 1.0), "c": filters.Visit(3, 1, 1.0)}


def test_keep_reads_the_file_in_the_pools_order(tmp_path):
    path = tmp_path / "kept.jsonl"
    lines = [dict(id="b", kept=True), dict(id="a", kept=True), dict(id="c", kept=False)]
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    pool = [types.Problem(i, "q", "1", "f") for i in "abcd"]
    assert [p.id for p in filters.keep(pool, path)] == ["a", "b"]


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run the filter stage before rl2"):
        filters.keep([], tmp_path / "kept.jsonl")
