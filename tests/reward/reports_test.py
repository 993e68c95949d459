"""The kinds of mistakes that users of other answer verifiers have reported, and ours.

One test for each kind; none of the answers is a report's own. All go through `Verifier.score`
as a trajectory's answer does.
"""

import time

import pytest

from aster_jax.reward import answer, verify


@pytest.fixture(scope="module")
def verifier():
    with verify.Verifier() as made:
        yield made


def judged(verifier, gold: str, said: list[str]) -> list[bool]:
    scored = verifier.score([(f"so \\boxed{{{text}}}", gold) for text in said])
    assert not {verdict for _, verdict in scored} & set(verify.INFRASTRUCTURE)
    return [reward > 0 for reward, _ in scored]


def check(verifier, gold: str, right: list[str], wrong: list[str]) -> None:
    accepted = judged(verifier, gold, right + wrong)
    missed = [t for t, ok in zip(right, accepted) if not ok]
    false = [t for t, ok in zip(wrong, accepted[len(right) :]) if ok]
    assert (missed, false) == ([], [])


def test_1_only_an_assignment_stands_for_its_value(verifier):
    check(
        verifier, "24",
        ["k=24", "24=k", "g(7)=24", "XY=24", "a_{3}=24", "p+q=24", "N=20+4=24"],
        ["u+v=24", "25=24", "y^2=24", "y-9=24", "5u-2v=24", "\\cos y=24", "y\\ge 24", "y\\ne 24",
         "\\le 24", "1=5=24", "N=23=24", "24>y"],
    )  # fmt: skip
    check(verifier, "3x-2y=8", ["6x-4y=16", "2y=3x-8"], ["3x-2y=9", "8", "3x+2y=8"])


def test_2_small_and_close_numbers_are_told_apart(verifier):
    check(verifier, "\\frac{1}{7^{50}}", ["7^{-50}"], ["\\frac{1}{7^{51}}", "0"])
    check(verifier, "3.0\\times10^{-12}", ["3e-12"], ["4.0\\times10^{-12}", "0.000001"])
    check(verifier, "\\sqrt{10^{60}+3}", [], ["\\sqrt{10^{60}+4}", "10^{30}"])
    check(verifier, "1-\\frac{1}{3^{80}}", ["1-3^{-80}"], ["1", "1-\\frac{1}{3^{81}}"])
    check(
        verifier, "\\frac{3}{7}", ["0.4285714286", "0.42857142857142855"], ["0.43", "0.4285714287"]
    )


def test_3_what_is_not_wholly_read_is_not_equal(verifier):
    check(
        verifier, "41",
        ["\\large 41", "{\\bf 41}"],
        ["40 \\land 41", "13 \\mid 41", "2, 3, \\ldots, 41", "13 \\\\ 41", "\\lnot 41", "41?",
         "? 41", "40 \\to 41", "\\cancel{4} 41", "41'",
         "\\begin{cases} 41 & x>0 \\\\ 1 & x \\le 0\\end{cases}",
         "n \\equiv 2 \\pmod{41}", "\\text{perhaps } 41"],
    )  # fmt: skip
    check(verifier, "\\frac{\\partial g}{\\partial u}", [], ["\\frac{\\partial g}{\\partial v}"])


def test_4_words_beside_a_number_are_compared(verifier):
    check(
        verifier, "12",
        ["12\\text{ cm}", "12 apples", "\\$12",
         "12\\frac{\\text{m}}{\\text{s}}", "12 \\text{ m}^2"],
        ["12\\text{ billion}", "12 hundred", "12\\text{ or less}", "at least 12", "12k", "12y",
         "12\\text{ dozen}", "12\\text{ if } x>0"],
    )  # fmt: skip
    check(
        verifier, "9\\text{ km}", ["9", "9\\text{ kilometers}"], ["9\\text{ m}", "9\\text{ km}^2"]
    )
    check(
        verifier, "4\\text{ hours }10\\text{ minutes}", [], ["4\\text{ hours }20\\text{ minutes}"]
    )


def test_5_an_index_on_a_number_is_its_base(verifier):
    check(verifier, "312_4", ["(312)_4", "312_{4}", "312_{\\text{4}}"], ["312", "312_5", "54"])
    check(verifier, "312", ["312_{10}"], ["312_4", "312_{16}"])
    check(verifier, "\\text{B}7_{12}", ["B7_{12}"], ["\\text{B}7_{13}", "7\\text{B}_{12}"])


def test_6_letters_in_a_row_are_a_word(verifier):
    check(verifier, "RSTR", ["\\text{RSTR}", "rstr"], ["RTSR", "R^2ST"])
    check(verifier, "\\text{stressed}", ["stressed"], ["\\text{desserts}"])
    check(verifier, "N/3", ["\\frac{N}{3}"], ["n/3"])


