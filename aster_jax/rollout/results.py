"""A tool's result as ids that fit: what `episode` appends to a live row."""

import itertools

from aster_jax.data import chat
from aster_jax.errors import InputError

LONG = "0123456789" * 100
SEAM = 2  # tokens more that the note may take in another text, or with a longer number


def check(limit: int, tokenizer, name: str) -> None:
    """InputError where a result longer than `limit` would be cut to nothing, without a word.

    What is kept has to hold the note on how much is left out. `name` is the setting's.
    """
    if not chat.cut(LONG, tokenizer, limit - SEAM):
        least = next(n for n in itertools.count(limit) if chat.cut(LONG, tokenizer, n - SEAM))
        raise InputError(
            f"{name}={limit} leaves nothing of a longer result: with this vocabulary the note on "
            f"what was left out takes most of {least} tokens; give at least {least}"
        )


def fitted(text: str, limit: int, room: int, tokenizer, style: str) -> list[int] | None:
    """Ids of a result's turn: its text cut to `limit`, and to `room` ids with the markup.

    None where not even the note that something was cut has room: the context is used up then.
    """
    ids = chat.tool_ids(chat.cut(text, tokenizer, limit), tokenizer, style)
    while len(ids) > room:
        limit = min(limit, len(ids)) - (len(ids) - room)
        shown = chat.cut(text, tokenizer, limit) if limit > 0 else ""
        if not shown:
            return None
        ids = chat.tool_ids(shown, tokenizer, style)
    return ids
