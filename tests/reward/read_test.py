"""Reading step by step: tokens, expressions, units, kinds of answers, and their values."""

import fractions

import hypothesis
import mpmath
import pytest
from hypothesis import strategies

from aster_jax.reward import (
    assigned, compare, cutting, expression, functions, names, numerals, read, readings, sets,
    spelling, tokens, tree,
    units, value,
)  # fmt: skip

QUICK = hypothesis.settings(derandomize=True, max_examples=200, deadline=None)
PIECES = (
    "1", "23", "0.5", "x", "y", "e", "i", "AB", "word", "\\frac", "{", "}", "(", ")", "[", "]",
    "\\{", "\\}", "^", "_", "+", "-", "*", "/", "=", "<", "\\le", ",", ";", ":", "|", "\\sqrt",
    "\\text{cm}", "\\text{or}", "\\pi", "\\infty", "\\cup", "\\pm", "\\sin", "\\log", "!", "%",
    "\\%", "^\\circ", "\\in", "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "&", "\\overline",
    "\\sum", "**", "sqrt", "Matrix", " ", ".", "'", "\\ldots", "\\$", "½", "²", "√", "\x00", "é",
)  # fmt: skip


def parsed(text: str) -> tuple:
    return expression.parse(tokens.tokenise(text, thousands=False))


def test_unicode_is_latex():
    assert spelling.plain("2×10⁻³") == "2\\times 10^{-3}"
    assert spelling.plain("½ − x₁₂") == "\\frac{1}{2} - x_{12}"
    assert spelling.plain("plain $x$") == "plain $x$"


def test_tokens_keep_all_but_typesetting():
    found = tokens.tokenise("\\left( 12,\\!345\\,\\text{ cm} \\right)", thousands=False)
    assert [(t.kind, t.text) for t in found] == [
        ("sign", "("), ("number", "12345"), ("word", "cm"), ("sign", ")"),
    ]  # fmt: skip
    with pytest.raises(tokens.Refused):
        tokens.tokenise("5 ¿", thousands=False)
    assert tokens.ways("1,234", False) == (True, False)
    assert tokens.ways("1,000", False) == tokens.ways("1,234", True) == (True,)
    assert tokens.ways("1, 234", False) == (False,)


def test_lists_are_cut_outside_of_brackets():
    found = tokens.tokenise("(1,2), [3,4)", thousands=False)
    parts, cuts = cutting.split(found, cutting.is_separator)
    assert [len(part) for part in parts] == [5, 5] and cuts == {","}
    assert cutting.enclosed(found) is None and cutting.enclosed(found[:5]) == found[1:4]
    with pytest.raises(tokens.Refused):
        cutting.split(found[:4], cutting.is_separator)


@pytest.mark.parametrize(
    "text, number",
    [
        ("3\\frac{1}{2}", "7/2"), ("-1\\frac13", "-4/3"), ("\\frac12^2", "1/4"), ("-3^2", "-9"),
        ("2^3^2", "512"), ("1/2/4", "1/8"), ("2(3+4)", "14"), ("5!-|{-7}|", "113"),
        ("0.1\\overline{6}", "1/6"), ("0.333...", "1/3"), ("\\sqrt[3]{-27}", "-3"),
        ("\\binom52", "10"), ("{5 \\choose 2}", "10"), ("1.5e3", "1500"), ("2^{-2}", "1/4"),
        ("\\lfloor -2.5 \\rfloor", "-3"), ("gcd(12, 18)", "6"), ("\\log_2 8", None),
    ],
)  # fmt: skip
def test_rational_expressions_have_their_exact_value(text, number):
    found = value.constant(parsed(text), {})[0]
    if number is None:
        assert value.agree(found, fractions.Fraction(3), 50)
    else:
        assert found == fractions.Fraction(number) and isinstance(found, fractions.Fraction)


