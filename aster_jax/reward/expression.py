"""Tokens -> one expression, as a tree of tuples. A strict recursive descent: all or Refused.

Nodes: ("num", Fraction, digits shown, places after the point; 0 and 0 for an integer),
("sym", name), ("const", "pi" | "e" | "i" | "oo"), ("sum", nodes), ("prod", nodes),
("div", a, b), ("pow", a, b), ("root", index, a), ("call", function, arguments),
("pm", +1 or -1, a) for \\pm and \\mp inside a sum, ("matrix", rows).

LaTeX and Python differ in spelling only (`\\frac{1}{2}`, `1/2`, `Rational(1, 2)`), so one
grammar reads both. Where they are ambiguous (`1/2x`) products go from left to right.
"""

import fractions
import re

from aster_jax.reward.tokens import Refused, Token

CONSTANTS = {"pi": "pi", "oo": "oo", "inf": "oo", "infty": "oo", "infinity": "oo"}
GREEK = set(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega "
    "varrho varsigma varpi ell hbar aleph".split()
)
FUNCTIONS = {
    name: name for name in
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log lg exp sqrt "
    "cbrt abs floor ceiling factorial binomial gcd lcm max min gamma re im sign".split()
} | {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "acot": "arccot", "Abs": "abs",
    "ceil": "ceiling", "comb": "binomial", "binom": "binomial", "Max": "max", "Min": "min",
    "Rational": "ratio", "Fraction": "ratio", "Integer": "same", "Float": "same", "S": "same",
    "simplify": "same", "float": "same", "int": "same", "log10": "log10", "log2": "log2",
    "arsinh": "asinh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "root": "root",
    "Re": "re", "Im": "im", "lb": "log2", "fabs": "abs", "Pow": "power", "pow": "power",
    "tg": "tan", "ctg": "cot", "arctg": "arctan", "sympify": "same", "nthroot": "root",
}  # fmt: skip
CALLED_ONLY = {  # a name of these is a function only before a parenthesis
    "S", "re", "im", "max", "min", "gcd", "lcm", "gamma", "root", "sign", "int", "float",
    "simplify", "same", "Rational", "Fraction", "Integer", "Float", "abs", "floor", "pow",
}  # fmt: skip
_COMMAND_FUNCTIONS = set(FUNCTIONS) - {"gamma", "S", "int", "root", "sqrt", "binom", "float"}
MODULES = {"math", "np", "numpy", "sp", "sympy", "mp", "mpmath", "cmath"}
MATRICES = {"pmatrix", "bmatrix", "matrix", "vmatrix", "array", "Bmatrix", "smallmatrix"}
CALCULUS = {"sum", "prod", "int", "lim"}
_ENDS = {"rfloor", "rceil", "rangle", "cdot", "times", "div", "pm", "mp", "choose", "cup",
         "cap", "degree", "pmod", "mod", "bmod"}  # fmt: skip
DECORATIONS = {"overline", "vec", "hat", "angle", "triangle", "tilde"}
DEPTH = 80
MAX_DIGITS = 10_000
CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|"}


def parse(tokens: list[Token]) -> tuple:
    """The expression that all of the tokens make. Raises Refused."""
    parser = Parser(tokens)
    node = parser.sum()
    if parser.tokens[parser.i :]:
        raise Refused(f"something is left over: {parser.tokens[parser.i].text!r}")
    return node


def number(text: str) -> tuple:
    """The node of digits as they are written."""
    mantissa, _, power = text.lower().partition("e")
    if len(text) > MAX_DIGITS or len(power) > 4:
        raise Refused("the number is too long")
    whole, point, decimals = mantissa.partition(".")
    shown = len((whole + decimals).lstrip("0")) if point else 0
    places = len(decimals) - int(power or 0) if point else 0
    value = fractions.Fraction(int(whole + decimals or "0"))
    value *= fractions.Fraction(10) ** (int(power or 0) - len(decimals))
    return ("num", value, shown, places)


