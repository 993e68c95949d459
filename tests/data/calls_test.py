"""What a call says: the strict schema, and results cut to a number of tokens."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest

from aster_jax.data import calls
from tests.data import tokenizer_test

learned = tokenizer_test.learned
CODE = {"name": "code_interpreter", "arguments": {"code": "print(1)"}}


def test_a_message_holds_the_call_that_reading_gives_back():
    made = calls.message("Let me.", "print('é')\n", reasoning="hm")
    text = json.dumps(made["tool_calls"][0], ensure_ascii=False)
    assert calls.read(text) == ("print('é')\n", "")
    assert (made["content"], made["reasoning_content"]) == ("Let me.", "hm")
    assert "reasoning_content" not in calls.message("", "1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arguments": {"code": "1", "timeout": 900}}, 'arguments other than "code"'),
        ({"arguments": {"language": "bash"}}, '"code" is missing'),
        ({"arguments": {"code": ["1"]}}, "is not a string"),
        ({"arguments": {"code": "\ud800"}}, "is not valid Unicode"),
        ({"name": "bash"}, "unknown function 'bash', only code_interpreter exists"),
        ({"name": ["bash"]}, "unknown function (not a string)"),
        ({"id": 1}, 'exactly "name" and "arguments"'),
    ],
)
def test_anything_but_the_schema_has_a_reason(change, reason):
    code, why = calls.read(json.dumps({**CODE, **change}))
    assert code == "" and reason in why


@hypothesis.settings(derandomize=True, max_examples=200, deadline=None, database=None)
@hypothesis.given(st.text(max_size=30) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "arguments", "code", "x"]), inner, max_size=3
    ),
).map(json.dumps))  # fmt: skip
def test_no_text_is_more_than_a_value(text):
    code, reason = calls.read(text)
    assert bool(reason) or json.loads(text)["arguments"] == {"code": code}


@pytest.mark.parametrize("code", ["a\nb", "if x:\n\tprint(1)\r\n", "\t", "print('\x0b')"])
def test_raw_white_space_in_a_string_is_read(code):
    text = '{"name": "code_interpreter",\n\t"arguments": {"code": "%s"}}'
    assert calls.read(text % code) == (code, "")
    assert calls.read((text % code)[:-3]) == ("", calls.NO_JSON)
    assert "other than" in calls.read(text.replace('{"code"', '{"x": "\n", "code"') % code)[1]


def test_cut_keeps_head_and_tail_within_the_limit(learned):
    text = "start " + "middle " * 500 + " end"
    for words in (learned[0], tokenizer_test.qwen3()):
        short = calls.cut(text, words, 60)
        assert len(words.encode(short)) <= 60 and "tokens left out" in short
        assert short.startswith("start") and short.endswith("end")
        assert calls.cut("brief", words, 60) == "brief"
        assert len(words.encode(calls.cut("é" * 99, words, 3))) <= 3




def test_format_errors_say_that_nothing_ran():
    assert calls.malformed_text("x is y") == "Format error: x is y. Nothing was run."
