"""The supervisor's end of the socket to the trainer, who is trusted: whole frames both ways."""

import asyncio
import socket

from aster_jax.tools import frames


class Link:
    """The socket to the trainer: whole frames in, buffered frames out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int):
        self.loop, self.socket = loop, socket.socket(fileno=descriptor)
        self.socket.setblocking(False)
        self.decoder, self.unsent = frames.Decoder(), bytearray()
        self.ended = loop.create_future()
        self.take = None
        self.waits = False  # whether the loop watches for room in the socket

    def listen(self, take) -> None:
        """Calls `take` with every message from now on."""
        self.take = take
        self.loop.add_reader(self.socket.fileno(), self.read)

    def read(self) -> None:
        """Takes what arrived; the end of the stream ends the supervisor."""
        try:
            data = self.socket.recv(1 << 18)
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
            self.take(message)

    def send(self, message: dict) -> None:
        """Sends without blocking; a slow trainer is waited for in memory."""
        self.unsent += frames.pack(message)
        self.flush()

    def flush(self) -> None:
        """Writes what the socket takes."""
        try:
            count = self.socket.send(self.unsent)
        except BlockingIOError:
            count = 0
        except OSError:  # the trainer is gone; the reader sees the end
            count = len(self.unsent)
        del self.unsent[:count]
        if self.unsent:
            self.loop.add_writer(self.socket.fileno(), self.flush)
            self.waits = True
        elif self.waits:
            self.loop.remove_writer(self.socket.fileno())
            self.waits = False
