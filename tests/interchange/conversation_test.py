"""Records as messages: what a trainer elsewhere reads is what was rendered, sampled and run."""

import json

import pytest

from aster_jax import export, types
from aster_jax.data import chat, files
from aster_jax.errors import InputError
from aster_jax.interchange import atif, conversation
from aster_jax.rollout import record
from tests.report import made_run
from tests.rollout import chatter


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return chatter.build(tmp_path_factory.mktemp("words")).tokenizer


def played(words, style, thought=None):
    """A record made of ids as a rollout makes them: a call, its result, an answer."""
    question = types.Problem("p", "What is 3*7?", "21", "prod")
    call = chat.call_message("Look.", "print(3*7)", thought)
    answer = {"role": "assistant", "content": "It is 21."}
    answer |= {"reasoning_content": thought} if thought else {}
    parts = [
        ("prompt", chat.prompt_ids(question.question, [chat.TOOL], words, style)),
        ("model", chat.assistant_ids(call, words, style)),
        ("tool", chat.tool_ids("21", words, style)),
        ("model", chat.assistant_ids(answer, words, style)),
    ]
    tokens, spans = [], []
    for kind, ids in parts:
        spans.append(types.Span(kind, len(tokens), len(tokens) + len(ids)))
        tokens += ids
    mask = [int(s.kind == "model") for s in spans for _ in range(s.start, s.stop)]
    logprobs = tuple(-0.5 * m for m in mask)
    made = types.Trajectory(
        "p", 1, tuple(tokens), tuple(mask), logprobs, logprobs, tuple(spans),
        (types.CallRecord("print(3*7)", "ok", "21", 0.1, 0.0),), "answered", "It is 21.",
    )  # fmt: skip
    where = {"stage": "rl1", "step": 3, "checkpoint": "rl1", "arm": "main"}
    return record.to_record(types.Scored(made, 1.0, "equal"), question, words, where)


@pytest.mark.parametrize("style, thought", [
    ("chatml", None), ("chatml", "Hm."), ("qwen3", "Hm.\nSo."), ("qwen3_thinking_2507", "Hm."),
])  # fmt: skip
def test_messages_render_to_the_ids_they_came_from(words, style, thought):
    one = played(words, style, thought)
    line = conversation.to_line(one)
    ids = record.from_record(one).trajectory.tokens
    assert tuple(chat.render(line["messages"], line["tools"], words, style)[0][: len(ids)]) == ids
    assert [m["role"] for m in line["messages"]] == ["user", "assistant", "tool", "assistant"]
    call = line["messages"][1]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"code": "print(3*7)"}
    assert line["messages"][2] == {"role": "tool", "content": "21", "tool_call_id": call["id"]}
    assert line["reward"] == 1.0 and line["problem_id"] == "p"


