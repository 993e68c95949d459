"""A conversation keeps what is known of it in every format, or is refused by name; what a row
may hold is checked wherever it stands."""

import dataclasses
import json

import hypothesis
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import strategies as st

from aster_jax import types
from aster_jax.demos import dialogues, retool, sharegpt, tables, transcript
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError
from tests.demos.tables_test import BLOCK, CHAT, GOOD, changed, retool_row, row_of, write_lines

OWN = transcript.write_row(dialogues.read_row(CHAT))
CALLS = OWN["messages"][1]["tool_calls"]


def own(**fields):
    """A record of this package; of `message_N` the fields that are given."""
    at = {int(k[8:]): v for k, v in fields.items() if k.startswith("message_")}
    messages = [{**m, **(at[i] if i in at else {})} for i, m in enumerate(OWN["messages"])]
    rest = {k: v for k, v in fields.items() if not k.startswith("message_")}
    return {**OWN, "messages": messages, **rest}


@pytest.mark.parametrize(
    "row, reason",
    [
        (own(messages=[]), "does not start with a user message"),
        (own(messages="abc"), "messages is 'abc', not a list"),
        (own(messages=[3]), "message 0 is 3, not an object"),
        (own(message_0={"role": "system"}), "message 0 has no role"),
        (own(message_0={"role": None}), "message 0 has no role"),
        (own(message_3={"content": None}), "message 3 has no content"),
        (own(message_3={"content": ["a"]}), "message 3 has content ['a'], which is not text"),
        (own(message_1={"reasoning_content": 5}), "message 1 has reasoning_content 5"),
        (own(message_1={"tool_calls": 5}), "message 1 has tool_calls 5"),
        (own(message_1={"tool_calls": CALLS * 2}), "message 1 makes 2 calls"),
        (own(message_3={"tool_calls": CALLS}), "does not end with an assistant's answer"),
        (own(message_1={"tool_calls": [{"name": "f"}]}), "message 1 has a call that is not a name"),
        (own(message_1={"tool_calls": None}), "message 2 is a result without a call"),
        (own(message_1={"audio": 1}), "message 1 has a field 'audio'"),
        (own(messages=OWN["messages"][:3]), "does not end with an assistant's answer"),
        (own(statuses="ok"), "statuses is 'ok', not a list"),
        (own(statuses=["ok", "ok"]), "has 1 calls and statuses"),
        (own(statuses=[["ok"]]), "has a status ['ok']"),
        (own(problem={**OWN["problem"], "answer": 1}), "problem.answer is 1, not text"),
        (own(problem={**OWN["problem"], "question": None}), "problem.question is None"),
        (own(problem={**OWN["problem"], "more": 1}), "more"),
        (own(problem=5), "Problem"),
        (own(finished="yes"), "finished is 'yes'"),
        (own(verdict=1), "verdict is 1"),
        (own(extra=1), "extra"),
        (own(message_3={"content": "\ud83d"}), "not_writable: half of a surrogate pair"),
    ],
)
def test_records_of_this_package_are_as_strictly_read(tmp_path, row, reason):
    made, skipped = tables.load(write_lines(tmp_path / "a.jsonl", OWN, row))
    assert len(made) == 1 and skipped[0].row == 2 and reason in skipped[0].reason


KEYS = st.sampled_from(["role", "content", "a"])
VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1.5, "", "ok", "user", "\ud83d", float("nan")]),
    lambda v: st.lists(v, max_size=2) | st.dictionaries(KEYS, v, max_size=2),
    max_leaves=5,
)
ROWS = {
    "messages": CHAT, "transcripts": OWN, "retool": None,
    "sharegpt": {"conversations": GOOD, "answer": "1024", "statuses": ["ok"]},
}  # fmt: skip


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.data())
def test_a_row_with_anything_anywhere_is_read_or_has_a_reason(tmp_path_factory, data):
    """One field of a good row, at any depth, becomes any value."""
    ROWS["retool"] = retool_row(f"{BLOCK}4")
    row = json.loads(json.dumps(ROWS[data.draw(st.sampled_from(sorted(ROWS)))]))
    at = row
    while True:
        places = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(places))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(VALUES)
    path = write_lines(tmp_path_factory.mktemp("rows") / "a.jsonl", CHAT, row)
    made, skipped = tables.load(path)
    assert len(made) + len(skipped) == 2 and all(s.row == 2 and s.reason for s in skipped)
    for t in made:
        assert transcript.fault(t) == "" and not transcript.has_half(t)
        assert isinstance(t.final_text, str) and t.num_calls + t.num_void >= 0
    for form in tables.FORMATS:
        try:
            tables.save(path, made, form)
        except InputError:
            continue
        again, left_out = tables.load(path)
        assert left_out == [] and [t.statuses for t in again] == [t.statuses for t in made]


