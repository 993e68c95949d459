"""ReTool's text (arXiv 2504.11536): rows <-> transcripts.

A row has two `messages`: a question, in a frame that ends in "*user question:*", and one
text in which code stands in <code> blocks (fenced as Python), its output in <interpreter>
blocks, and the answer, boxed, in <answer>. The format tells no thought from what is said:
written, a thought stands before the text of its turn, and read it is text.
"""

import hashlib
import re

from aster_jax import types
from aster_jax.data import chat
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
    said = turns[-1]["content"] if turns and "content" in turns[-1] else None
    framed = isinstance(said, str) and any(tag in said for tag in _TAGS[:4])
    return roles in (["user", "assistant"], ["system", "user", "assistant"]) and framed


def read_row(row: dict) -> Transcript | str:
    """One conversation as a transcript, or the reason why it is none."""
    if not is_row(row):
        return "is not a question and a text with <code> and <interpreter> blocks"
    turns = row[COLUMN]
    if len(turns) == 3 and turns[0]["content"]:
        return "has a system message, which would be lost"
    if not isinstance(turns[-2]["content"], str):
        return "has a question that is not text"
    question = _bare(turns[-2]["content"].rpartition(_QUESTION)[2])
    made, statuses = [{"role": "user", "content": question}], []
    text, at, expected = turns[-1]["content"], 0, "code"
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
        statuses.append(dialogues.status_of(result))
        expected = "code"
    final = _said(_bare(text[at:]))
    if expected != "code" or not final:
        return "ends without an answer" if expected == "code" else "ends with a call without result"
    made.append({"role": "assistant", "content": final})
    digest = hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    problem = types.Problem(f"{FAMILY}-{digest}", question, "", FAMILY)
    return Transcript(problem, tuple(made), tuple(statuses))


def write_row(made: Transcript) -> dict:
    """A finished transcript as a row. Raises InputError for one that the format cannot hold."""
    parts = []
    for message in made.messages[1:]:
        if any(tag in message["content"] for tag in _TAGS):
            raise _unfit(made, "its text holds a tag of the format")
        if message["role"] == "tool":
            parts.append(f"<interpreter>\n{message['content']}\n</interpreter>\n")
            continue
        thought = message["reasoning_content"] if "reasoning_content" in message else ""
        parts.append("\n\n".join(filter(None, (thought, message["content"]))) + "\n")
        for call in transcript.calls_of(message):
            code = call["arguments"]["code"]
            if any(tag in code for tag in _TAGS):
                raise _unfit(made, "its code holds a tag of the format")
            parts.append(f"<code>\n```python\n{code}\n```\n</code>\n")
    row = {COLUMN: [
        {"role": "user", "content": made.messages[0]["content"]},
        {"role": "assistant", "content": "".join(parts).rstrip("\n")},
    ]}  # fmt: skip
    if not made.statuses:
        return row  # without a call it is a plain row of messages
    read = read_row(row)
    if isinstance(read, str):
        raise _unfit(made, read)
    if [m["content"] for m in read.messages if m["role"] == "tool"] != [
        m["content"] for m in made.messages if m["role"] == "tool"
    ]:
        raise _unfit(made, "a result would be read otherwise")
    return row


def _unfit(made, why) -> InputError:
    return InputError(f"{made.origin or made.problem.id} cannot be written as ReTool: {why}")


def _said(text: str) -> str | None:
    """What is said between blocks; None where it holds a tag that belongs to no block."""
    found = any(tag in text for tag in (*_TAGS, *WRITTEN_TAGS))
    return None if found else text.strip("\n")


def _bare(text: str) -> str:
    """Without the tags around an answer."""
    return text.replace("<answer>", "").replace("</answer>", "").strip()
