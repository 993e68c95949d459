"""An answer's text as a list of tokens: the first step of the reader, in its own process.

LaTeX, plain text and what Python prints become the same tokens. Typesetting (sizes, fonts,
spacing) is dropped here and nothing else; what is not known raises Refused, so that no part
of an answer can vanish.
"""

import re
from typing import NamedTuple

from aster_jax.reward import spelling


class Refused(Exception):
    """The text is not wholly readable as mathematics."""


class Token(NamedTuple):
    """`kind`: number, letters, word (letters set as text), command (without backslash) or
    sign; `spaced`: white space stands before it."""

    kind: str
    text: str
    spaced: bool = False


_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|(?:display|text|script)style|limits|nolimits|"
    r"tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|sf|tt|cal|sl|bfseries|"
    r"itshape|rmfamily|centering|protect|relax|boldmath)(?![a-zA-Z])"
)
_GLUED = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!)\s*(?=\d{3}(?!\d))")
_BLANKS = re.compile(r"(\\\\)|(\\!)|\\[,;:> ]|\\q?quad(?![a-zA-Z])|~|\\[hv]space\*?\{[^{}]*\}")
_GROUPED = re.compile(r"(?<![\w.,^}])\d{1,3}(?: \d{3})+(?! ?\d|\s*[/_])")
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.\d+|\d+|\.\d+)(?:[eE][+-]?\d+(?![\d.a-zA-Z]))?)"
    r"|(?P<letters>[a-zA-Z]+)|\\(?P<command>[a-zA-Z]+)"
    r"|(?P<sign>\\[{}%$|&#_\\]|\*\*|<=|>=|!=|==|:=|[-+*/^_=<>!|(){}\[\],;:.&%'])"
)
_FONTS = {
    "text", "textbf", "textit", "textrm", "texttt", "textnormal", "textsf", "textsc", "mbox",
    "hbox", "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathcal", "boldsymbol", "bm",
    "operatorname", "emph", "underline", "boxed", "fbox", "ensuremath", "pmb", "tiny",
    "uppercase", "mathnormal", "displaylines",
}  # fmt: skip
_PROSE = _FONTS - {"mathbf", "boldsymbol", "bm", "underline", "boxed", "fbox", "ensuremath",
                   "mathcal", "pmb", "mathnormal", "mathit"}  # fmt: skip
_SAME = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<",
    "gt": ">", "lbrace": "\\{", "rbrace": "\\}", "lparen": "(", "rparen": ")", "lbrack": "[",
    "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|", "mid": "mid", "ast": "*",
    "star": "*", "colon": ":", "varnothing": "emptyset", "degree": "degree", "percent": "\\%",
    "overrightarrow": "vec", "bar": "overline", "overbar": "overline", "thinspace": "",
    "langle": "(", "rangle": ")", "backslash": "setminus", "smallsetminus": "setminus",
    "varepsilon": "epsilon",
    "varphi": "phi", "vartheta": "theta", "bigcup": "cup", "bigcap": "cap", "lim": "lim",
    "land": "land", "wedge": "land", "vee": "lor", "simeq": "approx", "centerdot": "cdot",
    "notag": "", "nonumber": "", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots",
    "exponentialE": "e", "imaginaryI": "i", "imath": "i", "dollar": "\\$", "textdollar": "\\$",
    "Reals": "R", "reals": "R", "R": "R", "hline": "", "arrow": "to", "rightarrow": "to",
    "textdegree": "degree", "slash": "/", "parallel": "parallel",
}  # fmt: skip
_LETTERS_OF = {"exponentialE", "imaginaryI", "imath"}
MAX_TOKENS = 2000


def tokenise(text: str, thousands: bool) -> list[Token]:
    """The tokens of a text; `thousands`: whether commas group digits (1,234 as one number).

    Raises Refused for a sign that means nothing here, and for too many tokens.
    """
    text = _SIZES.sub(" ", spelling.plain(text))
    text = re.sub(r"\^\s*\{?\s*(?:\\circ|\\degree)(?![a-zA-Z])\s*\}?|\\degree(?![a-zA-Z])",
                  r"\\degree ", text)  # fmt: skip
    text = re.sub(r"(?<=[\d)}])\s*(?:\^\s*o|\^\s*\{\s*o\s*\})(?![a-zA-Z])", r"\\degree ", text)
    text = _BLANKS.sub(lambda m: m[1] or ("" if m[2] else " "), _GLUED.sub("", text))
    text = re.sub(r"\s+", " ", text).strip()
    text = _GROUPED.sub(lambda run: run[0].replace(" ", ""), text)
    if thousands:
        text = _THOUSANDS.sub(lambda run: run[0].replace(",", ""), text)
    found = _scan(text, prose=False)
    if len(found) > MAX_TOKENS:
        raise Refused("the answer is too long")
    return found