def test_tables_add_nulls_and_wrap_conversations_in_json(tmp_path):
    """One column per field of any row: null for all rows that have it not."""
    def calling(name, arguments):
        call = {"function": {"name": name, "arguments": arguments}}
        return changed(1, tool_calls=[call])["messages"]

    rows = [
        {"messages": calling("python", {"code": "print(2**10)"})},
        {"messages": calling("run", {"script": "print(2**10)"})},
        {"conversations": GOOD},
        OWN,
    ]
    for row in rows[:2]:
        row["messages"][2] = {"role": "tool", "content": "1024"}
    names = dict.fromkeys(name for row in rows for name in row)
    full = [{name: row[name] if name in row else None for name in names} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(full), tmp_path / "a.parquet")
    made, skipped = tables.load(tmp_path / "a.parquet")
    assert skipped == [] and [t.messages[1]["tool_calls"] for t in made] == [
        sharegpt.chat.call_message("", "print(2**10)")["tool_calls"]] * 4  # fmt: skip
    wrapped = [{"messages": json.dumps(CHAT["messages"])}, {"conversations": json.dumps(GOOD)}]
    made, skipped = tables.load(write_lines(tmp_path / "b.jsonl", *wrapped))
    assert skipped == [] and [len(t.messages) for t in made] == [4, 4]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("form", tables.FORMATS)
def test_the_gold_the_id_and_failures_stay_with_a_conversation(tmp_path, form, suffix):
    asked = types.Problem("p7", "What is 1/0?", "none at all", "division", "rg:chain_sum/1/2")
    messages = (
        {"role": "user", "content": asked.question}, sharegpt.chat.call_message("", "1/0"),
        {"role": "tool", "content": "[stopped: the cell ran longer than 5 s]"},
        {"role": "assistant", "content": "It is \\boxed{0}."},
    )  # fmt: skip
    made = [Transcript(asked, messages, ("timeout",)), Transcript(asked, messages[::3], ())]
    tables.save(tmp_path / f"a{suffix}", made, form)
    read, skipped = tables.load(tmp_path / f"a{suffix}")
    assert skipped == [] and [t.problem for t in read] == [asked, asked]
    assert [t.statuses for t in read] == [("timeout",), ()]


def test_failures_are_seen_in_the_results_of_every_format():
    failed = "Traceback (most recent call last):\nZeroDivisionError: division by zero"
    assert row_of([*GOOD[:2], {"role": "tool", "content": failed}, GOOD[3]]).statuses == ("error",)
    assert retool.read_row(retool_row(BLOCK.replace("1024", failed) + "4")).statuses == ("error",)


def test_a_file_of_transcripts_holds_whatever_is_said_and_damage_is_named(tmp_path):
    """Half of a surrogate pair is no UTF-8, and stands in a file as JSON spells it."""
    made = dialogues.read_row(changed(3, content="It is \ud83d, \\\ud83d or \U0001f600."))
    transcript.save(tmp_path / "t.jsonl", [made])
    assert transcript.load(tmp_path / "t.jsonl") == [made]
    assert "\U0001f600" in (tmp_path / "t.jsonl").read_text("utf-8")
    for damage in ("5", "null", "{", "{}", '{"messages": 5}'):
        (tmp_path / "t.jsonl").write_text("\n" + damage)
        with pytest.raises(InputError, match="t.jsonl row 2 is no"):
            transcript.load(tmp_path / "t.jsonl")


def test_golds_of_a_row_are_read_in_every_format():
    gold = {"reward_model": {"ground_truth": "1024"}, "answer": None, "id": 3, "family": "powers"}
    for form, row in (
        (sharegpt, {"conversations": GOOD}), (retool, retool_row(f"{BLOCK}4")), (dialogues, CHAT)
    ):  # fmt: skip
        problem = form.read_row({**row, **gold}).problem
        assert (problem.answer, problem.id, problem.family) == ("1024", "3", "powers")


def test_what_would_be_read_otherwise_is_not_written(tmp_path):
    good = dialogues.read_row(CHAT)

    def but(**fields):
        turns = own(**fields)["messages"]
        return dataclasses.replace(good, messages=tuple(turns), origin="here")

    more = {"name": "code_interpreter", "arguments": {"code": "1", "limit": "9"}}
    text_only = dataclasses.replace(but(), messages=(good.messages[0], good.messages[3]), statuses=())
    tagged = ({"role": "user", "content": "What?"}, {"role": "assistant", "content": "a <think> b"})
    go_on = (*text_only.messages, {"role": "user", "content": "Go on."}, good.messages[3])
    every, own_framing = ("messages", "sharegpt", "retool"), ("retool",)
    for made, forms in (
        (dataclasses.replace(but(), finished=False), every),
        (but(message_1={"tool_calls": [{**more, "arguments": "no JSON"}]}), every),
        (but(message_1={"tool_calls": [more]}), every),
        (but(message_3={"content": "<think>a</think> b"}), every),
        (but(message_3={"content": "a <tool_call> b"}), every),
        (dataclasses.replace(text_only, messages=tagged), every),
        (dataclasses.replace(but(), statuses=()), every),
        (dataclasses.replace(but(), problem=dataclasses.replace(good.problem, answer="N/A")), every),
        (but(message_3={"content": "half: \ud83d"}), tables.FORMATS),
        (dataclasses.replace(text_only, messages=go_on), own_framing),
        (but(message_0={"content": "What is <answer>?"}), own_framing),
        (but(message_0={"content": "a *user question:* b"}), own_framing),
        (but(message_1={"reasoning_content": "I write <code>."}), own_framing),
    ):
        for form in forms:
            with pytest.raises(InputError, match="^here cannot be written as"):
                tables.save(tmp_path / "a.jsonl", [made], form)
        assert not (tmp_path / "a.jsonl").exists()
