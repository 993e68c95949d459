"""Whole episodes with a real model, real markup and the real tool."""

import collections
import dataclasses
import zlib

import jax
import numpy as np
import pytest

from aster_jax import tools
from aster_jax.data import chat
from aster_jax.model import logprobs
from aster_jax.rollout import device, engine, episode, sampling
from tests.rollout import chatter, drive

KEY = jax.random.key(5)
BUDGETS = episode.Budgets(
    turn_tokens=40,
    response_tokens=60,
    context_tokens=224,
    max_calls=4,
    tool_result_tokens=36,
    max_malformed=1,
    call_s=60.0,
    trajectory_s=120.0,
    deadline_s=120.0,
)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    return chatter.build(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def executor():
    with tools.Executor(tools.ToolConfig(preload=(), max_running=2)) as running:
        yield running


@pytest.fixture(scope="module")
def engines(talker, one_device):
    made = {}

    def get(slots, pool=0):
        if (slots, pool) not in made:
            tokens = pool or slots * 224
            sizes = engine.EngineConfig(slots, 224, 16, tokens, 8, 3, (8, 24), "float32", "auto")
            how = sampling.Sampling()
            built = device.Device(talker.cfg, sizes, how, talker.stop_ids, one_device)
            made[slots, pool] = built
        return made[slots, pool]

    return get


@pytest.fixture(scope="module")
def requests(talker):
    return [
        episode.Request(p, sample, talker.prompt(p.question))
        for p in chatter.problems(6)
        for sample in range(4)
    ]


@pytest.fixture(scope="module")
def play(talker, engines, executor, requests):
    """Run a phase; keyword arguments replace budgets."""

    def run(slots=5, lockstep=True, tool=executor, asked=None, pool=0, ahead=0, **budgets):
        eng = engines(slots, pool)
        eng.begin(talker.params, KEY)
        limits = dataclasses.replace(BUDGETS, **budgets)
        loop = episode.Rollout(eng, tool, talker.tokenizer, chatter.STYLE, limits, lockstep, ahead, 0)
        made = loop.run(requests if asked is None else asked)
        assert eng.pages.used == 0
        eng.end()
        return made, loop.stats

    return run


@pytest.fixture(scope="module")
def phase(play):
    return play()


@pytest.fixture(scope="module")
def made(phase):
    return phase[0]


def test_the_fixture_shows_what_the_tests_need(made):
    """The trajectories are worth testing: several turns, several endings, some mistakes."""
    ends = collections.Counter(t.end for t in made)
    calls = [len(t.calls) for t in made]
    statuses = collections.Counter(c.status for t in made for c in t.calls)
    assert ends["answered"] >= 6 and len(ends) >= 2, ends
    assert sum(n >= 2 for n in calls) >= 4, calls
    assert statuses["ok"] >= 10 and statuses["malformed"] >= 1, statuses


def test_order_identity_and_alignment(made, requests):
    assert [(t.problem_id, t.sample) for t in made] == [(r.problem.id, r.sample) for r in requests]
    for t, r in zip(made, requests, strict=True):
        n = len(t.tokens)
        assert len(t.loss_mask) == len(t.logprobs) == len(t.entropies) == n
        assert t.tokens[: len(r.prompt)] == r.prompt
        kinds = ["prompt"] * 0
        at = 0
        for span in t.spans:
            assert span.start == at < span.stop
            at = span.stop
            kinds.append(span.kind)
            inside = set(t.loss_mask[span.start : span.stop])
            assert inside == {1 if span.kind == "model" else 0}
        assert at == n
        assert kinds[0] == "prompt" and set(kinds[1::2]) == {"model"}
        assert set(kinds[2::2]) <= {"tool"}
        for numbers in (t.logprobs, t.entropies):
            assert {x for x, m in zip(numbers, t.loss_mask, strict=True) if not m} == {0.0}


def test_log_probs_and_entropies_are_the_trainers(talker, made):
    worst = off = 0.0
    for t in made:
        T = BUDGETS.context_tokens
        tokens = np.zeros((1, T), np.int32)
        tokens[0, : len(t.tokens)] = t.tokens
        segments = (np.arange(T) < len(t.tokens)).astype(np.int32)[None]
        positions = np.arange(T, dtype=np.int32)[None]
        logp, entropy = logprobs.score(talker.params, tokens, positions, segments, cfg=talker.cfg)
        mask = np.asarray(t.loss_mask, bool)
        expected = np.asarray(logp)[0, : len(t.tokens)][mask]
        worst = max(worst, np.abs(expected - np.asarray(t.logprobs)[mask]).max())
        expected = np.asarray(entropy)[0, : len(t.tokens)][mask]
        off = max(off, np.abs(expected - np.asarray(t.entropies)[mask]).max())
    assert worst < 2e-5 and off < 1e-4


def test_every_turn_is_what_a_full_prefill_would_have_sampled(talker, engines, play, requests):
    """Live rows over up to ten tool turns; noise has an identity, so T = 1 can be compared."""
    many, _ = play(asked=requests[:12], max_calls=10, response_tokens=200)
    turns = [sum(s.kind == "tool" for s in t.spans) for t in many]
    assert max(turns) >= 5 and len(set(turns)) >= 3, turns
    asked, expected = [], []
    for t in many:
        for span in t.spans:
            if span.kind == "model":
                uid = zlib.crc32(t.problem_id.encode())
                asked.append((list(t.tokens[: span.start]), uid, t.sample))
                expected.append(list(t.tokens[span.start : span.stop]))
    fresh = drive.play(engines(16), talker.params, KEY, asked, left=BUDGETS.turn_tokens)
    for one, sampled in zip(fresh, expected, strict=True):
        assert one.tokens[: len(sampled)] == sampled


def test_tool_results_are_what_the_code_prints(talker, made):
    """Every simple call printed the product or sum that Python gives here."""
    seen = 0
    for t in made:
        results = [s for s in t.spans if s.kind == "tool"]
        for call, span in zip(t.calls, results, strict=False):
            text = chat.cut(call.text, talker.tokenizer, BUDGETS.tool_result_tokens)
            if call.status != "malformed":
                ids = chat.tool_ids(text, talker.tokenizer, chatter.STYLE)
                assert list(t.tokens[span.start : span.stop]) == ids
            if call.status == "ok":
                expected = eval(call.code.removeprefix("print"), {"__builtins__": {}})
                assert call.text.strip() == str(expected)
                assert call.wall_s > 0
                seen += 1
    assert seen >= 10


def messages_of(t, talker):
    """The conversation of a trajectory, read back from its turns."""
    question = next(p.question for p in chatter.problems(6) if p.id == t.problem_id)
    messages = [{"role": "user", "content": question}]
    results = iter([*(c.text for c in t.calls), episode.NO_CALLS_LEFT])
    for span in t.spans[1:]:
        ids = list(t.tokens[span.start : span.stop])
        if span.kind == "model":
            turn = chat.parse_turn(ids, talker.tokenizer, chatter.STYLE)
            if turn.kind == "malformed":
                return None
            is_call = turn.kind == "call"
            messages.append(
                chat.call_message(turn.text, turn.code) if is_call
                else {"role": "assistant", "content": turn.text}
            )  # fmt: skip
        else:
            text = chat.cut(next(results), talker.tokenizer, BUDGETS.tool_result_tokens)
            messages.append({"role": "tool", "content": text})
    return messages


def test_sft_ids_and_mask_equal_the_rollouts(talker, made):
    """One rendering of the conversation is what the pieces of the rollout add up to."""
    compared = turns = 0
    for t in made:
        messages = messages_of(t, talker) if t.end == "answered" else None
        if messages is None:
            continue
        ids, mask = chat.render(messages, None, talker.tokenizer, chatter.STYLE)
        # The rendering goes on with the separator after the last turn.
        separator = len(ids) - len(t.tokens)
        assert ids[: len(t.tokens)] == list(t.tokens)
        assert mask == list(t.loss_mask) + [0] * separator and separator >= 0
        compared += 1
        turns += len(t.calls)
    assert compared >= 5 and turns >= 5


def without_times(made):
    def strip(call):
        return dataclasses.replace(call, wall_s=0.0, queue_s=0.0)

    return [dataclasses.replace(t, calls=tuple(map(strip, t.calls))) for t in made]


def test_the_same_phase_twice_is_bit_equal(made, play):
    assert without_times(play()[0]) == without_times(made)


@pytest.mark.parametrize(
    "slots, lockstep, ahead",
    [(16, True, 0), (1, True, 0), (5, False, 0), (5, True, 1), (3, False, 1), (16, True, 2)],
)
def test_neither_slots_nor_the_schedule_change_a_trajectory(
    made, play, requests, slots, lockstep, ahead
):
    asked = requests[:8] if slots == 1 else requests
    again, _ = play(slots, lockstep, asked=asked, ahead=ahead)
    assert [t.tokens for t in again] == [t.tokens for t in made[: len(asked)]]
    assert [t.end for t in again] == [t.end for t in made[: len(asked)]]


@pytest.mark.parametrize("lockstep, ahead", [(True, 0), (False, 0), (True, 1)])
def test_rows_that_are_set_aside_come_back_unchanged(made, play, lockstep, ahead):
    again, stats = play(16, lockstep, pool=288, ahead=ahead)
    # Out of lockstep, how many are set aside depends on when their results arrive.
    assert stats["rows_set_aside"] >= (3 if lockstep else 1) and stats["pages_peak"] <= 18
    assert [t.tokens for t in again] == [t.tokens for t in made]
    assert [t.end for t in again] == [t.end for t in made]
    assert [[c.text for c in t.calls] for t in again] == [[c.text for c in t.calls] for t in made]
    for t, was in zip(again, made, strict=True):
        np.testing.assert_allclose(t.logprobs, was.logprobs, atol=2e-5)


def test_group_members_differ(made):
    """Few ways to answer shortly, so two may agree; a shared key would make all agree."""
    different = [len({t.tokens for t in made[i : i + 4]}) for i in range(0, len(made), 4)]
    assert min(different) >= 2 and sum(different) >= 20


def test_counters_add_up(phase, requests):
    made, stats = phase
    assert stats["sampled_tokens"] == sum(sum(t.loss_mask) for t in made)
    real = [c for t in made for c in t.calls if c.status != "malformed"]
    assert stats["tool_calls"] == len(real)
    prompt = len(requests[0].prompt)
    assert stats["shared_tokens"] > prompt and stats["decode_steps"] > 0


def test_budgets_are_kept_to_the_token(made):
    for t in made:
        assert len(t.tokens) <= BUDGETS.context_tokens
        assert sum(t.loss_mask) <= BUDGETS.response_tokens
        assert len(t.calls) <= BUDGETS.max_calls
        for span in t.spans:
            assert span.kind != "model" or span.stop - span.start <= BUDGETS.turn_tokens
        if t.end == "answered":
            assert t.final_text.startswith("The answer is")
        else:
            assert t.final_text == ""


def test_turn_budget(play, requests):
    made, _ = play(asked=requests[:6], turn_tokens=3)
    cut = [t for t in made if t.end == "turn_budget"]
    assert len(cut) >= 4 and {sum(t.loss_mask) for t in cut} == {3}
    # One that says nothing can be done in three tokens.
    assert all(t.end == "answered" and sum(t.loss_mask) <= 3 for t in made if t not in cut)


def test_token_budget(play, made):
    cut, _ = play(response_tokens=9)
    assert max(sum(t.loss_mask) for t in cut) == 9
    ended = [t for t in cut if t.end == "token_budget"]
    assert ended
    # Up to the cut nothing changed.
    for short, full in zip(cut, made, strict=True):
        assert full.tokens[: len(short.tokens)] == short.tokens


def test_context_budget(play, requests):
    room = len(requests[0].prompt) + 12
    cut, _ = play(context_tokens=room)
    assert max(len(t.tokens) for t in cut) <= room
    assert any(t.end == "context_budget" for t in cut)


def no_calls_left(talker):
    text = chat.cut(episode.NO_CALLS_LEFT, talker.tokenizer, BUDGETS.tool_result_tokens)
    assert text
    return chat.tool_ids(text, talker.tokenizer, chatter.STYLE)


def test_call_budget_warns_once_then_ends(play, talker):
    made, _ = play(max_calls=1)
    warned = [t for t in made if t.end == "call_budget"]
    assert warned and all(len(t.calls) == 1 for t in warned)
    note = no_calls_left(talker)
    for t in warned:
        results = [t.tokens[s.start : s.stop] for s in t.spans if s.kind == "tool"]
        assert len(results) == 2 and list(results[1]) == note
    # One that was told and then answered is an answer.
    heeded = [
        t for t in made if t.end == "answered" and sum(s.kind == "tool" for s in t.spans) == 2
    ]
    assert all(t.final_text for t in heeded)


def test_without_a_tool_a_call_is_told_once_that_there_are_none(play, talker):
    made, stats = play(tool=None, max_calls=0)
    ends = collections.Counter(t.end for t in made)
    assert set(ends) == {"call_budget", "answered"}, ends
    assert stats["tool_calls"] == 0 and not any(t.calls for t in made)
    note = no_calls_left(talker)
    told = [[list(t.tokens[s.start : s.stop]) for s in t.spans if s.kind == "tool"] for t in made]
    for t, results in zip(made, told, strict=True):
        assert results in ([note], []) and (results or t.end == "answered")
    heeded = sum(t.end == "answered" and bool(r) for t, r in zip(made, told, strict=True))
    assert heeded and ends["call_budget"]


def test_malformed_turns_are_answered_then_end(play):
    made, _ = play(max_malformed=0)
    ended = [t for t in made if t.end == "malformed"]
    assert ended
    for t in ended:
        assert t.calls[-1].status == "malformed" and t.calls[-1].text
        assert t.spans[-1].kind == "model"


def test_past_the_deadline_everything_ends_by_it(play, requests):
    made, _ = play(deadline_s=0.0)
    assert len(made) == len(requests)
    # The first dispatch had gone out; nothing was admitted or waited for after it.
    assert collections.Counter(t.end for t in made)["deadline"] >= len(requests) - 5
    assert {t.end for t in made} <= {"deadline", "answered"}
    # And the engine is free for the next phase.
    again, _ = play(asked=requests[:2])
    assert {t.end for t in again} <= {"answered", "call_budget", "malformed", "token_budget"}


def test_a_queue_that_the_policy_makes_is_waited_for(play, requests):
    """One place for sixteen rows, and hardly any patience: cells ahead are no reason to fail."""
    starved = tools.ToolConfig(preload=(), max_running=1, queue_limit_s=0.001)
    with tools.Executor(starved) as running:
        made, _ = play(slots=16, tool=running)
    assert any(t.calls for t in made)
    assert not [t for t in made if t.end == "infrastructure"]



def test_an_opener_is_given_but_belongs_to_the_turn(play, requests, talker):
    opener = tuple(chat.assistant_ids(
        {"role": "assistant", "content": "The answer is \\boxed{q"}, talker.tokenizer, chatter.STYLE
    )[:-1])
    asked = [dataclasses.replace(r, opener=opener, opener_text="The answer") for r in requests[:4]]
    made, _ = play(asked=asked, tool=None, max_calls=0)
    assert {t.opener for t in made} == {"The answer"}
    for t, r in zip(made, asked, strict=True):
        given = r.prompt + opener
        assert t.tokens[: len(given)] == given and not any(t.loss_mask[: len(given)])
        assert t.spans[0].stop == len(given)
        assert not any(s.kind == "tool" for s in t.spans)  # a call ends it at once
    answered = [t for t in made if t.end == "answered"]
    assert answered and all(t.final_text.startswith("The answer is") for t in answered)


def test_what_cannot_work_is_refused(talker, engines, requests, play):
    with pytest.raises(ValueError, match="context_tokens=225 is more than the engine's capacity"):
        play(context_tokens=225)
    with pytest.raises(ValueError, match="max_calls=4 needs a tool executor"):
        play(tool=None)
    with pytest.raises(ValueError, match="tool_result_tokens=20 leaves nothing .* at least 3"):
        play(tool_result_tokens=20)
    with pytest.raises(ValueError, match=r"prompt of problem p0 has \d+ tokens.*context is 5"):
        play(context_tokens=5)
