"""Golds: what a row's answer means as text, and what is no answer at all."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest

from aster_jax.data import golds

RUN = hypothesis.settings(derandomize=True, max_examples=200, deadline=None, database=None)


def gold(value, floats=frozenset()):
    return golds.of({"answer": value}, "p.jsonl row 7", floats)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (27.0, "27"), (2.5, "2.5"), (7, "7"), (" 7 ", "7"), (1e22, "1" + "0" * 22),
        ("so 12\n#### 12", "12"), ("#### 1,234", "1234"), ("#### -12,345,678", "-12345678"),
        ("#### $1,234.50", "$1234.50"), ("####5", "5"),
        # A comma that separates stays.
        ("#### 3, 5", "3, 5"), ("#### 3,5", "3,5"), ("#### 100, 200", "100, 200"),
        ("#### 1,2,300", "1,2,300"), ("#### (1,234)", "(1,234)"), ("#### {3,500}", "{3,500}"),
        ("#### 1,234, 5,678", "1234, 5678"), ("3,5", "3,5"), ("1,234", "1,234"),
        # Lists: typed, or as JSON or Python writes one.
        ([3], "3"), ([27.0], "27"), (["\\frac12"], "\\frac12"), ([3, 5], "3, 5"),
        (["x", "y"], "x, y"), (["(1, 2)", "(3, 4)"], "(1, 2), (3, 4)"), (["1,234", 5], "1234, 5"),
        ('["34"]', "34"), ("['34']", "34"), ("[34]", "34"), ("[ -3.5 ]", "-3.5"),
        ('["3", "5"]', "3, 5"), ('["\\\\frac{1}{2}"]', "\\frac{1}{2}"),
        # Mathematics that looks like one.
        ("[3, 5]", "[3, 5]"), ("[1,2)", "[1,2)"), ("[[1, 2], [3, 4]]", "[[1, 2], [3, 4]]"),
        # Words and signs that are answers.
        ("Na", "Na"), ("No", "No"), ("no solution", "no solution"), ("undefined", "undefined"),
        ("\\infty", "\\infty"), ("\u221e", "\u221e"), ("infinity", "infinity"), ("<", "<"),
        ("\\emptyset", "\\emptyset"), ("n-a", "n-a"), ("None of them", "None of them"), (0, "0"),
    ],
)  # fmt: skip
def test_the_meaning_is_kept(value, text):
    assert gold(value) == text
    assert golds.of({"reward_model": {"ground_truth": value}}, "r", frozenset()) == text


ABSENT = """N/A n/a NA #N/A <NA> NaN nan -nan None none null NULL nil notfound not-found Unknown proof
missing inf -inf ? - -- ... 1.#IND [] {}""".split()
DRESSED = ["not found", "Not Found.", "no answer", "No_Answer", "\\text{N/A}", "$\\text{none}$",
           "[N/A]", "(none)", "'null'", "\\boxed{nan}", "\\boxed{}", "#### N/A", "#### ", "x ####",
           "not available", "N.A."]  # fmt: skip


@pytest.mark.parametrize("value", [*ABSENT, *DRESSED, ["N/A"], [1, "nan"], '["None"]'])
def test_sentinels_are_refused_by_row(value):
    with pytest.raises(ValueError, match="p.jsonl row 7: field 'answer' is .*remove the row"):
        gold(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "is nan, which stands for a missing answer in a column of numbers"),
        (float("-inf"), "is -inf, which stands"), ([float("inf")], "is inf"),
        (None, "must be text or a number"), (True, "must be text"), ({"a": 1}, "must be text"),
        ([], "is an empty list"), ([None], "got None"), ([3, [5]], r"got \[5\]"),
        (["a, b", "c"], "the element 'a, b', itself a list"),
        ('["\\frac12"]', "backslashes"), ('["3", 5]', "looks like a list"),
        ('["3"', "looks like a list"), ("\x0crac12", "control characters"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(value, says):
    with pytest.raises(ValueError, match="row 7.*" + says):
        gold(value)


def test_an_infinity_is_a_word_unless_the_column_was_of_floats():
    rows = [{"answer": "2.5"}, {"answer": "Infinity"}, {"final_answer": "7"}, "no row"]
    floats = golds.float_fields(rows)
    assert floats == {"answer"} and golds.float_fields(rows[1:]) == frozenset()
    assert gold("Infinity") == "Infinity"
    with pytest.raises(ValueError, match="stands for a missing answer"):
        gold("Infinity", floats)


@RUN
@hypothesis.given(st.lists(st.integers(-10**9, 10**9), min_size=1, max_size=5), st.booleans())
def test_numbers_survive_any_way_of_writing_them(numbers, grouped):
    texts = [f"{n:,}" if grouped else str(n) for n in numbers]
    plain = ", ".join(map(str, numbers))
    assert gold("so\n#### " + ", ".join(texts)) == plain
    assert gold(numbers) == gold(json.dumps(list(map(str, numbers)))) == plain
    assert gold(texts) == (plain if len(texts) > 1 else texts[0])


@RUN
@hypothesis.given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.text("[]'\",\\#/nan1 ", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
))  # fmt: skip
def test_any_value_is_text_or_named(value):
    try:
        text = gold(value)
    except ValueError as error:
        assert str(error).startswith("p.jsonl row 7")
        return
    assert text == text.strip(" \n") != ""
