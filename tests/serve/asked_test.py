"""Bodies: what is read from them, and that nothing is lost or guessed on the way."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.rollout import sampling
from aster_jax.serve import asked
from aster_jax.serve.limits import Limits, Rate
from aster_jax.serve.refusal import Refusal

LIMITS = Limits()
MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def chat(**more):
    return asked.chat({"model": "m", "messages": MESSAGES} | more, LIMITS)


def test_a_chat_with_everything():
    found = chat(
        tools=[TOOL], temperature=0.5, top_p=0.9, top_k=4, seed=-3, n=2, max_completion_tokens=7,
        stop="x", stream=True, stream_options={"include_usage": True}, logprobs=True,
        parallel_tool_calls=False, user="me", frequency_penalty=0, response_format={"type": "text"},
    )  # fmt: skip
    assert found == asked.Asked(
        how=sampling.Sampling(0.5, 0.9, 4), n=2, seed=-3, max_tokens=7, stop=("x",), stream=True,
        with_usage=True, with_logprobs=True, messages=tuple(MESSAGES), tools=(TOOL,),
        with_calls=True, one_call=True,
    )  # fmt: skip
    assert chat() == asked.Asked(how=sampling.Sampling(), messages=tuple(MESSAGES))
    assert not chat(tools=[TOOL], tool_choice="none").with_calls
    assert chat(messages=[{"role": "developer", "content": "x"}]).messages[0]["role"] == "system"


@pytest.mark.parametrize("prompt, read", [
    ("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3))),
])  # fmt: skip
def test_prompts_of_completions(prompt, read):
    found = asked.text({"model": "m", "prompt": prompt, "logprobs": 0}, LIMITS)
    assert found.prompts == read and found.max_tokens == 16 and found.with_logprobs


@pytest.mark.parametrize("more, param", [
    ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": [1]}, "messages"),
    ({"n": 0}, "n"), ({"n": 17}, "n"), ({"n": True}, "n"), ({"n": 1.5}, "n"),
    ({"temperature": -1}, "temperature"), ({"temperature": 2.1}, "temperature"),
    ({"temperature": 1e-9}, "temperature"), ({"temperature": "1"}, "temperature"),
    ({"temperature": float("nan")}, "temperature"), ({"top_p": 0}, "temperature"),
    ({"temperature": 10**400}, "temperature"), ({"top_p": -(10**400)}, "top_p"),
    ({"top_p": 1.1}, "temperature"), ({"top_k": -1}, "top_k"), ({"seed": 2**63}, "seed"),
    ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens"),
    ({"stop": ""}, "stop"), ({"stop": ["a"] * 5}, "stop"), ({"stop": [1]}, "stop"),
    ({"stop": "x" * 257}, "stop"), ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"tools": [{}]}, "tools"), ({"tools": {}}, "tools"), ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"), ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"), ({"logit_bias": {"1": 2}}, "logit_bias"),
    ({"response_format": {"type": "json_object"}}, "response_format"), ({"no_such": 1}, "no_such"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(more, param):
    with pytest.raises(Refusal) as found:
        chat(**more)
    assert found.value.status == 400 and found.value.body["error"]["param"] == param


def test_a_name_that_cannot_be_sent_back_is_told_escaped():
    with pytest.raises(Refusal) as found:
        chat(**{"\ud83d": 1})
    json.dumps(found.value.body, ensure_ascii=False).encode()
    assert found.value.body["error"]["param"] == "\\ud83d"


@pytest.mark.parametrize("prompt", ["", [], [[]], [[1], "a", 3], {}, 7, ["a"] * 17, [True]])
def test_prompts_that_are_none(prompt):
    with pytest.raises(Refusal):
        asked.text({"model": "m", "prompt": prompt}, LIMITS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(st.dictionaries(st.sampled_from(sorted(asked.CHAT | asked.TEXT | set(asked.NEUTRAL))), JSON),
       st.sampled_from([asked.chat, asked.text]))  # fmt: skip
def test_any_body_is_read_or_refused(body, read):
    try:
        found = read(asked.parse(json.dumps(body).encode()), LIMITS)
    except Refusal as e:
        assert 400 <= e.status < 500 and json.dumps(e.body)
    else:
        assert found.messages or found.prompts


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'"a"'])
def test_bodies_that_are_no_objects(body):
    with pytest.raises(Refusal, match="body is not"):
        asked.parse(body)


def test_the_rate_by_hand():
    rate = Rate(60)
    assert [rate.wait_s(100.0) for _ in range(10)] == [0.0] * 10
    assert rate.wait_s(100.0) == 1.0 and rate.wait_s(100.5) == 0.5
    assert rate.wait_s(101.0) == 0.0 and rate.wait_s(101.0) == 1.0
    assert Rate(0).wait_s(5.0) == 0.0
    with pytest.raises(ValueError, match="choices=0 must be at least 1"):
        Limits(choices=0)