def ways(text: str, is_gold: bool) -> tuple[bool, ...]:
    """How commas between digits may be meant: as grouping them, as separators, or both.

    A gold answer is a list only where all numbers have three digits: 100,200 but not 58,500.
    """
    found = [run[0] for run in _THOUSANDS.finditer(text)]
    if not found:
        return (False,)
    surely = any(",0" in run or is_gold and run[3:4] != "," for run in found)
    return (True,) if surely else (True, False)


def _scan(text: str, prose: bool) -> list[Token]:
    """`prose`: inside a command that sets text, where letters are words."""
    found, i, spaced = [], 0, False
    while i < len(text):
        if text[i] in " \n\t":
            i, spaced = i + 1, True
            continue
        match = _TOKEN.match(text, i)
        if match is None:
            if text[i] == "$":
                i += 1
                continue
            raise Refused(f"unknown sign {text[i]!r}")
        kind, word, i = match.lastgroup, match[match.lastgroup], match.end()
        if kind == "command":
            i = _command(word, text, i, spaced, prose, found)
        else:
            if kind == "letters" and prose and not (word in "eidx" and len(text.strip()) == 1):
                kind = "word"
            found.append(Token(kind, word, spaced))
        spaced = False
    return found


def _command(word, text, i, spaced, prose, found) -> int:
    """Appends what a command stands for; returns where to go on."""
    if word in _FONTS:
        inner, end = _argument(text, i)
        alone = sum(map(str.isalpha, inner)) == 1 and (
            not found or (found[-1].kind == "sign" and found[-1].text not in ")]}{")
        )
        inside = _scan(inner, (prose or word in _PROSE) and not alone)
        if inside:
            wide = spaced or inner[:1] == " "
            found.extend([inside[0]._replace(spaced=wide), *inside[1:]])
        return end
    if word in ("begin", "end"):
        name, end = _argument(text, i)
        if name == "array":
            end = _argument(text, end)[1] if text[end : end + 1] == "{" else end
        found.append(Token("command", f"{word}:{name.strip('*')}", spaced))
        return end
    if word == "mathbb":
        inner, end = _argument(text, i)
        found.append(Token("command", inner.strip(), spaced))
        return end
    if word in ("color", "textcolor"):
        return _argument(text, i)[1]
    if word == "not":
        return _negated(text, i, spaced, found)
    same = _SAME[word] if word in _SAME else word
    if same:
        is_command = same.isalpha() and word not in _LETTERS_OF
        kind = "command" if is_command else "letters" if same.isalpha() else "sign"
        found.append(Token(kind, same, spaced))
    return i


def _negated(text, i, spaced, found) -> int:
    match = re.compile(r"\s*(?:=|\\in(?![a-zA-Z]))").match(text, i)
    if match is None or "in" in match[0]:
        raise Refused("\\not of something")
    found.append(Token("command", "ne", spaced))
    return match.end()


def _argument(text: str, i: int) -> tuple[str, int]:
    """The braced argument (or the next character) after position i, and its end."""
    while i < len(text) and text[i] == " ":
        i += 1
    if i >= len(text):
        raise Refused("a command without its argument")
    if text[i] != "{":
        match = _TOKEN.match(text, i)
        end = match.end() if match and match.lastgroup in ("command", "number") else i + 1
        return text[i:end], end
    depth, j = 0, i
    while j < len(text):
        if text[j] == "\\":
            j += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[j], 0)
        j += 1
        if depth == 0:
            return text[i + 1 : j - 1], j
    raise Refused("a brace that is never closed")


class Cursor:
    """A position in a list of tokens, which splitting a token may change."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.i = list(tokens), 0

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or one of no kind at the end."""
        at = self.i + ahead
        return self.tokens[at] if at < len(self.tokens) else Token("", "")

    def is_sign(self, *texts: str, ahead: int = 0) -> bool:
        """Whether the next token is one of these signs."""
        token = self.peek(ahead)
        return token.kind == "sign" and token.text in texts

    def is_command(self, *names: str, ahead: int = 0) -> bool:
        """Whether the next token is one of these commands."""
        token = self.peek(ahead)
        return token.kind == "command" and token.text in names

    def expect(self, text: str) -> None:
        """Takes a sign that has to stand here."""
        if not self.is_sign(text):
            raise Refused(f"{text!r} is missing")
        self.i += 1

    def cut_first(self) -> None:
        """Splits the next token behind its first sign: \\frac12 has the arguments 1 and 2."""
        token = self.tokens[self.i]
        parts = [token._replace(text=token.text[0]), Token(token.kind, token.text[1:])]
        self.tokens[self.i : self.i + 1] = parts
