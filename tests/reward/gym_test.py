"""Problems and scorers of reasoning-gym: what an answer may do to a scorer, and what it may not."""

import builtins
import json

import hypothesis
import pytest
from hypothesis import strategies

from aster_jax import tools
from aster_jax.demos import gym as sources
from aster_jax.reward import gym, verify

REASON = "reasoning-gym is an optional extra and not installed"
HOSTILE = (
    "__import__('os').system('true')", "().__class__.__mro__", "open('/etc/passwd').read()",
    "exec('1')", "(lambda: 1)()", "[x for x in (1,)]", "f'{1}'", "Symbol('x').name", "getattr(1, 'real')",
    "print('0 \"equivalent\"')", "x_", "Integer(__1)", "log(x, evaluate=False)", "sympify('1')", "a[0]",
    "(y := 1)", "1 if 1 else 2", "*a", "",
)  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE)
def test_no_code_is_a_plain_expression(source):
    assert not gym.is_plain(source)
    with gym.only_expressions(), pytest.raises(ValueError):
        eval(source)


@pytest.mark.parametrize(
    ("source", "value"),
    [("(3+4)*5 - 2**3", 27), ("[[1, 'a'], (2.5, -1)]", [[1, "a"], (2.5, -1)]), (" {1: 2} ", {1: 2}),
     ("(0x3 >> 0x1) + 2", 3), ("1 < 2", True)],
)  # fmt: skip
def test_plain_expressions_are_evaluated(source, value):
    with gym.only_expressions():
        assert eval(source) == value


def test_nothing_else_is_run_and_nothing_printed(capsys):
    before = builtins.eval, builtins.exec
    with gym.only_expressions():
        with pytest.raises(ValueError, match="not to be run"):
            exec("import os")
        with pytest.raises(ValueError, match="not a plain expression"):
            eval(compile("1", "", "eval"))
        print('0 "equivalent"')
    assert (builtins.eval, builtins.exec) == before
    assert capsys.readouterr().out == ""


PLACES = ("[{}]", "(1, {})", "1 + ({})", "sin({})", "{{1: {}}}", "-({})", "({}) ** 2", "1 < ({})")


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    strategies.sampled_from([h for h in HOSTILE if h and h != "*a"]),
    strategies.lists(strategies.sampled_from(PLACES), max_size=4),
)
def test_code_is_found_wherever_it_stands(source, places):
    plain = "3"
    for place in places:
        source, plain = place.format(source), place.format(plain)
    assert not gym.is_plain(source) and gym.is_plain(plain)


def test_families_are_read():
    assert gym.options("rg:gcd") == ("gcd", {})
    family = "rg:chain_sum?max_terms=3&allow_negation=true&word=a%20b"
    assert gym.options(family) == ("chain_sum", {"max_terms": 3, "allow_negation": True, "word": "a b"})
    with pytest.raises(ValueError):
        gym.options("rg:chain_sum?max_terms")


def test_what_only_dresses_an_answer_up_is_taken_off():
    assert gym.undressed(" $\\text{True}$ ") == "True"
    assert gym.undressed("\\{1, 2\\}") == "{1, 2}"
    assert gym.undressed("\\frac{1}{2}") == "\\frac{1}{2}"


@pytest.fixture(scope="module")
def made():
    pytest.importorskip("reasoning_gym", reason=REASON)
    # The last one prints while it makes a problem, where verdicts are looked for.
    names = ("rg:chain_sum", "rg:countdown", "rg:n_queens", "rg:ransom_note", "rg:bf")
    sources.prepare(list(names), 0, 8)
    return {name: sources.drawn(name, 0).problem(3) for name in names}


@pytest.fixture(scope="module")
def verifier():
    with verify.Verifier(verify.VerifyConfig(cpu_limit_s=2.0)) as found:
        yield found


def score(verifier, problem, *answers):
    return verifier.score([(f"\\boxed{{{a}}}", problem.answer, problem.scorer) for a in answers])


