"""One answer of a request, from its tokens to what the client is sent."""

import dataclasses

from aster_jax.data import turns

# How an answer ended, in OpenAI's words.
FINISH = {"answered": "stop", "dropped": "stop", "turn_budget": "length",
          "token_budget": "length", "context_budget": "length"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Delta:
    """What is new in an answer; calls are (name, arguments), tokens (id, log-prob) pairs."""

    text: str = ""
    thought: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    tokens: tuple[tuple[int, float], ...] = ()

    @property
    def says_something(self) -> bool:
        """Whether there is anything to send."""
        return bool(self.text or self.thought or self.calls or self.tokens)


class Choice:
    """Reads an answer as its tokens come, up to its end or a stop string.

    Stop strings are looked for in the answer's text, not in thoughts and calls.

    Args:
      reader: `turns.Reader` or `turns.Raw`.
      stop: stop strings.
      exact: whether tokens are read one by one, so that those sent end with the text.
      one_call: whether the answer ends with its first call.
    """

    def __init__(self, reader, stop: tuple[str, ...], exact: bool, one_call: bool):
        self._reader, self._stop, self._one_call = reader, stop, one_call
        self._by_one = exact or bool(stop) or one_call
        self._held = ""
        self.count = 0  # tokens of the answer, as billed
        self.num_calls = 0
        self.is_over = False  # nothing more is read: a stop string, or its end
        self._finish = "stop"

    def feed(self, tokens, logprobs) -> Delta:
        """More tokens. Where `is_over` is true afterwards, those that follow are not wanted."""
        pieces, taken = [], []
        pairs = list(zip(tokens, logprobs, strict=True))
        for group in [[pair] for pair in pairs] if self._by_one else [pairs]:
            if self.is_over:
                break
            pieces += self._cut(self._reader.feed([i for i, _ in group]))
            taken += group
        self.count += len(taken)
        return self._delta(pieces, taken)

    def end(self, reason: str) -> Delta:
        """The answer has ended by `reason`, a `types.EndReason`."""
        if self.is_over:
            return Delta()
        pieces = self._cut(self._reader.finish())
        if not self.is_over:
            pieces.append(turns.Piece("text", self._held))
            self._finish = FINISH[reason]
        self.is_over = True
        return self._delta(pieces, [])

    @property
    def finish(self) -> str:
        """OpenAI's finish_reason."""
        return "tool_calls" if self.num_calls and self._finish == "stop" else self._finish

    def _cut(self, pieces) -> list[turns.Piece]:
        """The pieces up to where the answer is over; what may become a stop string is held."""
        kept = []
        for piece in pieces:
            if self.is_over:
                break
            if piece.kind != "text" or not self._stop:
                kept.append(piece)
                self.is_over = piece.kind == "called" and self._one_call
                continue
            text = self._held + piece.text
            found = [text.index(s) for s in self._stop if s in text]
            self.is_over = bool(found)
            end = min(found) if found else len(text) - turns.beginning(text, self._stop)
            kept.append(turns.Piece("text", text[:end]))
            self._held = "" if found else text[end:]
        return kept

    def _delta(self, pieces, taken) -> Delta:
        said = {"text": "", "thought": ""}
        calls = []
        for piece in pieces:
            if piece.kind == "called":
                call = turns.call_of(piece.text)
                calls += [call] if call else []
                said["text"] += "" if call else f"{turns.CALL}{piece.text}{turns.END_CALL}"
            elif piece.kind in said:
                said[piece.kind] += piece.text
            elif piece.kind == "broken":
                said["text"] += piece.text
        self.num_calls += len(calls)
        return Delta(said["text"], said["thought"], tuple(calls), tuple(taken))
