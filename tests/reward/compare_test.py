"""The comparison of two texts, called directly: by kind of answer, right ones and wrong ones.

Each row of `cases.txt` is a gold answer, answers that are the same, and answers that are not.
"""

import pathlib

import pytest

from aster_jax.reward import compare

ROWS = [
    [part.strip() for part in line.split("::")]
    for line in pathlib.Path(__file__).with_name("cases.txt").read_text("utf-8").split("\n") if line
]  # fmt: skip


def answers(text: str) -> list[str]:
    return [said.strip() for said in text.split(";;") if said.strip()]


@pytest.mark.parametrize("gold, right, wrong", ROWS, ids=[row[0] for row in ROWS])
def test_cases(gold, right, wrong):
    verdicts = {said: compare.compare(gold, said, 10) for said in answers(right) + answers(wrong)}
    assert [said for said in answers(right) if verdicts[said] != "equivalent"] == []
    assert [said for said in answers(wrong) if verdicts[said] != "wrong"] == []


def test_a_gold_answer_is_equal_to_itself():
    for gold, _, _ in ROWS:
        assert compare.compare(gold, gold, 10) == "equivalent" or gold == "1/0"


def test_who_is_to_blame_for_costs():
    tower = "9^{9^{9^{9}}}"
    assert compare.compare("7", tower, 10) == compare.COSTLY_ANSWER
    assert compare.compare(tower, "7", 10) == compare.COSTLY_GOLD
    assert compare.compare("7", "(" * 5000, 10) == compare.WRONG


def test_decimals_that_a_rounded_number_shows():
    assert compare.compare("\\frac{1}{3}", "0.3333333", 7) == compare.EQUIVALENT
    assert compare.compare("\\frac{1}{3}", "0.3333333", 8) == compare.WRONG
    assert compare.compare("\\frac{1}{3}", "0.3333334", 7) == compare.WRONG
