"""Which characters of a text each id stands for, so that a page can shade tokens without a
vocabulary.

A token is not always a piece of text of its own: bytes of one character may come from
several ids, and some vocabularies give the first word no space. So ids are decoded alone
where that fits the text, after their neighbour where it does not, and in small groups where
a character is shared; the last id of a group then stands for all of it.
"""

from collections.abc import Callable, Sequence

LARGEST_GROUP = 6  # ids that may share one character
LARGEST_GAP = 16  # characters that may be passed over to find one that fits again


def lengths(ids: Sequence[int], text: str, decode: Callable[[list[int]], str]) -> list[int]:
    """Characters of `text` that each id stands for; they add up to all of it.

    `text` is what `decode` made of all the ids. An id that cannot be placed stands for none;
    what is passed over belongs to the next one that can, what is left at the end to the last.
    """
    known: dict[tuple[int, ...], str] = {}

    def decoded(start, stop):
        key = tuple(ids[start:stop])
        if key not in known:
            known[key] = decode(list(key))
        return known[key]

    found: list[int] = []
    at = 0
    while len(found) < len(ids):
        size, piece = _fitting(decoded, len(found), len(ids), text, at)
        found += [0] * (size - 1) + [len(piece)]
        at += len(piece)
    if found:
        found[-1] += len(text) - at
    return found


def _fitting(decoded, start: int, end: int, text: str, at: int) -> tuple[int, str]:
    """How many ids from `start` on make up what stands at `at`, and what that is."""
    for size in range(1, min(LARGEST_GROUP, end - start) + 1):
        alone = decoded(start, start + size)
        if alone and text.startswith(alone, at):
            return size, alone
        if start:
            before, both = decoded(start - 1, start), decoded(start - 1, start + size)
            after = both[len(before) :] if both.startswith(before) else None
            if after is not None and text.startswith(after, at):
                return size, after
    alone = decoded(start, start + 1)
    found = text.find(alone, at, at + LARGEST_GAP + len(alone)) if alone else -1
    return 1, text[at : found + len(alone)] if found >= 0 else ""
