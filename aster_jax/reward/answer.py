"""From the final assistant turn to a comparable answer string. Pure text, no mathematics.

What counts as the answer (design: outcome-only reward): the last `\\boxed{...}` of the
final assistant turn, after its last closed think block. Tool output and tool code are
never looked at: the caller passes the text of the final turn alone, and an unfinished
think block in it is cut off.

`normalise` is deliberately small: it removes spelling, never meaning. Anything that needs
mathematics (fractions, sets, intervals, units) is left to `reward/verify.py`.
"""

import re

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"
_BOXED = re.compile(r"\\f?boxed\s*\{")
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~")
_SIZING = re.compile(r"\\(?:left|right|displaystyle|textstyle)(?![a-zA-Z])")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
# Where a space is left, it stands between two digits.
_GROUPED = re.compile(r"(?<![\d. ])\d{1,3}(?: \d{3})+(?![ \d])")
_SIDE_BY_SIDE = re.compile(r"(?<![a-zA-Z\d])\d+ \d")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:(?:,|\{,\})\d{3})+")
_INTEGER = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?")
_DEGREES = re.compile(r"(?:\^\{?\\circ\}?|\\degree|°)$")
_DELIMITERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"))
PAPER_WINDOW = 100  # characters that the paper's public scorer looks at


def extract(text: str) -> str | None:
    """The content of the last `\\boxed{}` outside think blocks, or None.

    A last box that is never closed is no answer: an earlier one was not meant as final.
    """
    return _last_boxed(visible(text))


def visible(text: str) -> str:
    """What follows the last closed think block, up to a think block that never closes."""
    return text.rsplit(CLOSE_THINK, 1)[-1].split(OPEN_THINK, 1)[0]


def normalise(answer: str) -> str:
    """One spelling per answer. Applied to gold and prediction alike, in this order:

    1. surrounding white space, math delimiters ($, \\( \\), \\[ \\]) and a final full stop go;
    2. `\\left`, `\\right`, display styles and spacing commands go; `\\dfrac`, `\\tfrac` are
       `\\frac`; a minus sign is "-";
    3. an answer that is wholly one `\\text{...}` (or \\mathrm, ...) loses the wrapper;
    4. white space goes, but never between two digits, where it tells numbers apart, unless
       it groups thousands (1 234 567); so does a name in front ("x=") and a degree sign at
       the end;
    5. thousands separators go from 1,234 but not from 1,23; integers lose "+", leading
       zeros and ".0", so that "027", "27.0" and "27" are one.
    """
    text = _strip_delimiters(answer.strip())
    text = _SPACING.sub(" ", _SIZING.sub("", text)).replace("−", "-")
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    wrapped = _WRAPPED.fullmatch(text.strip())
    text = wrapped[1] if wrapped else text
    text = re.sub(r"(?<!\d) | (?!\d)", "", re.sub(r"\s+", " ", text)).rstrip(".")
    text = _GROUPED.sub(lambda found: found[0].replace(" ", ""), text)
    text = re.sub(r"^[a-zA-Z]=(?=[^=])", "", text)
    text = _DEGREES.sub("", text)
    if _THOUSANDS.fullmatch(text):
        text = text.replace("{,}", "").replace(",", "")
    integer = _INTEGER.fullmatch(text)
    if integer:
        sign = "-" if integer[1] == "-" and integer[2].strip("0") else ""
        return sign + integer[2]
    return text


def is_integer(normalised: str) -> bool:
    """Whether a normalised answer is a plain integer."""
    return re.fullmatch(r"-?\d+", normalised) is not None


def is_side_by_side(normalised: str) -> bool:
    """Whether numbers stand side by side with only space between: "3 4", "3 1/2".

    Not the arguments of a command, as in `\\frac 1 2`.
    """
    return _SIDE_BY_SIDE.search(normalised) is not None


def paper_match(text: str, gold: str) -> bool:
    """The paper's exact match, logged beside the reward and never used as one.

    The last box within the last 100 characters, compared as strings (paper, section 6):
    it misses right answers in another spelling or followed by a longer sentence.
    """
    found = _last_boxed(text[-PAPER_WINDOW:])
    return found is not None and found == gold


def _last_boxed(text: str) -> str | None:
    """The last box's content with balanced braces (escaped braces do not count)."""
    start = None
    for match in _BOXED.finditer(text):
        start = match.end()
    if start is None:
        return None
    depth, i = 1, start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i].strip()
        i += 1
    return None


def _strip_delimiters(text: str) -> str:
    """Without a pair of math delimiters around the whole, and without a full stop."""
    text = text.rstrip(".").rstrip()
    for start, stop in _DELIMITERS:
        inner = text[len(start) : len(text) - len(stop)]
        if (
            len(text) >= len(start) + len(stop)
            and text.startswith(start)
            and text.endswith(stop)
            and start not in inner
            and stop not in inner
        ):
            return inner.strip()
    return text
