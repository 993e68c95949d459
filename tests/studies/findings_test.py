"""What a study says of numbers: shown, not shown, and never more than its seeds allow."""

import json

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
    return findings.group(members, list(members))


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
    assert "+0.000, the same in all 3 seeds: nothing is shown" in findings.said(same)[-1]


def test_the_page_has_every_variant_and_what_was_left_out():
    page = findings.to_markdown("s", "Why?", grouped(), {"zero/seed_3": "it gave up"}, [])
    assert "6 of 7 members.\n" in page
    assert "Seeds 0, 1, 2" in page and "zero/seed_3 is left out: it gave up" in page
    assert "| dense | 3 | 0.200 | 0.620 [0.570, 0.670] |" in page
    kept = findings.to_json("s", grouped(), {}, [])
    assert kept["variants"]["dense"]["estimates"]["accuracy_after"]["n"] == 3


def test_a_family_is_shown_as_it_is_spelled_and_does_nothing():
    family = "\x1b[2Ja|b\n\n# c <img src=x> [d](e) `f` \u202e\\"
    numbers = {s: changed(m, **{f"{family}_before": 0.1, f"{family}_after": 0.2})
               for s, m in grouped()["zero"].items()}  # fmt: skip
    page = findings.to_markdown("s", "Why?", {"zero": numbers}, {"zero/seed_3": "no \x1b]0;"}, [])
    assert r"| \x1b\[2Ja\|b # c \<img src=x> \[d](e) \`f\` \u202e\\ before | after |" in page
    assert not set("\x1b\u202e") & set(page) and r"left out: no \x1b]0;" in page


