"""A tool's result as ids that fit: what `episode` appends to a live row."""

from aster_jax.data import chat


def fitted(text: str, limit: int, room: int, tokenizer, style: str) -> list[int] | None:
    """Ids of a result's turn: its text cut to `limit`, and to `room` ids with the markup.

    None where not even the note that something was cut has room.
    """
    ids = chat.tool_ids(chat.cut(text, tokenizer, limit), tokenizer, style)
    while len(ids) > room:
        limit = min(limit, len(ids)) - (len(ids) - room)
        shown = chat.cut(text, tokenizer, limit) if limit > 0 else ""
        if not shown:
            return None
        ids = chat.tool_ids(shown, tokenizer, style)
    return ids
