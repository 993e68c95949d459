"""Intervals over seeds: hand-computed numbers, and what one seed cannot say."""

import pytest

from aster_jax.studies import intervals


def test_three_seeds_by_hand():
    # mean 0.5; deviations -0.1, 0, 0.1: variance 0.01, standard error 0.1 / sqrt(3) = 0.0577;
    # Student's t with 2 degrees of freedom has 95 % within 4.303.
    found = intervals.over_seeds([0.4, 0.5, 0.6])
    assert (found.mean, found.n) == (pytest.approx(0.5), 3)
    assert found.low == pytest.approx(0.5 - 4.303 * 0.057735, abs=1e-4)
    assert found.high == pytest.approx(0.5 + 4.303 * 0.057735, abs=1e-4)


def test_what_is_not_known_is_left_out():
    assert intervals.over_seeds([None, 0.25, None]) == intervals.Estimate(0.25, None, None, 1)
    assert intervals.over_seeds([None]) is None
    assert intervals.over_seeds([0.3, None, 0.5]).n == 2


def test_one_seed_shows_nothing():
    found = intervals.over_seeds([0.9])
    assert not found.is_above and not found.is_below


def test_differences_are_paired_by_seed():
    # Seeds differ by much, variants by 0.1 in each: only the pairs tell.
    ours, theirs = {0: 0.2, 1: 0.6, 2: 0.95}, {0: 0.1, 1: 0.5, 2: 0.83, 7: 0.99}
    found = intervals.difference(ours, theirs)
    assert found.n == 3 and found.is_above
    assert found.mean == pytest.approx((0.1 + 0.1 + 0.12) / 3)
    assert intervals.difference(theirs, ours).is_below
    assert intervals.difference({0: 0.5}, {0: None}) is None


def test_seeds_that_agree_show_nothing():
    for values in ([0.5, 0.5], [0.1 + 0.2, 0.3], [-4.0, -4.0], [0.5] * 3, [1.0] * 5):
        found = intervals.over_seeds(values)
        assert (found.low, found.high, found.n) == (None, None, len(values))
        assert not found.is_above and not found.is_below


def test_an_interval_ends_where_such_numbers_do():
    wide = intervals.over_seeds([0.0, 0.0, 0.02])
    assert wide.low < 0
    cut = intervals.over_seeds([0.0, 0.0, 0.02], intervals.RATE)
    assert (cut.low, cut.mean, cut.high) == (0.0, wide.mean, wide.high)
    assert intervals.over_seeds([1.0, 1.0, 0.9], intervals.RATE).high == 1.0
