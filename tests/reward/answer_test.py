"""Extraction and normalisation, by hand and by property."""

import json
import time

import hypothesis
import pytest
from hypothesis import strategies

from aster_jax.reward import answer
from tests import shared_data

QUICK = hypothesis.settings(derandomize=True, max_examples=60, deadline=None)


@pytest.mark.parametrize(
    "text, found",
    [
        ("so \\boxed{34}.", "34"),
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}} done", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed {7}", "7"),
        ("\\fbox{7}", "7"),
        ("\\boxed 7", "7"),
        ("\\boxed7.", "7"),
        ("\\boxed 1,234 in all", "1,234"),
        ("\\boxed\\frac12", "\\frac12"),
        ("\\boxed{3}, \\boxed as asked", "3"),
        ("\\boxedx{3}", None),
        ("\\boxed{}", ""),
        ("no box", None),
        ("\\boxed{never closed", None),
        ("\\boxed{1} then \\boxed{2", None),
        ("<think>\\boxed{1}</think>\\boxed{2}", "2"),
        ("<think>\\boxed{1}</think>no box", None),
        ("<think>\\boxed{1}", None),
        ("\\boxed{3}<think>\\boxed{1}", "3"),
        ("a</think>b</think>\\boxed{5}", "5"),
    ],
)
def test_extract(text, found):
    assert answer.extract(text) == found


@pytest.mark.parametrize(
    "spellings",
    [
        ("34", " 34 ", "034", "34.0", "34.", "+34", "$34$", "\\(34\\)"),
        ("34", "x=34", "x = 34", "\\text{34}"),
        ("-5", "−5", "-05", "-5.00"),
        ("1234567", "1,234,567", "1{,}234{,}567", "1234567.0", "1 234 567", "1\\,234\\,567"),
        ("(10000,2)", "(10 000, 2)", "(10~000,\\ 2)"),
        ("12\\pi", "12 \\pi", "12\\,\\pi"),
        ("0", "-0", "00", "0.0"),
        ("\\frac{1}{2}", "\\dfrac{1}{2}", "\\tfrac{1}{2}", "\\frac{1}{ 2 }", "$\\frac{1}{2}$."),
        ("(3,4)", "\\left( 3, 4 \\right)", "(3,\\,4)"),
        ("90", "90^\\circ", "90^{\\circ}", "90°"),
        ("Evelyn", "\\text{Evelyn}"),
    ],
)
def test_spellings_of_one_answer(spellings):
    assert len({answer.normalise(s) for s in spellings}) == 1


@pytest.mark.parametrize(
    "one, other",
    [
        ("34", "35"), ("34", "-34"), ("1,23", "123"), ("12,34", "1234"), ("0.5", "05"),
        ("1.50", "150"), ("x=1", "y"), ("(1,2)", "[1,2)"), ("100", "10"), ("340", "34"),
        ("28\\%", "28"), ("x==3", "3"), ("3 4", "34"), ("3 \\quad 4", "34"), ("3~4", "34"),
        ("5, 125", "5125"), ("100, 200", "100200"),
        ("3 1/2", "31/2"), ("3  4", "34"), ("1 2 3", "123"), ("12 34", "1234"),
        ("1 234 56", "123456"), ("1234 567", "1234567"), ("1.5 678", "1.5678"),
    ],
)  # fmt: skip
def test_different_answers_stay_different(one, other):
    assert answer.normalise(one) != answer.normalise(other)


@QUICK
@hypothesis.given(strategies.integers(-(10**30), 10**30))
def test_integers_keep_their_value(n):
    for spelling in (str(n), f"{n:,}", f" {n}.0 ", f"${n}$"):
        assert int(answer.normalise(spelling)) == n
    assert answer.is_integer(answer.normalise(str(n)))


@QUICK
@hypothesis.given(strategies.text(max_size=60))
def test_any_text_is_a_value(text):
    once = answer.normalise(text)
    assert isinstance(once, str)
    answer.extract(text)
    answer.extract("\\boxed{" + text)


