"""A turn told apart while it is written: thoughts, text and calls, as tokens come.

Above `data/chat.py`, which reads turns that are over (`parse_turn`); chat and server show
what they read here. Where both read a whole turn they agree, but for text before a
`</think>` that nothing opened: it has been shown by then.
"""

import json
from collections.abc import Iterable
from typing import Literal, NamedTuple

from aster_jax.data import chat, messages, template
from aster_jax.errors import InputError

START, END_TURN, THINK, END_THINK, CALL, END_CALL, RESULT, END_RESULT = chat.CONTROL
# What a policy writes itself. In an answer's text they would be read as markup when it is rendered,
# and cut it short.
WRITTEN_TAGS = (THINK, END_THINK, CALL, END_CALL)

_BAD = "\ufffd"  # what bytes that are no character decode to
_OPEN = 3  # the bytes that a character may still lack, and the ids or U+FFFD that its others may be
_KEPT = 12  # ids that are decoded again where nothing is whole

# "call" is more of a call's JSON, "called" all of it once it is closed, "broken" what had
# begun as one and is none, with its tag.
Kind = Literal["thought", "text", "call", "called", "broken"]


class Piece(NamedTuple):
    """More text of one kind."""

    kind: Kind
    text: str


class Letters:
    """Ids to text as they come; bytes that are no whole character yet are held back.

    A character has at most 4 bytes: what is no character after 3 ids more is none at all, and
    is told as the U+FFFD it decodes to, so that a model that writes nothing else is shown too.
    """

    def __init__(self, tokenizer):
        self._decode = tokenizer.decode
        # The newest ids and how many characters of their text are told. Only they are decoded;
        # some were told before, as some vocabularies write a first token without its space.
        self._ids: list[int] = []
        self._said = 0
        self._whole = 0  # ids up to the newest place where all that stood before was whole

    def feed(self, ids: Iterable[int], last: bool = False) -> str:
        """What these ids add to the text; with `last`, what was held back too."""
        tried = len(self._ids)
        self._ids += ids
        size = len(self._ids)
        if size == tried and not last:
            return ""
        now = self._decode(self._ids)
        if last:
            return now[self._said :]
        # An end that was tried before is no better now, and no unfinished character begins
        # further back.
        text, end = now, size
        while text.endswith(_BAD) and end - 1 > max(tried, self._whole, size - _OPEN - 1):
            end -= 1
            text = self._decode(self._ids[:end])
        if not text.endswith(_BAD):
            new = text[self._said :]
            self._ids, self._whole = self._ids[self._whole :], end - self._whole
            self._said = len(self._decode(self._ids[: self._whole]))
            return new
        if size - self._whole <= _OPEN:
            return ""
        return self._broken(now)

    def _broken(self, now) -> str:
        """What is new of a text that ends in bytes which are no character, but for its end."""
        end = max(self._said, len(now) - min(_OPEN, len(now) - len(now.rstrip(_BAD))))
        new, self._said = now[self._said : end], end
        if len(self._ids) > 3 * _KEPT // 2:
            # What is held is of at most 9 bytes, and 3 more tell where a character begins.
            self._ids, self._whole = self._ids[-_KEPT:], 0
            self._said = len(self._decode(self._ids)) - (len(now) - end)
        return new


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


class Tags:
    """Text with tags to pieces; where a tag may be unfinished, its beginning is held back.

    Args:
      spelled: tags that stand in the text; others come by `tag`.
      is_thinking: whether the turn begins inside a thought.
      with_calls: whether calls are told apart; else they are text.
    """

    def __init__(self, spelled: Iterable[str], is_thinking: bool, with_calls: bool = True):
        self._spelled, self._with_calls, self._held = tuple(spelled), with_calls, ""
        self._mode = "thought" if is_thinking else "text"
        self._blank = {"thought": "", "text": ""}  # white space that may be the last
        self._shown = {"thought": False, "text": False}
        self._open = ""  # of what nobody knows yet whether it is a thought, or a call's JSON

    def text(self, text: str, last: bool = False) -> list[Piece]:
        """More text; with `last` no tag can begin at its end."""
        self._held += text
        pieces = []
        while found := _first(self._held, self._spelled):
            at, tag = found
            pieces += self._part(self._held[:at], False) + self._part(tag, True)
            self._held = self._held[at + len(tag) :]
        end = len(self._held) - (0 if last else beginning(self._held, self._spelled))
        now, self._held = self._held[:end], self._held[end:]
        return pieces + self._part(now, False)

    def tag(self, name: str) -> list[Piece]:
        """A tag that is no text."""
        return self._part(name, True)

    def finish(self) -> list[Piece]:
        """What was held back; the turn is over."""
        pieces = self.text("", last=True)
        mode, self._mode = self._mode, "text"
        if mode == "call":
            pieces.append(Piece("broken", CALL + self._open))
        elif mode == "unknown":
            pieces += self._show("text", THINK + self._open)
        return pieces

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
            return self._show("thought", text if tag != THINK else "")
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


