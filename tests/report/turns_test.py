"""The four states of an output, stray tags and post-hoc calls on hand-written turns."""

import pytest

from aster_jax.report import turns
from tests.report import made_run

OK = {"code": "print(1)", "status": "ok", "text": "1"}
BAD = {"code": "", "status": "malformed", "text": "Format error"}
CALL = made_run.turn("I compute it.", "print(1)")


@pytest.mark.parametrize(
    "text, call, end, expected",
    [
        (CALL, OK, "answered", "call"),
        (CALL, {**OK, "status": "error"}, "answered", "call"),
        ("It is \\boxed{1}.<|im_end|>", None, "answered", "answer"),
        ("<think>\nso\n</think>\n\nIt is 1.<|im_end|>", None, "answered", "answer"),
        ("so\n</think>\n\nIt is 1.<|im_end|>", None, "answered", "answer"),  # opened by the prompt
        ("It is 1.</tool_call><|im_end|>", None, "answered", "polluted"),
        ("<think>\nI use <tool_call>\n</think>\n\n1<|im_end|>", None, "answered", "polluted"),
        ("<tool_response>\n1\n</tool_response> so 1<|im_end|>", None, "answered", "polluted"),
        ('<tool_call {"name": 1}}<|im_end|>', None, "answered", "polluted"),
        ("tool_call>1</tool_call<|im_end|>", None, "answered", "polluted"),
        ("|im_end|> and 1<|im_end|>", None, "answered", "polluted"),
        ("<|im_start> 1<|im_end|>", None, "answered", "polluted"),
        ("I am thinking: <thinking> 1 < 2 |x| > 0<|im_end|>", None, "answered", "answer"),
        ("<tool_call>print(1)</tool_call><|im_end|>", BAD, "answered", "polluted"),
        ("I try</tool_call><|im_end|>", BAD, "malformed", "polluted"),
        ("<tool_call><|im_end|>", BAD, "malformed", "collapsed"),
        ("hm\n<tool_call>\n</tool_call><|im_end|>", BAD, "malformed", "collapsed"),
        ("<|im_end|>", None, "answered", "collapsed"),
        ("<think>\n\n</think><|im_end|>", None, "answered", "collapsed"),
        ("I go on and", None, "turn_budget", "cut"),
        (CALL, None, "call_budget", "call"),
    ],
)
def test_states_of_a_turn(text, call, end, expected):
    assert turns.states([text], [] if call is None else [call], end) == [expected]


def test_states_of_an_episode():
    texts = [CALL, "<tool_call><|im_end|>", CALL, "1 then<tool_call"]
    assert turns.states(texts, [OK, BAD], "token_budget") == ["call", "collapsed", "call", "cut"]
    assert turns.states([], [], "deadline") == []


def test_tags_inside_a_call_are_no_prose():
    code = "print('</tool_call> <tool_call> <think>')"
    text = made_run.turn("<think>\nhm\n</think>\n\nI see.", code)
    said = turns.prose(text, {**OK, "code": code})
    assert said == "<think>\nhm\n</think>\n\nI see.\n" and turns.stray_tags(said) == 0
    assert turns.stray_tags(turns.prose("a </think> b </think> <tool_call>x", BAD)) == 1
    assert turns.stray_tags("plain text<|im_end|>") == 0


def post_hoc(before, last, question="What is 6 * 7?", calls=(OK,)):
    return turns.is_post_hoc([made_run.turn(before, "print(1)"), last], list(calls), question)


@pytest.mark.parametrize(
    "before, last, expected",
    [
        ("6 * 7 is 42, I check.", "\\boxed{42}<|im_end|>", True),
        ("I compute it.", "\\boxed{42}<|im_end|>", False),
        ("It has 142 or 421 or 4.42 or 42.5 of them.", "\\boxed{42}", False),
        ("That gives 42.", "\\boxed{42}", True),
        ("That gives 1,234,567.", "\\boxed{1234567}", True),
        ("About -42.", "\\boxed{42}", False),
        ("It is \\frac{1}{2}, I check.", "\\boxed{\\frac{1}{2}}", True),
        ("7 it is.", "\\boxed{7}", None),  # stands in the question
        ("42", "no box", None),
    ],
)
def test_post_hoc_by_hand(before, last, expected):
    assert post_hoc(before, last) is expected


def test_only_what_stands_before_the_first_real_call_counts():
    texts = ["42?<tool_call><|im_end|>", made_run.turn("So.", "print(1)"), "\\boxed{42}"]
    assert turns.is_post_hoc(texts, [BAD, OK], "q") is True
    texts[0] = "hm<tool_call><|im_end|>"
    assert turns.is_post_hoc(texts, [BAD, OK], "q") is False
    assert turns.is_post_hoc(texts, [BAD], "q") is None  # no call at all
    assert turns.is_post_hoc([], [], "q") is None