def test_a_matrix_appears_with_a_second_evaluation():
    assert findings.matrix_of(grouped()) == {}
    budgets = grouped({"main": 0.5, "calls4": 0.25})
    assert findings.matrix_of(budgets)["zero"]["calls4"].mean == 0.25
    assert "| zero | 3 | 0.500 | 0.250 |" in findings.to_markdown(
        "s", "", budgets, {}, []
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
    """Seeds that lie far apart and lose nearly the same: means +- 4.303 x 0.01 / sqrt(3)."""
    few = [0.1 + s / 5 + s / 100 for s in range(3)]
    zero = {s: made(0.0, [1.0, 1.0], {"main": 0.2 + s / 5, "few": few[s]}) for s in range(3)}
    dense = {s: made(0.0, [1.0, 1.0], {"main": 0.3 + s / 5 + s / 50, "few": few[s]}) for s in range(3)}
    cost, gain = findings.tables({"zero": zero, "dense": dense})[-2:]
    assert cost[1:] == (["variant", "few"], [
        ["zero", "-0.090 [-0.115, -0.065]"], ["dense", "-0.210 [-0.235, -0.185]"],
    ])  # fmt: skip
    assert gain[1] == ["variant", "main", "few"]
    assert gain[2] == [["dense", "+0.120 [+0.070, +0.170]", "+0.000"]]
    assert len(findings.tables({"zero": zero})) == len(findings.tables({"zero": zero, "d": dense})) - 1


def test_a_fall_of_calls_is_said_with_its_interval():
    # Falls of 4 and of 6: mean 5, deviation sqrt(2), 5 +- 12.706 sqrt(2) / sqrt(2).
    told = findings.said({"mixed": {0: made(0.4, (5.0, 1.0)), 1: made(0.5, (6.0, 0.0))}})[0]
    assert "(a change is not shown, -5.000 [-17.706, +7.706])" in told
    by_chance = {"mixed": {s: made(0.4, (5.0 + s, 1.0 + s)) for s in (0, 1)}}
    assert "(-4.000, the same in all 2 seeds: nothing is shown)" in findings.said(by_chance)[0]
    surely = findings.said({"mixed": {s: made(0.4, (5.0 + s, 1.0 + s * 1.1)) for s in range(3)}})[0]
    assert "(they fell, -3.900 [-4.148, -3.652])" in surely


def changed(measured, has_rl=True, **scalars):
    kept = {**measured.scalars, **scalars}
    return measures.Measures(kept, measured.curves, measured.matrix if has_rl else {}, has_rl)


def test_a_page_of_a_part_says_what_is_missing():
    planned = [plan.Member(v, s, ()) for s in (0, 1) for v in ("zero", "dense")]
    part = findings.group({planned[1]: made(0.5, [1.0, 1.0])}, planned)
    assert list(part) == ["zero", "dense"]
    page = findings.to_markdown("s", "", part, {"zero/seed_0": "why"}, ["zero/seed_1", "dense/seed_1"])
    assert "1 of 4 members; missing: zero/seed_1, dense/seed_1.\n" in page
    assert "Not compared: dense; the first variant, zero, has no accuracy after RL" in page
    assert "| zero | 0 | - |" in page


def test_a_page_of_nothing_is_a_page():
    nothing = findings.group({}, [plan.Member("zero", 0, ()), plan.Member("dense", 0, ())])
    page = findings.to_markdown("s", "Why?", nothing, {"zero/seed_0": "it gave up"}, ["dense/seed_0"])
    assert "0 of 2 members" in page and "zero/seed_0 is left out: it gave up" in page
    assert json.loads(json.dumps(findings.to_json("s", nothing, {}, [])))["variants"].keys() == nothing.keys()
    assert plots.figure(nothing).startswith(b"\x89PNG")


def test_variants_without_a_seed_in_common_are_not_compared():
    apart = {"a": {0: made(0.5, [1.0])}, "b": {1: made(0.6, [1.0])}}
    assert findings.said(apart)[-1] == "Not compared: b and a have no seed in common."
    some = {"a": grouped()["zero"], "b": {2: made(0.6, [1.0])}}
    assert findings.said(some)[-1].startswith("After RL, b against a in 1 of 3 seeds: +0.280, one seed")


def test_without_rl_nothing_is_after_it():
    told = {"direct": {s: changed(m, False, accuracy_after=None, calls_first=None, calls_last=None)
                       for s, m in grouped()["zero"].items()}, "dense": grouped()["dense"]}  # fmt: skip
    assert findings.said(told)[0] == "**direct** (3 seeds): no RL; accuracy 0.200."
    assert "| direct | 3 | 0.200 | no RL |" in findings.to_markdown("", "", told, {}, [])


def test_numbers_of_other_seeds_are_not_set_against_each_other():
    zero = grouped()["zero"]
    mixed = {"zero": {**zero, 2: changed(zero[2], accuracy_before=None, collapsed=None)}}
    (told,) = findings.said(mixed)
    assert "accuracy 0.200 before RL, 0.305 after in 2 of 3 seeds (" in told
    (row,) = findings.tables(mixed)[0][2]
    assert row[1] == "3" and row[2].endswith("(n=2)") and row[3].startswith("0.310 [")
    blind = {"zero": {s: changed(m, accuracy_before=None) for s, m in zero.items()}}
    assert "accuracy 0.310 after RL, before it not measured" in findings.said(blind)[0]


def test_every_seed_s_numbers_are_kept():
    zero = grouped()["zero"]
    some = {"zero": {**zero, 2: changed(zero[2], walk3_after=0.5)}}
    kept = findings.to_json("s", some, {}, [])["variants"]["zero"]["estimates"]
    assert kept["walk3_after"]["n"] == 1


def test_only_rates_end_at_0_and_1():
    wide = {s: changed(made(after, [4.0, last]), calls_last=last)
            for s, (after, last) in enumerate(((0.0, 0.0), (0.0, 0.0), (0.02, 0.5)))}  # fmt: skip
    assert findings.estimate(wide, "accuracy_after").low == 0.0
    assert findings.estimate(wide, "calls_last").low < 0
