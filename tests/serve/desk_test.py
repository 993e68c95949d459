"""The engine's thread over a fake device: who asks gets theirs, who leaves harms nobody, and
when the engine fails all who wait are told."""

import asyncio
import dataclasses
import random

import pytest

from aster_jax import types
from aster_jax.rollout import engine, episode, live
from aster_jax.serve import desk
from aster_jax.serve.refusal import Refusal
from tests.rollout import fakes

SIZES = engine.EngineConfig(4, 60, 4, 4 * 64, 3, 2, (8,), "float32", "auto")


class FakeEngine:
    """What a desk knows of an engine, over the fake device; fails at a dispatch if asked to."""

    def __init__(self, fails_at=0):
        self.sizes, self.ended = SIZES, False
        self._time = fakes.FakeClock()
        self.device, self._left = fakes.FakeDevice(SIZES, 1, self._time), fails_at
        self._decode = self.device.decode
        self.device.decode = self.decode

    def decode(self, slots):
        self._left -= 1
        if not self._left:
            raise MemoryError("no memory left")
        return self._decode(slots)

    def begin(self, budgets, seed, **hooks):
        clock = self._time.clock()
        return episode.Rollout(self.device, None, None, "", budgets, False, 0, seed, clock=clock, **hooks)

    def end(self):
        self.ended = True


def request(i, most=20):
    budgets = live.Budgets(most, most, 60, 0, 1, 0, 1.0, 1e9, 1e9)
    problem = types.Problem(f"p{i}", "", "", "")
    return live.Request(problem, 0, (1 + i % 20, 5), budgets=budgets, one_turn=True)


async def answer(call):
    """(ids, end) of the first answer of a call."""
    ids = []
    while True:
        news = await call.news.get()
        if news.refusal:
            raise news.refusal
        ids += news.tokens
        if news.end is not None:
            return ids, news.end


def expected(one):
    # A turn that stops is over, whatever the fake markup makes of it.
    ids = list(one.given)
    keys, made = [], []
    while len(made) < one.budgets.response_tokens:
        for token in ids[len(keys) :]:
            keys.append(fakes.key_of(keys[-1] if keys else 0, token))
        made.append(fakes.next_token(tuple(keys), one.uid, one.sample))
        ids.append(made[-1])
        if made[-1] == fakes.STOP:
            return made, "answered"
    return made, "token_budget"


def test_everybody_gets_theirs_whoever_leaves():
    async def run():
        behind, rng = FakeEngine(), random.Random(0)
        at = desk.Desk(behind, 100, print)
        at.start()
        asked, waiting = [request(i) for i in range(80)], []
        for one in asked:
            call = at.ask([one])
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice((0, 0.001)))
                call.drop()
            else:
                waiting.append((one, call))
        for one, call in waiting:
            assert await asyncio.wait_for(answer(call), 30) == expected(one)
        while at.under_way:
            await asyncio.sleep(0.01)
        assert behind.device.pages.used == 0
        with pytest.raises(Refusal, match="context"):
            await answer(at.ask([dataclasses.replace(request(0), prompt=(1,) * 60)]))
        await at.stop()
        assert behind.ended
        with pytest.raises(Refusal, match="the server stops"):
            at.ask([request(0)])

    asyncio.run(run())


def test_no_more_than_may_wait():
    async def run():
        at = desk.Desk(FakeEngine(), 2, print)
        at.start()
        calls = [at.ask([request(i)]) for i in range(6)]
        with pytest.raises(Refusal) as refused:
            at.ask([request(7)])
        assert refused.value.status == 503 and refused.value.retry_s
        await asyncio.gather(*map(answer, calls))
        assert (await answer(at.ask([request(7)]))) == expected(request(7))
        await at.stop()

    asyncio.run(run())


def test_when_the_engine_fails_all_are_told(capsys):
    async def run():
        said = []
        at = desk.Desk(FakeEngine(fails_at=3), 100, said.append)
        at.start()
        calls = [at.ask([request(i, 50)]) for i in range(30)]
        found = await asyncio.gather(*map(answer, calls), return_exceptions=True)
        refused = [f for f in found if isinstance(f, Refusal)]
        assert len(refused) > 20 and {f.status for f in refused} == {503}
        with pytest.raises(Refusal, match="no memory left"):
            at.ask([request(0)])
        await at.stop()
        assert len(said) == 1 and "no memory left" in said[0]

    asyncio.run(run())
    assert "MemoryError" in capsys.readouterr().err
