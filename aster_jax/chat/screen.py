"""What a terminal is shown: model-written text made harmless, and plain ANSI colours.

Model and tool can print anything, control sequences of the terminal included; `Screen`
is the only way from them to it.
"""

import re
from typing import TextIO

from aster_jax.data import visible

COLOURS = {"thought": "2", "code": "36", "output": "33", "note": "1;34", "error": "31"}
# The text of a call's "code" as far as it has come, in JSON.
_CODE = re.compile(r'"code"\s*:\s*"((?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*)')
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.S)
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def code_so_far(call: str) -> str:
    """The code of a call whose JSON has come in part; "" before it begins."""
    found = _CODE.search(call)
    if not found:
        return ""
    text = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _SHORT.get(m[2], m[2]), found[1])
    # Characters beyond 16 bits are two escapes in JSON; one alone waits for the other.
    text = text[:-1] if "\ud800" <= text[-1:] <= "\udbff" else text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Screen:
    """Writes stretches of text of one kind after another, each begun on a line of its own.

    Args:
      out: where to; colours only if that is a terminal.
      dumb: no colours in any case (NO_COLOR, TERM=dumb).
    """

    def __init__(self, out: TextIO, dumb: bool = False):
        self._out = out
        self._coloured = out.isatty() and not dumb
        self._kind, self._at_start = "", True

    def begin(self, kind: str, title: str = "") -> None:
        """What follows is of this kind, until the next call; the title on a line before it."""
        self.end()
        self._kind = kind
        if title:
            self._write(visible.escaped(title) + "\n", "note")

    def write(self, text: str) -> None:
        """More text of the kind that was begun; made harmless here."""
        if text:
            self._write(visible.escaped(text), self._kind)

    def end(self) -> None:
        """End the line that is open."""
        if not self._at_start:
            self._write("\n", "")
        self._kind = ""

    def line(self, text: str, kind: str = "note") -> None:
        """One line of our own."""
        self.end()
        self._write(visible.escaped(text) + "\n", kind)

    def _write(self, text, kind):
        encoding = self._out.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        colour = COLOURS.get(kind) if self._coloured else None
        # Colour never spans a line's end, so that whatever is written next starts plain.
        if colour:
            lines = text.split("\n")
            text = "\n".join(f"\x1b[{colour}m{line}\x1b[0m" if line else "" for line in lines)
        self._out.write(text)
        self._out.flush()
        self._at_start = text.endswith("\n") if text else self._at_start
