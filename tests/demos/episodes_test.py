"""Episodes of another run as demonstrations: read from the ids that the policy sampled."""

import json

import pytest

from aster_jax import config, types
from aster_jax.data import chat, tokenizer
from aster_jax.demos import episodes, render, transcript
from aster_jax.demos import run as demos
from aster_jax.errors import InputError
from aster_jax.rollout import episode, record
from tests.demos import run_test

PROBLEM = types.Problem("lcm-1", "What is 6 times 7?", "42", "lcm")
LONG = "1 2 3 4 5 6 7 8 9 " * 12


def conversation(style):
    thought = {"reasoning_content": "Now add."} if style != "chatml" else {}
    return [
        {"role": "user", "content": PROBLEM.question},
        {**chat.call_message("First.", "x = 6*7"), **thought},
        {"role": "tool", "content": ""},
        {**chat.call_message("", "x"), **thought},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is \\boxed{42}.", **thought},
    ]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    texts = [t for s in chat.STYLES for t in chat.text_runs(conversation(s), None, s)] * 5
    texts += [LONG, chat.malformed_text("x"), episode.NO_CALLS_LEFT]
    return tokenizer.train_sentencepiece(texts, 400, chat.CONTROL, tmp_path_factory.mktemp("words"))


def played(words, style, turns, end="answered", verdict="exact", opener=""):
    """The record of an episode: `turns` are (ids sampled, call record or None, text shown)."""
    tokens = list(chat.prompt_ids(PROBLEM.question, None, words, style))
    spans, calls = [types.Span("prompt", 0, len(tokens))], []
    for ids, call, shown in turns:
        spans.append(types.Span("model", len(tokens), len(tokens) + len(ids)))
        tokens += ids
        calls += [call] if call else []
        if shown is not None:
            new = chat.tool_ids(shown, words, style)
            spans.append(types.Span("tool", len(tokens), len(tokens) + len(new)))
            tokens += new
    mask = tuple(int(s.kind == "model") for s in spans for _ in range(s.start, s.stop))
    floats = (0.0,) * len(tokens)
    made = types.Trajectory(
        PROBLEM.id, 0, tuple(tokens), mask, floats, floats, tuple(spans), tuple(calls), end, "",
        opener,
    )  # fmt: skip
    return record.to_record(types.Scored(made, 1.0, verdict), PROBLEM, words, {"step": 3})


def turns_of(messages, words, style, results=None):
    made = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        ids = chat.assistant_ids(message, words, style)
        called = "tool_calls" in message
        text = messages[i + 1]["content"] if called else None
        code = message["tool_calls"][0]["arguments"]["code"] if called else ""
        call = types.CallRecord(code, "ok", text, 0.0, 0.0) if called else None
        made.append((ids, call, text))
    return made


@pytest.mark.parametrize("style", chat.STYLES)
def test_an_episode_becomes_its_conversation_and_renders_to_its_ids(words, style):
    messages = conversation(style)
    found = played(words, style, turns_of(messages, words, style))
    made = episodes.read(found, words, style, 64, "here")
    assert list(made.messages) == messages and made.statuses == ("ok", "ok")
    assert (made.problem, made.verdict, made.finished) == (PROBLEM, "exact", True)
    demo = render.render(made, words, style, None, 64)
    tokens = record.from_record(found).trajectory.tokens
    assert demo.tokens[: len(tokens)] == tokens


def test_results_are_what_the_policy_was_shown(words):
    messages = conversation("chatml")
    messages[2]["content"] = LONG
    made = episodes.read(played(words, "chatml", turns_of(messages, words, "chatml")), words, "chatml", 30)
    assert made.messages[2]["content"] == chat.cut(LONG, words, 30) != LONG


def test_what_reached_no_tool_is_void_and_never_taught(words, tmp_path):
    turns = turns_of(conversation("chatml"), words, "chatml")
    broken = words.encode("Hm. ") + [words.control["<tool_call>"]] + words.encode("{1")
    broken += chat.stop_ids(words, "chatml")[:1]
    why = chat.parse_turn(broken, words, "chatml").reason
    malformed = types.CallRecord("", "malformed", why, 0.0, 0.0)
    found = played(words, "chatml", [(broken, malformed, chat.malformed_text(why)), *turns])
    made = episodes.read(found, words, "chatml", 64)
    assert made.statuses == ("malformed", "ok", "ok") and (made.num_calls, made.num_void) == (2, 1)
    with pytest.raises(InputError):
        chat.render_text(made.messages, None, "chatml")
    # A call beyond the budget got the word that none is left, and no record.
    ids = turns[0][0]
    found = played(words, "chatml", [turns[0], (ids, None, episode.NO_CALLS_LEFT), turns[-1]])
    made = episodes.read(found, words, "chatml", 64)
    assert made.statuses == ("ok", "no_calls_left") and (made.num_calls, made.num_void) == (1, 1)


