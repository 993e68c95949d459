"""What the list knows of an episode, by hand."""

import pytest

from aster_jax.report import entries
from tests.report import made_run


def test_a_row_by_hand():
    row = entries.row(made_run.with_tokens(made_run.episode(sample=3)), 1, "f.jsonl", 7)
    assert (row["run"], row["file"], row["line"], row["sample"]) == (1, "f.jsonl", 7, 3)
    assert (row["calls"], row["failed"], row["statuses"]) == (2, 1, "ok error")
    assert (row["outcome"], row["where"], row["color"]) == ("right", "eval rl2 main", "rl2")
    assert row["seconds"] == row["written"] + 22  # a second a token, 9 and 13 of them the tool's


@pytest.mark.parametrize(
    "changed, outcome",
    [
        ({}, "right"),
        ({"reward": 0.0}, "wrong"),
        ({"end": "deadline"}, "wrong"),
        ({"end": "infrastructure"}, "lost"),
        ({"verdict": "verifier_timeout"}, "lost"),
    ],
)
def test_outcomes(changed, outcome):
    assert entries.outcome(made_run.episode(**changed)) == outcome


def test_where_names_the_evaluation_beside_the_main_one():
    assert entries.where(made_run.episode(evaluation="cool")) == "eval rl2 main cool"
    assert entries.where(made_run.episode(stage="rl1")) == "rl1"


def test_the_order_is_that_of_the_run():
    made = [("eval", 9), ("rl2", 1), ("rl1", 2), ("rl1", 1), ("rl1", 1)]
    rows = [
        entries.row(made_run.episode(stage=stage, step=step, sample=i), 0, "f", i)
        for i, (stage, step) in enumerate(made)
    ]
    entries.number(rows, made_run.STAGES)
    assert [r["order"] for r in rows] == [4, 3, 2, 0, 1]


def test_texts_are_in_the_index_once():
    rows = [entries.row(made_run.episode(sample=i), 0, "f", i) for i in range(5)]
    for row in rows:
        row |= {"order": 0, "page": 0, "chunk": 0, "place": 0}
    found = entries.columns(rows)
    assert found["question"] == {"values": ["What is 6 * 7?"], "at": [0] * 5}
    assert found["sample"] == [0, 1, 2, 3, 4]
    assert set(found) == set(entries.FIELDS)
