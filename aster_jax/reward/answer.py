"""From the final assistant turn to a comparable answer string. Pure text, no mathematics.

What counts as the answer (design: outcome-only reward): the last `\\boxed{...}` of the
final assistant turn, after its last closed think block. Tool output and tool code are
never looked at: the caller passes the text of the final turn alone, and an unfinished
think block in it is cut off.

`normalise` is deliberately small: it removes spelling, never meaning. Anything that needs
mathematics (fractions, sets, intervals, units) is left to `reward/verify.py`. All of it runs
in the trainer on text that a model wrote, so all of it takes linear time.
"""

import fractions
import re

from aster_jax.reward import spelling

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
# What LaTeX takes for the argument of a box without braces, and what people mean by it.
_BARE = re.compile(r"[+-]?\d+(?:[.,]\d+)*|\\[dt]?frac\s*(?:\{\d+\}|\d)\s*(?:\{\d+\}|\d)")
_SPACING = re.compile(r"\\[,;: ]|\\q?quad(?![a-zA-Z])|~")
_SIZING = re.compile(r"\\!|\\(?:left|right|displaystyle|textstyle)(?![a-zA-Z])")
_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt)|mbox|boldsymbol)\s*\{([^{}]*)\}"
)
_LIST = re.compile(r",(?:\s|\\[;: ]|\\q?quad|~)")
# Where a space is left, it stands between two digits.
_GROUPED = re.compile(r"(?<![\d. ])\d{1,3}(?: \d{3})+(?![ \d])")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:(?:,|\{,\})\d{3})+")
_INTEGER = re.compile(r"([+-]?)(\d+)(?:\.0*)?")
_NAMED = re.compile(r"\s*\$?\s*([a-zA-Z])\s*=(?!=)")
_DEGREES = re.compile(r"(?:\^\{?\\circ\}?|\\degree)$")
_DELIMITERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"))
_JOINED = re.compile(
    r",?\\(?:text|mathrm|mbox)\{,?(?:and|or)\}|,?(?<=[\d})])(?:and|or)(?=[-\\\d({])"
)
_DECIMAL = re.compile(
    r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,2})|\\times10\^\{?(-?\d{1,2})\}?)?"
)
_FRACTION = re.compile(r"([+-]?)(\d*) ?\\frac ?(?:\{([+-]?\d+)\}|(\d)) ?(?:\{(\d+)\}|(\d))")
_SLASHED = re.compile(r"([+-]?)(?:(\d+) )?(\d+)/(\d+)")
MOST_DIGITS = 400  # of a number that votes compare by value
PAPER_WINDOW = 100  # characters that the paper's public scorer looks at
LONGEST = 10_000  # characters of an answer that is looked at


def extract(text: str) -> str | None:
    """The content of the last `\\boxed{}` (or \\fbox) outside think blocks, or None.

    A last box that is never closed is no answer: an earlier one was not meant as final.
    """
    return _last_boxed(visible(text))


def visible(text: str) -> str:
    """What follows the last closed think block, up to a think block that never closes."""
    return text.rsplit(CLOSE_THINK, 1)[-1].split(OPEN_THINK, 1)[0]


def normalise(answer: str) -> str:
    """One spelling per answer, in linear time. Applied to gold and prediction, in this order:

    1. Unicode signs are LaTeX; surrounding white space, math delimiters ($, \\( \\), \\[ \\])
       and a final full stop go;
    2. `\\left`, `\\right`, display styles and spacing commands go; `\\dfrac`, `\\tfrac` are
       `\\frac`;
    3. an answer that is wholly one `\\text{...}` (or \\mathrm, ...) loses the wrapper;
    4. white space goes, but never between two digits, where it tells numbers apart, unless
       it groups thousands (1 234 567); so does a name in front ("x=") and a degree sign at
       the end;
    5. thousands separators go from 1,234 but not from 1,23 nor from the list "1, 234";
       integers lose "+", leading zeros and ".0", so that "027", "27.0" and "27" are one.
    """
    text = _strip_delimiters(spelling.plain(answer).strip())
    is_list = _LIST.search(re.sub(r",\s*\\!\s*", ",", text)) is not None
    text = re.sub(r",\s*\\!\s*", ",", text)
    text = _SPACING.sub(" ", _SIZING.sub("", text))
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    wrapped = _WRAPPED.fullmatch(text.strip())
    text = wrapped[1] if wrapped else text
    text = re.sub(r"(?<!\d) | (?!\d)", "", re.sub(r"\s+", " ", text))
    text = _without_stop(text)
    text = _GROUPED.sub(lambda found: found[0].replace(" ", ""), text)
    text = re.sub(r"^[a-zA-Z]=(?=[^=])", "", text)
    text = _DEGREES.sub("", text)
    if not is_list and _THOUSANDS.fullmatch(text):
        text = text.replace("{,}", "").replace(",", "")
    integer = _INTEGER.fullmatch(text)
    if integer:
        digits = integer[2].lstrip("0") or "0"
        return "-" + digits if integer[1] == "-" and digits != "0" else digits
    return text


