"""A conversation with a model: questions in, tokens appended, nothing ever rendered again.

Every question is one trajectory of the host loop (`rollout.episode`), whose prompt is all
that has been said before, as it was said; the tool keeps its variables from one to the next.
"""

from collections.abc import Callable

from aster_jax import types
from aster_jax.data import chat, turns
from aster_jax.errors import Leaving
from aster_jax.interchange import conversation
from aster_jax.rollout import generate, live

# What a watcher is told: a piece of a turn, or a result with its status ("" for a note).
Watch = Callable[[turns.Piece, str], None]


class Talk:
    """One conversation.

    Args:
      engine: of one slot or more, with an engine's own way of sampling.
      interpreter: the tool (`interpreter.Interpreter`), or None.
      tools: schemas that the prompt shows, or none.
      budgets: per question, but for context_tokens, which holds the whole conversation.
      system: what the system's turn says, "" for none.
      seed: of its randomness.
      watch: told what comes, as it comes.
      stopping: looked at between rounds; once true, the question under way ends.
    """

    def __init__(
        self, engine: generate.Engine, interpreter, tools: list[dict], budgets: live.Budgets,
        system: str, seed: int, watch: Watch, stopping: Callable[[], bool],
    ):  # fmt: skip
        self._engine, self._interpreter, self._tools = engine, interpreter, tools
        self._system, self._watch = system, watch
        self._loop = engine.begin(
            budgets, interpreter, seed, on_tokens=self._came, stopping=stopping
        )
        self._loop.begin()
        self._number = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was said, and the tool's variables."""
        self._tokens: list[int] = []
        system = [{"role": "system", "content": self._system}] if self._system else []
        self.messages: list[dict] = system
        if self._interpreter is not None:
            self._interpreter.reset()

    @property
    def record(self) -> dict:
        """The conversation as messages and tools, and the ids it consists of."""
        return {"messages": self.messages, "tools": self._tools, "tokens": self._tokens}

    def ask(self, question: str) -> types.Trajectory:
        """The model's answer; "dropped" when interrupted. What was said stays either way.

        Raises InputError where the question does not fit the rest of the context, and
        nothing is changed then.
        """
        words, style = self._engine.tokenizer, self._engine.style
        if self._tokens:
            ids = self._tokens + chat.user_ids(question, words, style)
        else:
            asked = [*self.messages, {"role": "user", "content": question}]
            ids = chat.render(asked, self._tools or None, words, style, True)[0]
        problem = types.Problem(f"question {self._number}", question, "", "")
        number = self._loop.add(live.Request(problem, 0, tuple(ids)))
        self._number += 1
        self._seen, self._calls = len(ids), 0
        self._reader = turns.Reader(words, style)
        try:
            while self._loop.is_under_way:
                self._loop.round()
        except Leaving:
            self._loop.drop(number)
        made = self._loop.ended.pop(number)
        self._tell(self._reader.finish())
        self._remember(question, made)
        return made

    def _came(self, row: live.Live):
        new, kind = row.tokens[self._seen :], row.spans[-1].kind
        self._seen = len(row.tokens)
        if kind == "model":
            self._tell(self._reader.feed(new))
            return
        self._tell(self._reader.finish())
        self._reader = turns.Reader(self._engine.tokenizer, self._engine.style)
        status = row.calls[-1].status if len(row.calls) > self._calls else ""
        self._calls = len(row.calls)
        text = turns.result_text(new, self._engine.tokenizer)
        self._watch(turns.Piece("text", text), status or "note")

    def _tell(self, pieces):
        for piece in pieces:
            self._watch(piece, "")

    def _remember(self, question, made):
        """Keep the ids as they are; a turn that was cut gets the end that it lacks."""
        words, style = self._engine.tokenizer, self._engine.style
        end = chat.stop_ids(words, style)
        self._tokens = list(made.tokens)
        if self._tokens[-1] not in end:
            self._tokens.append(end[0])
        spans = [
            {"kind": s.kind, "text": words.decode(list(made.tokens[s.start : s.stop]))}
            for s in made.spans
        ]
        said = conversation.to_messages({"question": question, "opener": "", "spans": spans})
        self.messages += [m for m in said if m["role"] != "system"]

    def close(self) -> None:
        """Give the device memory and the session back."""
        self._loop.close()
        self._engine.end()
