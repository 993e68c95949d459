"""The supervisor's side of fork checkpoints: the copy before a cell, and putting it back.

Before each cell the runner forks a paused copy of itself. Forking is otherwise refused by
the session's filter; here the filter asks (seccomp user notification), and exactly one
fork per call is let through, the harness's own, since it comes before the cell. A cell
that ends well lets the copy go; when the runner dies the copy becomes the runner and the
variables are as they were before the cell.
"""

import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct

RECEIVE, ANSWER = 0xC0502100, 0xC0182101  # ioctls of a seccomp listener
NOTICE_BYTES, CONTINUE = 80, 1
DISCARD, PROMOTE = b"d", b"p"


class Rollback:
    """Keeper channel, stub socket and fork listener of one session process.

    Events go to the process: `on_runner(pidfd, pid)`, `on_runner_dead(report)`.
    """

    def __init__(self, process, loop):
        self.process, self.loop = process, loop
        self.keeper, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stub, stub = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.remote = [keeper.detach(), stub.detach()]
        self.stub.setblocking(False)
        self.keeper.setblocking(False)
        self.listener = self.runner = None
        self.allowance = 0
        self.saved = False
        loop.add_reader(self.stub.fileno(), self.read_stub)

    def listen(self, descriptor: int) -> None:
        """The runner's filter is in place; from now on forks are decided here."""
        self.listener = descriptor
        self.loop.add_reader(descriptor, self.decide)

    def decide(self) -> None:
        """One attempt to fork: the harness's, or a cell's."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        if not any(event & select.POLLIN for _, event in poll.poll(0)):
            self.loop.remove_reader(self.listener)  # nobody is left to ask
            return
        notice = bytearray(NOTICE_BYTES)
        try:
            fcntl.ioctl(self.listener, RECEIVE, notice)
            number, _, _, call = struct.unpack_from("<QIIi", notice)
            allowed = self.allowance > 0
            if allowed:
                self.allowance, self.saved = 0, True
            answer = struct.pack(
                "<QqiI", number, 0, 0 if allowed else -errno.EPERM, CONTINUE if allowed else 0
            )
            fcntl.ioctl(self.listener, ANSWER, answer)
        except FileNotFoundError:  # it was killed while it waited
            pass

    def begin(self) -> None:
        """A cell starts: its harness may fork once."""
        self.allowance, self.saved = 1, False

    def discard(self) -> None:
        """The cell ended well: its copy may go."""
        self.allowance = 0
        if self.saved:
            self.saved = False
            self.keeper.send(DISCARD)

    def promote(self) -> bool:
        """Puts the copy in place; False if there is none."""
        if not self.saved:
            return False
        self.saved = False
        self.keeper.send(PROMOTE)
        return True

    def watch(self, pid: int) -> None:
        """Asks the stub for a handle of the new runner."""
        self.stub.send(json.dumps({"watch": pid}).encode())

    def read_stub(self) -> None:
        """Handles and deaths that the stub reports."""
        while not self.process.dead:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.stub, 4096, 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self.loop.remove_reader(self.stub.fileno())
                return
            message = json.loads(data)
            if "runner" in message:
                self.runner = message["runner"]
                self.process.on_runner(descriptors[0])
            elif message["dead"] == self.runner:
                self.process.on_runner_dead(message)

    def close(self) -> None:
        """Drops every descriptor, readers first."""
        for channel in (self.stub, self.keeper):
            self.loop.remove_reader(channel.fileno())
            channel.close()
        if self.listener is not None:
            self.loop.remove_reader(self.listener)
            os.close(self.listener)


def kill_root(process) -> None:
    """Ends a session with checkpoints whole: its first process takes the others along."""
    try:
        signal.pidfd_send_signal(process.root_pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