def test_its_own_scorer_decides(made, verifier):
    for problem in made.values():
        assert score(verifier, problem, problem.answer) == [(1.0, "exact")]
    total = made["rg:chain_sum"]
    dressed = score(verifier, total, f"\\text{{{total.answer}}}", f"${total.answer}$")
    assert [reward for reward, _ in dressed] == [1.0, 1.0]
    # "7 2" has a score of 0.33 for holding the answer, and 2.0 is a number of another spelling.
    assert score(verifier, total, f"7 {total.answer}", "") == [(0.0, "wrong"), (0.0, "no_answer")]
    # Another expression of the same value is as right as the example: the comparison of
    # mathematics would not know which numbers may be used.
    countdown = made["rg:countdown"]
    assert score(verifier, countdown, f"{countdown.answer} + 0")[0][0] == 0.0
    assert score(verifier, countdown, f"({countdown.answer})") == [(1.0, "equivalent")]


def test_a_hostile_answer_is_no_reward_and_no_trouble(made, verifier):
    forged = "print('0 \"equivalent\"')"
    hostile = ("__import__('os')._exit(0)", "().__class__", forged, "9**9**9**9", "[" * 300)
    for name in ("rg:countdown", "rg:n_queens"):
        scored = score(verifier, made[name], *hostile)
        assert {reward for reward, _ in scored} == {0.0}
        assert {verdict for _, verdict in scored} <= {"wrong", "answer_too_costly"}
    assert verifier.troubles == []


def test_another_problem_than_was_asked_is_never_judged(made, verifier):
    problem = made["rg:chain_sum"]
    family, seed, index, digest = problem.scorer.split(" ")
    for scorer in (f"{family} {seed} {int(index) + 1} {digest}", f"{family} {int(seed) + 1} {index} {digest}"):
        found = verifier.score([(f"\\boxed{{{problem.answer}}}", problem.answer, scorer)])
        assert found == [(0.0, "verifier_error")]


def test_the_models_own_tool_does_not_see_the_library(made):
    """It knows the answers, so it is in the verifier's processes and in no other."""
    with tools.Executor(tools.ToolConfig(preload=())) as executor:
        code = "from reasoning_gym import create_dataset"
        assert executor.submit(executor.open(0), code).result(60).status == "error"


def test_every_family_that_is_offered_judges_its_own_answers():
    pytest.importorskip("reasoning_gym", reason=REASON)
    seeds = [(7, 0), (7, 1), (7, 2)]
    for family in ("rg:gcd", "rg:polynomial_multiplication", "rg:spiral_matrix", "rg:simple_integration"):
        for question, answer, scorer in gym.make(family, seeds):
            assert question and gym.judge(scorer, answer) == gym.RIGHT
            assert gym.judge(scorer, gym.NONSENSE) == gym.WRONG and gym.judge_gold(scorer) == ""


@pytest.mark.parametrize(
    ("family", "kind", "says"),
    [
        ("rg:game_of_life_halting", "family", "takes nonsense for right"),
        ("rg:graph_color", "family", "gives no answer of its own"),
        ("rg:chain_som", "unknown", "has no 'chain_som'"),
        ("rg:chain_sum?terms=3", "options", "terms"),
        ("rg:chain_sum?min_terms=9", "options", "max_terms"),
    ],
)
def test_a_family_that_cannot_be_judged_says_why(family, kind, says):
    pytest.importorskip("reasoning_gym", reason=REASON)
    with pytest.raises(gym.Unusable, match=says) as raised:
        gym.make(family, [(7, 0), (7, 1)])
    assert raised.value.kind == kind


@pytest.mark.slow
def test_all_of_the_library_are_judged_or_refused(verifier):
    """Every family of the library: made by one process and judged in another, or refused."""
    factory = pytest.importorskip("reasoning_gym.factory", reason=REASON)
    refused, wrong = {}, []
    for name in sorted(factory.DATASETS):
        try:
            problem = sources.drawn(f"{gym.PREFIX}{name}", 1).problem(0)
        except ValueError as error:
            refused[name] = str(error)
            continue
        (found,) = verifier.score([(f"\\boxed{{{problem.answer}}}", problem.answer, problem.scorer)])
        if found[0] != 1.0:
            wrong.append((name, found, json.dumps(problem.answer)[:80]))
    print(json.dumps(refused, indent=1))
    assert not wrong
    assert len(refused) < 0.15 * len(factory.DATASETS)
