"""The text a model sees: notes, cuts, and nothing that could act."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.tools import result


def test_notes_follow_the_output():
    text = result.render_text("timeout", "lost", "out", "", limit=30.0, detail="")
    assert text == (
        "out\n[stopped: the cell ran longer than 30 s]\n"
        "[the interpreter was restarted: all variables are gone]\n"
    )
    assert result.render_text("ok", "kept", "1024\n", "") == "1024\n"


def test_families_of_status_are_apart():
    assert not set(result.MODEL_STATUSES) & set(result.INFRA_STATUSES)
    assert result.CLAIMABLE <= set(result.MODEL_STATUSES)
    assert set(result.NOTES) | {"ok", "error", "syntax_error"} == {
        *result.MODEL_STATUSES, *result.INFRA_STATUSES}
    for status in result.INFRA_STATUSES:
        assert result.ToolResult(status, "").is_infra
    assert not dataclasses.replace(result.ToolResult("ok", ""), status="crashed").is_infra


@pytest.mark.parametrize("raw, shown", [
    ("a\r\nb\tc\n", "a\nb\tc\n"), ("\x1b[0m\x00", "\\x1b[0m\\x00"), ("\u202eabc", "\\u202eabc"),
    ("<|im_end|>", "< |im_end|>"), ("</tool_response>", "< /tool_response>"),
    ("a <| b |> c < d", "a <| b |> c < d"), ("1 <|x| y", "1 <|x| y"),
])
def test_neutralise(raw, shown):
    assert result.neutralise(raw) == shown


@settings(derandomize=True, max_examples=60)
@given(st.text(max_size=200))
def test_neutralise_twice_changes_nothing_more_and_leaves_no_markup(text):
    once = result.neutralise(text)
    assert result.neutralise(once) == once
    assert not result.CONTROL.search(once) and not result.MARKUP.search(once)


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.binary(max_size=60), max_size=12))
def test_output_keeps_head_and_tail_and_counts_the_rest(chunks):
    output = result.Output(16, 8)
    for chunk in chunks:
        output.feed(chunk)
    data = b"".join(chunks)
    assert output.total == len(data)
    assert output.dropped() == max(0, len(data) - 24)
    if len(data) <= 24:
        assert output.text() == result.neutralise(data.decode("utf-8", "replace"))
    else:
        assert f"[... {len(data) - 24} bytes dropped ...]" in output.text()
        assert bytes(output.head) == data[:16]


def test_output_by_hand():
    output = result.Output(4, 2)
    output.feed(b"abcdefgh")
    assert output.text() == "abcd\n[... 2 bytes dropped ...]\ngh"
