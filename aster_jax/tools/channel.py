"""The trainer's end of the socket to the supervisor: requests out, answers into futures.

The thread that waits for an answer reads the socket itself, since handing an answer from
thread to thread costs two wake-ups and the interpreter lock, a third of a trivial call. It
takes everybody's answers off it. For futures that nobody waits for in this way, and to see
the supervisor's end, there is a reader thread, asleep while it is not needed. A watch thread
pings a supervisor that has been quiet, and kills one that stays silent.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time

from aster_jax.tools import frames
from aster_jax.tools.config import ToolConfig
from aster_jax.tools.result import NOTES, ToolResult

ROOT = str(pathlib.Path(__file__).resolve().parents[2])
START = "import sys; sys.path.append({root!r}); from aster_jax.tools import supervisor; "
ANSWER_CAP_BYTES = 64 << 20  # an answer holds texts that the supervisor has bounded
PINGS = 4  # sent within one silence limit
MOST_S = 3600.0  # of one wait in the kernel, which counts milliseconds in 32 bits


class Channel:
    """One supervisor process, its socket, two threads and the open futures.

    `turn` belongs to the thread that reads. Who gives it up while calls are open rouses the
    reader thread, and so does who opens a call while nobody has it: no call is unattended.
    """

    def __init__(self, config: ToolConfig):
        self.config = config
        self.lost, self.reason = False, "the supervisor is gone"
        self.lock = threading.Lock()
        self.heard, self.over = 0, threading.Event()  # reads that brought something
        self.futures, self.numbers, self.groups = {}, itertools.count(1), []
        self.first = concurrent.futures.Future()
        self.turn, self.decoder = threading.Lock(), frames.Decoder(ANSWER_CAP_BYTES)
        self.waker, self.woken = socket.socketpair()
        self.waker.setblocking(False)
        self.woken.setblocking(False)
        self.socket, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.arrived = select.poll()
        self.arrived.register(self.socket, select.POLLIN)
        code = START.format(root=ROOT) + f"supervisor.main({remote.fileno()})"
        with remote:
            self.child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", code], env={}, cwd="/",
                stdin=subprocess.DEVNULL, pass_fds=(remote.fileno(),), start_new_session=True,
            )
        self.threads = [
            threading.Thread(target=job, name=f"aster-tools-{job.__name__}", daemon=True)
            for job in (self.read, self.watch)
        ]

    def start(self) -> dict:
        """Sends the settings; returns the supervisor's report once it serves."""
        for thread in self.threads:
            thread.start()
        places = {"root": ROOT, "libraries": find_libraries()}
        self.send({**dataclasses.asdict(self.config), **places})
        try:
            message = self.wait(self.first, 6 * self.config.start_limit_s)
        except concurrent.futures.TimeoutError:
            message = {"op": "failed", "error": "the supervisor did not start in time"}
        if message["op"] != "ready":
            self.close()
            raise RuntimeError(f"the tool executor cannot start: {message['error']}")
        for pid in message["report"]["zygote_pids"]:
            with contextlib.suppress(OSError):
                self.groups.append(os.open(f"/proc/{pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC))
        return message["report"]

    def send(self, message: dict) -> None:
        """Sends one frame; a dead supervisor shows at the reader, not here."""
        data = frames.pack(message)
        with self.lock, contextlib.suppress(OSError):
            self.socket.sendall(data)

    def request(self, message: dict) -> concurrent.futures.Future:
        """Sends a message that has an answer; `wait` or `attend` must follow."""
        future = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        number = next(self.numbers)
        self.futures[number] = future
        self.send({**message, "call": number})
        if self.lost:
            self.fail_all()
        return future

    def wait(self, future: concurrent.futures.Future, limit_s: float = threading.TIMEOUT_MAX):
        """The result of a request; raises concurrent.futures.TimeoutError after `limit_s`."""
        deadline = time.monotonic() + limit_s
        if self.turn.acquire(blocking=False):
            try:
                rest_s = limit_s
                while not future.done() and not self.lost and rest_s > 0:
                    self.receive(min(rest_s, MOST_S))
                    rest_s = deadline - time.monotonic()
            finally:
                self.turn.release()
                if self.futures:
                    self.rouse()
        return future.result(max(0.0, deadline - time.monotonic()))

    def attend(self) -> None:
        """Has open requests answered although nobody waits for them."""
        if self.futures and not self.turn.locked():
            self.rouse()

    def rouse(self) -> None:
        """Wakes the reader thread."""
        with contextlib.suppress(OSError):  # awake anyway, or the channel is closed
            self.waker.send(b"x")

    def read(self) -> None:
        """The reader thread: serves while calls are open, ends with the supervisor."""
        idle = select.poll()
        idle.register(self.woken, select.POLLIN)
        idle.register(self.socket, 0)  # nothing but its end
        end = self.socket.fileno()
        while not self.lost:
            ended = any(number == end for number, _ in idle.poll())
            with contextlib.suppress(BlockingIOError):
                self.woken.recv(4096)
            while (self.futures or ended) and not self.lost:
                if not self.turn.acquire(timeout=0.05):
                    break  # somebody reads, and will rouse this thread if calls are left
                try:
                    while (self.futures or ended) and not self.lost:
                        self.receive(None)
                finally:
                    self.turn.release()
        self.end()

    def watch(self) -> None:
        """The watch thread: kills a supervisor from which nothing at all comes any more.

        Only time in which this process ran counts, or a trainer that was stopped would
        blame the supervisor. Until its first word, for which a slow machine may take long,
        all that the kernel saw it do is a sign of life, too.
        """
        limit_s = self.config.silence_limit_s
        tick_s = min(1.0, limit_s / (2 * PINGS))
        seen, quiet_s, pinged_s, before, moves = 0, 0.0, 0.0, time.monotonic(), ()
        while not self.over.wait(tick_s):
            now = time.monotonic()
            quiet_s, before = quiet_s + min(now - before, 2 * tick_s), now
            if self.heard != seen or self.has_unread():
                seen, quiet_s, pinged_s = self.heard, 0.0, 0.0
            if not seen:
                moved, moves = moves, self.count_moves()
                if moved != moves or moves[:1] in ((b"R",), (b"D",)):
                    quiet_s = pinged_s = 0.0
            if quiet_s - pinged_s >= limit_s / PINGS:
                pinged_s = quiet_s
                self.ping()
            if quiet_s >= limit_s:
                self.reason = f"the supervisor went silent for {limit_s:g} s"
                self.kill()
                self.end()

    def count_moves(self) -> tuple[bytes, ...]:
        """State, page faults and processor time of the supervisor, or nothing: one that starts
        runs, waits for a disk, or has more of them at each look; a frozen one does not.
        """
        try:
            with open(f"/proc/{self.child.pid}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            return ()
        return fields[0], *fields[7:13]

    def has_unread(self) -> bool:
        """Whether something has arrived that no thread has read yet."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def ping(self) -> None:
        """Asks for a sign of life, without ever waiting for the supervisor to take it."""
        if not self.lock.acquire(blocking=False):
            return  # a large cell is on its way into a socket that is full
        try:
            number = next(self.numbers)
            self.futures[number] = concurrent.futures.Future()
            message = frames.pack({"op": "ping", "call": number})
            self.socket.send(message, socket.MSG_DONTWAIT)
        except OSError:
            self.futures.pop(number, None)
        finally:
            self.lock.release()
        self.attend()

    def kill(self) -> None:
        """SIGKILL to the supervisor and its zygotes, stopped ones too; sessions die with them."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)

    def receive(self, limit_s: float | None) -> None:
        """Takes what arrives within `limit_s`. Only for the thread that has the turn.

        The wait may be interrupted (Ctrl-C); after it nothing may get lost, or all that
        follows would be misread, so then the channel ends.
        """
        if not self.arrived.poll(None if limit_s is None else limit_s * 1e3):
            return
        whole = False
        try:
            try:
                data = self.socket.recv(frames.READ_BYTES)
            except OSError:
                data = b""
            self.heard += bool(data)
            for message in self.decoder.feed(data):
                self.take(message)
            whole = bool(data)
        finally:
            if not whole:
                self.end()

    def end(self) -> None:
        """The supervisor is gone, or not understood any more."""
        self.lost = True
        self.over.set()
        for group in self.groups:  # its zygotes are dying, for which they need a processor
            with contextlib.suppress(OSError):
                os.write(group, b"0")
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # it did start
            self.first.set_result({"op": "failed", "error": f"at start: {self.reason}"})
        self.fail_all()

    def take(self, message: dict) -> None:
        """One answer."""
        if message["op"] in ("ready", "failed"):
            self.first.set_result(message)
            return
        future = self.futures.pop(message["call"], None)
        if future is None:
            return
        if message["op"] == "result":
            future.set_result(ToolResult(**message["values"]))
        else:
            future.set_result(message.get("report"))

    def fail_all(self) -> None:
        """Every open call was lost with the supervisor."""
        text = NOTES["infra_lost"] + "\n"
        lost = ToolResult("infra_lost", text, "lost", error_message=self.reason)
        with contextlib.suppress(KeyError):  # none is left
            while True:
                _, future = self.futures.popitem()
                if not future.done():
                    future.set_result(lost)

    def close(self) -> None:
        """Ends the supervisor and, with it, all sessions."""
        self.lost = True
        self.over.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            self.child.wait()
        for thread in self.threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(5)
        for end in (self.socket, self.waker, self.woken):
            end.close()
        while self.groups:
            os.close(self.groups.pop())


def find_libraries() -> list[str]:
    """Directories the interpreters import from: the standard library and site packages.

    Not the working directory, PYTHONPATH or anything a .pth file adds.
    """
    paths = sysconfig.get_paths()
    names = [name for name in sys.path if os.path.basename(name).startswith("lib-dynload")]
    found = [paths["stdlib"], paths["platstdlib"], *names]
    found += [name for name in sys.path if os.path.basename(name).endswith("-packages")]
    found += [paths["purelib"], paths["platlib"]]
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]
