"""From what is asked to the objects that are sent: prompts, rows of the engine, answers."""

import asyncio
import contextlib
import dataclasses
import math
import re
import secrets
from collections.abc import AsyncIterator

from aster_jax import types
from aster_jax.data import chat, turns
from aster_jax.errors import InputError
from aster_jax.rollout import live
from aster_jax.serve import choice as choices
from aster_jax.serve import desk, replies
from aster_jax.serve.asked import Asked
from aster_jax.serve.refusal import Refusal, bad


# Rendered on the event loop, where others are answered; more would keep them waiting. A thread
# for each would have them all wait for each other while the engine's own is busy.
AT_ONCE_BYTES = 32_768


def requests(asked: Asked, engine) -> list[live.Request]:
    """The rows of a request: `n` for each of its prompts, which they share.

    The seed names their randomness: the same seed, prompt and choice give the same tokens,
    whatever else is under way, up to rounding. Refusal for what cannot be rendered or fit.
    """
    try:
        prompts = _prompt_ids(asked, engine)
    except InputError as e:
        raise bad("messages" if asked.messages else "prompt", str(e)) from e
    made, capacity = [], engine.sizes.capacity
    for p, ids in enumerate(prompts):
        room = capacity - len(ids)
        if room < (asked.max_tokens or 1):
            raise bad(
                "messages" if asked.messages else "prompt",
                f"the context holds {capacity} tokens; the prompt has {len(ids)} and "
                f"{asked.max_tokens or 1} are asked for", "context_length_exceeded",
            )  # fmt: skip
        most = asked.max_tokens or room
        budgets = live.Budgets(
            turn_tokens=most, response_tokens=most, context_tokens=len(ids) + most, max_calls=0,
            tool_result_tokens=1, max_malformed=0, call_s=0.0, trajectory_s=math.inf,
            deadline_s=math.inf,
        )  # fmt: skip
        name = secrets.token_hex(16) if asked.seed is None else f"seed {asked.seed}"
        problem = types.Problem(f"{name} {p}", "", "", "")
        made += [
            live.Request(problem, i, ids, budgets=budgets, how=asked.how, one_turn=True)
            for i in range(asked.n)
        ]
    return made


def _prompt_ids(asked, engine) -> list[tuple[int, ...]]:
    words, style = engine.tokenizer, engine.style
    if asked.messages:
        tools = list(asked.tools) or None
        return [tuple(chat.render(asked.messages, tools, words, style, True)[0])]
    made = [text_ids(p, words) if isinstance(p, str) else p for p in asked.prompts]
    for ids in made:
        if wrong := [i for i in ids if not 0 <= i < words.vocab_size]:
            raise InputError(f"{wrong[0]} is none of the {words.vocab_size} token ids")
        if not ids:
            raise InputError("a prompt has no tokens")
    return made


def text_ids(prompt: str, words) -> tuple[int, ...]:
    """Ids of a raw prompt: the name of a control token in it is that token, as clients expect
    that write the markup themselves (`chat.raw_prompt` breaks those of ordinary text)."""
    names = "|".join(map(re.escape, sorted(words.control, key=len, reverse=True)))
    made: list[int] = []
    for part in re.split(f"({names})", prompt):
        if part:
            made += [words.control[part]] if part in words.control else words.encode(part)
    return tuple(made)


