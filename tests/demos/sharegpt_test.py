"""Reading the paper's SFT format from a small parquet written here."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from aster_jax.demos import sharegpt


def call(code, thought="Let me compute."):
    body = json.dumps({"name": "code_interpreter", "arguments": {"code": code}})
    return {"role": "function", "content": f"<think>\n{thought}\n</think>\n\n{body}"}


GOOD = [
    {"role": "user", "content": "What is 2**10?"},
    call("print(2**10)"),
    {"role": "tool", "content": "1024\n"},
    {"role": "assistant", "content": "<think>\nDone.\n</think>\n\nIt is \\boxed{1024}."},
]


def write(path, rows):
    table = pyarrow.table({"conversations": rows, "tools": ["[]"] * len(rows)})
    pyarrow.parquet.write_table(table, path)
    return path


def test_row_becomes_messages(tmp_path):
    transcripts, skipped = sharegpt.load(write(tmp_path / "a.parquet", [GOOD]))
    (made,) = transcripts
    assert skipped == [] and made.statuses == ("ok",) and made.problem.question == "What is 2**10?"
    user, called, result, final = made.messages
    assert called["reasoning_content"] == "Let me compute."
    assert called["tool_calls"][0]["arguments"] == {"code": "print(2**10)"}
    assert result == {"role": "tool", "content": "1024\n"}
    assert final == {
        "role": "assistant", "content": "It is \\boxed{1024}.", "reasoning_content": "Done.",
    }  # fmt: skip
    assert made.final_text == "It is \\boxed{1024}."


@pytest.mark.parametrize(
    "turns, reason",
    [
        (GOOD[1:], "start with a user"),
        (GOOD[:3], "end with an assistant"),
        ([GOOD[0], GOOD[0], *GOOD[1:]], "order"),
        ([GOOD[0], GOOD[3], GOOD[2], GOOD[3]], "without a call"),
        ([GOOD[0], {"role": "function", "content": "print(1)"}, *GOOD[2:]], "exactly one call"),
        (
            [GOOD[0], {"role": "function", "content": '[{"name": "code_interpreter"}]'}, *GOOD[2:]],
            "exactly one call",
        ),
        ([{**GOOD[0], "content": None}, *GOOD[1:]], "turn 1 has content that is not text"),
        ([*GOOD[:3], {**GOOD[3], "role": "critic"}], "turn 4 has role 'critic'"),
        ([GOOD[0], {**GOOD[1], "role": "system"}, *GOOD[2:]], "turn 2 has role 'system'"),
        ([*GOOD[:3], {"role": "assistant", "content": "a <think>b</think> 4"}], "turn 4 holds a tag"),
        ([*GOOD[:3], {"role": "assistant", "content": "<think>b 4"}], "turn 4 holds a tag"),
        ([*GOOD[:3], {**GOOD[3], "reasoning": "hm"}], "field 'reasoning' that would be lost"),
        (None, "holds no turns"),
        ([GOOD[0], None, *GOOD[2:]], "turn 2 is not an object"),
    ],
)
def test_unusable_rows_are_named_with_a_reason(tmp_path, turns, reason):
    transcripts, skipped = sharegpt.load(write(tmp_path / "a.parquet", [GOOD, turns]))
    assert len(transcripts) == 1
    assert skipped[0].row == 2 and reason in skipped[0].reason


def test_a_system_column_is_not_lost_in_silence(tmp_path):
    table = pyarrow.table({"conversations": [GOOD, GOOD], "system": ["", "Be brief."]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    transcripts, skipped = sharegpt.load(tmp_path / "a.parquet")
    assert len(transcripts) == 1 and skipped[0].row == 2 and "system text" in skipped[0].reason


def test_calls_are_read_as_the_model_may_write_them():
    body = '{"name": "code_interpreter", "arguments": {"code": "if x:\n\tprint(1)"}}'
    nested = json.dumps({"name": "code_interpreter", "arguments": '{"code": "if x:\n\tprint(1)"}'})
    twice = '{"name": "code_interpreter", "arguments": {"code": "1", "code": "2"}}'
    for text in (body, nested):
        read = sharegpt.read_row([GOOD[0], {"role": "function", "content": text}, *GOOD[2:]])
        assert read.messages[1]["tool_calls"][0]["arguments"] == {"code": "if x:\n\tprint(1)"}
    for text in (twice, "[" * 100_000, nested.replace("1", '1", "x": "')):
        read = sharegpt.read_row([GOOD[0], {"role": "function", "content": text}, *GOOD[2:]])
        assert "exactly one call" in read


def test_unreadable_files_are_errors(tmp_path):
    (tmp_path / "junk.parquet").write_text("junk")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        sharegpt.load(tmp_path / "junk.parquet")
    with pytest.raises(ValueError, match="does not exist"):
        sharegpt.load(tmp_path / "absent.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no column 'conversations'"):
        sharegpt.load(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no usable conversation; row 1"):
        sharegpt.load(write(tmp_path / "c.parquet", [GOOD[:1]]))
