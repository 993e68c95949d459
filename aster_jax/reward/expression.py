"""Tokens -> one expression, as a tree (`tree.py`). A strict recursive descent: all or Refused.

LaTeX and Python differ in spelling only (`\\frac{1}{2}`, `1/2`, `Rational(1, 2)`), so one
grammar reads both. Where they are ambiguous (`1/2x`) products go from left to right.
"""

from aster_jax.reward import names, numerals, tree
from aster_jax.reward.tokens import Cursor, Refused, Token

DEPTH = 80
CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|"}


def parse(tokens: list[Token]) -> tuple:
    """The expression that all of the tokens make. Raises Refused."""
    parser = Parser(tokens)
    node = parser.sum()
    if parser.at.peek().kind:
        raise Refused(f"something is left over: {parser.at.peek().text!r}")
    return node


class Parser:
    """One descent: where it is (`at`), how deep, inside how many bars and functions."""

    def __init__(self, tokens: list[Token]):
        self.at, self.depth = Cursor(tokens), 0
        self.bars = self.inside = 0  # open absolute values; function arguments
        signs = {t.text for t in tokens if t.kind == "sign"}
        latex = any(t.kind == "command" for t in tokens)
        called = any(t.kind == "letters" and t.text in names.FUNCTIONS for t in tokens)
        self.python_i = not latex and bool(signs & {"*", "**", "+", "-", "/"})
        self.python_j = self.python_i and self.is_complex(tokens)
        self.python_e = not latex and (bool(signs & {"*", "**"}) or called)

    @staticmethod
    def is_complex(found: list[Token]) -> bool:
        """Whether a j stands behind a number, as Python prints 2j, and no i beside it."""
        joined = [
            a.kind == "number" and b.text == "j" and not b.spaced for a, b in zip(found, found[1:])
        ]
        return any(joined) and not any(t.text in ("i", "I", "k") for t in found)

    # The grammar, from the loosest to the tightest.

    def sum(self) -> tuple:
        """Terms with + and - between them."""
        self.depth += 1
        if self.depth > DEPTH:
            raise Refused("too deeply nested")
        parts = [self.signed()]
        while self.at.is_sign("+", "-") or self.at.is_command("pm", "mp"):
            parts.append(self.signed())
        self.depth -= 1
        return parts[0] if len(parts) == 1 else ("sum", tuple(parts))

    def signed(self) -> tuple:
        """One term with the signs before it."""
        sign, alternating = 1, 0
        while True:
            if self.at.is_sign("+", "-"):
                sign = -sign if self.at.peek().text == "-" else sign
            elif self.at.is_command("pm", "mp") and not alternating:
                alternating = 1 if self.at.peek().text == "pm" else -1
            else:
                break
            self.at.i += 1
        node = self.term()
        if sign < 0:
            node = tree.negative(node)
        return ("pm", alternating, node) if alternating else node

    def term(self) -> tuple:
        """Factors: *, /, or side by side."""
        node = last = self.power()
        while True:
            if self.at.is_sign("*") or self.at.is_command("cdot", "times"):
                self.at.i += 1
                last = self.factor()
                node = ("prod", (node, last))
            elif self.at.is_sign("/") or self.at.is_command("div"):
                self.at.i += 1
                last = self.factor()
                node = ("div", node, last)
            elif self.starts_factor():
                if self.at.peek().kind == "number" and last[0] in ("num", "sym", "const"):
                    raise Refused("a number stands directly behind another or a name")
                last = self.power()
                node = ("prod", (node, last))
            else:
                return node

    def factor(self) -> tuple:
        """A factor behind an operator: it may have a sign."""
        sign = 1
        while self.at.is_sign("-", "+"):
            sign = -sign if self.at.peek().text == "-" else sign
            self.at.i += 1
        node = self.power()
        return tree.negative(node) if sign < 0 else node

    def starts_factor(self) -> bool:
        """Whether the next token can begin a factor with no sign before it."""
        token = self.at.peek()
        if token.kind in ("number", "letters"):
            return True
        if token.kind == "word":
            return token.text in names.FUNCTIONS
        if token.kind == "sign":
            return token.text in "([{" or token.text == "|" and not self.bars
        ends = token.text in names.ENDS or token.text.startswith("end:")
        return token.kind == "command" and not ends

    def power(self) -> tuple:
        """An atom with !, ^, ** behind it."""
        node = self.atom()
        while True:
            if self.at.is_sign("!"):
                self.at.i += 1
                if self.at.is_sign("!"):
                    raise Refused("double factorial")
                node = ("call", "factorial", (node,))
            elif self.at.is_sign("^", "**"):
                self.at.i += 1
                node = ("pow", node, self.exponent())
            elif self.inside and self.at.is_command("degree"):
                self.at.i += 1
                node = ("div", ("prod", (node, ("const", "pi"))), tree.integer(180))
            else:
                return node

    def exponent(self) -> tuple:
        """What stands behind ^: a group, or one signed atom."""
        if self.at.is_sign("-", "+"):
            minus = self.at.peek().text == "-"
            self.at.i += 1
            node = self.exponent()
            return tree.negative(node) if minus else node
        if self.at.is_sign("'"):
            raise Refused("a prime")
        node = self.atom()
        if self.at.is_sign("^", "**"):
            self.at.i += 1
            node = ("pow", node, self.exponent())
        return node

    def atom(self) -> tuple:
        """A number, a name, a group, or a command with its arguments."""
        token = self.at.peek()
        if token.kind == "number":
            return numerals.number(self.at, self.argument)
        if token.kind == "letters" or token.kind == "word" and token.text in names.FUNCTIONS:
            return self.letters()
        if token.kind == "command":
            self.at.i += 1
            return self.command(token.text)
        if token.kind == "sign" and token.text in CLOSING:
            return self.group()
        raise Refused(f"{token.text!r} cannot stand here" if token.text else "something is missing")

    def group(self) -> tuple:
        """(a), [a], {a} or |a|."""
        opened = self.at.peek().text
        self.at.i += 1
        if opened == "|":
            self.bars += 1
            node = ("call", "abs", (self.sum(),))
            self.bars -= 1
            self.at.expect("|")
            return node
        bars, self.bars = self.bars, 0
        node = self.sum()
        if self.at.is_command("choose") and opened == "{":
            self.at.i += 1
            node = ("call", "binomial", (node, self.sum()))
        self.bars = bars
        self.at.expect(CLOSING[opened])
        return node

    def letters(self) -> tuple:
        """A name: a function, a constant, or symbols."""
        token = self.at.peek()
        run = token.text
        dotted = self.at.is_sign(".", ahead=1) and self.at.peek(2).kind == "letters"
        if run in names.MODULES and dotted:
            self.at.i += 2
            return self.letters()
        called = self.at.is_sign("(", ahead=1)
        if run in names.FUNCTIONS and (called or run not in names.CALLED_ONLY):
            self.at.i += 1
            return self.function(names.FUNCTIONS[run], called)
        if run in names.CONSTANTS:
            self.at.i += 1
            return ("const", names.CONSTANTS[run])
        if len(run) > 1 and run not in names.GREEK and not run.isupper():
            if len(run) > 3:
                raise Refused(f"{run!r} is a word")
            split = [Token("letters", run[0], token.spaced)]
            split += [Token("letters", letter) for letter in run[1:]]
            self.at.tokens[self.at.i : self.at.i + 1] = split
            run = run[0]
        self.at.i += 1
        if self.at.is_sign("'"):
            raise Refused("a prime")
        if run == "e" or run == "E" and self.python_e:
            return ("const", "e")
        if run == "i" or run == "I" and self.python_i or run == "j" and self.python_j:
            return ("const", "i")
        if run in names.GREEK:
            run = "\\" + run
        return ("sym", run + self.subscript())

    def subscript(self) -> str:
        """The text of _{...} behind a name, or ""."""
        if not self.at.is_sign("_"):
            return ""
        self.at.i += 1
        if not self.at.is_sign("{"):
            token = self.at.peek()
            if token.kind not in ("number", "letters", "word"):
                raise Refused("an index without its text")
            self.at.i += 1
            return "_" + token.text
        start, depth = self.at.i + 1, 0
        while self.at.i < len(self.at.tokens):
            depth += {"{": 1, "}": -1}.get(self.at.peek().text, 0)
            self.at.i += 1
            if depth == 0:
                return "_" + " ".join(t.text for t in self.at.tokens[start : self.at.i - 1])
        raise Refused("an index without its end")

    def argument(self) -> tuple:
        """A command's argument: a group, one digit, or one atom."""
        token = self.at.peek()
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self.at.cut_first()
        elif token.kind == "letters" and len(token.text) > 1 and token.text not in names.CONSTANTS:
            self.at.cut_first()
        if self.at.peek().kind == "number":
            self.at.i += 1
            return tree.number(self.at.tokens[self.at.i - 1].text)
        return self.atom()

    def command(self, name: str) -> tuple:
        """What a command begins."""
        if name == "frac":
            return ("div", self.argument(), self.argument())
        if name == "binom":
            return ("call", "binomial", (self.argument(), self.argument()))
        if name == "sqrt":
            index = tree.integer(2)
            if self.at.is_sign("["):
                index = self.group()
            return ("root", index, self.atom())
        if name in names.CONSTANTS:
            return ("const", names.CONSTANTS[name])
        if name in names.GREEK:
            return ("sym", "\\" + name + self.subscript())
        if name in names.COMMANDS:
            return self.function(names.FUNCTIONS[name], self.at.is_sign("("))
        if name in ("lfloor", "lceil"):
            node = ("call", "floor" if name == "lfloor" else "ceiling", (self.sum(),))
            if not self.at.is_command("r" + name[1:]):
                raise Refused("a rounding bracket without its end")
            self.at.i += 1
            return node
        if name in names.DECORATIONS:
            return ("sym", f"\\{name} {self.label()}")
        if name.startswith("begin:") and name[6:] in names.MATRICES:
            return self.matrix(name[6:])
        raise Refused(f"\\{name} is not read")

    def label(self) -> str:
        """The letters that a line, an arrow or an angle sign stands over or before."""
        braced = self.at.is_sign("{")
        self.at.i += braced
        token = self.at.peek()
        if token.kind != "letters":
            raise Refused("a name is missing")
        self.at.i += 1
        if braced:
            self.at.expect("}")
        return token.text

    def function(self, name: str, called: bool) -> tuple:
        """A function's powers, base and arguments."""
        power = base = None
        while self.at.is_sign("^", "_"):
            is_power = self.at.peek().text == "^"
            self.at.i += 1
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
            if "arc" + name not in names.FUNCTIONS:
                raise Refused("an inverse that has no name")
            return ("call", "arc" + name, arguments)
        node = ("call", name, arguments)
        return node if power is None else ("pow", node, power)

    def arguments(self) -> tuple:
        """(a, b), {a}, |a|, or the factors side by side up to the next operator."""
        if self.at.is_sign("("):
            self.at.i += 1
            bars, self.bars = self.bars, 0
            found = [self.sum()]
            while self.at.is_sign(","):
                self.at.i += 1
                found.append(self.sum())
            self.bars = bars
            self.at.expect(")")
            return tuple(found)
        sign = -1 if self.at.is_sign("-") else 1
        self.at.i += sign < 0
        parts = [self.power()]
        while self.starts_factor() and not self.begins_function() and not self.at.is_sign("(", "["):
            if self.at.peek().kind == "number" and parts[-1][0] in ("num", "sym", "const"):
                raise Refused("a number stands directly behind another or a name")
            parts.append(self.power())
        node = parts[0] if len(parts) == 1 else ("prod", tuple(parts))
        return (tree.negative(node) if sign < 0 else node,)

    def begins_function(self) -> bool:
        """Whether the next token is a function's name."""
        token = self.at.peek()
        if token.kind == "command":
            return token.text in names.COMMANDS
        return token.kind in ("letters", "word") and token.text in names.FUNCTIONS

    def matrix(self, name: str) -> tuple:
        """Rows up to \\end{...}."""
        rows = [[]]
        while True:
            if self.at.is_command("end:" + name):
                self.at.i += 1
                break
            if self.at.is_sign("\\\\"):
                self.at.i += 1
                rows.append([])
                continue
            rows[-1].append(self.sum())
            if self.at.is_sign("&"):
                self.at.i += 1
            elif not self.at.is_sign("\\\\") and not self.at.is_command("end:" + name):
                raise Refused("a matrix that is not rows and columns")
        return tree.matrix([row for row in rows if row])
