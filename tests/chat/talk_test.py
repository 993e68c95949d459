"""A conversation over a real engine and the real tool: ids kept, variables kept, interrupts."""

import io
import json
import threading
import time

import pytest

from aster_jax import named, rollout, tools, weights
from aster_jax.chat import __main__ as command
from aster_jax.chat import interpreter, screen, talk
from aster_jax.data import chat
from aster_jax.rollout import live
from tests.rollout import chatter

BUDGETS = live.Budgets(60, 200, 640, 3, 40, 2, 60.0, 600.0, 1e9)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Written out and found again by name, as a command does."""
    made = chatter.build(tmp_path_factory.mktemp("words"))
    out = tmp_path_factory.mktemp("model") / "talker"
    weights.export(made.params, made.cfg, made.tokenizer, out, "float32", style=chatter.STYLE)
    found = named.load(str(out))
    assert found.tools is None and found.origin == str(out)
    with pytest.raises(ValueError, match="no workdir of a run"):
        named.load(str(out), "rl1")
    return found.model


@pytest.fixture(scope="module")
def engine(model):
    return rollout.Engine(model, slots=1, capacity=640, steps_per_dispatch=4)


@pytest.fixture(scope="module")
def executor():
    with tools.Executor(tools.ToolConfig(preload=(), max_running=2)) as running:
        yield running


@pytest.fixture
def begin(engine, executor):
    """Begins a conversation; gives it, its interpreter, and what its watcher was told."""
    made = []

    def get(budgets=BUDGETS, stop=lambda: False, shown=(), seed=0):
        tool, told = interpreter.Interpreter(executor), []
        one = talk.Talk(engine, tool, list(shown), budgets, "", seed,
                        lambda piece, status: told.append((piece, status)), stop)  # fmt: skip
        made.append(one)
        return one, tool, told

    yield get
    for one in made:
        one.close()


def test_ids_are_appended_and_the_same_as_one_rendering(begin, model):
    one, _, told = begin()
    first = one.ask("What is 12*7?")
    ids = list(one.record["tokens"])
    second = one.ask("And 31+7?")
    assert list(second.tokens[: len(ids)]) == ids
    # Where every turn ended by itself, the whole is what its messages render to.
    if first.end == second.end == "answered":
        rendered = chat.render(one.messages, None, model.tokenizer, chatter.STYLE)[0]
        assert one.record["tokens"] == rendered[: len(one.record["tokens"])]
    said = "".join(p.text for p, status in told if p.kind == "text" and not status)
    assert all(m["content"] in said for m in one.messages if m["role"] == "assistant")
    assert [m["content"] for m in one.messages if m["role"] == "user"] == ["What is 12*7?", "And 31+7?"]
    calls = [c for t in (first, second) for c in t.calls]
    shown = [status for _, status in told if status not in ("", "note")]
    assert shown == [c.status for c in calls][: len(shown)] and calls
    json.dumps(one.record)
    one.reset()
    assert one.messages == [] and one.record["tokens"] == []


def test_an_interrupted_answer_leaves_the_conversation(begin):
    stop = threading.Event()
    one, _, told = begin(stop=stop.is_set)
    watch = one._watch
    one._watch = lambda piece, status: (watch(piece, status), stop.set())
    cut = one.ask("What is 12*7?")
    assert cut.end == "dropped" and sum(cut.loss_mask) > 0
    stop.clear()
    one._watch = watch
    after = one.ask("Name a prime.")
    assert after.end != "dropped" and list(after.tokens[: len(cut.tokens)]) == list(cut.tokens)


def test_what_does_not_fit_is_said_and_nothing_changes(begin):
    one, _, _ = begin()
    with pytest.raises(ValueError, match="the context is 640"):
        one.ask("7 " * 900)
    assert one.messages == []
    assert one.ask("Name a prime.").end


def test_what_was_said_is_saved_whatever_it_is(begin, tmp_path):
    one, _, _ = begin()
    one.ask("Name a prime. \udcff")  # as Python reads a byte that is no UTF-8
    command._save(one, screen.Screen(io.StringIO()), str(tmp_path / "talk.json"))
    assert json.loads((tmp_path / "talk.json").read_text("utf-8")) == one.record
    for name in ("a\0b", str(tmp_path / "no" / "folder"), "~nobody-of-this-name/x"):
        out = io.StringIO()
        command._save(one, screen.Screen(out), name)
        assert "cannot be written" in out.getvalue()


def test_variables_live_on_until_they_are_lost(executor):
    tool = interpreter.Interpreter(executor)
    session = tool.open(seed=0)
    assert tool.submit(session, "x = 5").result().status == "ok"
    tool.close(session)
    assert tool.open(seed=1) is session
    assert tool.submit(session, "print(x)").result().text == "5\n"
    endless = tool.submit(session, "while True: pass")
    time.sleep(0.2)
    tool.close(session)
    assert tool.restarts == 1 and endless.result(30).status != "ok"
    other = tool.open(seed=2)
    assert other is not session and tool.submit(other, "x").result().status == "error"
    tool.reset()
