"""What a turn is, read off its text: the four states of an output, stray tags, post-hoc calls.

Multi-step RL can break the format before it breaks the policy: the probability of a call's tag
or of a turn's end runs away while the ability stays (arXiv 2606.26027). Each turn of an
episode is therefore one of

    call       a whole call, whatever came of running it
    answer     a turn that ended by itself, without a stray tag
    polluted   a call that cannot be read, or tags of the markup in the prose of an answer
    collapsed  an opened call, or a turn, with nothing in it
    cut        unfinished: a budget or a clock ended it

Pure; works on episode records.
"""

import json
import re

from aster_jax.data import chat
from aster_jax.reward import answer

STATES = ("call", "answer", "polluted", "collapsed", "cut")
_TAG = re.compile("|".join(map(re.escape, chat.CONTROL)))
_, _END, _THINK, _END_THINK, _OPEN, _CLOSE, *_ = chat.CONTROL
_ENDS = re.compile(rf"(?:{re.escape(_END)}|<\|endoftext\|>)\s*$")
_GROUPED = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))")


def _broken(tag: str) -> str:
    """A pattern of what is left of a tag that lost its last or its first character."""
    body = tag.rstrip("|>")
    return rf"{re.escape(body)}\b(?!{re.escape(tag[len(body):])})|(?<![<\w/]){re.escape(tag[1:])}"


_BROKEN = re.compile("|".join(map(_broken, chat.CONTROL)))


def states(texts: list[str], calls: list[dict], end: str) -> list[str]:
    """The state of every turn. The i-th attempt at a call ends the i-th turn."""
    return [
        _state(text, calls[i]["status"] if i < len(calls) else None, i == len(texts) - 1, end)
        for i, text in enumerate(texts)
    ]


def _state(text, status, is_last, end) -> str:
    body = _ENDS.sub("", text)
    if status == "malformed":
        inside = body.rpartition(_OPEN)[2] if _OPEN in body else body
        return "polluted" if inside.replace(_CLOSE, "").strip() else "collapsed"
    if status is not None or not is_last or end == "call_budget":
        return "call"  # one without a record was told that none are left
    if end != "answered":
        return "cut"
    if not _TAG.sub("", body).strip():
        return "collapsed"
    return "polluted" if stray_tags(body) else "answer"


def stray_tags(text: str) -> int:
    """Tags of the markup in a text, whole or broken, but for its one think block and the end of
    the turn."""
    text = _ENDS.sub("", text)
    if text.lstrip().startswith(_THINK):
        text = text.replace(_THINK, "", 1)
    text = text.replace(_END_THINK, "", 1)
    return len(_TAG.findall(text)) + len(_BROKEN.findall(_TAG.sub(" ", text)))


def prose(text: str, call: dict | None) -> str:
    """What a turn says outside its call; all of it where it makes none."""
    if call is None:
        return text
    code = call["code"]
    before = split_at_code(text, code)[0] if code else text
    return before.rpartition(_OPEN)[0] if code else text.partition(_OPEN)[0]


def split_at_code(text: str, code: str) -> tuple[str, str, str]:
    """A turn's text as (before, the code as it stands there, after); no code: (text, "", "").

    In a turn the code stands as a JSON string; both common spellings of one are tried.
    """
    for spelling in (json.dumps(code), json.dumps(code, ensure_ascii=False)):
        at = text.rfind(spelling) if code else -1
        if at >= 0:
            start, stop = at + 1, at + len(spelling) - 1  # the quotes belong to the turn
            return text[:start], text[start:stop], text[stop:]
    return text, "", ""


def before_first_call(texts: list[str], calls: list[dict]) -> str | None:
    """The model's text before the code of the first call that reached the tool; None without
    one. The i-th attempt ends the i-th turn."""
    at = next((i for i, c in enumerate(calls) if c["status"] != "malformed"), None)
    if at is None or at >= len(texts):
        return None
    before, found, _ = split_at_code(texts[at], calls[at]["code"])
    return "".join([*texts[:at], before if found else texts[at]])


def is_post_hoc(texts: list[str], calls: list[dict], question: str) -> bool | None:
    """Whether the tool was asked only when the answer had been reasoned out already.

    That is: the answer in the last turn's box stood, as a word of its own, in what the model
    wrote before the code of its first call. None where that cannot be told: no call reached
    the tool, nothing is boxed, or the question itself names that answer. A small number may
    stand there by chance, so the share matters by its change and not by its level.
    """
    before = before_first_call(texts, calls)
    boxed = answer.extract(_ENDS.sub("", texts[-1])) if texts else None
    if before is None or not boxed or len(boxed) > answer.LONGEST:
        return None
    value = answer.normalise(boxed)
    if not value or _stands_in(value, question):
        return None
    return _stands_in(value, before)


def _stands_in(value: str, text: str) -> bool:
    """Whether a normalised answer occurs in a text, not as a part of a longer word or number."""
    whole = rf"(?<![\w.-]){re.escape(value)}(?!\w|\.\d)"
    return re.search(whole, _GROUPED.sub("", text)) is not None
