"""Walks: one by hand, what each size promises, and that only the cut differs between cuts."""

import ast
import random

import pytest

from aster_jax.demos import walks

SIZES = tuple(walks.SIZES)


def drawn(family, count=40):
    rng = random.Random(family)
    return [walks.draw(family, rng) for _ in range(count)]


def test_a_walk_by_hand():
    # 102 -> 3*102+11 = 317 mod 311 = 6; 3*6+11 = 29; 3*29+11 = 98; 3*98+11 = 305.
    numbers = (102, 5, 3, 11, 311)
    assert walks.values(*numbers) == [6, 29, 98, 305]
    assert walks.solve(*numbers) == 305
    assert walks.in_text(*numbers) == (
        "I take (3*x+11) % 311; x = 102\nx = 6\nx = 29\nx = 98\nx = 305"
    )
    assert walks.last_check(*numbers) == "(3*98+11) % 311 == 305"
    assert [cell[:2] for cell in walks.cells(*numbers, 3)] == [
        ("Start.", "f = lambda x: (3*x+11) % 311; x = 102; [x := f(x) for _ in range(3)]"),
        ("5? 6 9 8. Go on.", "[x := f(x) for _ in range(3)]"),
    ]
    assert walks.read_out(5, "[305, 304, 45]") == ("5? 5.", "305")
    assert walks.read_out(4, "[305, 304, 45]") == ("4? 5 4.", "304")


@pytest.mark.parametrize("family", SIZES)
def test_a_size_keeps_its_promises(family):
    size = walks.SIZES[family]
    lengths = set()
    for numbers in drawn(family):
        a, e, b, c, m = numbers
        found = walks.values(*numbers)
        lengths.add(len(found))
        assert len(found) in size.steps and b in size.factors and m in size.moduli
        assert [x % 10 == e for x in [a, *found]].index(True) == len(found)
        assert len(set(found)) == len(found) and a in size.starts and c in size.terms
    assert len(lengths) > 2, "the number of steps cannot be known without looking"


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("per_call", [1, 2, 4, 12])
def test_every_cut_shows_the_answer_in_its_last_cell_only(family, per_call):
    for numbers in drawn(family, 10):
        names, answer = {}, walks.solve(*numbers)
        cells = walks.cells(*numbers, per_call)
        assert len(cells) == -(-len(walks.values(*numbers)) // per_call)
        for i, (_, code, slip) in enumerate(cells):
            *statements, last = code.split("; ")
            exec("; ".join(statements), names)
            shown = str(eval(last, names))
            ends = [x % 10 == numbers[1] for x in ast.literal_eval(shown)]
            assert any(ends) == (i == len(cells) - 1)
            assert len(ends) == per_call and slip != code
        assert walks.read_out(numbers[1], shown)[1] == str(answer)
        assert eval(walks.last_check(*numbers)) is True
