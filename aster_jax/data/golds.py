"""The gold answer of a problem's row as text, whichever field and type the file keeps it in.

Under `data/problems.py`. A gold is what a reward is paid for, so a value that is none, or
whose meaning would change on the way, is an error that names the row.
"""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence

from aster_jax.errors import InputError

_FIELDS = ("answer", "final_answer", "expected_answer")
_MARK = "####"  # GSM8K: the solution, then this, then the answer
# A number in groups of three digits that is not one of several numbers without blanks.
_THOUSANDS = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")
# What programs and people write where there is no answer, without case, blanks and wrapping;
# `_EXACT` are those that mean something in another case (Na is sodium).
_ABSENT = frozenset(
    "nan +nan -nan inf +inf -inf none null nil nat n/a #n/a n.a n\\a missing invalid unknown "
    "notfound notavailable notapplicable notprovided notgiven noanswer noanswerfound "
    "answernotfound noneprovided unavailable unanswered placeholder proof tbd - -- --- ? ?? ??? "
    "1.#ind -1.#ind 1.#qnan -1.#qnan 1.#inf -1.#inf".split()
)
_EXACT = ("NA", "<NA>", "#NA", "[]", "{}", "()", "...", "\u2014", "\u2013", "\u2026")
_BLANKS = " \t\r\n\u00a0"  # not the form feed, which is the start of an ill-written \\frac
_INFINITE = ("infinity", "+infinity", "-infinity")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">", '"': '"', "'": "'", "$": "$", "`": "`"}


def of(record: Mapping, where: str, float_fields: frozenset[str] = frozenset()) -> str:
    """The gold of one row.

    Args:
      record: the row.
      where: names file and row in errors.
      float_fields: of the file, see `float_fields`; a spelled infinity in one is no answer.

    Raises:
      InputError: there is no field for it, or it holds no answer: nothing, a sentinel such as
        N/A, a number that is not finite, or something whose text is not its meaning.
    """
    field, value = _find(record)
    if not field:
        raise InputError(
            f"{where} has no answer; add a field 'answer' or 'reward_model.ground_truth', "
            "or remove the row: a problem without an answer cannot be rewarded"
        )
    where = f"{where}: field {field!r}"
    if isinstance(value, str):
        if _MARK in value:
            value = _without_thousands(value.rsplit(_MARK, 1)[-1])
        value = _spelled_list(value.strip(_BLANKS), where)
    if isinstance(value, (list, tuple)):
        return _joined(value, where)
    return _scalar(value, where, field in float_fields)


def float_fields(records: Sequence) -> frozenset[str]:
    """The fields whose golds are, or were before somebody wrote them as text, floats."""
    found = [_find(record) for record in records if isinstance(record, Mapping)]
    spelled = re.compile(r"\s*-?\d+\.\d+(e[+-]?\d+)?\s*")
    return frozenset(
        field for field, value in found
        if isinstance(value, float) or (isinstance(value, str) and spelled.fullmatch(value))
    )  # fmt: skip


def _find(record) -> tuple[str, object]:
    reward_model = record["reward_model"] if "reward_model" in record else None
    if isinstance(reward_model, Mapping) and "ground_truth" in reward_model:
        return "reward_model.ground_truth", reward_model["ground_truth"]
    field = next((f for f in _FIELDS if f in record), "")
    return field, record[field] if field else None


def _scalar(value, where: str, was_float: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"{where} must be text or a number, got {value!r:.60}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(
                f"{where} is {value}, which stands for a missing answer in a column of numbers; "
                "fill it in or remove the row"
            )
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    text = value.strip(_BLANKS)
    if not text:
        raise InputError(f"{where} is empty; fill it in or remove the row")
    if any(ord(c) < 32 and c not in "\n\r\t" for c in text):
        raise InputError(
            f"{where} is {text!r:.60} with control characters, as a \\f or \\b of LaTeX becomes "
            "when its backslash is not doubled; write it again"
        )
    if _stands_for_none(text) or (was_float and text.casefold() in _INFINITE):
        raise InputError(
            f"{where} is {text!r:.60}, which stands for a missing answer: remove the row, or, if "
            "it is the answer, write it so that it cannot be taken for one"
        )
    return text


def _stands_for_none(text: str) -> bool:
    """Whether a text is a sentinel, in whatever wrapping."""
    while len(text) < 200:
        key = re.sub(r"(?<=[a-z])[\s_-]+(?=[a-z])", "", text.casefold())
        if not text or text in _EXACT or "".join(key.split()).rstrip(".!") in _ABSENT:
            return True
        match, inner = _WRAPPED.fullmatch(text), text
        if match:
            inner = match[1]
        elif len(text) > 2 and text[0] in _PAIRS and text[-1] == _PAIRS[text[0]]:
            inner = text[1:-1]
        if inner == text:
            return False
        text = inner.strip()
    return False


def _joined(values, where: str) -> str:
    """A list's one element, or its elements as a list is written: "3, 5"."""
    if not values:
        raise InputError(f"{where} is an empty list; fill it in or remove the row")
    texts = [_scalar(value, where) for value in values]
    if len(texts) == 1:
        return texts[0]
    texts = [_without_thousands(text) for text in texts]
    for text in texts:
        if _has_bare_comma(text):
            raise InputError(
                f"{where} is a list with the element {text!r:.60}, itself a list; write the "
                "answer as one text"
            )
    return ", ".join(texts)


def _has_bare_comma(text: str) -> bool:
    """Whether a comma stands outside of all brackets."""
    depth = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth <= 0:
            return True
    return False


def _without_thousands(text: str) -> str:
    """1,234 as 1234. Inside brackets a comma separates, and so does one before a blank."""
    if any(c in "()[]{}" for c in text):
        return text
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def _spelled_list(text: str, where: str):
    """The list that a text is the JSON or the Python of, else the text itself.

    A list of strings is no mathematics, and one number in brackets is that number; more
    numbers in brackets may be an interval or a point, and stay as they are.
    """
    if re.fullmatch(r"\[\s*[-+]?[\d.]+\s*\]", text):
        return text[1:-1].strip()
    if not re.match(r"\[\s*['\"]", text):
        return text
    single = re.search(r"(?<!\\)(?:\\\\)*\\[^\\'\"/u]", text)
    found = None if single else _parsed(text)
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise InputError(
            f"{where} is {text!r:.60}, which looks like a list of texts and cannot be read as one "
            "(are its backslashes doubled?); write it as a list, or as one text"
        )
    return found


def _parsed(text: str):
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