@QUICK
@hypothesis.given(strategies.text(alphabet="ab{}\\ 1", max_size=20))
def test_balanced_content_survives_the_box(inner):
    found = answer.extract(f"\\boxed{{{inner}}}")
    escaped_away = inner.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
    depth, balanced = 0, not escaped_away.endswith("\\")
    for c in escaped_away:
        depth += {"{": 1, "}": -1}.get(c, 0)
        balanced = balanced and depth >= 0
    hypothesis.assume(balanced and depth == 0 and "boxed" not in inner)
    assert found == inner.strip()


def test_paper_match_is_as_narrow_as_the_papers():
    assert answer.paper_match("The answer is \\boxed{34}.", "34")
    assert not answer.paper_match("The answer is \\boxed{34}." + " indeed" * 15, "34")
    assert not answer.paper_match("\\boxed{034}", "34")
    assert not answer.paper_match("\\boxed{ 34}", "33")


def test_every_gsm8k_label_is_reproduced():
    # The labels' own rule: the text after "A: " without commas equals the gold answer.
    path = shared_data.path("verify/gsm8k_labelled_6b.jsonl")
    records = [json.loads(line) for line in path.read_text().split("\n") if line]
    wrong = []
    for r in records:
        said = r["answer_text"].rsplit("A: ", 1)[-1] if "A: " in r["answer_text"] else ""
        boxed = answer.extract(f"\\boxed{{{said}}}")
        right = bool(boxed) and answer.normalise(boxed) == answer.normalise(r["gold"])
        if right != r["label"]:
            wrong.append((said, r["gold"], r["label"]))
    assert len(records) == 2638 and wrong == []


@pytest.mark.parametrize(
    "votes",
    [
        ("1/2", "0.5", "\\frac{1}{2}", "\\frac12", "\\dfrac{2}{4}", ".50", "$0.5$", "½", "x = 1/2"),
        ("-7/2", "-3.5", "-3\\frac{1}{2}", "-3 1/2", "\\frac{-7}{2}", "−3.5"),
        ("{1,2}", "1, 2", "2,1", "\\{2, 1\\}", "1 \\text{ and } 2", "2 and 1", "x=1, x=2", "1;2"),
        ("(1,1/2)", "(1, 0.5)", "\\left(1,\\frac{1}{2}\\right)"),
        ("1000000", "1,000,000", "1e6", "1.0e6"),
        ("yes", "Yes", "\\text{Yes}"),
    ],
)
def test_votes_for_one_answer_have_one_key(votes):
    assert {answer.vote_key(vote) for vote in votes} == {answer.vote_key(votes[0])}


def test_votes_for_different_answers_have_different_keys():
    votes = ("(1,2)", "(2,1)", "[1,2]",
             "[1,2)", "1,2", "12", "1.2", "1/2", "2", "x", "X", "", "5, 125",
             "5125", "31/2", "3 1/2", "1/0", "\\frac{a}{b}")  # fmt: skip
    assert len({answer.vote_key(vote) for vote in votes}) == len(votes)


@QUICK
@hypothesis.given(strategies.text(alphabet="0123456789.,/{}()[]\\frac-+ eE;andorx=", max_size=60))
def test_any_text_has_a_vote_key_of_its_own_kind(text):
    assert answer.vote_key(answer.vote_key(text)) is not None
    assert answer.vote_key(f" {text} ") == answer.vote_key(text)


@QUICK
@hypothesis.given(strategies.fractions(max_denominator=1000))
def test_votes_are_counted_by_value(q):
    sign, top = "-" if q < 0 else "", abs(q.numerator)
    for vote in (
        f"{q}",
        f"{sign}\\frac{{{top}}}{{{q.denominator}}}",
        f"{sign}{3 * top}/{3 * q.denominator}",
    ):
        assert answer.vote_key(vote) == str(q)


@pytest.mark.parametrize(
    "shape", ["0", "00.", "1 ", "123 ", "1,", ",", "(", "\\boxed", "\\, ", "\\frac1"]
)
def test_hostile_lengths_take_linear_time(shape):
    text = shape * (100_000 // len(shape)) + "x"
    began = time.process_time()
    for read in (answer.normalise, answer.vote_key, answer.extract):
        read(text)
    answer.extract("\\boxed{" + text)
    assert time.process_time() - began < 2.0