def test_calls_that_are_none_stay_as_they_were_written():
    broken = "Look.\n<tool_call>\n{\"name\": 1}\n</tool_call><|im_end|>"
    note = "<|im_start|>user\n<tool_response>\nFormat error: x.\n</tool_response><|im_end|>"
    spans = [
        {"kind": "prompt", "text": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi"},
        {"kind": "model", "text": broken}, {"kind": "tool", "text": note},
        {"kind": "model", "text": "<tool_call>{"},
    ]  # fmt: skip
    made = conversation.to_messages(made_run.episode(question="Hi", spans=spans))
    assert made[0] == {"role": "system", "content": "Be kind."}
    assert made[2]["content"].startswith("Look.") and '{"name": 1}' in made[2]["content"]
    assert "tool_calls" not in made[2] and made[3] == {"role": "tool", "content": "Format error: x."}
    assert made[4]["content"] == "<tool_call>{"


@pytest.mark.parametrize("thought", [None, "Hm."])
def test_atif_holds_the_steps_with_their_ids(words, thought):
    one = played(words, "chatml", thought)
    made = atif.to_trajectory(one, "talker", "0")
    ids = record.from_record(one).trajectory.tokens
    agents = [s for s in made["steps"] if s["source"] == "agent"]
    assert [s["step_id"] for s in made["steps"]] == [1, 2, 3]
    for step, span in zip(agents, [s for s in one["spans"] if s["kind"] == "model"], strict=True):
        assert tuple(step["metrics"]["completion_token_ids"]) == ids[span["start"] : span["stop"]]
        assert step["metrics"]["prompt_tokens"] == span["start"]
    observed = agents[0]["observation"]["results"][0]
    assert observed["source_call_id"] == agents[0]["tool_calls"][0]["tool_call_id"]
    assert observed["content"] == "21" and observed["extra"]["status"] == "ok"
    models = pytest.importorskip("atif", reason="the package with ATIF's pydantic models is absent")
    for document in (made, atif.to_trajectory(made_run.episode(), "m", "0"),
                     atif.to_trajectory(made_run.without_tool(), "m", "0")):  # fmt: skip
        read = models.Trajectory.model_validate(json.loads(json.dumps(document)))
        assert read.schema_version == "ATIF-v1.8" and len(read.steps) == len(document["steps"])


def test_files_are_written_and_bad_lines_named(words, tmp_path):
    source = tmp_path / "step_000001.jsonl"
    source.write_text("".join(json.dumps(played(words, "chatml")) + "\n" for _ in range(2)))
    assert export.export_episodes([source], "openai", tmp_path / "a" / "out.jsonl", "m") == 2
    lines = (tmp_path / "a" / "out.jsonl").read_text("utf-8").splitlines()
    assert [len(json.loads(line)["messages"]) for line in lines] == [4, 4]
    assert export.export_episodes([source], "atif", tmp_path / "out", "m") == 2
    assert len(list((tmp_path / "out").glob("*.json"))) == 2
    with pytest.raises(ValueError, match="is there already"):
        export.export_episodes([source], "atif", tmp_path / "out", "m")
    # A line ends at a newline only, and an empty one holds nothing.
    text = json.dumps({**played(words, "chatml"), "question": "a\u2028b"}, ensure_ascii=False)
    source.write_text(f"{text}\n\n{text}\n", "utf-8")
    assert export.export_episodes([source], "openai", tmp_path / "apart.jsonl", "m") == 2
    half = json.dumps({**played(words, "chatml"), "family": "\ud83d"})
    for bad in ("{", "[]", "{}", '{"spans": []}', half):
        source.write_text(bad + "\n")
        said = "is not JSON" if bad == "{" else ": not an episode record"
        with pytest.raises(InputError, match=f"step_000001.jsonl row 1 ?{said}"):
            export.export_episodes([source], "openai", tmp_path / f"x{len(bad)}.jsonl", "m")
    with pytest.raises(InputError, match="absent.jsonl does not exist"):
        export.export_episodes([tmp_path / "absent.jsonl"], "openai", tmp_path / "none", "m")


@pytest.mark.parametrize("form", ["openai", "atif"])
def test_a_call_that_no_file_could_hold_is_exported_as_it_was_written(words, tmp_path, form):
    source, one = tmp_path / "step_000001.jsonl", played(words, "chatml")
    one["spans"][1]["text"] = one["spans"][1]["text"].replace("print(3*7)", r"print('\ud83d')")
    source.write_text(json.dumps(one) + "\n")
    assert export.export_episodes([source], form, tmp_path / "out", "m") == 1
    text = (tmp_path / "out" if form == "openai" else tmp_path / "out" / "000001.json").read_text("utf-8")
    assert "print('\\\\ud83d')" in text and '"tool_calls"' not in text


def test_files_larger_than_what_is_read_at_once_are_exported(words, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    source = tmp_path / "step_000001.jsonl"
    source.write_text(json.dumps(played(words, "chatml")) + "\n")
    assert export.export_episodes([source], "openai", tmp_path / "out.jsonl", "m") == 1


@pytest.mark.parametrize("before", ["openai", "atif"])
@pytest.mark.parametrize("form", ["openai", "atif"])
def test_nothing_of_an_export_that_failed_is_in_the_next(words, tmp_path, before, form):
    source, line = tmp_path / "step_000001.jsonl", json.dumps(played(words, "chatml")) + "\n"
    source.write_text(3 * line + "[]\n")
    with pytest.raises(InputError, match="row 4"):
        export.export_episodes([source], before, tmp_path / "out", "m")
    source.write_text(line)
    assert export.export_episodes([source], form, tmp_path / "out", "m") == 1
    assert not (tmp_path / "out.partial").exists()
    if form == "atif":
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["000001.json"]
