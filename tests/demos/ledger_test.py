"""The journal of what a teacher was paid: caps, damage, and who may write to it."""

import json
import threading

import pytest

from aster_jax import tools
from aster_jax.demos import dialects, ledger, talk
from aster_jax.errors import InputError
from tests.demos import made_server
from tests.demos.crowd_test import check, collect, right


@pytest.fixture(scope="module")
def executor():
    with tools.Executor(tools.ToolConfig(preload=())) as made:
        yield made


MORE = {"prompt_tokens": 900, "completion_tokens": 70}  # than was sent, and than was allowed


@pytest.mark.parametrize("usage", [made_server.USAGE, None, MORE])
def test_caps_hold_though_many_ask_at_once(executor, tmp_path, usage):
    # A turn costs 110 tokens of which 100 are prompt, at 1 and 10 a million: 0.0002 money.
    caps = ledger.Caps(tokens=4000)
    with made_server.Server(usage=usage, pause_s=0.01) as server:
        made, account = collect(server, tmp_path / "a.jsonl", executor, 30, caps=caps, at_once=16)
        check(account, server, tmp_path / "a.jsonl", 30)
    assert 0 < account.prompt_tokens + account.completion_tokens <= 4000
    assert account.reasons["cap"] > 0 and account.reasons.get("answered", 0) == sum(right(made))
    caps = ledger.Caps(money=0.0045, prompt=1.0, written=10.0)
    with made_server.Server() as server:
        _, account = collect(server, tmp_path / "b.jsonl", executor, 30, caps=caps, at_once=8)
        assert 0 < account.money <= 0.0045
        assert account.money == pytest.approx(0.0002 * len(server.paid))
        # With a higher cap the same conversations go on; nothing is paid again.
        made, account = collect(server, tmp_path / "b.jsonl", executor, 30)
        check(account, server, tmp_path / "b.jsonl", 30)
    assert all(right(made)) and len(server.paid) == 90


def test_what_a_server_has_come_to_is_known_after_a_restart(executor, tmp_path):
    path = tmp_path / "j.jsonl"
    with made_server.Server(usage=MORE) as server:
        collect(server, path, executor, 1)
        with ledger.opened(path, ledger.Caps(tokens=9000)) as book:
            book.events(json.loads(path.read_text().splitlines()[0])["key"])
            stop = threading.Event()
            late = threading.Timer(20, stop.set)
            late.start()
            first = book.reserve(1000, 50, stop)
            assert first[0] > 1000 and first[1] > 50
            assert book.reserve(1000, 50, stop)  # both at once, for it is known what they cost
            late.cancel()


def test_without_usage_a_turn_has_no_more_tokens_than_bytes(executor, tmp_path):
    def nine(request):
        calls = sum(m["role"] == "assistant" for m in request["messages"])
        return made_server.calls(f"x = {calls}; x") if calls < 9 else {"content": "It is \\boxed{9}."}

    budgets = talk.Budgets(4096, 16_384, 50, 1)
    with made_server.Server(answer=nine, usage=None) as server:
        (made,), account = collect(server, tmp_path / "j.jsonl", executor, 1, budgets=budgets)
    assert account.reasons == {"answered": 1} and made.num_calls == 9
    assert 9 * 50 < account.completion_tokens < 9 * 300


@pytest.mark.parametrize(
    "said, found",
    [((7, 3), (7, 3, True)), ((7.0, 3.0), (7, 3, True)), ((7.5, 3), (90, 4, False)),
     ((10**400, 3), (90, 4, False)), ((-1, 3), (90, 4, False)), ((True, 3), (90, 4, False)),
     (("7", 3), (90, 4, False)), ((float("inf"), 3), (90, 4, False))],
)  # fmt: skip
def test_usage_is_believed_where_it_can_be(said, found):
    usage = dict(zip(("prompt_tokens", "completion_tokens"), said, strict=True))
    assert dialects.tokens({"choices": [10], "usage": usage}, 90, 50) == found


@pytest.mark.parametrize("row", range(6))
def test_a_row_that_is_missing_makes_no_demonstration(executor, tmp_path, row):
    path = tmp_path / "j.jsonl"
    with made_server.Server() as server:
        collect(server, path, executor, 1)
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(rows[:row] + rows[row + 1 :]))
        if row == 5:  # the end follows from the turns
            (made,), _ = collect(server, path, executor, 1)
            assert right([made]) == [True] and len(server.paid) == 3
            return
        key = json.dumps(json.loads(rows[0])["key"])
        with pytest.raises(InputError, match=f"j.jsonl row {row + 1} .*; remove all rows with") as e:
            collect(server, path, executor, 1)
        assert key in str(e.value) and all(key in line for line in rows)
        path.write_text("")  # as it says
        made, _ = collect(server, path, executor, 1)
    assert right(made) == [True]


@pytest.mark.parametrize(
    "event, lacks",
    [({"event": "turn"}, "prompt_tokens, completion_tokens, reply"),
     ({"event": "turn", "prompt_tokens": "1", "completion_tokens": 1, "garbage": ""}, "prompt_tokens"),
     ({"event": "turn", "prompt_tokens": 1, "completion_tokens": 2**41, "reply": {}}, "completion"),
     ({"event": "result", "status": "ok"}, "text"), ({"event": "end", "why": ""}, "reason")],
)  # fmt: skip
def test_a_row_without_its_fields_is_named(tmp_path, event, lacks):
    path = tmp_path / "j.jsonl"
    path.write_text(json.dumps({"key": "k", **event}) + "\n")
    with pytest.raises(InputError, match=f"j.jsonl row 1 has no {lacks}.*all rows with the key \"k\""):
        with ledger.opened(path, ledger.Caps()):
            pass


def test_a_journal_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder", tmp_path / "file" / "j.jsonl"):
        with pytest.raises(InputError, match="demos.teacher.journal: .* cannot be written"):
            with ledger.opened(path, ledger.Caps()):
                pass


def test_another_process_has_the_ledger(tmp_path):
    with ledger.opened(tmp_path / "j.jsonl", ledger.Caps()):
        with pytest.raises(InputError, match="another process writes"):
            with ledger.opened(tmp_path / "j.jsonl", ledger.Caps()):
                pass


def test_a_torn_line_is_cut_and_a_damaged_one_named(tmp_path):
    path = tmp_path / "j.jsonl"
    with ledger.opened(path, ledger.Caps()) as book:
        book.add("k", "end", {"reason": "answered", "why": ""})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "k", "ev')
    with ledger.opened(path, ledger.Caps()) as book:
        assert [e["event"] for e in book.events("k")] == ["end"]
    assert path.read_bytes() == whole
    path.write_bytes(b"what\n" + whole)
    with pytest.raises(InputError, match="row 1 is damaged"):
        with ledger.opened(path, ledger.Caps()):
            pass
