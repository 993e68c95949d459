"""Generated problems: hand-computed answers, disjoint splits, no way to guess."""

import collections
import re

import pytest

from aster_jax import types
from aster_jax.demos import families, walks

ALL = tuple(families.FAMILIES)


@pytest.mark.parametrize(
    "family, values, answer",
    [
        ("prod", (12, 11, 5), 1 + 9 + 49),  # 12*11+5 = 137
        ("mod", (11, 12, 13, 501), 389),  # 145, 248, 484, 309 is checked step by step below
        ("lcm", (12, 18, 501), 36),
        ("count", (20, 3, 11), 13),  # 20 - 6 multiples of 3 - 1 multiple of 11
        ("poly", (2, 3, 3, 501), 2 * (1 + 4 + 9) + 9),
    ],
)
def test_solutions_by_hand(family, values, answer):
    if family == "mod":
        x = 11
        for _ in range(4):
            x = (12 * x + 13) - 501 * ((12 * x + 13) // 501)
        answer = x
    assert families.FAMILIES[family].solve(*values) == answer


def test_same_arguments_same_problem():
    a = families.generate("prod", 7, 2)
    assert a == families.generate("prod", 7, 2)
    assert a != families.generate("prod", 8, 2)
    assert a.id.startswith("prod-") and isinstance(a, types.Problem)


def test_shorter_list_is_the_start_of_a_longer_one():
    long = families.problems(ALL, "train", 40, 3, 2)
    assert families.problems(ALL, "train", 15, 3, 2) == long[:15]
    assert [p.family for p in long[: len(ALL)]] == list(ALL)


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_splits_share_no_question(seeds):
    seen = set()
    for split in families.SPLITS:
        questions = {p.question for p in families.problems(ALL, split, 120, seeds[0], 2)}
        questions |= {p.question for p in families.problems(ALL, split, 120, seeds[1], 2)}
        assert not questions & seen
        seen |= questions


def test_shares_of_splits_cover_everything():
    assert sum(families.SPLITS.values()) == 16


@pytest.mark.parametrize("family", ALL)
def test_numbers_are_read_back_from_the_question(family):
    for seed in range(20):
        problem = families.generate(family, seed, 3)
        values = families.numbers(problem)
        assert str(families.FAMILIES[family].solve(*values)) == problem.answer


def test_answers_cannot_be_guessed():
    # The best constant, the best constant per family, and copying a number that is given.
    # Walks are apart: who adds the steps up in the head is meant to be right at times.
    fixed = tuple(f for f in ALL if f not in walks.SIZES)
    found = families.problems(fixed, "train", 2000, 0, 2)
    overall = collections.Counter(p.answer for p in found).most_common(1)[0][1] / len(found)
    assert overall < 0.03
    for family in fixed:
        mine = [p for p in found if p.family == family]
        best = collections.Counter(p.answer for p in mine).most_common(1)[0][1] / len(mine)
        copied = [p.answer in re.findall(r"\d+", p.question) for p in mine]
        assert best < 0.04
        assert sum(copied) / len(mine) < 0.05


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: families.generate("sudoku", 0, 2), "sudoku.*choose from prod"),
        (lambda: families.generate("prod", 0, 9), "digits=9"),
        (lambda: families.problems(ALL, "test", 1, 0, 2), "split 'test'"),
        (lambda: families.problems(("prod", "prod"), "train", 1, 0, 2), "families"),
    ],
)
def test_bad_arguments_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_numbers_rejects_a_foreign_question():
    with pytest.raises(ValueError, match="does not read like"):
        families.numbers(types.Problem("x", "What is 2+2?", "4", "prod"))
