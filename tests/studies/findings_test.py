"""What a study says of numbers: shown, not shown, and never more than its seeds allow."""

from aster_jax.studies import findings, measures, plan, plots


def made(after, calls, matrix=None):
    scalars = {"accuracy_before": 0.2, "accuracy_after": after, "calls_first": calls[0],
               "calls_last": calls[-1], "collapsed": float(calls[-1] < calls[0] / 2)}  # fmt: skip
    curves = {"calls": calls, "reward": [0.2, after], "entropy": [0.3, 0.1]}
    return measures.Measures(scalars, curves, matrix or {"main": after})


def grouped(matrix=None):
    members = {}
    for seed, shift in enumerate((0.0, 0.01, 0.02)):
        members[plan.Member("zero", seed, ())] = made(0.3 + shift, [4.0, 1.0], matrix)
        members[plan.Member("dense", seed, ())] = made(0.6 + 2 * shift, [8.0, 9.0], matrix)
    return findings.group(members)


def test_an_interval_on_one_side_is_a_finding():
    zero, dense, against = findings.said(grouped())
    assert zero.startswith("**zero** (3 seeds): accuracy 0.200 before RL, 0.310 after (it rose")
    assert "fell below half in 3 of 3" in zero and "fell below half in 0 of 3" in dense
    assert against.startswith("After RL, dense against zero: above, +0.310 [+0.28")


def test_one_seed_is_no_finding():
    one = {v: {0: s[0]} for v, s in grouped().items()}
    assert all("one seed: nothing is shown" in text for text in findings.said(one))


def test_equal_variants_are_not_told_apart():
    same = {"a": grouped()["zero"], "b": grouped()["zero"]}
    assert "no difference is shown" in findings.said(same)[-1]


def test_the_page_has_every_variant_and_what_was_left_out():
    page = findings.to_markdown("s", "Why?", grouped(), {"zero/seed_3": "it gave up"})
    assert "Seeds 0, 1, 2" in page and "zero/seed_3 is left out: it gave up" in page
    assert "| dense | 3 | 0.200 [0.200, 0.200] | 0.620 [0.570, 0.670] |" in page
    kept = findings.to_json("s", grouped(), {})
    assert kept["variants"]["dense"]["estimates"]["accuracy_after"]["n"] == 3


def test_a_matrix_appears_with_a_second_evaluation():
    assert findings.matrix_of(grouped()) == {}
    budgets = grouped({"main": 0.5, "calls4": 0.25})
    assert findings.matrix_of(budgets)["zero"]["calls4"].mean == 0.25
    assert "| zero | 3 | 0.500 [0.500, 0.500] | 0.250 [0.250, 0.250] |" in findings.to_markdown(
        "s", "", budgets, {}
    )
    # Of `zero` itself there is nothing to compare with the first variant: it is that.
    titles = [title for title, _, _ in findings.tables(budgets)]
    assert titles[-2:] == [
        "The same, less that of `main`, paired by seed",
        "The same, less that of zero, paired by seed",
    ]
    assert plots.figure(budgets).startswith(b"\x89PNG")
    assert plots.figure(budgets) == plots.figure(budgets)


def test_evaluations_are_compared_seed_by_seed():
    """Seeds that lie far apart and lose the same 0.1: an interval without width."""
    zero = {s: made(0.0, [1.0, 1.0], {"main": 0.2 + s / 5, "few": 0.1 + s / 5}) for s in range(3)}
    dense = {s: made(0.0, [1.0, 1.0], {"main": 0.3 + s / 5, "few": 0.1 + s / 5}) for s in range(3)}
    cost, gain = findings.tables({"zero": zero, "dense": dense})[-2:]
    assert cost[1:] == (["variant", "few"], [
        ["zero", "-0.100 [-0.100, -0.100]"], ["dense", "-0.200 [-0.200, -0.200]"],
    ])  # fmt: skip
    assert gain[1] == ["variant", "main", "few"]
    assert gain[2][0][:2] == ["dense", "+0.100 [+0.100, +0.100]"]
    assert [float(x) for x in gain[2][0][2].replace("[", "").replace("]", "").replace(",", "").split()] == [0] * 3
    assert len(findings.tables({"zero": zero})) == len(findings.tables({"zero": zero, "d": dense})) - 1


def test_a_fall_of_calls_is_said_with_its_interval():
    # Falls of 4 and of 6: mean 5, deviation sqrt(2), 5 +- 12.706 sqrt(2) / sqrt(2).
    told = findings.said({"mixed": {0: made(0.4, (5.0, 1.0)), 1: made(0.5, (6.0, 0.0))}})[0]
    assert "(a change is not shown, -5.000 [-17.706, +7.706])" in told
    surely = findings.said({"mixed": {s: made(0.4, (5.0 + s, 1.0 + s)) for s in (0, 1)}})[0]
    assert "(they fell, -4.000 [-4.000, -4.000])" in surely