@pytest.mark.parametrize(
    "end, opener, finished",
    [("answered", "", True), ("token_budget", "", False), ("deadline", "", False),
     ("answered", "The answer is", False)],
)  # fmt: skip
def test_only_what_was_answered_by_the_policy_itself_is_finished(words, end, opener, finished):
    found = played(words, "chatml", turns_of(conversation("chatml"), words, "chatml"), end, opener=opener)
    assert episodes.read(found, words, "chatml", 64).finished == finished


def finished_run(path, records, words):
    c = config.default()
    c.name = "t"
    (path / "rl2" / "episodes").mkdir(parents=True)
    (path / "demos").mkdir()
    (path / "config.json").write_text(c.to_json_best_effort())
    for step, rows in records.items():
        text = "".join(json.dumps({**r, "step": step}) + "\n" for r in rows)
        (path / "rl2" / "episodes" / f"step_{step:06d}.jsonl").write_text(text)
    return path


def test_a_run_is_a_source_the_newest_steps_first(words, tmp_path, monkeypatch):
    messages = conversation("chatml")
    good = played(words, "chatml", turns_of(messages, words, "chatml"))
    wrong = {**good, "verdict": "wrong", "sample": 1}
    path = finished_run(tmp_path / "old", {1: [wrong, good], 2: [good]}, words)
    monkeypatch.setattr(tokenizer, "load", lambda where: words)
    made = episodes.load(str(path), ("rl2",), 0)
    assert [t.origin.rpartition("/")[2] for t in made] == [
        "step_000002.jsonl row 1", "step_000001.jsonl row 1", "step_000001.jsonl row 2",
    ]  # fmt: skip
    assert len(episodes.load(str(path), ("rl2",), 2)) == 1
    assert len(episodes.load(str(path), ("rl2/episodes/step_000001.jsonl",), 0)) == 2
    run = run_test.run_of(
        tmp_path / "new", demos__source=f"run:{path}", demos__min_calls=2, model__vocab_size=320,
        demos__duplicates="exact",
    )  # fmt: skip
    demos.run(run)
    report, _, _, kept = run_test.outputs(run)
    assert report["dropped"] == {"wrong": 1, "duplicate": 1}
    assert [list(t.messages) for t in kept] == [messages]
    assert transcript.load(run.path / "demos" / "transcripts.jsonl")[0].verdict == "exact"


def test_what_is_no_run_or_no_episode_is_named(words, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "load", lambda where: words)
    with pytest.raises(InputError, match="is no workdir of a run"):
        episodes.load(str(tmp_path / "absent"), ("rl2",), 0)
    path = finished_run(tmp_path / "old", {1: []}, words)
    with pytest.raises(InputError, match="has no episodes from step 0 on in rl2"):
        episodes.load(str(path), ("rl2",), 0)
    file = path / "rl2" / "episodes" / "step_000001.jsonl"
    for damage in ("{", '{"a": 1}', "5", "null", "[1]", '"step"'):
        file.write_text(damage + "\n")
        with pytest.raises(InputError, match="step_000001.jsonl row 1"):
            episodes.load(str(path), ("rl2",), 0)


@pytest.mark.parametrize(
    "field, value",
    [
        ("step", "3"), ("step", 3.5), ("spans", None), ("spans", []), ("spans", [{"kind": "model"}]),
        ("tokens", 5), ("tokens", "x"), ("gold", 42), ("question", None), ("verdict", None),
        ("calls", [3]), ("family", ["f"]), ("problem_id", 3),
    ],
)  # fmt: skip
def test_a_record_with_anything_else_in_it_is_named(words, tmp_path, monkeypatch, field, value):
    monkeypatch.setattr(tokenizer, "load", lambda where: words)
    good = played(words, "chatml", turns_of(conversation("chatml"), words, "chatml"))
    path = finished_run(tmp_path / "old", {1: [good]}, words)
    file = path / "rl2" / "episodes" / "step_000001.jsonl"
    made = json.loads(file.read_text())
    file.write_text(json.dumps(made) + "\n\n" + json.dumps({**made, field: value}))
    with pytest.raises(InputError, match="step_000001.jsonl row 3 is no episode of this version"):
        episodes.load(str(path), ("rl2",), 0)
    file.write_bytes(file.read_bytes().partition(b"\n")[0] + b"\n\xff")
    with pytest.raises(InputError, match="step_000001.jsonl row 2 is not UTF-8"):
        episodes.load(str(path), ("rl2",), 0)


def test_patterns_name_files_below_the_run_each_once(words, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "load", lambda where: words)
    good = played(words, "chatml", turns_of(conversation("chatml"), words, "chatml"))
    path = finished_run(tmp_path / "old", {1: [good], 2: [good]}, words)
    twice = ("rl2", "rl2/episodes/*.jsonl", "../old/rl2/episodes/step_000001.jsonl")
    assert len(episodes.load(str(path), twice, 0)) == 2
    for pattern in (str(path / "rl2" / "episodes" / "*.jsonl"), "", "a/**b", "./", 5):
        with pytest.raises(InputError, match="demos.episodes has .*no pattern of files"):
            episodes.load(str(path), (pattern,), 0)
    with pytest.raises(InputError, match="episodes is no file; name those in it with demos.episodes"):
        episodes.load(str(path), ("rl2/episodes",), 0)