def test_7_indices_exponents_and_mixed_numbers(verifier):
    check(
        verifier,
        "\\log_5 7",
        ["\\log_{5}7", "\\frac{\\ln 7}{\\ln 5}", "log(7)/log(5)"],
        ["\\log_7 5"],
    )
    check(verifier, "\\frac{19}{4}", ["4 3/4", "4\\frac34", "4.75"], ["43/4", "4 \\cdot 3/4"])
    check(verifier, "\\sqrt[5] 3", ["3^{1/5}", "\\sqrt[5]{3}"], ["\\sqrt{3}"])
    check(verifier, "y^4 7", ["7y^4"], ["y^{47}"])
    check(verifier, "7", [], ["3 4", "6 1"])


def test_8_lists_of_three_digit_numbers(verifier):
    check(verifier, "250, 600", ["600, 250", "\\{250, 600\\}", "t=250, t=600"], ["250600", "250"])
    check(verifier, "250600", ["250,600", "250\\,600", "250{,}600"], ["250, 600"])


def test_9_an_inequality_for_an_interval(verifier):
    check(verifier, "(-\\infty,5]", ["t \\le 5", "5 \\ge t", "-t \\ge -5"], ["t<5", "t \\ge 5"])
    check(
        verifier, "s<1 \\text{ or } s>4", ["(-\\infty,1)\\cup(4,\\infty)"], ["(1,4)", "(4,\\infty)"]
    )
    check(verifier, "\\mathbb{R}\\setminus\\{6\\}", ["t \\ne 6"], ["t=6", "t>6"])


def test_10_what_python_and_sympy_print(verifier):
    check(verifier, "\\frac{3\\pi}{8}", ["3*pi/8", "Rational(3, 8)*pi"], ["3*pi/9"])
    check(verifier, "y^3-2y", ["y**3 - 2*y", "y*(y**2 - 2)"], ["y**3 - y"])
    check(verifier, "4.5\\times 10^{7}", ["4.5e7", "45000000.0"], ["4.5e8"])
    check(verifier, "2-3i", ["2 - 3*I"], ["2 + 3*I"])
    check(verifier, "[0,4)", ["Interval.Ropen(0, 4)"], ["Interval(0, 4)"])
    check(verifier, "e^5", ["exp(5)", "E**5"], ["exp(4)"])
    check(verifier, "\\begin{pmatrix}1&2\\\\0&5\\end{pmatrix}", ["Matrix([[1, 2], [0, 5]])"],
          ["Matrix([[1, 0], [2, 5]])"])  # fmt: skip


def test_11_spelling(verifier):
    check(
        verifier, "\\frac{5}{11}", ["0.\\overline{45}", "0.4545..."], ["0.45", "0.\\overline{54}"]
    )
    check(verifier, "77", ["\\texttt{77}", "\\Large{77}", "\\text{Answer: }77", "77^o"], ["-77"])
    check(verifier, "-6", ["–6", "—6", "−6"], ["6"])
    check(verifier, "\\frac{y^3}{4}", ["y³/4", "¼y³"], ["y²/4"])
    for text in ("\\boxed 5", "\\boxed5", "\\fbox{5}"):
        assert verifier.score([(text, "5")]) == [(1.0, "exact")]


def test_12_costs_are_bounded(verifier):
    began = time.process_time()
    for shape in ("0", "00.", "+0", "1 ", "1,", "12 345 ", "\\, ", "{", "$"):
        answer.normalise(shape * (32_000 // len(shape)) + "x")
    assert time.process_time() - began < 2.0  # 13 s for the first of them alone, once
    hostile = ["(10^{10})!", "\\binom{10^{10}}{10^5}", "(a+b+c+d)^{80}", "7^{7^{7^{7}}}"]
    for text in hostile:
        began = time.monotonic()
        ((reward, verdict),) = verifier.score([(f"\\boxed{{{text}}}", "\\frac{1}{7}")])
        assert reward == 0 and verdict in ("answer_too_costly", "wrong")
        assert time.monotonic() - began < 6.0


def test_13_which_box():
    assert answer.extract("\\boxed{3} then \\boxed{") is None
    assert answer.extract("\\boxed{3} then \\boxed{4}") == "4"
    assert answer.extract("\\boxed{3}, as a \\boxed answer should be") == "3"


def test_14_votes_are_of_answers_not_of_spellings():
    for same in (
        ["0.75", "3/4", "\\frac{3}{4}", "\\frac34", "\\dfrac{6}{8}"], ["4, 9", "9,4", "\\{9, 4\\}"],
        ["-1.5", "-\\frac{3}{2}", "-1\\frac{1}{2}"], ["\\text{Blue}", "blue"],
    ):  # fmt: skip
        assert len(set(map(answer.vote_key, same))) == 1
    different = ["(4,9)", "(9,4)", "4,9", "49", "[4,9]", "4.9", "4/9"]
    assert len(set(map(answer.vote_key, different))) == len(different)