def integer(value: int) -> tuple:
    """The node of a whole number."""
    return ("num", fractions.Fraction(value), 0, 0)


class Parser:
    """A position in a list of tokens, which splitting a token may change."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.i, self.depth = list(tokens), 0, 0
        self.bars = self.inside = 0  # open absolute values; function arguments
        signs = {t.text for t in tokens if t.kind == "sign"}
        latex = any(t.kind == "command" for t in tokens)
        called = any(t.kind == "letters" and t.text in FUNCTIONS for t in tokens)
        self.python_i = not latex and bool(signs & {"*", "**", "+", "-", "/"})
        self.python_e = not latex and (bool(signs & {"*", "**"}) or called)

    # Looking and taking.

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

    # The grammar, from the loosest to the tightest.

    def sum(self) -> tuple:
        """Terms with + and - between them."""
        self.depth += 1
        if self.depth > DEPTH:
            raise Refused("too deeply nested")
        parts = [self.signed()]
        while self.is_sign("+", "-") or self.is_command("pm", "mp"):
            parts.append(self.signed())
        self.depth -= 1
        return parts[0] if len(parts) == 1 else ("sum", tuple(parts))

    def signed(self) -> tuple:
        """One term with the signs before it."""
        sign, alternating = 1, 0
        while True:
            if self.is_sign("+", "-"):
                sign = -sign if self.peek().text == "-" else sign
            elif self.is_command("pm", "mp") and not alternating:
                alternating = 1 if self.peek().text == "pm" else -1
            else:
                break
            self.i += 1
        node = self.term()
        if sign < 0:
            node = negative(node)
        return ("pm", alternating, node) if alternating else node

    def term(self) -> tuple:
        """Factors: *, /, or side by side."""
        node = self.power()
        while True:
            if self.is_sign("*") or self.is_command("cdot", "times"):
                self.i += 1
                node = ("prod", (node, self.factor()))
            elif self.is_sign("/") or self.is_command("div"):
                self.i += 1
                node = ("div", node, self.factor())
            elif self.starts_factor():
                if self.peek().kind == "number" and node[0] in ("num", "sym", "const"):
                    raise Refused("a number stands directly behind another or a name")
                node = ("prod", (node, self.power()))
            else:
                return node

    def factor(self) -> tuple:
        """A factor behind an operator: it may have a sign."""
        sign = 1
        while self.is_sign("-", "+"):
            sign = -sign if self.peek().text == "-" else sign
            self.i += 1
        node = self.power()
        return negative(node) if sign < 0 else node

    def starts_factor(self) -> bool:
        """Whether the next token can begin a factor with no sign before it."""
        token = self.peek()
        if token.kind in ("number", "letters"):
            return True
        if token.kind == "word":
            return token.text in FUNCTIONS
        if token.kind == "sign":
            return token.text in "([{" or token.text == "|" and not self.bars
        ends = token.text in _ENDS or token.text.startswith("end:")
        return token.kind == "command" and not ends

    def power(self) -> tuple:
        """An atom with !, ^, ** behind it."""
        node = self.atom()
        while True:
            if self.is_sign("!"):
                self.i += 1
                if self.is_sign("!"):
                    raise Refused("double factorial")
                node = ("call", "factorial", (node,))
            elif self.is_sign("^", "**"):
                self.i += 1
                node = ("pow", node, self.exponent())
            elif self.inside and self.is_command("degree"):
                self.i += 1
                node = ("div", ("prod", (node, ("const", "pi"))), integer(180))
            else:
                return node

    def exponent(self) -> tuple:
        """What stands behind ^: a group, or one signed atom."""
        if self.is_sign("-", "+"):
            minus = self.peek().text == "-"
            self.i += 1
            node = self.exponent()
            return negative(node) if minus else node
        if self.is_sign("'"):
            raise Refused("a prime")
        node = self.atom()
        if self.is_sign("^", "**"):
            self.i += 1
            node = ("pow", node, self.exponent())
        return node

    def atom(self) -> tuple:
        """A number, a name, a group, or a command with its arguments."""
        token = self.peek()
        if token.kind == "number":
            return self.digits()
        if token.kind == "letters" or token.kind == "word" and token.text in FUNCTIONS:
            return self.letters()
        if token.kind == "command":
            self.i += 1
            return self.command(token.text)
        if token.kind == "sign" and token.text in CLOSING:
            return self.group()
        raise Refused(f"{token.text!r} cannot stand here" if token.text else "something is missing")

    def group(self) -> tuple:
        """(a), [a], {a} or |a|."""
        opened = self.peek().text
        self.i += 1
        if opened == "|":
            self.bars += 1
            node = ("call", "abs", (self.sum(),))
            self.bars -= 1
            self.expect("|")
            return node
        bars, self.bars = self.bars, 0
        node = self.sum()
        if self.is_command("choose") and opened == "{":
            self.i += 1
            node = ("call", "binomial", (node, self.sum()))
        self.bars = bars
        self.expect(CLOSING[opened])
        return node

    def digits(self) -> tuple:
        """A number: plain, repeating, or mixed."""
        text = self.peek().text
        self.i += 1
        if self.is_sign(".") and not self.peek().spaced and self.is_command("overline", "dot", ahead=1):
            self.i += 1
            return self.repeating(text + ".")
        if self.is_command("overline", "dot") and "." in text:
            return self.repeating(text)
        if self.is_command("ldots") and "." in text or [
            self.peek(a).text for a in range(3)] == [".", ".", "."] and "." in text:
            self.i += 1 if self.is_command("ldots") else 3
            return going_on(text)
        if "." in text and self.is_sign("(") and self.peek(1).kind == "number":
            raise Refused("a decimal with a bracket may repeat or be a product")
        return self.mixed(text) or number(text)

    def repeating(self, text: str) -> tuple:
        """0.1\\overline{6}: digits, then the block under the line."""
        self.i += 1
        self.expect("{")
        block = self.peek()
        if block.kind != "number" or not block.text.isdigit():
            raise Refused("digits are missing under the line")
        self.i += 1
        self.expect("}")
        if self.peek().kind == "number":
            raise Refused("digits behind a repeating block")
        return repeated(text, block.text)

    def mixed(self, text: str) -> tuple | None:
        """3\\frac{1}{2} or 3 1/2: a whole number and a proper fraction, or None."""
        if not text.isdigit():
            return None
        here = self.i
        if self.is_command("frac"):
            self.i += 1
            parts = [self.argument(), self.argument()]
        elif self.peek().kind == "number" and self.is_sign("/", ahead=1):
            if not self.peek().spaced or self.peek(2).kind != "number":
                return None
            parts = [number(self.peek().text), number(self.peek(2).text)]
            self.i += 3
        else:
            return None
        if all(part[0] == "num" and not part[2] for part in parts):
            top, bottom = parts[0][1], parts[1][1]
            if 0 < top < bottom:
                return ("num", fractions.Fraction(int(text)) + top / bottom, 0, 0)
            raise Refused("a number beside an improper fraction")
        self.i = here
        return None

    def letters(self) -> tuple:
        """A name: a function, a constant, or symbols."""
        token = self.peek()
        run = token.text
        if run in MODULES and self.is_sign(".", ahead=1) and self.peek(2).kind == "letters":
            self.i += 2
            return self.letters()
        called = self.is_sign("(", ahead=1)
        if run in FUNCTIONS and (called or run not in CALLED_ONLY):
            self.i += 1
            return self.function(FUNCTIONS[run], called)
        if run in CONSTANTS:
            self.i += 1
            return ("const", CONSTANTS[run])
        if len(run) > 1 and run not in GREEK and not run.isupper():
            if len(run) > 3:
                raise Refused(f"{run!r} is a word")
            split = [Token("letters", run[0], token.spaced)]
            split += [Token("letters", letter) for letter in run[1:]]
            self.tokens[self.i : self.i + 1] = split
            run = run[0]
        self.i += 1
        if self.is_sign("'"):
            raise Refused("a prime")
        if run == "e" or run == "E" and self.python_e:
            return ("const", "e")
        if run == "i" or run == "I" and self.python_i:
            return ("const", "i")
        return ("sym", run + self.subscript())

    def subscript(self) -> str:
        """The text of _{...} behind a name, or ""."""
        if not self.is_sign("_"):
            return ""
        self.i += 1
        if not self.is_sign("{"):
            token = self.peek()
            if token.kind not in ("number", "letters", "word"):
                raise Refused("an index without its text")
            self.i += 1
            return "_" + token.text
        start, depth = self.i + 1, 0
        while self.i < len(self.tokens):
            depth += {"{": 1, "}": -1}.get(self.peek().text, 0)
            self.i += 1
            if depth == 0:
                return "_" + " ".join(t.text for t in self.tokens[start : self.i - 1])
        raise Refused("an index without its end")

    def argument(self) -> tuple:
        """A command's argument: a group, one digit, or one atom."""
        token = self.peek()
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            first, rest = token.text[0], token.text[1:]
            self.tokens[self.i : self.i + 1] = [Token("number", first), Token("number", rest)]
        elif token.kind == "letters" and len(token.text) > 1 and token.text not in CONSTANTS:
            first, rest = token.text[0], token.text[1:]
            self.tokens[self.i : self.i + 1] = [Token("letters", first), Token("letters", rest)]
        if self.peek().kind == "number":
            self.i += 1
            return number(self.tokens[self.i - 1].text)
        return self.atom()

    def command(self, name: str) -> tuple:
        """What a command begins."""
        if name == "frac":
            return ("div", self.argument(), self.argument())
        if name == "binom":
            return ("call", "binomial", (self.argument(), self.argument()))
        if name == "sqrt":
            index = integer(2)
            if self.is_sign("["):
                index = self.group()
            return ("root", index, self.atom())
        if name in CONSTANTS:
            return ("const", CONSTANTS[name])
        if name in GREEK:
            return ("sym", "\\" + name + self.subscript())
        if name in _COMMAND_FUNCTIONS:
            return self.function(FUNCTIONS[name], self.is_sign("("))
        if name in ("lfloor", "lceil"):
            node = ("call", "floor" if name == "lfloor" else "ceiling", (self.sum(),))
            if not self.is_command("r" + name[1:]):
                raise Refused("a rounding bracket without its end")
            self.i += 1
            return node
        if name in DECORATIONS:
            return ("sym", f"\\{name} {self.label()}")
        if name.startswith("begin:") and name[6:] in MATRICES:
            return self.matrix(name[6:])
        raise Refused(f"\\{name} is not read")

    def label(self) -> str:
        """The letters that a line, an arrow or an angle sign stands over or before."""
        braced = self.is_sign("{")
        self.i += braced
        token = self.peek()
        if token.kind != "letters":
            raise Refused("a name is missing")
        self.i += 1
        if braced:
            self.expect("}")
        return token.text

    def function(self, name: str, called: bool) -> tuple:
        """A function's powers, base and arguments."""
        power = base = None
        while self.is_sign("^", "_"):
            is_power = self.peek().text == "^"
            self.i += 1
            if is_power:
                power = self.exponent()
            elif name == "log" and base is None:
                base = self.argument()
            else:
                raise Refused("an index at a function")
        self.inside += 1
        arguments = self.arguments()
        self.inside -= 1
        if base is not None:
            arguments = (*arguments, base)
        if power is not None and power[0] == "num" and power[1] == -1:
            if "arc" + name not in FUNCTIONS:
                raise Refused("an inverse that has no name")
            return ("call", "arc" + name, arguments)
        node = ("call", name, arguments)
        return node if power is None else ("pow", node, power)

    def arguments(self) -> tuple:
        """(a, b), {a}, |a|, or the factors side by side up to the next operator."""
        if self.is_sign("("):
            self.i += 1
            bars, self.bars = self.bars, 0
            found = [self.sum()]
            while self.is_sign(","):
                self.i += 1
                found.append(self.sum())
            self.bars = bars
            self.expect(")")
            return tuple(found)
        sign = -1 if self.is_sign("-") else 1
        self.i += sign < 0
        parts = [self.power()]
        while self.starts_factor() and not self.begins_function() and not self.is_sign("(", "["):
            if self.peek().kind == "number" and parts[-1][0] in ("num", "sym", "const"):
                raise Refused("a number stands directly behind another or a name")
            parts.append(self.power())
        node = parts[0] if len(parts) == 1 else ("prod", tuple(parts))
        return (negative(node) if sign < 0 else node,)

    def begins_function(self) -> bool:
        """Whether the next token is a function's name."""
        token = self.peek()
        if token.kind == "command":
            return token.text in _COMMAND_FUNCTIONS
        return token.kind in ("letters", "word") and token.text in FUNCTIONS

    def matrix(self, name: str) -> tuple:
        """Rows up to \\end{...}."""
        rows = [[]]
        while True:
            if self.is_command("end:" + name):
                self.i += 1
                break
            if self.is_sign("\\\\"):
                self.i += 1
                rows.append([])
                continue
            rows[-1].append(self.sum())
            if self.is_sign("&"):
                self.i += 1
            elif not self.is_sign("\\\\") and not self.is_command("end:" + name):
                raise Refused("a matrix that is not rows and columns")
        return matrix([row for row in rows if row])


