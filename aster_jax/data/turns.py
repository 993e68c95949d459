"""A turn told apart while it is written: thoughts, text and calls, as tokens come.

Above `data/chat.py`, which reads turns that are over (`parse_turn`); chat and server show
what they read here. Where both read a whole turn they agree, but for text before a
`</think>` that nothing opened: it has been shown by then.
"""

import json
from collections.abc import Iterable
from typing import Literal, NamedTuple

from aster_jax.data import chat

_, _, THINK, END_THINK, CALL, END_CALL, RESULT, END_RESULT = chat.CONTROL

# "call" is more of a call's JSON, "called" all of it once it is closed, "broken" what had
# begun as one and is none, with its tag.
Kind = Literal["thought", "text", "call", "called", "broken"]


class Piece(NamedTuple):
    """More text of one kind."""

    kind: Kind
    text: str


class Letters:
    """Ids to text as they come; bytes that are no whole character yet are held back."""

    def __init__(self, tokenizer):
        self._decode = tokenizer.decode
        self._ids: list[int] = []
        self._start = self._told = 0

    def feed(self, ids: Iterable[int], last: bool = False) -> str:
        """What these ids add to the text; with `last`, what was held back too."""
        self._ids += ids
        # Only the newest ids are decoded, with those before them, as some vocabularies
        # write a first token without its space.
        before = self._decode(self._ids[self._start : self._told])
        now = self._decode(self._ids[self._start :])
        if now.endswith("\ufffd") and not last:
            return ""
        self._start, self._told = self._told, len(self._ids)
        return now[len(before) :]


class Raw:
    """A reader for which everything is text: completions without markup."""

    def __init__(self, tokenizer, stop_ids: Iterable[int]):
        self._letters, self._stop_ids = Letters(tokenizer), frozenset(stop_ids)

    def feed(self, ids: Iterable[int]) -> list[Piece]:
        """What these ids say."""
        text = self._letters.feed([i for i in ids if i not in self._stop_ids])
        return [Piece("text", text)] if text else []

    def finish(self) -> list[Piece]:
        """What was held back."""
        text = self._letters.feed([], last=True)
        return [Piece("text", text)] if text else []


class Reader:
    """Reads one sampled turn.

    Args:
      tokenizer, style: as in `data.chat`.
      with_calls: whether calls are told apart; else they are text.
    """

    def __init__(self, tokenizer, style: str, with_calls: bool = True):
        self._tokenizer, self._with_calls = tokenizer, with_calls
        self._stop_ids = chat.stop_ids(tokenizer, style)
        self._names = {tokenizer.control[n]: n for n in chat.CONTROL if n in tokenizer.control}
        self._spelled = tuple(n for n in chat.CONTROL if n not in tokenizer.control)
        self._letters, self._held = Letters(tokenizer), ""
        self._mode = "thought" if style == "qwen3_thinking_2507" else "text"
        self._blank = {"thought": "", "text": ""}  # white space that may be the last
        self._shown = {"thought": False, "text": False}
        self._open = ""  # of what nobody knows yet whether it is a thought, or a call's JSON

    def feed(self, ids: Iterable[int]) -> list[Piece]:
        """What these ids say, as far as it is certain; a stop id says nothing."""
        pieces, run = [], []
        for i in ids:
            if i in self._names:
                pieces += self._text(self._letters.feed(run, last=True), last=True)
                self._letters, run = Letters(self._tokenizer), []
                if i not in self._stop_ids:
                    pieces += self._part(self._names[i], True)
            elif i not in self._stop_ids:
                run.append(i)
        return _joined(pieces + self._text(self._letters.feed(run)))

    def finish(self) -> list[Piece]:
        """What was held back; the turn is over."""
        pieces = self._text(self._letters.feed([], last=True), last=True)
        mode, self._mode = self._mode, "text"
        if mode == "call":
            pieces.append(Piece("broken", CALL + self._open))
        elif mode == "unknown":
            pieces += self._show("text", THINK + self._open)
        return _joined(pieces)

    def _text(self, text, last=False) -> list[Piece]:
        """Text in which tags may be spelled out, where the vocabulary has no ids for them."""
        self._held += text
        pieces = []
        while found := _first(self._held, self._spelled):
            at, tag = found
            pieces += self._part(self._held[:at], False) + self._part(tag, True)
            self._held = self._held[at + len(tag) :]
        keep = 0 if last else beginning(self._held, self._spelled)
        now, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return pieces + self._part(now, False)

    def _part(self, text, is_tag) -> list[Piece]:
        tag = text if is_tag else None
        if self._mode == "call":
            if tag == END_CALL and _is_whole(self._open):
                self._mode = "text"
                return [Piece("called", self._open)]
            self._open += text
            return [Piece("call", text)] if text else []
        if self._mode == "unknown":
            if tag == END_THINK:
                self._mode = "text"
                return self._show("thought", self._open)
            self._open += text
            return []
        if tag == END_THINK:
            self._mode = "text"
            return []
        if self._mode == "thought":
            return self._show("thought", text)
        if tag == THINK:
            self._mode, self._open = "unknown" if self._shown["text"] else "thought", ""
            return []
        if tag == CALL and self._with_calls:
            self._mode, self._open = "call", ""
            return []
        return self._show("text", text)

    def _show(self, kind, text) -> list[Piece]:
        """The text without white space at its ends, as far as these are known."""
        text = self._blank[kind] + text
        text = text if self._shown[kind] else text.lstrip()
        kept = text.rstrip()
        self._blank[kind] = text[len(kept) :]
        self._shown[kind] = self._shown[kind] or bool(kept)
        return [Piece(kind, kept)] if kept else []


def read(ids: Iterable[int], tokenizer, style: str, with_calls: bool = True) -> list[Piece]:
    """A whole turn, pieces of one kind joined."""
    reader = Reader(tokenizer, style, with_calls)
    return _joined(reader.feed(ids) + reader.finish())


def result_text(ids: Iterable[int], tokenizer) -> str:
    """What the turn of a tool's result says (`chat.tool_ids`)."""
    parts = chat.tagged(ids, tokenizer)
    start = parts.index((RESULT, True)) + 1
    stop = len(parts) - parts[::-1].index((END_RESULT, True)) - 1
    return "".join(text for text, _ in parts[start:stop]).strip("\n")


def beginning(text: str, words: Iterable[str]) -> int:
    """How many of the last characters may be the beginning of one of the words."""
    longest = max(map(len, words), default=1) - 1
    return next(
        (n for n in range(min(longest, len(text)), 0, -1)
         if any(w.startswith(text[-n:]) and len(w) > n for w in words)), 0,
    )  # fmt: skip


def _first(text, words):
    """(place, word) of the word that stands first."""
    found = [(text.index(w), w) for w in words if w in text]
    return min(found, default=None)


def _is_whole(text) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _joined(pieces) -> list[Piece]:
    joined = []
    for piece in pieces:
        if joined and joined[-1].kind == piece.kind and piece.kind in ("thought", "text", "call"):
            joined[-1] = Piece(piece.kind, joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return joined
