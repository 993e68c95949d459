"""Shapes of messages: what means the same is the same, and what would be lost is an error."""

import json

import hypothesis
import hypothesis.strategies as st
import pytest

from aster_jax.data import chat, messages
from tests.data import tokenizer_test

RUN = hypothesis.settings(derandomize=True, max_examples=150, deadline=None, database=None)
USER = {"role": "user", "content": "hi"}
CALL = {"name": "code_interpreter", "arguments": {"code": "print('é')"}}


def ids(*talk, style="qwen3"):
    return chat.render(talk, [chat.TOOL], tokenizer_test.qwen3(), style)


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("role", messages.ROLES)
def test_absent_content_is_none_is_no_text(role):
    absent, none, empty = {"role": role}, {"role": role, "content": None}, parts()
    written = ids(USER, {"role": role, "content": ""})
    for message in (absent, none, {"role": role, "content": empty}, {**absent, "name": "x"}):
        assert ids(USER, message) == written


@pytest.mark.parametrize("role", messages.ROLES)
def test_parts_are_one_text(role):
    split = {"role": role, "content": parts("a <b", "> ", "", "c\n")}
    assert ids(USER, split) == ids(USER, {"role": role, "content": "a <b> c\n"})


def test_calls_mean_the_same_in_every_shape():
    text = json.dumps(CALL["arguments"], ensure_ascii=False)
    as_text = {**CALL, "arguments": text}
    nested = {"type": "function", "id": "1", "function": as_text}
    written = ids(USER, {"role": "assistant", "tool_calls": [CALL]})
    for call in (as_text, nested, {"function": CALL}):
        assert ids(USER, {"role": "assistant", "content": None, "tool_calls": [call]}) == written


@pytest.mark.parametrize("style", chat.STYLES)
def test_reasoning_is_trained_under_either_name(style):
    answer = {"role": "assistant", "content": "4"}
    written = ids(USER, {**answer, "reasoning_content": "hm"}, style=style)
    assert ids(USER, {**answer, "reasoning": "hm"}, style=style) == written
    both = {**answer, "reasoning": "hm", "reasoning_content": "hm"}
    assert ids(USER, both, style=style) == written != ids(USER, answer, style=style)
    assert ids(USER, {**both, "reasoning": ""}, style=style) == written


def with_call(**changes):
    return {"role": "assistant", "tool_calls": [CALL, {**CALL, **changes}]}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("hi", "message 1 is a str"),
        ({"content": "x"}, "message 1 has role None"),
        ({"role": ["user"], "content": "x"}, r"message 1 has role \['user'\]"),
        ({"role": "user", "content": 3}, "message 1: content is a int"),
        ({"role": "user", "content": {"text": "x"}}, "message 1: content is a dict"),
        ({"role": "tool", "content": ["x"]}, "message 1, part 0 is a str"),
        ({"role": "user", "content": [*parts("a"), {"type": "image_url"}]},
         "message 1, part 1 has type 'image_url'"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "part 0 has no text"),
        ({"role": "assistant", "content": "a", "thinking": "b"}, "message 1 has a field 'thinking'"),
        ({"role": "assistant", "function_call": CALL}, "message 1 has a field 'function_call'"),
        ({"role": "assistant", "reasoning": ["b"]}, "message 1: reasoning is a list"),
        ({"role": "assistant", "reasoning": "a", "reasoning_content": "b"}, "and they differ"),
        ({"role": "user", "content": "a", "reasoning": "b"}, "a user's and has reasoning"),
        ({"role": "tool", "content": "a", "tool_calls": [CALL]}, "a tool's and has tool_calls"),
        ({"role": "assistant", "tool_calls": CALL}, "tool_calls is a dict"),
        ({"role": "assistant", "tool_calls": ["f"]}, "message 1, call 0 is a str"),
        ({"role": "assistant", "tool_calls": [{"function": "f"}]}, "function is a str"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}, "type 'custom'"),
        ({"role": "assistant", "tool_calls": [{"name": "f"}]}, "call 0 has no arguments"),
        (with_call(name=None), "message 1, call 1 has name None"),
        (with_call(name='f", "x'), "call 1 has name"),
        (with_call(arguments=None), "message 1, call 1: arguments is None"),
        (with_call(arguments=[]), r"message 1, call 1: arguments is \[\]"),
        (with_call(arguments=""), "call 1: arguments '' are not valid JSON"),
        (with_call(arguments='{"code": "1"'), "are not valid JSON"),
        (with_call(arguments='{"code": "a\nb"}'), "are not valid JSON"),
        (with_call(arguments='{"code": NaN}'), "NaN is no number"),
        (with_call(arguments='{"code": "1", "code": "2"}'), "a key is given twice"),
        (with_call(arguments="[" * 100_000), "are not valid JSON"),
        (with_call(arguments='["1"]'), "are not the JSON of an object"),
        (with_call(arguments={"code": float("nan")}), "has no JSON"),
        (with_call(arguments={"code": b"1"}), "has no JSON"),
    ],
)  # fmt: skip
def test_what_would_be_lost_or_trained_on_as_it_is(message, says):
    with pytest.raises(ValueError, match=says):
        ids(USER, message)


def test_a_message_alone_is_checked_as_well():
    with pytest.raises(ValueError, match="the message, call 0: arguments is None"):
        words = tokenizer_test.qwen3()
        message = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": None}]}
        chat.assistant_ids(message, words, "qwen3")


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "text", "function", "{}", '{"code": "1"}']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "name",
                         "arguments", "reasoning", "reasoning_content", "extra"]), inner, max_size=5
    ), max_leaves=12,
)  # fmt: skip


@RUN
@hypothesis.given(ODD)
def test_any_shape_is_read_or_named(message):
    try:
        read = messages.read([message])[0]
    except ValueError as error:
        assert str(error).startswith("message 0")
        return
    assert all(isinstance(x, str) for x in (read.role, read.content, read.thought or ""))
    assert all(isinstance(json.loads(call.arguments), dict) for call in read.calls)
