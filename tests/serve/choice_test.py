"""One answer, cut where it should be: stop strings however tokens come, calls, endings."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.data import turns
from aster_jax.serve.choice import Choice


class Spelled:
    """A reader of one character per id."""

    def __init__(self, is_thinking=False):
        self._tags = turns.Tags(turns.chat.CONTROL, is_thinking)

    def feed(self, ids):
        return self._tags.text("".join(map(chr, ids)))

    def finish(self):
        return self._tags.finish()


def answer(text, portions, stop=(), exact=False, one_call=False, end="answered"):
    """(text, thought, calls, tokens sent, choice) of an answer whose ids come in portions."""
    choice, deltas, rest = Choice(Spelled(), tuple(stop), exact, one_call), [], list(map(ord, text))
    for n in portions:
        if choice.is_over or not rest:
            break
        deltas.append(choice.feed(rest[:n], [-1.0] * len(rest[:n])))
        rest = rest[n:]
    if not choice.is_over:
        deltas += [choice.feed(rest, [-1.0] * len(rest)), choice.end(end)]
    return (
        "".join(d.text for d in deltas), "".join(d.thought for d in deltas),
        [c for d in deltas for c in d.calls], [t for d in deltas for t in d.tokens], choice,
    )  # fmt: skip


@settings(derandomize=True, max_examples=80, deadline=None, database=None)
@given(st.text("ab.", max_size=12), st.lists(st.integers(1, 5), max_size=12),
       st.lists(st.text("ab.", min_size=1, max_size=3), max_size=3))  # fmt: skip
def test_a_stop_string_ends_the_answer_wherever_tokens_end(text, portions, stop):
    said, _, _, tokens, choice = answer(text, portions, stop)
    # The first stop to be complete ends it; what stands before the earliest of those is said.
    found = [text.index(s) + len(s) for s in stop if s in text]
    if found:
        end = min(found)
        assert said == text[: min(text[:end].index(s) for s in stop if s in text[:end])]
        assert len(tokens) == choice.count == end
    else:
        assert said == text and choice.count == len(text)
    assert choice.finish == "stop"


def test_calls_and_what_is_none():
    call = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    for portions in ([1] * 200, [1000], [7] * 40):
        said, thought, calls, _, choice = answer(f"<think>so</think>Look.{call}\n{call}", portions)
        assert (said, thought, calls) == ("Look.", "so", [("f", '{"x": 1}')] * 2)
        assert choice.finish == "tool_calls"
    assert len(answer(call * 2, [1] * 200, one_call=True)[2]) == 1
    said, _, calls, _, choice = answer("<tool_call>[1]</tool_call>", [3] * 20)
    assert (said, calls, choice.finish) == ("<tool_call>[1]</tool_call>", [], "stop")
    half = r"""<tool_call>{"name": "f", "arguments": {"x": "\ud83d"}}</tool_call>"""
    said, _, calls, _, choice = answer(half, [3] * 40)
    assert (said, calls, choice.finish) == (half, [], "stop")
    said, _, calls, _, choice = answer('<tool_call>{"name', [3] * 20, end="token_budget")
    assert (said, calls, choice.finish) == ('<tool_call>{"name', [], "length")
