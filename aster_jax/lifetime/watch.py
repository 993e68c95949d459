"""Whether all processes of a run live: a connection from each to process 0, which tells the rest.

A process that dies closes its connection, whatever it was doing, and the kernel finds out
about a machine that is gone (keep-alive); no thread has to be scheduled in time for that.
The others then say who it was and end, also while their main threads wait inside a
collective that will never finish. The same way go the sentence of a process that fails,
and the notice of one that was sent SIGTERM.
"""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

KEY = "aster/watch"
CONNECT_S = 120.0  # for all processes to find process 0
IDLE_S, TRIES = 10, 3  # of silence until a machine is asked, and how often: it is gone after 40 s
WORD_S = 1.0  # between the last word to the others and the end of the process
HOLD_S = 6  # a failing JAX client waits so long before it ends the process, for ours to be said


class Watch:
    """This process's part in it.

    Args:
      client: of JAX's key-value store; only at the start.
      index, count: of the process.
      address: host name or number of process 0's machine, as the others reach it.
      exit_code: of a process that ends because another one was told to go.
    """

    def __init__(self, client, index: int, count: int, address: str, exit_code: int):
        self._index, self._count, self._exit_code = index, count, exit_code
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._lines: dict[int, socket.socket] = {}
        self._names = {i: f"process {i}" for i in range(count)}
        self._over = self._leaving = False
        self._on_leaving: Callable[[], None] = lambda: None
        me = f"process {index} ({socket.gethostname()}, pid {os.getpid()})"
        self._names[index] = me
        if index == 0:
            self._answer(client)
        else:
            self._call(client, address, me)
        for i, line in self._lines.items():
            threading.Thread(target=self._hear, args=(i, line), name="aster-watch", daemon=True).start()
        # JAX's own client aborts when process 0 is gone. It shall wait for the sentence of ours.
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGABRT, libc.sleep)  # sleeps for 6 s, the signal's number, then aborts

    def _answer(self, client):
        """In process 0: wait until every other one has called."""
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        with socket.create_server(
            ("", 0), family=family, backlog=self._count, dualstack_ipv6=both
        ) as server:
            server.settimeout(CONNECT_S)
            word = secrets.token_hex()
            client.key_value_set(KEY, json.dumps([server.getsockname()[1], word]))
            while len(self._lines) < self._count - 1:
                line, _ = server.accept()
                said = _read_line(line)
                if said and said.get("word") == word:
                    self._lines[said["index"]] = _kept_alive(line)
                    self._names[said["index"]] = said["name"]
        self._tell({"names": self._names})

    def _call(self, client, address, me):
        port, word = json.loads(client.blocking_key_value_get(KEY, int(CONNECT_S * 1000)))
        line = socket.create_connection((address, port), CONNECT_S)
        self._lines[0] = _kept_alive(line)
        self._tell({"word": word, "index": self._index, "name": me})

    def _hear(self, other: int, line: socket.socket):
        """Everything that comes from one process, until it is gone."""
        try:
            with line.makefile("r", encoding="utf-8") as lines:
                for text in lines:
                    self._take(other, json.loads(text))
        except (OSError, ValueError):
            pass  # as good as closed
        if not self._over:
            self._end(f"{self._names[other]} has ended without a word", other)

    def _take(self, other, said):
        if "names" in said:
            self._names = {int(i): name for i, name in said["names"].items()}
        elif "over" in said:
            self._over = True
        elif "leaving" in said:
            self._leave(other)
        elif "failed" in said:
            self._end(said["failed"], other)

    def _leave(self, other: int):
        with self._lock:
            if self._leaving:
                return
            self._leaving = True
        if self._index == 0:
            self._tell({"leaving": 1}, but=other)
        self._on_leaving()

    def on_leaving(self, call: Callable[[], None]) -> None:
        """Have `call` called when another process was sent SIGTERM, now if one was before."""
        with self._lock:
            self._on_leaving = call
            late = self._leaving
        if late:
            call()

    def leaving(self) -> None:
        """Tell the others that this process was sent SIGTERM."""
        with self._lock:
            if self._leaving:
                return
            self._leaving = True
        self._tell({"leaving": 1})

    def failed(self, sentence: str) -> None:
        """Tell the others that this process ends, and why; they end too. Gives them a moment."""
        self._over = True
        self._tell({"failed": f"{self._names[self._index]} has failed: {sentence}"})
        time.sleep(WORD_S)

    def over(self) -> None:
        """All is done everywhere: from now on nobody minds who is gone."""
        self._over = True
        self._tell({"over": 1})

    def _end(self, sentence: str, other: int):
        """Say it, pass it on, and end this process, wherever its main thread is."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._tell({"failed": sentence}, but=other)
        if not self._leaving:
            print(
                f"aster_jax: {sentence}; process {self._index} ends with it. The same command "
                "goes on from the last checkpoint",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        if self._index == 0:
            time.sleep(WORD_S)
        os._exit(self._exit_code if self._leaving else 1)

    def _tell(self, said: dict, but: int = -1):
        text = (json.dumps(said) + "\n").encode()
        with self._sending:
            for i, line in self._lines.items():
                if i != but:
                    with contextlib.suppress(OSError):  # who is gone is missed where it is heard
                        line.sendall(text)


def _kept_alive(line: socket.socket) -> socket.socket:
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", IDLE_S), ("TCP_KEEPINTVL", IDLE_S), ("TCP_KEEPCNT", TRIES)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return line


def _read_line(line: socket.socket) -> dict | None:
    """The first line of who has called, byte by byte; None where it is none of ours."""
    line.settimeout(CONNECT_S)
    text = b""
    try:
        while not text.endswith(b"\n") and len(text) < 4096:
            byte = line.recv(1)
            if not byte:
                return None
            text += byte
        said = json.loads(text)
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None
