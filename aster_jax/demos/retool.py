"""ReTool's text (arXiv 2504.11536): rows <-> transcripts.

A row has two `messages`: a question, in a frame that ends in "*user question:*", and one
text in which code stands in <code> blocks (fenced as Python), its output in <interpreter>
blocks, and the answer, boxed, in <answer>. The format tells no thought from what is said:
written, a thought stands before the text of its turn, and read it is text. What else a row
may hold are the columns of a row of `messages` (demos/dialogues.py).
"""

import re

from aster_jax.data import chat, messages
from aster_jax.data.turns import WRITTEN_TAGS
from aster_jax.demos import dialogues, transcript
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError

COLUMN = "messages"
FAMILY = "retool"
_QUESTION = "*user question:*"
_BLOCK = re.compile(r"<(code|interpreter)>(.*?)</\1>", re.DOTALL)
_FENCE = re.compile(r"\s*```(?:python|py)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)
_TAGS = ("<code>", "</code>", "<interpreter>", "</interpreter>", "<answer>", "</answer>")


def is_row(row: dict) -> bool:
    """Whether a row with `messages` is of this format: its code stands in the text."""
    turns = row[COLUMN] if COLUMN in row else None
    if not isinstance(turns, list) or not all(isinstance(m, dict) for m in turns):
        return False
    roles = [m["role"] if "role" in m else None for m in turns]
    said = str(turns[-1]["content"]) if turns and "content" in turns[-1] else ""
    framed = any(tag in said for tag in _TAGS[:4])
    return roles in (["user", "assistant"], ["system", "user", "assistant"]) and framed


def read_row(row: dict) -> Transcript | str:
    """One conversation as a transcript, or the reason why it is none."""
    if not is_row(row):
        return "is not a question and a text with <code> and <interpreter> blocks"
    try:
        turns = messages.read(map(transcript.without_nulls, row[COLUMN]))
    except InputError as e:
        return str(e)
    if turns[0].role == "system" and turns[0].content.strip():
        return "has a system message, which would be lost"
    if turns[-1].thought or turns[-1].calls:
        return "has a thought or a call beside the text that its code stands in"
    made = [{"role": "user", "content": _bare(turns[-2].content.rpartition(_QUESTION)[2])}]
    text, at, expected = turns[-1].content, 0, "code"
    for block in _BLOCK.finditer(text):
        between, at = text[at : block.start()], block.end()
        if block[1] != expected:
            return f"has a block <{block[1]}> where <{expected}> is missing"
        if block[1] == "code":
            fence = _FENCE.fullmatch(block[2])
            if _said(between) is None:
                return "holds a tag in its text"
            code = fence[1] if fence else block[2].strip("\n")
            made.append(chat.call_message(_said(between), code))
            expected = "interpreter"
            continue
        if between.strip():
            return "has text between a <code> block and its <interpreter>"
        result = block[2].removeprefix("\n").removesuffix("\n")
        made.append({"role": "tool", "content": result})
        expected = "code"
    final = _said(_bare(text[at:]))
    if expected != "code" or not final:
        return "ends without an answer" if expected == "code" else "ends with a call without result"
    made.append({"role": "assistant", "content": final})
    return dialogues.transcript_of(row, made, FAMILY)


def write_row(made: Transcript) -> dict:
    """A finished transcript as a row. Raises InputError for one that the format cannot hold."""
    parts = []
    for message in made.messages[1:]:
        if message["role"] == "user":
            raise transcript.unfit(made, "ReTool", "it has more than one user message")
        thought = message["reasoning_content"] if "reasoning_content" in message else ""
        words = "\n\n".join(filter(None, (thought, message["content"])))
        if any(tag in words for tag in _TAGS):
            raise transcript.unfit(made, "ReTool", "its text holds a tag of the format")
        if message["role"] == "tool":
            parts.append(f"<interpreter>\n{words}\n</interpreter>\n")
            continue
        parts.append(words + "\n")
        for call in transcript.calls_of(message):
            code = transcript.code_of(call)
            if code is None:
                raise transcript.unfit(made, "ReTool", "a call of it is not one text of code")
            if any(tag in code for tag in _TAGS):
                raise transcript.unfit(made, "ReTool", "its code holds a tag of the format")
            parts.append(f"<code>\n```python\n{code}\n```\n</code>\n")
    row = {COLUMN: [
        {"role": "user", "content": made.messages[0]["content"]},
        {"role": "assistant", "content": "".join(parts).rstrip("\n")},
    ], **dialogues.columns_of(made)}  # fmt: skip
    # Without a call it is a plain row of messages.
    read = read_row(row) if is_row(row) else dialogues.read_row(row)
    transcript.check_written(made, read, "ReTool")
    return row


def _said(text: str) -> str | None:
    """What is said between blocks; None where it holds a tag that belongs to no block."""
    found = any(tag in text for tag in (*_TAGS, *WRITTEN_TAGS))
    return None if found else text.strip("\n")


def _bare(text: str) -> str:
    """Without the tags around an answer."""
    return text.replace("<answer>", "").replace("</answer>", "").strip()
