"""The supervisor's end of a zygote: starting it in a tier, ordering forks, its death."""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time

from aster_jax.tools import linux, process

UID_FIRST = 0x5A000000  # host uids of sessions: far above what accounts use
UID_COUNT = 65536
IN_FLIGHT = 16  # orders sent and not yet answered: bounds the control socket's backlog
START = "import sys; sys.path.append({root!r}); from aster_jax.tools import zygote; "


class StartError(Exception):
    """This tier, or the preload, does not work on this host."""


class Nest:
    """One zygote process and the sessions forked from it.

    Resource: a child process and the control socket. `owner` hears by `on_nest_lost` that the
    zygote is gone. Sessions forked ahead of need, to which nothing may happen, are its own.
    """

    def __init__(self, owner, loop: asyncio.AbstractEventLoop, settings: dict, tier: str):
        self.owner, self.loop, self.settings, self.tier = owner, loop, settings, tier
        self.processes, self.waiting, self.in_flight = {}, [], 0
        self.numbers, self.base_bytes = itertools.count(1), 0
        self.heard = time.monotonic()
        self.spares, self.planned = [], 0  # ready ones; ready or on their way
        self.ready = loop.create_future()
        self.pidfd = self.pid = self.group = None
        self.niceness = 0  # of the group
        self.lines = process.Line(loop, process.SOON_S), process.Line(loop, process.LATER_S)
        self.lost = False
        self.socket, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with remote:
            # No environment but a fixed hash seed, no site directories; `-I` would also ignore
            # the hash seed, so its parts are given one by one.
            code = START.format(root=settings["root"]) + f"zygote.main({remote.fileno()})"
            self.child = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", code], cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
                env={"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                     "MKL_NUM_THREADS": "1",
                     "MALLOC_ARENA_MAX": "1"},  # one of a thread takes 64 MiB of the limit
                pass_fds=(remote.fileno(),),
            )
        with contextlib.suppress(OSError):  # opened now: later it may not be ours any more
            group = f"/proc/{self.child.pid}/autogroup"
            self.group = os.open(group, os.O_WRONLY | os.O_CLOEXEC)
        self.socket.setblocking(False)
        self.free_uids = list(range(UID_COUNT - 1, 0, -1))
        loop.add_reader(self.socket.fileno(), self.read)
        self.send({**settings, "tier": tier, "uid_first": self.uid(1)})

    def weigh(self, niceness: int) -> None:
        """Where the kernel shares out by terminal or service, this is what it goes by: the
        zygote and all its sessions together weigh as one group of that niceness.

        An ordinary user may change it ten times a second: what is refused is asked again.
        """
        if self.group is not None and niceness != self.niceness:
            with contextlib.suppress(OSError):
                os.write(self.group, str(niceness).encode())
                self.niceness = niceness

    def uid(self, index: int) -> int:
        """Session uid: inside a user namespace plain, on the host far up."""
        if self.tier == "A1":
            return index
        return UID_FIRST + (os.getpid() % 4096) * UID_COUNT % (1 << 28) + index

    def send(self, message: dict, descriptors: list[int] | None = None) -> None:
        """One control message."""
        socket.send_fds(self.socket, [json.dumps(message).encode()], descriptors or [])

    def spawn(self, owner) -> process.Process:
        """A session for `owner`: a spare, ready at once, or one that becomes ready later."""
        self.loop.call_soon(self.refill)
        if self.spares:
            child = self.spares.pop(0)
            self.planned -= 1
            child.owner = owner
            return child
        return self.fork(owner)

    def refill(self) -> None:
        """Forks spares ahead of need, behind the orders that somebody waits for."""
        while not self.lost and not self.waiting and self.planned < self.settings["spares"]:
            self.planned += 1
            self.fork(self)

    def on_ready(self, child: process.Process) -> None:
        """A spare waits, confined and empty."""
        self.spares.append(child)

    def on_fault(self, child: process.Process, status: str, why: str) -> None:
        """A spare cannot be trusted or served."""
        child.kill()

    def on_exit(self, child: process.Process, report: dict) -> None:
        """A spare is gone; another takes its place at the next spawn."""
        self.planned -= 1
        if child in self.spares:
            self.spares.remove(child)

    def fork(self, owner) -> process.Process:
        """Orders a session from the zygote."""
        child = process.Process(owner, self.loop, self.settings, self.free_uids.pop(), self.lines)
        number = next(self.numbers)
        self.processes[number] = child
        self.waiting.append(number)
        self.order()
        return child

    def order(self) -> None:
        """Sends waiting orders while the zygote keeps up."""
        while self.waiting and self.in_flight < IN_FLIGHT:
            number = self.waiting.pop(0)
            child = self.processes[number]
            if child.dead:
                self.retire(number)
                continue
            if not self.in_flight:
                self.heard = time.monotonic()
            self.in_flight += 1
            order = {"number": number, "uid": self.uid(child.uid), "base_bytes": self.base_bytes}
            self.send(order, child.remote)

    def read(self) -> None:
        """Handles what the zygote reports."""
        while not self.lost:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 2)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self.lose("the zygote ended")
                return
            self.heard = time.monotonic()
            self.take(json.loads(data), descriptors)

    def take(self, message: dict, descriptors: list[int]) -> None:
        """One report."""
        kind = message["op"]
        if kind == "map":
            self.write_map(message["whole"])
        elif kind == "failed":
            self.lose(message["error"])
        elif kind == "ready":
            self.pidfd = descriptors[0]
            self.pid = process.find_pid(self.pidfd)
            pages = int(linux.read(f"/proc/{self.pid}/statm").split()[0])
            self.base_bytes = pages * os.sysconf("SC_PAGE_SIZE")  # what limits are counted from
            self.ready.set_result(message)
        elif kind == "forked":
            self.in_flight -= 1
            child = self.processes[message["number"]]
            child.guard(child.attach, descriptors[0])
            self.order()
        elif kind == "refused":
            self.in_flight -= 1
            self.report_exit(message["number"], {"status": None, "error": message["error"]})
            self.order()
        elif kind == "exit":
            self.report_exit(message["number"], message)

    def report_exit(self, number: int, message: dict) -> None:
        """Tells the owner, then drops the process."""
        child = self.processes[number]
        child.guard(child.drain)
        child.guard(child.owner.on_exit, child, message)
        self.retire(number)

    def retire(self, number: int) -> None:
        """The uid is free again only now that nothing of it can be alive."""
        child = self.processes.pop(number)
        self.free_uids.append(child.uid)
        child.forget()

    def write_map(self, whole: bool) -> None:
        """Gives the zygote's user namespace its identities, from outside."""
        uid, gid = os.getuid(), os.getgid()
        rows = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
        if whole:
            rows = dict.fromkeys(("uid_map", "gid_map"), f"0 {UID_FIRST} {UID_COUNT}")
        answer = {"op": "mapped"}
        try:
            for name, text in rows.items():
                with open(f"/proc/{self.child.pid}/{name}", "w") as file:
                    file.write(text)
        except OSError as error:
            answer = {"op": "refused", "error": str(error)}
        self.send(answer)

    def lose(self, reason: str) -> None:
        """The zygote is gone, and by PID namespace or death signal all it forked."""
        if self.lost:
            return
        self.lost = True
        self.weigh(0)  # even dying takes a processor
        self.loop.remove_reader(self.socket.fileno())
        self.socket.close()
        self.child.kill()
        self.child.wait()
        if not self.ready.done():
            self.ready.set_exception(StartError(reason))
        self.spares = []
        for number in list(self.processes):
            child = self.processes[number]
            child.kill()
            child.guard(child.owner.on_exit, child, {"status": None, "error": reason})
            self.retire(number)
        for number in {self.pidfd, self.group} - {None}:
            os.close(number)
        self.owner.on_nest_lost(self)
