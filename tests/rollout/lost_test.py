"""What is lost is asked for again, what has no room is cut, who is asked to stop leaves.

With the real engine, markup and tool; `interleaving_test` has the same against random fakes.
"""

import dataclasses
import math
import os
import signal

import jax
import pytest

from aster_jax import errors, tools
from aster_jax.data import chat
from aster_jax.rollout import device, engine, episode, results, sampling
from tests.rollout import chatter

KEY = jax.random.key(5)
BUDGETS = episode.Budgets(
    turn_tokens=40,
    response_tokens=60,
    context_tokens=224,
    max_calls=4,
    tool_result_tokens=64,
    max_malformed=1,
    call_s=math.inf,
    trajectory_s=math.inf,
    deadline_s=math.inf,
)
SMALL = tools.ToolConfig(preload=(), max_running=2)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    return chatter.build(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def requests(talker):
    return [
        episode.Request(p, sample, talker.prompt(p.question))
        for p in chatter.problems(4)
        for sample in range(4)
    ]


@pytest.fixture(scope="module")
def dev(talker, one_device):
    sizes = engine.EngineConfig(6, 224, 16, 6 * 224, 8, 3, (8, 24), "float32", "auto")
    return device.Device(talker.cfg, sizes, sampling.Sampling(), talker.stop_ids, one_device)


@pytest.fixture(scope="module")
def executor():
    with tools.Executor(SMALL) as running:
        yield running


@pytest.fixture
def loop(dev, talker):
    """A loop for one phase over the engine, which is given back afterwards."""

    def make(tool, lockstep=True, budgets=BUDGETS, **more):
        dev.begin(talker.params, KEY)
        args = (dev, tool, talker.tokenizer, chatter.STYLE, budgets, lockstep, 0, 0)
        return episode.Rollout(*args, **more)

    yield make
    dev.end()


@pytest.fixture(scope="module")
def undisturbed(dev, talker, executor, requests):
    dev.begin(talker.params, KEY)
    args = (dev, executor, talker.tokenizer, chatter.STYLE, BUDGETS, True, 0, 0)
    made = episode.Rollout(*args).run(requests)
    dev.end()
    return made


def told(made):
    """What a trajectory is, without times and rounding."""
    return [(t.tokens, t.loss_mask, t.end, [(c.code, c.status, c.text) for c in t.calls]) for t in made]


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_supervisor_killed_in_the_middle_costs_nothing_but_time(
    loop, requests, undisturbed, lockstep
):
    """Three times, at different moments: every trajectory is what it would have been."""
    with tools.Executor(SMALL) as tool:
        kills = {3, 9, 17}

        def kill(ended, total, stats):
            if kills and stats["tool_calls"] >= min(kills):
                kills.remove(min(kills))
                os.kill(tool.report()["supervisor_pid"], signal.SIGKILL)

        run = loop(tool, lockstep, retries=3, on_progress=kill)
        made = run.run(requests)
    assert not kills and run.stats["asked_again"] >= 2
    assert told(made) == told(undisturbed)
    ends = {t.end for t in made}
    assert "infrastructure" not in ends and sum(bool(t.calls) for t in made) >= 8


def test_without_retries_the_same_kill_loses_trajectories(loop, requests, undisturbed):
    with tools.Executor(SMALL) as tool:

        def kill(ended, total, stats):
            if stats["tool_calls"] >= 3 and not killed:
                killed.append(os.kill(tool.report()["supervisor_pid"], signal.SIGKILL))

        killed = []
        run = loop(tool, on_progress=kill)
        made = run.run(requests)
    lost = [t for t in made if t.end == "infrastructure"]
    assert lost and run.stats["asked_again"] == 0
    assert all(t.calls[-1].status == "infra_lost" and t.final_text == "" for t in lost)
    same = [(a, b) for a, b in zip(told(made), told(undisturbed)) if a[2] != "infrastructure"]
    assert all(a == b for a, b in same)


def test_a_tool_that_never_opens_ends_what_calls_it_and_nothing_else(loop, requests, undisturbed):
    closed = tools.Executor(SMALL)
    closed.close()
    run = loop(closed, retries=2)
    made = run.run(requests)
    for t, whole in zip(made, undisturbed, strict=True):
        if any(c.status != "malformed" for c in whole.calls):
            assert t.end == "infrastructure" and "RuntimeError" in t.calls[-1].text
        else:
            assert told([t]) == told([whole])
    assert run.stats["asked_again"] == 2 * sum(t.end == "infrastructure" for t in made) > 0


def test_asked_to_stop_it_closes_its_sessions_and_the_tool_goes_on(
    loop, executor, requests, undisturbed
):
    looks = []

    def stopping():
        looks.append(1)
        return len(looks) > 6

    run = loop(executor, stopping=stopping)
    with pytest.raises(errors.Leaving):
        run.run(requests)
    assert len(looks) == 7 and 0 < run.stats["sampled_tokens"]
    assert executor.report()["sessions"] == 0
    assert told(loop(executor).run(requests[:4])) == told(undisturbed[:4])


# Results that do not fit what is left of the context.


def test_a_limit_that_shows_nothing_of_a_longer_result_is_refused(talker):
    words = talker.tokenizer
    with pytest.raises(errors.InputError, match="r.limit=5 leaves nothing") as told:
        results.check(5, words, "r.limit")
    least = int(str(told.value).split()[-1])
    results.check(least, words, "r.limit")
    with pytest.raises(errors.InputError, match=f"r.limit={least - 1} .* give at least {least}"):
        results.check(least - 1, words, "r.limit")
    for text in ("7" * 999, "ab \n" * 99, "é€😀" * 50, " " * 600 + "x" * 600, "print(3+4)\n" * 400):
        for limit in range(least, least + 9):
            shown = chat.cut(text, words, limit)
            assert "left out" in shown and len(words.encode(shown)) <= limit


def test_a_result_is_cut_to_the_room_with_its_markup_whole(talker):
    """30 digits are 30 tokens here; the note in place of them takes its own."""
    words = talker.tokenizer
    text = "0123456789" * 3
    around = len(chat.tool_ids("", words, chatter.STYLE))
    whole = chat.tool_ids(text, words, chatter.STYLE)
    assert len(whole) - around in (30, 31)
    least = next(n for n in range(99) if chat.cut("7" * 99, words, n))
    seen = set()
    for room in range(-2, len(whole) + 3):
        got = results.fitted(text, 64, room, words, chatter.STYLE)
        if room >= len(whole):
            assert got == whole
        elif got is None:
            assert room < around + min(least + 2, 30)
        else:
            shown = chat.cut(text, words, room - around)
            assert got == chat.tool_ids(shown, words, chatter.STYLE) and len(got) <= room
            assert got[:3] == whole[:3] and got[-3:] == whole[-3:] and "left out" in shown
        seen.add("whole" if got == whole else "none" if got is None else "cut")
    assert seen == {"whole", "none"} | ({"cut"} if least < 29 else set())


def test_a_long_result_at_the_border_of_the_context(loop, executor, talker, requests, undisturbed):
    """The note on a malformed call: whole with one token to spare, then cut, then no room."""
    words = talker.tokenizer
    which, at, stop = next(
        (i, s.start, s.stop)
        for i, t in enumerate(undisturbed) for s in t.spans
        if s.kind == "tool" and s.stop - s.start > 40
    )  # fmt: skip
    before, note = undisturbed[which].tokens[:at], undisturbed[which].tokens[at:stop]

    def play(context):
        limits = dataclasses.replace(BUDGETS, context_tokens=context)
        return loop(executor, budgets=limits).run([requests[which]])[0]

    whole = play(stop + 1)
    assert whole.tokens[:stop] == before + note and len(whole.tokens) == stop + 1
    cut = play(stop)
    assert len(cut.tokens) == stop and cut.loss_mask[-1] and cut.end == "context_budget"
    given = cut.tokens[at : cut.spans[-1].start]
    assert given[:3] == note[:3] and given[-3:] == note[-3:] and len(given) <= len(note) - 1
    assert "tokens left out" in words.decode(list(given))
    assert len(cut.calls) == len(whole.calls)
    none = play(at + 12)
    assert none.tokens == before and none.end == "context_budget"
    assert len(none.calls) == len(whole.calls)