def matrix(rows: list[list[tuple]]) -> tuple:
    """The node of rows of equal length."""
    if not rows or len({len(row) for row in rows}) != 1:
        raise Refused("rows of different lengths")
    return ("matrix", tuple(map(tuple, rows)))


def negative(node: tuple) -> tuple:
    """-node; a number keeps being one."""
    if node[0] == "num":
        return ("num", -node[1], *node[2:])
    return ("prod", (integer(-1), node))


def repeated(text: str, block: str) -> tuple:
    """0.1 and the block 6 -> 1/6."""
    if len(text) + len(block) > 200:
        raise Refused("the repeating decimal is too long")
    whole, _, start = text.partition(".")
    value = fractions.Fraction(int(whole + start or "0"))
    value += fractions.Fraction(int(block), 10 ** len(block) - 1)
    return ("num", value / 10 ** len(start), 0, 0)


def going_on(text: str) -> tuple:
    """0.1666... -> 1/6: the shortest block that ends the digits, shown often enough."""
    whole, _, decimals = text.partition(".")
    match = re.search(r"(\d{1,12}?)\1+$", decimals[-60:])
    if match is None or len(match[0]) < 3 or len(decimals) > 60:
        raise Refused("it does not say how the digits go on")
    return repeated(f"{whole}.{decimals[: match.start()]}", match[1])


def symbols(node) -> set[str]:
    """The free names in a tree."""
    if not isinstance(node, tuple):
        return set()
    if node and node[0] == "sym":
        return {node[1]}
    return set().union(*map(symbols, node)) if node else set()


def choose_sign(node, sign: int):
    """The tree with \\pm as `sign` and \\mp as its opposite."""
    if not isinstance(node, tuple):
        return node
    if node and node[0] == "pm":
        inner = choose_sign(node[2], sign)
        return inner if node[1] * sign > 0 else negative(inner)
    return tuple(choose_sign(part, sign) for part in node)


def has_sign_choice(node) -> bool:
    """Whether \\pm or \\mp is in the tree."""
    if not isinstance(node, tuple):
        return False
    return bool(node) and node[0] == "pm" or any(map(has_sign_choice, node))