class Reader:
    """Reads one sampled turn; arguments as in `data.chat` and `Tags`."""

    def __init__(self, tokenizer, style: str, with_calls: bool = True):
        self._tokenizer, self._letters = tokenizer, Letters(tokenizer)
        self._stop_ids = chat.stop_ids(tokenizer, style)
        self._names = {tokenizer.control[n]: n for n in chat.CONTROL if n in tokenizer.control}
        spelled = (n for n in chat.CONTROL if n not in tokenizer.control)
        self._tags = Tags(spelled, begins_thinking(style), with_calls)

    def feed(self, ids: Iterable[int]) -> list[Piece]:
        """What these ids say, as far as it is certain; a stop id says nothing."""
        pieces, run = [], []
        for i in ids:
            if i in self._stop_ids:
                continue
            if i not in self._names:
                run.append(i)
                continue
            pieces += self._tags.text(self._letters.feed(run, last=True), last=True)
            pieces += self._tags.tag(self._names[i])
            self._letters, run = Letters(self._tokenizer), []
        return _joined(pieces + self._tags.text(self._letters.feed(run)))

    def finish(self) -> list[Piece]:
        """What was held back; the turn is over."""
        pieces = self._tags.text(self._letters.feed([], last=True))
        return _joined(pieces + self._tags.finish())


def begins_thinking(style: str) -> bool:
    """Whether a sampled turn of this style begins inside a thought that the prompt opened."""
    return style == "qwen3_thinking_2507"


def read_text(text: str, is_thinking: bool) -> list[Piece]:
    """A whole turn that is known as text only, tags spelled out."""
    tags = Tags(chat.CONTROL, is_thinking)
    return _joined(tags.text(text) + tags.finish())


def read(ids: Iterable[int], tokenizer, style: str, with_calls: bool = True) -> list[Piece]:
    """A whole turn, pieces of one kind joined."""
    reader = Reader(tokenizer, style, with_calls)
    return _joined(reader.feed(ids) + reader.finish())


def call_of(text: str) -> tuple[str, str] | None:
    """(name, the JSON of its arguments) of a call's JSON; None where it says no such thing.

    Half of a surrogate pair, which JSON can spell, is nothing that could be said: neither file
    nor answer could hold it (`calls.read` does not run it either).
    """
    try:
        found = json.loads(text, strict=False)
        one = messages.read_one({"role": "assistant", "tool_calls": [found]}, "the turn").calls[0]
        arguments = json.loads(one.arguments)  # where they came as their JSON, it may be escaped there
        (one.name + json.dumps(arguments, ensure_ascii=False)).encode()
    except (InputError, ValueError, RecursionError):
        return None
    return one.name, one.arguments


def result_text(ids: Iterable[int], tokenizer) -> str:
    """What the turn of a tool's result says (`chat.tool_ids`)."""
    parts = chat.tagged(ids, tokenizer)
    start = parts.index((RESULT, True)) + 1
    stop = len(parts) - parts[::-1].index((END_RESULT, True)) - 1
    return "".join(text for text, _ in parts[start:stop]).strip("\n")


# The text of a record's spans (`rollout/record.py`), which has lost the ids.


def system_of(prompt: str) -> str:
    """What a prompt's system turn says besides the tools."""
    head = f"{START}system\n"
    if not prompt.startswith(head):
        return ""
    said = prompt[len(head) :].split(END_TURN)[0]
    return said.split(template.BEFORE_TOOLS)[0].rstrip("\n")


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends inside a thought."""
    return prompt.endswith(f"{THINK}\n")


def inside_result(text: str) -> str:
    """What the turn of a tool's result says."""
    inside = text.split(RESULT, 1)[-1].rsplit(END_RESULT, 1)[0]
    return inside.removeprefix("\n").removesuffix("\n")


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