@pytest.mark.parametrize(
    "text", ["", "3 4", "x3", "3\\frac{4}{3}", "2+", "*2", "(1", "1)", "\\foo", "x'", "word", "5!!"]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(tokens.Refused):
        parsed(text)


def test_trees():
    assert tree.symbols(parsed("x_1+ab+\\pi")) == {"x_1", "a", "b"}
    both = parsed("1 \\pm 2 \\mp 3")
    assert tree.has_sign_choice(both)
    plus, minus = (value.constant(tree.choose_sign(both, s), {})[0] for s in (1, -1))
    assert (plus, minus) == (0, 2)
    assert tree.repeated("0.", "142857") == ("num", fractions.Fraction(1, 7), 0, 0)


def test_precision_follows_the_numbers_inside():
    near = parsed("\\sqrt{10^{200}+1}-10^{100}")  # 5e-101: nothing of it shows in 60 digits
    found, _ = value.constant(near, {})
    assert value.agree(found, fractions.Fraction(5, 10**101), 50)
    assert not value.equal(near, tree.integer(0))
    assert value.equal(parsed("\\sqrt{5+2\\sqrt6}"), parsed("\\sqrt2+\\sqrt3"))
    assert value.equal(parsed("\\sqrt2\\sqrt2-2"), tree.integer(0))


def test_identities_hold_for_either_sign():
    assert value.equal(parsed("(x+1)^2"), parsed("x^2+2x+1"))
    assert not value.equal(parsed("\\sqrt{x^2}"), parsed("x"))
    assert not value.equal(parsed("\\sqrt{x^2y^2}"), parsed("xy"))
    assert value.multiple(parsed("2x-4"), parsed("6-3x")) == -1
    assert value.multiple(parsed("2x-4"), parsed("3x-5")) == 0
    with pytest.raises(functions.Costly):
        value.constant(parsed("9^{9^{9^9}}"), {})
    with pytest.raises(functions.Undefined):
        value.constant(parsed("1/(2-2)"), {})


def test_values_agree_with_mpmath():
    with mpmath.mp.workdps(50):
        for text, wanted in (
            ("\\sin 40^\\circ", mpmath.sin(mpmath.pi * 40 / 180)), ("\\ln 2", mpmath.log(2)),
            ("e^{\\pi}", mpmath.exp(mpmath.pi)), ("\\tan^{-1} 2", mpmath.atan(2)),
            ("2.5!", mpmath.gamma(3.5)), ("\\cos^2 1", mpmath.cos(1) ** 2),
        ):  # fmt: skip
            assert value.agree(value.constant(parsed(text), {})[0], wanted, 45)


@pytest.mark.parametrize(
    "text, unit",
    [
        ("5", ""), ("5\\text{ cm}", "cm"), ("5 inches", "in"), ("5\\text{ in}^2", "in^2"),
        ("5 square feet", "ft^2"), ("5\\%", "%"), ("5 percent", "%"), ("\\$5", "$"),
        ("5 dollars", "$"), ("5^\\circ", "deg"), ("80\\frac{\\text{km}}{\\text{h}}", "km/h"),
        ("5 \\pmod 7", "mod 7"), ("5 apples", "apple"),
    ],
)  # fmt: skip
def test_units(text, unit):
    assert units.split(tokens.tokenise(text, thousands=False))[1] == unit


def test_number_words_are_no_units():
    for text in ("5 million", "5\\text{ dozen}", "5\\text{ or more}", "5\\text{ June}"):
        with pytest.raises(tokens.Refused):
            units.split(tokens.tokenise(text, thousands=False))
    assert names.FUNCTIONS["asin"] == "arcsin"


@pytest.mark.parametrize(
    "text, kind",
    [
        ("7", readings.Value), ("\\text{no}", readings.Text), ("1, 2", readings.List),
        ("(1,2]", readings.Bracket), ("x=7", readings.Assigned), ("x+y=7", readings.Relation),
        ("x<7", readings.Relation), ("\\mathbb{R}", readings.SetOf), ("3:4", readings.Ratio),
        ("52_8", readings.Based), ("1, \\ldots, 9", readings.Opaque), ("2 3", readings.Opaque),
    ],
)  # fmt: skip
def test_kinds(text, kind):
    assert isinstance(read.read(text)[0], kind)


def test_sets():
    def of(text):
        return sets.real_set(read.read(text)[0])

    assert sets.same(of("(1,3]\\cup(2,5)"), of("1<x<5"))
    assert sets.same(of("\\mathbb{R}\\setminus\\{0\\}"), of("(-\\infty,0)\\cup(0,\\infty)"))
    assert not sets.same(of("[1,2]"), of("[1,2)"))
    assert of("x^2<4") is None and of("(3,2)") is None


@QUICK
@hypothesis.given(strategies.lists(strategies.sampled_from(PIECES), max_size=14).map("".join))
def test_any_text_has_a_reading_and_is_no_other_answer(text):
    found = read.read(text)
    assert found
    if isinstance(found[0], readings.Opaque):
        assert compare.compare("5", text, 10) != compare.EQUIVALENT
    compare.compare(text, text, 10)


def test_names_of_values():
    for text, name in (("S_{10}", "S_{10}"), ("f(3)", "f(3)"), ("m+n", "m+n"), ("x+y", None)):
        assert assigned.name(tokens.tokenise(text, thousands=False)) == name


def test_numbers_as_they_are_written():
    at = tokens.Cursor(tokens.tokenise("0.1\\overline{6} + 1", thousands=False))
    assert numerals.number(at, None) == ("num", fractions.Fraction(1, 6), 0, 0)
    assert at.peek().text == "+"


def test_both_sides_have_the_digits_of_the_more_delicate_one():
    assert not value.equal(parsed("(2^{3000}+1)^{1/3}\\pi"), parsed("2^{1000}\\pi"))
    assert value.equal(parsed("(2^{3000})^{1/3}\\pi"), parsed("2^{1000}\\pi"))
    assert not value.equal(parsed("10^{80}\\sqrt3+x"), parsed("10^{80}\\sqrt3+y"))
