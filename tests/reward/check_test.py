"""The comparison itself, called directly."""

import pytest

from aster_jax.reward import check

BOTH = ("latex", "expr")


@pytest.mark.parametrize(
    "gold, given, verdict",
    [
        ("\\boxed{\\frac{1}{2}}", "\\boxed{0.5}", check.EQUIVALENT),
        ("\\boxed{\\frac{1}{2}}", "\\boxed{0.51}", check.WRONG),
        ("\\boxed{\\{1,2\\}}", "\\boxed{\\{2,1\\}}", check.EQUIVALENT),
        ("\\boxed{(0,9)}", "\\boxed{[0,9)}", check.WRONG),
        ("\\boxed{3}", "no mathematics", check.WRONG),
        ("", "\\boxed{3}", check.BAD_GOLD),
    ],
)
def test_compare(gold, given, verdict):
    assert check.compare(gold, given, BOTH, 6) == verdict


def test_decimals_are_what_numbers_are_compared_to():
    assert check.compare("\\boxed{0.3333333}", "\\boxed{0.3333331}", BOTH, 6) == check.EQUIVALENT
    assert check.compare("\\boxed{0.3333333}", "\\boxed{0.3333331}", BOTH, 7) == check.WRONG


def test_targets_say_what_is_looked_for():
    assert check.compare("5", "the result is 5", ("expr",), 6) == check.EQUIVALENT
    assert check.compare("5", "the result is 5", ("latex",), 6) == check.BAD_GOLD
