"""sys.stdout and sys.stderr inside a session: bounded, and always on the wire in time.

The first kilobytes of a cell are written as they come, so that they are in the pipe if
the cell is killed. Later output is gathered in blocks, and beyond `SENT_BYTES` only a
tail is kept here: printing 100 MB neither blocks nor fills anybody's memory.
"""

import builtins
import io
import os

# Functions below look names up in this copy: cells may replace what is in `builtins`.
__builtins__ = dict(vars(builtins))

PROMPT_BYTES, BLOCK_BYTES, SENT_BYTES = 1 << 16, 1 << 15, 1 << 20
_write = os.write


class Sink(io.RawIOBase):
    """The raw end of one stream, over a descriptor that only the harness knows.

    `before_write` is called first in every write and may raise: nothing is taken then.
    """

    def __init__(self, descriptor: int, number: int, tail_bytes: int, before_write):
        self.descriptor, self.number, self.tail_bytes = descriptor, number, tail_bytes
        self.before_write = before_write
        self.seen, self.dropped, self.block = 0, 0, bytearray()

    def writable(self) -> bool:
        """True: this is what makes it a raw writer."""
        return True

    def fileno(self) -> int:
        """The number a program expects: 1 or 2."""
        return self.number

    def write(self, data) -> int:
        """Sends, gathers or drops, depending on how much the cell has printed."""
        self.before_write()
        size, view = len(data), memoryview(data)
        self.seen += size
        if self.seen > SENT_BYTES:  # from here on only the end of what is printed counts
            excess = max(0, size - max(self.tail_bytes, BLOCK_BYTES))
            self.dropped += excess  # no call amid this: another thread could come in between
            view = view[excess:]
        self.block += view
        if self.seen <= PROMPT_BYTES or len(self.block) >= BLOCK_BYTES and self.seen <= SENT_BYTES:
            self.send()
        elif len(self.block) > 4 * self.tail_bytes + 4 * BLOCK_BYTES:
            excess = len(self.block) - self.tail_bytes
            self.dropped += excess
            del self.block[:excess]
        return size

    def send(self) -> None:
        """Writes out what is gathered; threads of the cell may go on gathering meanwhile."""
        block, self.block = self.block, bytearray()
        rest = memoryview(block)
        while rest:
            rest = rest[_write(self.descriptor, rest) :]

    def close(self) -> None:
        """Does nothing: a stream object the cell closes or drops leaves the pipe alone."""

    def finish(self) -> int:
        """Ends the cell: sends the rest and returns how many bytes were dropped."""
        self.send()
        dropped, self.seen, self.dropped = self.dropped, 0, 0
        return dropped


def open_text(sink: Sink, wrapper=io.TextIOWrapper):
    """A text stream over `sink`; any character can be written, surrogates as escapes.

    Nothing is buffered above the sink, so that half a line, too, survives a kill.
    """
    return wrapper(sink, encoding="utf-8", errors="backslashreplace", write_through=True)