@dataclasses.dataclass
class Answer:
    """The choices of one request while they are made."""

    asked: Asked
    call: desk.Call
    reply: replies.Reply
    choices: list[choices.Choice]
    tokenizer: object

    async def deltas(self) -> AsyncIterator[tuple[int, choices.Choice, choices.Delta, bool]]:
        """(choice's number, choice, what is new, whether it has ended), until all have.

        Raises Refusal when one cannot be made. Whoever stops listening drops the call.
        """
        left = set(range(len(self.choices)))
        try:
            while left:
                news = await self.call.news.get()
                one = self.choices[news.choice]
                if news.refusal:
                    raise news.refusal
                if news.choice not in left:
                    continue
                if news.end is None:
                    delta = one.feed(news.tokens, news.logprobs)
                    if one.is_over:
                        self.call.drop(news.choice)
                else:
                    delta = one.end(news.end)
                if one.is_over:
                    left.discard(news.choice)
                yield news.choice, one, delta, one.is_over
        finally:
            if left:
                self.call.drop()

    async def whole(self) -> dict:
        """The answer in one piece."""
        parts = [[] for _ in self.choices]
        async with contextlib.aclosing(self.deltas()) as deltas:
            async for i, _, delta, _ in deltas:
                parts[i].append(delta)
        return self.reply.whole(
            [self._choice(i, _sum(deltas)) for i, deltas in enumerate(parts)], self._usage()
        )

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events; what goes wrong on the way is one of them."""
        began, sent = set(), [0] * len(self.choices)
        try:
            async with contextlib.aclosing(self.deltas()) as deltas:
                async for i, one, delta, is_over in deltas:
                    parts = []
                    if self.reply.is_chat and i not in began:
                        parts.append(replies.chat_mark(i, {"role": "assistant", "content": ""}, None))
                    began.add(i)
                    if delta.says_something:
                        before = one.num_calls - len(delta.calls)
                        parts.append(self._part(i, delta, before, sent[i]))
                        sent[i] += len(delta.text)
                    if is_over:
                        parts.append(self._last(i, one, sent[i]))
                    for part in parts:
                        yield replies.event(self.reply.chunk([part]))
            if self.asked.with_usage:
                yield replies.event(self.reply.chunk([], self._usage()))
            yield replies.event("[DONE]")
        except Refusal as e:
            yield replies.event(e.body)

    def _choice(self, i, delta):
        one, a = self.choices[i], self.asked
        if self.reply.is_chat:
            return replies.chat_choice(i, one, delta, self.tokenizer, a.with_logprobs)
        return replies.text_choice(
            i, delta, one.finish, self.tokenizer, a.with_logprobs, a.with_ids, 0
        )

    def _part(self, i, delta, before, at):
        a = self.asked
        if self.reply.is_chat:
            return replies.chat_delta(i, delta, before, self.tokenizer, a.with_logprobs)
        return replies.text_choice(i, delta, None, self.tokenizer, a.with_logprobs, a.with_ids, at)

    def _last(self, i, one, at):
        if self.reply.is_chat:
            return replies.chat_mark(i, {}, one.finish)
        nothing = choices.Delta()
        return replies.text_choice(i, nothing, one.finish, self.tokenizer, False, False, at)

    def _usage(self):
        given = {r.problem.id: len(r.given) for r in self.call.requests}
        return replies.usage(sum(given.values()), sum(c.count for c in self.choices))


def _sum(deltas) -> choices.Delta:
    return choices.Delta(
        "".join(d.text for d in deltas), "".join(d.thought for d in deltas),
        tuple(c for d in deltas for c in d.calls), tuple(t for d in deltas for t in d.tokens),
    )  # fmt: skip


async def begin(
    asked: Asked, size: int, engine, at: desk.Desk, reply: replies.Reply
) -> Answer:
    """Hand a request of `size` bytes to the engine. Refusal where it cannot be, or not now."""
    if size < AT_ONCE_BYTES:
        rows = requests(asked, engine)
    else:
        rows = await asyncio.to_thread(requests, asked, engine)
    call = at.ask(rows)
    exact = asked.with_logprobs or asked.with_ids
    made = []
    for _ in rows:
        stops = chat.stop_ids(engine.tokenizer, engine.style)
        reader = (
            turns.Reader(engine.tokenizer, engine.style, asked.with_calls) if asked.messages
            else turns.Raw(engine.tokenizer, stops)
        )  # fmt: skip
        made.append(choices.Choice(reader, asked.stop, exact, asked.one_call))
    return Answer(asked, call, reply, made, engine.tokenizer)
