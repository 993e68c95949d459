"""The supervisor's end of one session process; every byte from it counts as hostile.

Holds the protocol socket, both output pipes and the pidfd. It recognises replies, keeps
output within bounds, and reports events to its owner by method calls: `on_ready`,
`on_reply`, `on_violation`, `on_overflow`. What an event means is decided there.
"""

import asyncio
import os
import secrets
import select
import signal
import socket
import time

from aster_jax.tools import frames, link, result, rollback

REPLY_CAP_BYTES = 1 << 16
PROMOTE_S = 2.0  # a paused copy that takes longer is given up


class Process:
    """One live session process. Resource: three descriptors, a pidfd, a uid."""

    def __init__(self, owner, loop: asyncio.AbstractEventLoop, settings: dict, uid: int):
        self.owner, self.loop, self.settings, self.uid = owner, loop, settings, uid
        self.socket, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        pairs = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        self.pipes = [read for read, _ in pairs]
        self.remote = [remote.detach(), pairs[0][1], pairs[1][1]]
        for pipe in self.pipes:
            os.set_blocking(pipe, False)
        self.decoder = frames.Decoder(REPLY_CAP_BYTES)
        self.outputs = self.fresh_outputs()
        self.rollback = rollback.Rollback(self, loop) if settings["checkpoints"] else None
        if self.rollback is not None:
            self.remote += self.rollback.remote
        self.pidfd = self.pid = self.root_pidfd = self.last_report = None
        self.ready = self.frozen = self.dead = self.seeded = False
        self.nonce = None  # the id of the call in flight, which a forger has to guess
        self.outbox = link.Outbox(loop, self.socket)
        self.idle_cpu_s = 0.0
        self.watched = False  # whether the loop reads the pipes as they fill
        self.printed_on = select.poll()
        for pipe in self.pipes:
            self.printed_on.register(pipe, select.POLLIN)

    def fresh_outputs(self) -> list[result.Output]:
        """Empty collectors for the two streams."""
        head, tail = self.settings["output_head_bytes"], self.settings["output_tail_bytes"]
        return [result.Output(head, tail), result.Output(head, tail)]

    def attach(self, pidfd: int) -> None:
        """The zygote forked it: `pidfd` names the process from now on."""
        self.root_pidfd = pidfd
        if self.rollback is None:
            self.pidfd, self.pid = pidfd, find_pid(pidfd)
        for number in self.remote:
            os.close(number)
        self.remote = []
        if self.dead:  # closed while it was being forked
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return
        self.loop.add_reader(self.socket.fileno(), self.read_socket)

    def watch_pipes(self) -> None:
        """Reads the pipes as they fill until the call ends.

        Most cells end at once and print little: their pipes are read with the reply, which
        saves waking up for every line.
        """
        for index, pipe in enumerate(self.pipes):
            self.loop.add_reader(pipe, self.read_pipe, index)
        self.watched = True

    def leave_pipes(self) -> None:
        """Undoes `watch_pipes`; what is printed between calls waits in the pipes."""
        if self.watched:
            for pipe in self.pipes:
                self.loop.remove_reader(pipe)
            self.watched = False

    def start_call(self, code: str, limit_s: float) -> None:
        """Sends one cell; the reply has to carry the nonce made here."""
        if self.frozen:
            self.thaw()
        if self.rollback is not None:
            self.rollback.begin()
        self.nonce = secrets.randbits(53)
        request = {"id": self.nonce, "code": code, "limit_s": limit_s}
        if not self.seeded:  # the first cell makes a spare somebody's session
            self.seeded, request["seed"] = True, self.owner.seed
        self.outbox.send(frames.pack(request))

    def read_socket(self) -> None:
        """Takes what arrived on the protocol socket."""
        try:
            if self.ready or self.rollback is None:
                data = self.socket.recv(frames.READ_BYTES)
            else:
                data, descriptors, _, _ = socket.recv_fds(self.socket, frames.READ_BYTES, 1)
                for number in descriptors:
                    self.rollback.listen(number)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # closed by a crash or by the cell: it cannot serve any more
            self.loop.remove_reader(self.socket.fileno())
            self.kill()
            return
        try:
            messages = self.decoder.feed(data)
        except frames.FrameError as error:
            self.owner.on_violation(self, str(error))
            return
        for message in messages:
            if not self.take(message):
                return
        if self.decoder.buffer and self.nonce is None:
            self.owner.on_violation(self, "bytes after the reply")

    def take(self, message: dict) -> bool:
        """Handles one frame; False if the stream is not to be read any further."""
        if not self.ready and message == {"ready": 1}:
            self.ready = True
            self.owner.on_ready(self)
            return True
        if self.rollback is not None and self.last_report is not None:
            if set(message) == {"promoted"} and type(message["promoted"]) is int:
                self.rollback.watch(message["promoted"])
                return True
        claim = check_claim(message) if self.nonce is not None else None
        if claim is None or claim["id"] != self.nonce:
            self.owner.on_violation(self, "a frame that answers nothing")
            return False
        self.nonce = None
        self.drain()
        if self.rollback is not None:
            self.rollback.discard()
        self.owner.on_reply(self, claim)
        return not self.dead

    def on_runner(self, pidfd: int) -> None:
        """The stub names the runner: the first one, or a copy that was put in place."""
        if self.pidfd is not None:
            os.close(self.pidfd)
        self.pidfd, self.pid = pidfd, find_pid(pidfd)
        if self.last_report is not None:
            report, self.last_report = self.last_report, None
            self.frozen = False
            self.owner.on_restored(self, report)

    def on_runner_dead(self, report: dict) -> None:
        """The runner died: its copy takes over, or the session ends."""
        self.drain()
        self.outbox.drop()
        self.nonce, self.decoder = None, frames.Decoder(REPLY_CAP_BYTES)
        try:
            while self.socket.recv(frames.READ_BYTES):  # its last words; the copy is silent yet
                pass
        except OSError:
            pass
        self.last_report = report
        if self.rollback.promote():
            self.loop.add_reader(self.socket.fileno(), self.read_socket)
            self.loop.call_later(PROMOTE_S, self.give_up, report)
        else:
            rollback.kill_root(self)

    def give_up(self, report: dict) -> None:
        """The copy did not answer in time."""
        if self.last_report is report and not self.dead:
            rollback.kill_root(self)

    def read_pipe(self, index: int) -> None:
        """Takes printed bytes; what overflows the hard cap is the owner's business."""
        if self.read_once(index) and self.printed() > self.settings["output_kill_mib"] << 20:
            self.owner.on_overflow(self)

    def read_once(self, index: int) -> bool:
        """One read of one pipe into its collector; False when there is nothing."""
        try:
            data = os.read(self.pipes[index], frames.READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.loop.remove_reader(self.pipes[index])
            return False
        self.outputs[index].feed(data)
        return True

    def printed(self) -> int:
        """Bytes pushed through both pipes in this cell."""
        return self.outputs[0].total + self.outputs[1].total

    def drain(self) -> None:
        """Reads what is left in the pipes, at most their capacity."""
        for _ in range(64):
            full = [] if self.dead else self.printed_on.poll(0)
            if not any([self.read_once(self.pipes.index(pipe)) for pipe, _ in full]):
                return

    def cpu_s(self) -> float:
        """Processor time used so far by all its threads, from the kernel."""
        if self.pid is None:
            return 0.0
        try:
            return time.clock_gettime(~self.pid << 3 | 2)  # the clock of another process
        except OSError:
            return 0.0

    def peak_rss_bytes(self) -> int:
        """Largest resident size so far; 0 where the kernel does not tell."""
        try:
            with open(f"/proc/{self.pid}/status", "rb") as status:
                for row in status:
                    if row.startswith(b"VmHWM"):
                        return int(row.split()[1]) << 10
        except OSError:
            pass
        return 0

    def signal(self, number: int) -> None:
        """Sends a signal through the pidfd: never to a recycled pid."""
        if self.pidfd is not None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """SIGKILL; the zygote reports the exit."""
        self.signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stops every thread until the next call."""
        self.frozen = True
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undoes `freeze`."""
        self.frozen = False
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        """Drops every descriptor; readers go first, since numbers are reused."""
        if self.dead:
            return
        self.dead = True
        self.kill()
        if self.rollback is not None:
            if self.root_pidfd is not None:
                rollback.kill_root(self)
            self.rollback.close()
        self.outbox.rest()
        self.loop.remove_reader(self.socket.fileno())
        self.socket.close()
        self.leave_pipes()
        for pipe in self.pipes:
            os.close(pipe)

    def forget(self) -> None:
        """After the exit was reported: the last descriptor goes."""
        self.close()
        for number in self.remote:
            os.close(number)
        self.remote = []
        for number in {self.pidfd, self.root_pidfd} - {None}:
            os.close(number)
        self.pidfd = self.root_pidfd = None


def check_claim(message: dict) -> dict | None:
    """The reply with every field of the right type and size, or None."""
    wanted = {
        "id": int, "status": str, "type": str, "message": str, "shown": int, "threads": int,
        "dropped": int,
    }
    if set(message) != set(wanted):
        return None
    for name, kind in wanted.items():
        if type(message[name]) is not kind:
            return None
        if kind is int and not 0 <= message[name] < 1 << 60:
            return None
    return message if message["status"] in result.CLAIMABLE else None


def find_pid(pidfd: int) -> int:
    """The pid, in this process's view, behind a pidfd from another PID namespace."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as rows:
        for row in rows:
            if row.startswith("Pid:"):
                return int(row.split()[1])
    raise OSError("no Pid line in the fdinfo of a pidfd")
