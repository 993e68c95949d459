"""math-verify's part: answers inside prose, and calculus."""

import pytest

from aster_jax.reward import prose

BOTH = ("latex", "expr")


@pytest.mark.parametrize(
    "gold, given, verdict",
    [
        ("\\boxed{\\frac{1}{2}}", "\\boxed{0.5}", prose.EQUIVALENT),
        ("\\boxed{\\frac{1}{2}}", "\\boxed{0.51}", prose.WRONG),
        ("\\boxed{\\{1,2\\}}", "\\boxed{\\{2,1\\}}", prose.EQUIVALENT),
        ("\\boxed{(0,9)}", "\\boxed{[0,9)}", prose.WRONG),
        ("\\boxed{3}", "no mathematics", prose.WRONG),
        ("", "\\boxed{3}", prose.BAD_GOLD),
    ],
)
def test_compare(gold, given, verdict):
    assert prose.compare(gold, given, BOTH) == verdict


def test_targets_say_what_is_looked_for():
    assert prose.compare("5", "the result is 5", ("expr",)) == prose.EQUIVALENT
    assert prose.compare("5", "the result is 5", ("latex",)) == prose.BAD_GOLD


def test_sums_integrals_and_limits():
    assert prose.same_calculus("\\sum_{k=1}^{10} k", "55")
    assert not prose.same_calculus("\\sum_{k=1}^{10} k", "54")
    assert prose.same_calculus("\\frac{1}{3}", "\\int_0^1 x^2 dx")
    assert prose.same_calculus("1", "\\lim_{x \\to 0} \\frac{\\sin x}{x}")
