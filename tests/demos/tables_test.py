"""Files of demonstrations in every format, read and written; bad rows are named."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import hypothesis
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import strategies as st

from aster_jax import types
from aster_jax.demos import dialogues, retool, sharegpt, tables
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError
from tests import shared_data


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


def row_of(turns):
    return sharegpt.read_row({"conversations": turns})


def test_row_becomes_messages(tmp_path):
    transcripts, skipped = tables.load(write(tmp_path / "a.parquet", [GOOD]))
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
    transcripts, skipped = tables.load(write(tmp_path / "a.parquet", [GOOD, turns]))
    assert len(transcripts) == 1
    assert skipped[0].row == 2 and reason in skipped[0].reason


def test_a_system_column_is_not_lost_in_silence(tmp_path):
    table = pyarrow.table({"conversations": [GOOD, GOOD], "system": ["", "Be brief."]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    transcripts, skipped = tables.load(tmp_path / "a.parquet")
    assert len(transcripts) == 1 and skipped[0].row == 2 and "system text" in skipped[0].reason


def test_calls_are_read_as_the_model_may_write_them():
    body = '{"name": "code_interpreter", "arguments": {"code": "if x:\n\tprint(1)"}}'
    nested = json.dumps({"name": "code_interpreter", "arguments": '{"code": "if x:\n\tprint(1)"}'})
    twice = '{"name": "code_interpreter", "arguments": {"code": "1", "code": "2"}}'
    for text in (body, nested):
        read = row_of([GOOD[0], {"role": "function", "content": text}, *GOOD[2:]])
        assert read.messages[1]["tool_calls"][0]["arguments"] == {"code": "if x:\n\tprint(1)"}
    for text in (twice, "[" * 100_000, nested.replace("1", '1", "x": "')):
        read = row_of([GOOD[0], {"role": "function", "content": text}, *GOOD[2:]])
        assert "exactly one call" in read


def test_unreadable_files_are_errors(tmp_path):
    (tmp_path / "junk.parquet").write_text("junk")
    with pytest.raises(ValueError, match="cannot be read as .parquet"):
        tables.load(tmp_path / "junk.parquet")
    with pytest.raises(ValueError, match="does not exist"):
        tables.load(tmp_path / "absent.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="row 1 has no field 'conversations'"):
        tables.load(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no usable conversation; row 1"):
        tables.load(write(tmp_path / "c.parquet", [GOOD[:1]]))


# The real trajectories, as transcripts.


def ns_tools():
    made = []
    for line in shared_data.path("trajectories/ns_tools_1_3.jsonl").read_text("utf-8").splitlines():
        r = json.loads(line)
        messages = [{"role": "user", "content": r["problem"]}]
        for step in r["steps"]:
            thought = step["reasoning"].replace("</think>", "").strip()  # it ends with the tag
            call = sharegpt.chat.call_message("", step["code"], thought)
            messages += [call, {"role": "tool", "content": step["output"].strip("\n")}]
        thought, _, answer = r["final_text"].rpartition("</think>")
        last = {"role": "assistant", "content": answer.strip()}
        messages.append({**last, "reasoning_content": thought.strip()} if thought else last)
        problem = types.Problem(r["id"], r["problem"].strip(), r["gold"], "aime25")
        messages[0]["content"] = problem.question
        made.append(Transcript(problem, tuple(messages), ("ok",) * len(r["steps"]), verdict="exact"))
    return made


def tora():
    made = []
    for line in shared_data.path("trajectories/tora_34b_gsm8k.jsonl").read_text("utf-8").splitlines():
        r = json.loads(line)
        messages = (
            {"role": "user", "content": r["question"].strip()},
            sharegpt.chat.call_message("", r["program"].strip("\n")),
            {"role": "tool", "content": r["recorded_stdout"].strip()},
            {"role": "assistant", "content": r["final_text"].strip()},
        )
        problem = types.Problem(f"gsm8k-{r['idx']}", r["question"].strip(), r["gold"], "gsm8k")
        made.append(Transcript(problem, messages, ("ok",)))
    return made


def said(t):
    """What every format holds: the question, the codes, the results, the answer; thoughts and
    words beside a call as one text."""
    turns = []
    for m in t.messages:
        thought = m.get("reasoning_content") or ""
        words = "\n\n".join(filter(None, (thought, m["content"])))
        turns.append((m["role"], words, json.dumps(m.get("tool_calls"))))
    return turns


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("form", tables.FORMATS)
@pytest.mark.parametrize("source", [ns_tools, tora])
def test_real_trajectories_go_around_every_format(tmp_path, source, form, suffix):
    made = [t for t in source() if t.final_text]
    assert len(made) in (3, 330)
    tables.save(tmp_path / f"a{suffix}", made, form)
    read, skipped = tables.load(tmp_path / f"a{suffix}")
    assert skipped == [] and [said(t) for t in read] == [said(t) for t in made]
    if form in ("messages", "transcripts"):
        assert [dataclasses.replace(t, origin="") for t in read] == [
            t if form == "transcripts" else dataclasses.replace(t, verdict="") for t in made
        ]
    if form == "sharegpt":
        assert [t.messages for t in read] == [t.messages for t in made]
    tables.save(tmp_path / f"b{suffix}", read, form)
    again, _ = tables.load(tmp_path / f"b{suffix}")
    assert [t.messages for t in again] == [t.messages for t in read]


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))).map(str.strip)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=3), TEXT, TEXT)
def test_any_text_goes_around_or_is_refused_by_name(steps, question, answer):
    hypothesis.assume(question and answer)
    messages = [{"role": "user", "content": question}]
    for thought, code, result in steps:
        messages.append(sharegpt.chat.call_message("", code or "1", thought or None))
        messages.append({"role": "tool", "content": result})
    messages.append({"role": "assistant", "content": answer})
    made = Transcript(types.Problem("p", question, "", "f"), tuple(messages), ("ok",) * len(steps))
    for form in (sharegpt, dialogues, retool):
        try:
            row = form.write_row(made)
        except InputError as e:
            assert "p " in str(e)
            continue
        own = form if form is not retool or steps else dialogues
        read = own.read_row(json.loads(json.dumps(row)))
        assert not isinstance(read, str) and said(read) == said(made), form


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


CHAT = {
    "messages": [
        {"role": "user", "content": "What is 2**10?"},
        {"role": "assistant", "content": "Let me.", "reasoning": "Hm.", "tool_calls": [
            {"id": "a", "type": "function",
             "function": {"name": "python", "arguments": '{"script": "print(2**10)"}'}}]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1024"}]},
        {"role": "assistant", "content": "<think>\nDone.\n</think>\n\nIt is \\boxed{1024}."},
    ],
    "tools": "[]", "answer": 1024, "id": 7,
}  # fmt: skip


def changed(i, **fields):
    messages = [dict(m) for m in CHAT["messages"]]
    messages[i] = {**messages[i], **fields}
    return {**CHAT, "messages": messages}


def test_messages_are_read_in_every_spelling(tmp_path):
    (made,), _ = tables.load(write_lines(tmp_path / "a.jsonl", CHAT))
    assert made.problem == types.Problem("7", "What is 2**10?", "1024", "messages")
    assert made.messages[1] == {
        **sharegpt.chat.call_message("Let me.", "print(2**10)"), "reasoning_content": "Hm.",
    }  # fmt: skip
    assert made.messages[2] == {"role": "tool", "content": "1024"}
    assert made.messages[3] == {
        "role": "assistant", "content": "It is \\boxed{1024}.", "reasoning_content": "Done.",
    }  # fmt: skip
    call = {"function": {"name": "python", "arguments": {"script": "print(2**10)"}}}
    (same,), _ = tables.load(write_lines(tmp_path / "b.jsonl", changed(1, tool_calls=[call])))
    assert same.messages == made.messages and made.origin == "a.jsonl row 1"
    failed = changed(2, content="Traceback (most recent call last):\nZeroDivisionError: no")
    assert dialogues.read_row(failed).statuses == ("error",)


@pytest.mark.parametrize(
    "row, reason",
    [
        (changed(1, tool_calls=[{"name": "f", "arguments": "{1}"}]), "arguments"),
        (changed(1, tool_calls=[{"name": "f", "arguments": {"a": "1", "b": "2"}}]), "one text"),
        (changed(1, tool_calls=[{"name": "f", "arguments": {"a": 1}}]), "one text of code"),
        (changed(1, tool_calls=None), "without a call"),
        (changed(1, tool_calls=CHAT["messages"][1]["tool_calls"] * 2), "calls at once"),
        (changed(0, role="system"), "would be lost"),
        (changed(0, role="assistant"), "start with a user"),
        (changed(3, role="user"), "end with an assistant"),
        (changed(3, content="a </think> <tool_call>"), "tag of the markup"),
        (changed(3, content=5), "content is a int"),
        (changed(3, refusal="no"), "refusal"),
        ({**CHAT, "messages": None}, "start with a user"),
        ({**CHAT, "messages": [3]}, "message 0 is a int, not an object"),
        ({**CHAT, "messages": [None]}, "message 0 is a NoneType, not an object"),
        ({**CHAT, "messages": "hello"}, "messages that are 'hello', not a list"),
        ({**CHAT, "messages": {"a": 1}}, "messages that are {'a': 1}, not a list"),
        (changed(0, content=" "), "question without text"),
        ({**CHAT, "answer": ""}, "answer"),
        ({**CHAT, "id": {"a": 1}}, "id {'a': 1}, which is neither text nor a number"),
        ({**CHAT, "family": float("nan")}, "family nan"),
        ({**CHAT, "statuses": []}, "has 1 calls and statuses []"),
        ({**CHAT, "statuses": ["ok", "ok"]}, "has 1 calls and statuses"),
        ({**CHAT, "statuses": 5}, "has statuses 5, which are no list"),
        ({**CHAT, "statuses": "ok"}, "has statuses 'ok', which are no list"),
        ({**CHAT, "statuses": ["success"]}, "has a status 'success'"),
        ({**CHAT, "statuses": [None]}, "has a status None"),
        (changed(3, content="It is \ud83d"), "not_writable: half of a surrogate pair"),
        ({**CHAT, "id": "\ud83d"}, "not_writable: half of a surrogate pair"),
    ],
)
def test_unusable_rows_of_messages_have_a_reason(tmp_path, row, reason):
    made, skipped = tables.load(write_lines(tmp_path / "a.jsonl", CHAT, row))
    assert len(made) == 1 and skipped[0].row == 2 and reason in skipped[0].reason


def retool_row(text, question="Use code.\n*user question:*\nWhat is 2**10?"):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
    return {"messages": messages}


BLOCK = "<code>\n```python\nprint(2**10)\n```\n</code>\n<interpreter>\n1024\n</interpreter>\n"


def test_retool_is_read(tmp_path):
    text = f"Let me.\n{BLOCK}\n<answer>\nIt is \\boxed{{1024}}.\n</answer>"
    (made,), _ = tables.load(write_lines(tmp_path / "a.jsonl", retool_row(text)))
    assert made.problem.question == "What is 2**10?" and made.statuses == ("ok",)
    assert made.messages[1] == sharegpt.chat.call_message("Let me.", "print(2**10)")
    assert made.messages[2]["content"] == "1024" and made.final_text == "It is \\boxed{1024}."


@pytest.mark.parametrize(
    "text, reason",
    [
        (BLOCK, "without an answer"),
        (BLOCK.partition("<interpreter>")[0] + "It is 4.", "call without result"),
        ("<interpreter>\n1\n</interpreter> 4", "<code> is missing"),
        (BLOCK.replace("<interpreter>", "so <interpreter>") + "4", "text between"),
        (f"{BLOCK}a <code> 4", "without an answer"),
        (f"a <think> {BLOCK} 4", "a tag in its text"),
    ],
)
def test_unusable_rows_of_retool_have_a_reason(text, reason):
    assert reason in retool.read_row(retool_row(text))


def test_rows_of_retool_hold_two_texts_and_nothing_beside():
    user, said = retool_row(f"{BLOCK}4")["messages"]
    for first, last, reason in (
        ([{"role": "system"}, user], said, ""),
        ([{"role": "system", "content": "Be brief."}, user], said, "system message"),
        ([{"role": "user"}], said, "question without text"),
        ([{"role": "user", "content": 5}], said, "message 0: content is a int"),
        ([user], {**said, "reasoning_content": "Hm."}, "a thought or a call beside"),
        ([user], {**said, "content": [{"type": "text", "text": said["content"]}]}, ""),
    ):
        read = retool.read_row({"messages": [*first, last]})
        assert reason in read if isinstance(read, str) else not reason


def test_damage_is_named_by_file_and_row(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", CHAT)
    for damage, says in (
        ("{broken", "a.jsonl row 2 is not JSON"),
        ("[1]", "a.jsonl row 2 is not an object"),
        ('{"text": "a"}', "a.jsonl row 2 has no field"),
        ("[" * 100_000, "a.jsonl row 2 is not JSON"),
    ):
        path.write_text(json.dumps(CHAT) + "\n" + damage)
        with pytest.raises(InputError, match=says):
            tables.load(path)
    (tmp_path / "a.csv").write_text("a")
    for name in ("a.csv", "absent.jsonl"):
        with pytest.raises(InputError, match=name):
            tables.load(tmp_path / name)


def test_what_cannot_be_written_is_named(tmp_path):
    made, _ = tables.load(write_lines(tmp_path / "a.jsonl", CHAT))
    stray = [dict(m) for m in made[0].messages]
    stray[1]["content"] = "see <code>"
    with pytest.raises(InputError, match="a.jsonl row 1 cannot be written as ReTool"):
        tables.save(tmp_path / "b.jsonl", [dataclasses.replace(made[0], messages=tuple(stray))], "retool")
    assert not (tmp_path / "b.jsonl").exists()
    for name, form, says in (("b.csv", "messages", "neither"), ("b.jsonl", "xml", "unknown")):
        with pytest.raises(InputError, match=says):
            tables.save(tmp_path / name, made, form)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, suffix):
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / "file").touch()
    for where in (f"absent/a{suffix}", f"folder{suffix}", f"file/a{suffix}"):
        with pytest.raises(InputError, match=f"{where} cannot be written: "):
            tables.save(tmp_path / where, [dialogues.read_row(CHAT)], "messages")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", f"folder{suffix}"]


def test_the_command_converts(tmp_path):
    source = write_lines(tmp_path / "a.jsonl", CHAT, changed(0, role="assistant"))
    done = subprocess.run(
        [sys.executable, "-m", "aster_jax.demos.convert", source, tmp_path / "b.parquet",
         "--format=sharegpt"],
        cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "1 demonstrations" in done.stdout, done.stderr
    assert "row 2 is left out" in done.stderr
    assert len(tables.load(tmp_path / "b.parquet")[0]) == 1
