"""Random expressions, respelled and changed: the verifier against 150 digits of mpmath."""

import random

import mpmath
import pytest

from aster_jax.reward import compare
from tests.reward import respelled


def same(a, b) -> bool:
    return abs(a - b) <= mpmath.mpf(10) ** -120 * max(abs(a), abs(b))


def judge(seed: int, count: int):
    """(pairs accepted that differ, equal pairs refused, equal pairs) of `count` pairs.

    Expressions with names are equal when they are at three points.
    """
    rng = random.Random(seed)
    false, lost, equal = [], [], 0
    with mpmath.mp.workdps(respelled.DIGITS + 20):
        at = [{n: mpmath.mpf(rng.uniform(-3, 3)) for n in "xynz"} for _ in range(3)]
        for _ in range(count):
            e = respelled.draw(rng, rng.choice((0, 1, 1, 2, 3)))
            right = [respelled.value(e, names) for names in at]
            if None in right or 0 in right:
                continue
            gold, kind = respelled.latex(e, rng), rng.choice(("same", "changed", "spoiled"))
            if kind == "spoiled":
                said, is_equal = respelled.spoiled(e, rng), False
            else:
                other = e if kind == "same" else respelled.changed(e, rng)
                got = [respelled.value(other, names) for names in at]
                if None in got:
                    continue
                said, is_equal = respelled.respelled(other, rng), all(map(same, right, got))
            accepted = compare.compare(gold, said, 10) == compare.EQUIVALENT
            equal += is_equal
            if accepted and not is_equal:
                false.append((gold, said))
            elif is_equal and not accepted:
                lost.append((gold, said))
    return false, lost, equal


def test_a_few_hundred_pairs():
    false, lost, equal = judge(seed=1, count=400)
    assert false == []
    assert equal > 80 and len(lost) <= 0.02 * equal, lost


@pytest.mark.slow
def test_twenty_thousand_pairs():
    false, lost, equal = judge(seed=2, count=20_000)
    assert false == []
    assert len(lost) <= 0.02 * equal, lost[:20]
