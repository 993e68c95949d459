"""The first process of a session with checkpoints: it keeps the PID namespace alive.

When process 1 of a PID namespace dies, all in it die. With checkpoints on, process 1 is
therefore this stub, which runs no model-written code: it forks the runner, collects the
dead, and hands the supervisor a pidfd of whichever process is the runner now.
"""

import json
import os
import select
import signal
import socket
from collections.abc import Iterator


def run(control: socket.socket) -> None:
    """Serves as process 1 after the runner was forked, until the supervisor goes away."""
    for died, told in watch_children(control):
        if died:
            reap(control)
        if told:
            data = control.recv(4096)
            if not data:
                os._exit(0)
            announce(control, json.loads(data)["watch"])


def watch_children(control: socket.socket) -> Iterator[tuple[bool, bool]]:
    """Yields (a child may have died, `control` has something to say), for ever.

    The zygote waits in the same way. The first round asks for those who died before the
    signal was heard.
    """
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    yield True, False
    while True:
        ready = {number for number, _ in poll.poll()}
        if wake in ready:
            os.read(wake, 4096)
        yield wake in ready, control.fileno() in ready


def announce(control: socket.socket, pid: int) -> None:
    """Gives the supervisor a handle of the runner; a wrong pid gets none."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    socket.send_fds(control, [json.dumps({"runner": pid}).encode()], [handle])
    os.close(handle)


def reap(control: socket.socket) -> None:
    """Reports every child that died and how."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        control.send(json.dumps({
            "dead": pid, "status": status, "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_kib": usage.ru_maxrss,
        }).encode())
