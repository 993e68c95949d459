"""The supervisor's end of the socket to the trainer, who is trusted: whole frames both ways.

`Outbox` is how the supervisor writes to any socket, a session's too: it never blocks.
"""

import asyncio
import socket

from aster_jax.tools import frames


class Outbox:
    """Bytes on their way into a non-blocking socket; what it has no room for waits here."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: socket.socket):
        self.loop, self.socket = loop, target
        self.unsent = bytearray()
        self.waits = False  # whether the loop watches for room in the socket

    def send(self, data: bytes) -> None:
        """Sends behind what is still unsent."""
        self.unsent += data
        self.flush()

    def flush(self) -> None:
        """Writes what the socket takes; a dead peer takes all, its reader sees the end."""
        try:
            count = self.socket.send(self.unsent)
        except BlockingIOError:
            count = 0
        except OSError:
            count = len(self.unsent)
        del self.unsent[:count]
        if self.unsent:
            self.loop.add_writer(self.socket.fileno(), self.flush)
            self.waits = True
        else:
            self.rest()

    def rest(self) -> None:
        """No longer watches for room; also before the socket is closed."""
        if self.waits:
            self.loop.remove_writer(self.socket.fileno())
            self.waits = False


class Link:
    """The socket to the trainer: whole frames in, to `take`; buffered frames out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, take):
        self.loop, self.socket = loop, socket.socket(fileno=descriptor)
        self.socket.setblocking(False)
        self.decoder, self.outbox = frames.Decoder(), Outbox(loop, self.socket)
        self.ended = loop.create_future()
        self.take, self.due = take, False
        loop.add_reader(descriptor, self.read)

    def read(self) -> None:
        """Takes what arrived; the end of the stream ends the supervisor."""
        try:
            data = self.socket.recv(frames.READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.loop.remove_reader(self.socket.fileno())
            if not self.ended.done():
                self.ended.set_result(None)
            return
        for message in self.decoder.feed(data):
            if message.get("op") == "ping":  # answered while the first zygote loads, too
                self.send({"op": "pong", "call": message["call"]})
            else:
                self.take(message)

    def send(self, message: dict) -> None:
        """Sends with all else that comes up now, without blocking: what a slow trainer has
        not taken waits in memory."""
        self.outbox.unsent += frames.pack(message)
        if not self.due:
            self.due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Sends what has come up."""
        self.due = False
        self.outbox.flush()
