"""The supervisor's end of one session process; every byte from it counts as hostile.

Holds the protocol socket, both output pipes and the pidfd. It recognises replies, keeps
output within bounds, and reports events to its owner by method calls: `on_ready`,
`on_reply`, `on_fault` and, from the zygote, `on_exit`. What an event means is decided there.
"""

import asyncio
import collections
import contextlib
import math
import os
import secrets
import select
import signal
import socket
import time
import traceback

from aster_jax.tools import frames, linux, link, result

REPLY_CAP_BYTES = 1 << 16
# A session without a call is stopped until the next one: soon if anything in it runs, else
# after a while, since stopping and going on costs as much as a short call.
SOON_S, LATER_S = 0.005, 0.25
REST_CPU_S = 0.001  # a session that used more since its reply does not rest
CLAIM = {
    "id": int, "status": str, "type": str, "message": str, "shown": int, "threads": int,
    "dropped": int,
}


class Line:
    """Events of processes that are due the same time after they were put in.

    Nearly all of it never happens: most calls end at once and the next one follows at once.
    So it costs a place in a queue, and one timer serves all sessions.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float):
        self.loop, self.delay_s = loop, delay_s
        self.items, self.waits = collections.deque(), False

    def add(self, process, event) -> None:
        """`event` happens to `process` after the delay if its `turn` is the same then."""
        self.items.append((self.loop.time() + self.delay_s, process, process.turn, event))
        if not self.waits:
            self.waits = True
            self.loop.call_later(self.delay_s, self.serve)

    def serve(self) -> None:
        """Lets happen what is due."""
        now = self.loop.time()
        while self.items and self.items[0][0] <= now:
            _, process, turn, event = self.items.popleft()
            if process.turn == turn:
                process.guard(event)
        self.waits = bool(self.items)
        if self.waits:
            self.loop.call_at(self.items[0][0], self.serve)


class Process:
    """One live session process. Resource: three descriptors, a pidfd, a uid."""

    def __init__(
        self, owner, loop: asyncio.AbstractEventLoop, settings: dict, uid: int,
        lines: tuple[Line, Line],
    ):
        self.owner, self.loop, self.settings, self.uid = owner, loop, settings, uid
        self.soon, self.later = lines
        self.turn = 0  # counts beginnings and ends of calls
        self.used_s = 0.0  # processor time, as last told
        self.socket, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        pairs = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        self.pipes = [read for read, _ in pairs]
        self.remote = [remote.detach(), pairs[0][1], pairs[1][1]]
        self.printed_on = select.poll()
        for pipe in self.pipes:
            os.set_blocking(pipe, False)
            self.printed_on.register(pipe, select.POLLIN)
        self.decoder = frames.Decoder(REPLY_CAP_BYTES)
        self.outputs = self.fresh_outputs()
        self.pidfd = self.pid = None
        self.ready = self.frozen = self.dead = self.seeded = self.hung_up = False
        self.nonce = None  # the id of the call in flight, which a forger has to guess
        self.outbox = link.Outbox(loop, self.socket)
        self.watched = False  # whether the loop reads the pipes as they fill

    def guard(self, event, *args) -> None:
        """Handles one event of this session; what raises here ends it, and nothing else."""
        try:
            event(*args)
        except Exception as error:  # a mistake of ours: its call must still have an answer
            traceback.print_exception(error)
            self.close()
            self.owner.on_fault(self, "crashed", f"{type(error).__name__} while it was served")

    def fresh_outputs(self) -> list[result.Output]:
        """Empty collectors for the two streams."""
        head, tail = self.settings["output_head_bytes"], self.settings["output_tail_bytes"]
        return [result.Output(head, tail), result.Output(head, tail)]

    def attach(self, pidfd: int) -> None:
        """The zygote forked it: `pidfd` names the process from now on."""
        self.pidfd = pidfd
        while self.remote:
            os.close(self.remote.pop())
        if self.dead:  # closed while it was being forked
            self.kill()
            return
        self.pid = find_pid(pidfd)
        self.tasks = f"/proc/{self.pid}/task"
        self.loop.add_reader(self.socket.fileno(), self.guard, self.read_socket)

    def watch_pipes(self) -> None:
        """Reads the pipes as they fill until the call ends.

        Most cells end at once and print little: their pipes are read with the reply, which
        saves waking up for every line.
        """
        for index, pipe in enumerate(self.pipes):
            self.loop.add_reader(pipe, self.guard, self.read_pipe, index)
        self.watched = True

    def leave_pipes(self) -> None:
        """Undoes `watch_pipes`; what is printed between calls waits in the pipes."""
        if self.watched:
            for pipe in self.pipes:
                self.loop.remove_reader(pipe)
            self.watched = False

    def start_call(self, code: str, limit_s: float) -> None:
        """Sends one cell; the reply has to carry the nonce made here."""
        self.wake()
        self.turn += 1
        self.nonce = secrets.randbits(53)
        request = {"id": self.nonce, "code": code, "limit_s": limit_s}
        if not self.seeded:  # the first cell makes a spare somebody's session
            self.seeded, request["seed"] = True, self.owner.seed
        self.outbox.send(frames.pack(request))

    def read_socket(self) -> None:
        """Takes what arrived on the protocol socket."""
        try:
            data = self.socket.recv(frames.READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # closed by a crash or by the cell: it cannot serve any more
            self.loop.remove_reader(self.socket.fileno())
            self.hung_up = True
            self.kill()
            return
        try:
            messages = self.decoder.feed(data)
        except frames.FrameError as error:
            self.owner.on_fault(self, "protocol_violation", str(error))
            return
        for message in messages:
            if not self.take(message):
                return
        if self.decoder.buffer and self.nonce is None:
            self.owner.on_fault(self, "protocol_violation", "bytes after the reply")

    def take(self, message: dict) -> bool:
        """Handles one frame; False if the stream is not to be read any further."""
        if not self.ready and message == {"ready": 1}:
            self.ready = True
            path = f"/proc/{self.pid}/oom_score_adj"
            with contextlib.suppress(OSError), open(path, "w") as score:
                score.write("1000")  # the first to go when memory runs out
            self.owner.on_ready(self)
            return True
        claim = check_claim(message) if self.nonce is not None else None
        if claim is None or claim["id"] != self.nonce:
            self.owner.on_fault(self, "protocol_violation", "a frame that answers nothing")
            return False
        self.nonce = None
        self.turn += 1
        self.drain()
        self.soon.add(self, self.rest)
        self.owner.on_reply(self, claim)
        return not self.dead

    def level(self, others: int) -> None:
        """Makes its threads besides the first weigh as one thread, however many there are."""
        niceness = min(19, self.settings["niceness"] + math.ceil(math.log(others, 1.25)))
        with contextlib.suppress(OSError):  # ended, or in a container without the right
            for thread in os.listdir(self.tasks):
                if int(thread) != self.pid:
                    os.setpriority(os.PRIO_PROCESS, int(thread), niceness)

    def read_pipe(self, index: int) -> None:
        """Takes printed bytes; what overflows the hard cap is the owner's business."""
        most = self.settings["output_kill_mib"] << 20  # past the session's own printing layer
        if self.read_once(index) and sum(output.total for output in self.outputs) > most:
            self.owner.on_fault(self, "output_limit", "")

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
            self.used_s = time.clock_gettime(~self.pid << 3 | 2)  # the clock of another process
        except OSError:
            return 0.0
        return self.used_s

    def threads(self) -> int:
        """How many threads it has, from the kernel; 0 if it ended, or the host hides it."""
        try:
            return os.stat(self.tasks).st_nlink - 2  # a directory with one for each
        except OSError:
            return 0

    def wants_processor(self) -> bool:
        """Whether a thread of it runs or waits for a processor; also if that is hidden."""
        try:
            stats = [linux.read(f"{self.tasks}/{name}/stat") for name in os.listdir(self.tasks)]
        except OSError:
            return True
        return any(stat.rpartition(b")")[2][1:2] in (b"R", b"D") for stat in stats)

    def peak_rss_bytes(self) -> int:
        """Largest resident size so far; 0 where the kernel does not tell."""
        try:
            status = linux.read(f"/proc/{self.pid}/status")
            return int(status.partition(b"VmHWM:")[2].split()[0]) << 10
        except (OSError, IndexError):
            return 0

    def signal(self, number: int) -> None:
        """Sends a signal through the pidfd: never to a recycled pid."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """SIGKILL; the zygote reports the exit."""
        self.signal(signal.SIGKILL)

    def rest(self) -> None:
        """Some time after a reply: nothing of the cell may run on."""
        used_s = self.used_s
        if self.threads() == 1 and self.cpu_s() - used_s < REST_CPU_S:
            self.later.add(self, self.freeze)
        else:
            self.freeze()

    def freeze(self) -> None:
        """Stops it whole until the next call: between calls nothing of a cell may run."""
        self.frozen = True
        self.signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Undoes `freeze`."""
        if self.frozen:
            self.frozen = False
            self.signal(signal.SIGCONT)

    def close(self) -> None:
        """Drops every descriptor; readers go first, since numbers are reused."""
        if self.dead:
            return
        self.dead = True
        self.turn += 1
        self.kill()
        self.outbox.rest()
        self.loop.remove_reader(self.socket.fileno())
        self.socket.close()
        self.leave_pipes()
        for pipe in self.pipes:
            os.close(pipe)

    def forget(self) -> None:
        """After the exit was reported: the last descriptor goes."""
        self.close()
        while self.remote:
            os.close(self.remote.pop())
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def check_claim(message: dict) -> dict | None:
    """The reply with every field of the right type and size, or None."""
    if {name: type(value) for name, value in message.items()} != CLAIM:
        return None
    if any(type(value) is int and not 0 <= value < 1 << 60 for value in message.values()):
        return None
    return message if message["status"] in result.CLAIMABLE else None


def find_pid(pidfd: int) -> int | None:
    """The pid, in this process's view, behind a pidfd; None if the process has ended."""
    number = int(linux.read(f"/proc/self/fdinfo/{pidfd}").partition(b"\nPid:")[2].split()[0])
    return number if number > 0 else None
