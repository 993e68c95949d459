"""Conversations with a teacher behind a real server that misbehaves: nothing is paid twice,
nothing is lost, and the account adds up. With the real tool."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from aster_jax import tools
from aster_jax.data import chat
from aster_jax.demos import crowd, dialects, endpoint, ledger, talk
from aster_jax.errors import GaveUp, InputError, Leaving
from tests.demos import made_server

HOW = dialects.How("chat", "made", "", True, 1.0, 1.0, True, "qwen3", {})
BUDGETS = talk.Budgets(turn_tokens=50, response_tokens=200, max_calls=5, max_malformed=1)


@pytest.fixture(scope="module")
def executor():
    with tools.Executor(tools.ToolConfig(preload=())) as made:
        yield made


def collect(
    server, path, executor, count=4, samples=1, how=HOW, budgets=BUDGETS, caps=None, at_once=4,
    stopping=lambda: False, retries=3, timeout_s=1.0,
):  # fmt: skip
    with ledger.opened(path, caps or ledger.Caps()) as book:
        where = endpoint.Endpoint(server.url, timeout_s=timeout_s, retries=retries, pause_s=0.01)
        room = talk.Room(how, budgets, where, book, executor, lambda text: text[:200],
                         threading.Event(), 0)  # fmt: skip
        return crowd.collect(
            made_server.problems(count), samples, "d", room, at_once, stopping, lambda text: None
        )


def right(made):
    return [t.finished and t.final_text == f"It is \\boxed{{{t.problem.answer}}}." for t in made]


def check(account, server, path, count):
    """What must hold whatever the server did."""
    assert account.asked == count == sum(account.reasons.values())
    assert set(account.tokens_by_reason) == set(account.reasons)
    spent = account.prompt_tokens + account.completion_tokens
    assert spent == sum(account.tokens_by_reason.values())
    events = [json.loads(line) for line in path.read_text().splitlines()]
    turns = [e for e in events if e["event"] == "turn"]
    assert account.turns == len(turns)
    assert spent == sum(e["prompt_tokens"] + e["completion_tokens"] for e in turns)
    ends = collections.Counter(e["key"] for e in events if e["event"] == "end")
    assert set(ends.values()) <= {1}
    paid = collections.Counter(json.dumps(r, sort_keys=True) for r in server.paid)
    assert set(paid.values()) <= {1}, "the same turn was paid twice"


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_conversations_use_the_tool_and_keep_what_was_thought(executor, tmp_path, api):
    how = dialects.How(api, "made", "Use the tool.", True, 1.0, 1.0, True, "qwen3", {})
    with made_server.Server() as server:
        made, account = collect(server, tmp_path / "j.jsonl", executor, how=how)
        check(account, server, tmp_path / "j.jsonl", 4)
    assert all(right(made)) and account.reasons == {"answered": 4} and account.turns == 12
    for t in made:
        assert [m["role"] for m in t.messages] == ["user", *["assistant", "tool"] * 2, "assistant"]
        assert t.messages[1]["reasoning_content"] == "Step 1." and t.statuses == ("ok", "ok")
        assert t.messages[4]["content"] == t.problem.answer  # x of the first call, doubled
        chat.render_text(t.messages, None, "chatml")
    if api == "chat":  # what it thought goes back to it, and its calls under its own names
        last = server.paid[-1]["messages"]
        assert last[0] == {"role": "system", "content": "Use the tool."}
        assert last[2]["reasoning_content"] == "Step 1." and last[3]["tool_call_id"] == "c0"


def test_samples_have_seeds_of_their_own(executor, tmp_path):
    with made_server.Server() as server:
        made, _ = collect(server, tmp_path / "j.jsonl", executor, count=2, samples=3)
    assert [t.problem.id for t in made] == ["p0"] * 3 + ["p1"] * 3
    seeds = [r["seed"] for r in server.paid]
    assert len(set(seeds)) == len(seeds) == 18


def test_a_server_that_fails_in_every_way_costs_each_turn_once(executor, tmp_path):
    ways = ["error", "reset", None, "busy", None, "cut_off", "no_http", None]
    with made_server.Server(lambda n: ways[n % len(ways)]) as server:
        made, account = collect(server, tmp_path / "j.jsonl", executor, count=6, retries=12)
        check(account, server, tmp_path / "j.jsonl", 6)
        assert all(right(made)) and len(server.paid) == 18
        # The same command again asks nothing.
        again, second = collect(server, tmp_path / "j.jsonl", executor, count=6)
        assert again == made and second == account and len(server.paid) == 18


@pytest.mark.parametrize(
    "kind",
    ["html", "list", "no_choices", "no_message", "odd_content", "odd_calls", "deep", "nested",
     "failed"],
)  # fmt: skip
def test_garbage_ends_a_conversation_and_is_kept_with_its_tokens(executor, tmp_path, kind):
    with made_server.Server(lambda n: kind if n == 1 else None) as server:
        made, account = collect(server, tmp_path / "j.jsonl", executor, count=3, at_once=1)
        check(account, server, tmp_path / "j.jsonl", 3)
        assert account.reasons == {"garbage": 1, "answered": 2}
        assert [t.finished for t in made] == [False, True, True]
        assert account.tokens_by_reason["garbage"] > 0 and account.whys["garbage"]
        collect(server, tmp_path / "j.jsonl", executor, count=3, at_once=1)
        assert server.number == 2 + 6  # the failure is final: not asked for again


def test_a_refusal_ends_one_conversation_and_always_refusing_ends_the_stage(executor, tmp_path):
    with made_server.Server(lambda n: "refused" if n == 1 else None) as server:
        _, account = collect(server, tmp_path / "a.jsonl", executor, count=3, at_once=1)
        check(account, server, tmp_path / "a.jsonl", 3)
    assert account.reasons == {"refused": 1, "answered": 2}
    with made_server.Server(lambda n: "refused" if n == 0 else None) as server:
        _, account = collect(server, tmp_path / "c.jsonl", executor, count=2, at_once=1)
        assert account.reasons == {"refused": 1, "answered": 1}
        made, _ = collect(server, tmp_path / "c.jsonl", executor, count=2, at_once=1)
        assert all(right(made))  # nothing was paid when it was refused, so it is asked again
    with made_server.Server(lambda n: "error") as server:
        with pytest.raises(GaveUp, match="did not answer 3 conversations in a row: status 500"):
            collect(server, tmp_path / "b.jsonl", executor, count=9, at_once=2, retries=1)
        server.mischief = lambda n: None  # it is back: the same command does the work
        made, account = collect(server, tmp_path / "b.jsonl", executor, count=9, at_once=2)
        check(account, server, tmp_path / "b.jsonl", 9)
    assert all(right(made))


@pytest.mark.parametrize("wrong, least", [("html", 0), ("failed", 0), ("no_message", 3)])
def test_a_wrong_address_ends_the_stage_and_no_conversation(executor, tmp_path, wrong, least):
    with made_server.Server(lambda n: wrong) as server:
        with pytest.raises(GaveUp, match="did not answer 3 conversations in a row"):
            collect(server, tmp_path / "j.jsonl", executor, count=30, at_once=2)
        server.mischief = lambda n: None
        _, account = collect(server, tmp_path / "j.jsonl", executor, count=30, at_once=2)
        check(account, server, tmp_path / "j.jsonl", 30)
    # What has a price is an answer, though one without sense: it is paid, and not asked for again.
    lost = account.reasons.get("garbage", 0)
    assert least <= lost < 30 and (least or not lost) and account.reasons["answered"] == 30 - lost


def test_a_server_that_dies_in_mid_conversation_ends_the_stage_too(executor, tmp_path):
    with made_server.Server(lambda n: "error" if n >= 5 else None) as server:
        with pytest.raises(GaveUp, match="did not answer 3 conversations in a row: status 500"):
            collect(server, tmp_path / "j.jsonl", executor, count=9, at_once=2, retries=0)
        server.mischief = lambda n: None
        made, account = collect(server, tmp_path / "j.jsonl", executor, count=9, at_once=2)
        check(account, server, tmp_path / "j.jsonl", 9)
    assert all(right(made)) and len(server.paid) == 27


def teacher(*said):
    """Answers with these messages in turn, by how many it has said before."""

    def answer(request):
        before = sum(m["role"] == "assistant" for m in request["messages"])
        return said[min(before, len(said) - 1)]

    return answer


def bad_call(arguments, name="code_interpreter"):
    call = {"id": "c0", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


WRITTEN = '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "1"}}\n</tool_call>'
ANSWER = {"role": "assistant", "content": "It is \\boxed{1}."}


@pytest.mark.parametrize(
    "said, reason, statuses",
    [
        ([made_server.calls("1")], "call_budget", ("ok",) * 5),  # it repeats itself for ever
        ([bad_call("{'code': 1}")], "malformed", ("malformed",) * 2),
        ([bad_call('{"code": "1", "t": 9}'), ANSWER], "answered", ("malformed",)),
        ([bad_call('{"code": "1"}', "shell"), ANSWER], "answered", ("malformed",)),
        ([bad_call(None), ANSWER], "answered", ("malformed",)),
        ([bad_call({"code": "1+1"}), ANSWER], "answered", ("ok",)),  # an object for its JSON
        ([{"content": "", "tool_calls": [3]}, ANSWER], "answered", ("malformed",)),
        ([made_server.calls("x = 5", "x += 1; x"), ANSWER], "answered", ("ok", "ok")),
        ([made_server.calls("1/0"), ANSWER], "answered", ("error",)),
        ([{"content": "  "}], "empty", ()),
        ([{"content": None, "refusal": "No."}], "empty", ()),
        ([{"content": None, "function_call": {"name": "code_interpreter"}}], "empty", ()),
        ([{"content": "<think>so \\boxed{1}"}], "empty", ()),  # cut off, and yet no answer
        ([{"content": "<tool_call>\n{}\n</tool_call>"}, ANSWER], "answered", ("malformed",)),
        ([{"content": WRITTEN}, ANSWER], "answered", ("ok",)),  # a server without a parser
    ],
)  # fmt: skip
def test_what_a_teacher_writes_is_a_value(executor, tmp_path, said, reason, statuses):
    with made_server.Server(answer=teacher(*said)) as server:
        (made,), account = collect(server, tmp_path / "j.jsonl", executor, count=1)
        check(account, server, tmp_path / "j.jsonl", 1)
    assert account.reasons == {reason: 1} and made.statuses == statuses
    assert bool(account.whys) == (reason in ("empty", "malformed"))
    for request in server.paid:  # what is sent back is JSON again, or servers refuse it
        for message in request["messages"]:
            for call in message.get("tool_calls", ()):
                assert isinstance(json.loads(call["function"]["arguments"]), dict)


def test_calls_made_at_once_become_turns_of_their_own(executor, tmp_path):
    with made_server.Server(answer=teacher(made_server.calls("x = 5; x", "x + 1"), ANSWER)) as server:
        (made,), _ = collect(server, tmp_path / "j.jsonl", executor, count=1)
    assert [m["role"] for m in made.messages] == ["user", *["assistant", "tool"] * 2, "assistant"]
    assert [m["content"] for m in made.messages if m["role"] == "tool"] == ["5", "6"]
    assert len(server.paid) == 2


def test_thoughts_that_a_server_leaves_in_the_text_are_thoughts(executor, tmp_path):
    said = {"content": "<think>\nEasy.\n</think>\n\nIt is \\boxed{1}."}
    with made_server.Server(answer=teacher(said)) as server:
        (made,), _ = collect(server, tmp_path / "j.jsonl", executor, count=1)
    assert made.messages[-1]["reasoning_content"] == "Easy." and made.final_text == "It is \\boxed{1}."


def test_half_a_character_is_read_back_as_it_came(executor, tmp_path):
    said = {"content": "It is \\boxed{1} \ud83d"}
    with made_server.Server(answer=teacher(made_server.calls("'\ud83d'"), said)) as server:
        made, _ = collect(server, tmp_path / "j.jsonl", executor, count=1)
        again, _ = collect(server, tmp_path / "j.jsonl", executor, count=1)
        assert again == made and len(server.paid) == 2
    assert made[0].final_text.endswith("\ud83d") and made[0].statuses == ("malformed",)


def test_leaving_does_not_wait_for_a_server_that_hangs(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "GRACE_S", 0.1)
    with made_server.Server(lambda n: lambda h: time.sleep(20)) as server:
        began = time.monotonic()
        with pytest.raises(Leaving):
            collect(server, tmp_path / "j.jsonl", executor, 3, timeout_s=60.0,
                    stopping=lambda: server.number > 2)  # fmt: skip
    assert time.monotonic() - began < 10


def test_leaving_keeps_what_is_paid(executor, tmp_path):
    with made_server.Server(pause_s=0.02) as server:
        with pytest.raises(Leaving):
            collect(server, tmp_path / "j.jsonl", executor, 20, stopping=lambda: len(server.paid) > 5)
        made, account = collect(server, tmp_path / "j.jsonl", executor, 20)
        check(account, server, tmp_path / "j.jsonl", 20)
    assert all(right(made)) and len(server.paid) == 60


def test_variables_are_back_after_an_interruption_or_the_conversation_ends(executor, tmp_path):
    for code, second, reason in (
        ("x = 7; x", "x + 1", "answered"),
        ("import time; x = time.time_ns(); x", "x + 1", "state_lost"),
    ):
        path = tmp_path / f"{reason}.jsonl"
        said = teacher(made_server.calls(code), made_server.calls(second), ANSWER)
        with made_server.Server(lambda n: "error" if n else None, answer=said) as server:
            _, account = collect(server, path, executor, 1, retries=0)
            assert account.reasons == {"trouble": 1}
            server.mischief = lambda n: None
            (made,), account = collect(server, path, executor, 1)
            check(account, server, path, 1)
        assert account.reasons == {reason: 1}
        if reason == "answered":
            assert [m["content"] for m in made.messages if m["role"] == "tool"] == ["7", "8"]


class Failing:
    """The tool, which fails us at some of its calls."""

    def __init__(self, executor, fails):
        self.executor, self.fails, self.number, self.alive = executor, fails, 0, 0

    def open(self, seed):
        self.alive += 1
        return self.executor.open(seed=seed)

    def close(self, session):
        self.alive -= 1
        self.executor.close(session)

    def run(self, session, code):
        self.number += 1
        if self.number in self.fails:
            return tools.ToolResult("infra_overload", "[tool unavailable]")
        return self.executor.run(session, code)


@pytest.mark.parametrize(
    "fails, reason",
    [((1,), "answered"), ((1, 2), "answered"), ((1, 2, 3), "tool"), ((2,), "answered"),
     ((2, 4, 6), "infrastructure")],
)  # fmt: skip
def test_a_failing_tool_costs_no_conversation_while_variables_come_back(
    executor, tmp_path, fails, reason
):
    """It has made one call of two when it is interrupted; so of each interpreter, the first
    call brings its variables back, and the second is the next of the conversation."""
    path = tmp_path / "j.jsonl"
    with made_server.Server(lambda n: "error" if n else None) as server:
        collect(server, path, executor, 1, retries=0)
        server.mischief = lambda n: None
        failing = Failing(executor, fails)
        _, account = collect(server, path, failing, 1)
        assert account.reasons == {reason: 1} and failing.alive == 0
        made, account = collect(server, path, executor, 1)
        check(account, server, path, 1)
    assert all(right(made)) == (reason != "infrastructure")


def main(url: str, path: str) -> None:
    """As a process of its own, to be killed."""
    server = type("At", (), {"url": url})
    with tools.Executor(tools.ToolConfig(preload=())) as executor:
        collect(server, pathlib.Path(path), executor, 12)


def test_killed_in_the_middle_it_goes_on_and_pays_nothing_again(executor, tmp_path):
    path = tmp_path / "j.jsonl"
    with made_server.Server(pause_s=0.03) as server:
        for kill_after in (9,):
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.demos.crowd_test", server.url, str(path)],
                cwd=pathlib.Path(__file__).parents[2], env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )  # fmt: skip
            until = time.monotonic() + 120
            while len(server.paid) < kill_after and time.monotonic() < until:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        events = len(path.read_bytes().split(b"\n"))
        made, account = collect(server, path, executor, 12)
    assert events > 4 and all(right(made)) and account.reasons == {"answered": 12}
    # Answers that were on their way when the process died are not known to have come.
    assert 36 <= len(server.paid) <= 36 + 2 * 4
    turns = [e for e in map(json.loads, path.read_text().splitlines()) if e["event"] == "turn"]
    assert len(turns) == account.turns == 36


if __name__ == "__main__":
    main(*sys.argv[1:])