def same_name(one: str, other: str) -> bool:
    """Whether two answers do not name different things in front ("x=5", "y=5")."""
    names = [_NAMED.match(text) for text in (one, other)]
    return None in names or names[0][1] == names[1][1]


def is_integer(normalised: str) -> bool:
    """Whether a normalised answer is a plain integer."""
    return re.fullmatch(r"-?\d+", normalised) is not None


def vote_key(answer: str) -> str:
    """One key per answer, for majority votes: what everybody agrees to be the same answer.

    After `normalise`: integers, decimals and simple fractions (\\frac, a/b, mixed) by value, so
    that 0.5, 1/2 and \\frac{1}{2} are one; lists and sets in one order, points and intervals
    in their own; words in one case. Linear time and no mathematics beyond that: two keys may
    still be the same number. Never compared with a gold answer.
    """
    if len(answer) > LONGEST:
        return answer.strip()
    text = _JOINED.sub(",", normalise(answer))
    opened, closed, inner = "", "", text
    for left, right in (("\\{", "\\}"), ("{", "}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if text.startswith(left) and text.endswith(right) and _is_whole(text, left, right):
            opened, closed, inner = left, right, text[len(left) : len(text) - len(right)]
            break
    parts = [_vote_part(part) for part in _split(inner)]
    if len(parts) == 1 and opened in ("", "(") and closed in ("", ")"):
        return parts[0]
    if opened in ("", "{", "\\{"):  # a set or a list: in any order
        return "{" + ",".join(sorted(parts)) + "}"
    return opened + ",".join(parts) + closed


def _vote_part(text: str) -> str:
    """The key of one item: a number by value, anything else as it is spelled."""
    text = re.sub(r"^[a-zA-Z]=(?=[^=])", "", text)
    if text.startswith(("(", "[")) and len(text) < MOST_DIGITS:
        return text[0] + ",".join(_rational(part) for part in _split(text[1:-1])) + text[-1]
    if re.fullmatch(r"[a-zA-Z]{2,}", text):
        return text.casefold()
    return _rational(text)


def _rational(text: str) -> str:
    """ "1/2" for 0.5, 2/4, \\frac12; what is no simple number stays."""
    if len(text) > MOST_DIGITS:
        return text
    decimal = _DECIMAL.fullmatch(text)
    if decimal and (decimal[2] or decimal[3]):
        shift = int(decimal[4] or decimal[5] or 0) - len(decimal[3] or "")
        size = int(decimal[2] + (decimal[3] or "")) * fractions.Fraction(10) ** shift
        return str(-size if decimal[1] == "-" else size)
    if found := _FRACTION.fullmatch(text):
        top, bottom = int(found[3] or found[4]), int(found[5] or found[6])
        whole = int(found[2] or 0)
    elif found := _SLASHED.fullmatch(text):
        top, bottom, whole = int(found[3]), int(found[4]), int(found[2] or 0)
    else:
        return text
    if not bottom or whole and not 0 < top < bottom:
        return text
    size = whole + fractions.Fraction(top, bottom)
    return str(-size if found[1] == "-" else size)


def _split(text: str) -> list[str]:
    """The parts between commas and semicolons outside of brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c in ",;" and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [part for part in parts if part] or [""]


def _is_whole(text: str, left: str, right: str) -> bool:
    """Whether the bracket at the start is closed at the end and not before."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth == 0 and c in ")]}":
            return i == len(text) - 1
    return False


def paper_match(text: str, gold: str) -> bool:
    """The paper's exact match, logged beside the reward and never used as one.

    The last box within the last 100 characters, compared as strings (paper, section 6):
    it misses right answers in another spelling or followed by a longer sentence.
    """
    found = _last_boxed(text[-PAPER_WINDOW:])
    return found is not None and found == gold


def _last_boxed(text: str) -> str | None:
    """The last box's content with balanced braces (escaped braces do not count).

    A box without braces holds a number or a simple fraction; before anything else the
    word only speaks of boxes.
    """
    start = bare = None
    for match in _BOX.finditer(text):
        if text.startswith("{", match.end()):
            start, bare = match.end() + 1, None
        elif number := _BARE.match(text, match.end()):
            bare = number[0]
    if bare is not None or start is None:
        return bare
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
    text = _without_stop(text).rstrip()
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


def _without_stop(text: str) -> str:
    """Without a full stop at the end; dots in a row are none."""
    return text[:-1] if text.endswith(".") and not text.endswith("..") else text
