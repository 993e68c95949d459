"""Whether all processes of a run live: a connection from each to process 0, which tells the rest.

A process that dies closes its connection, whatever it was doing, and the kernel finds out
about a machine that is gone (keep-alive); no thread has to be scheduled in time for that.
The others then say who it was and end, also while their main threads wait inside a
collective that will never finish. The same way go the sentence of a process that fails,
and the notice of one that was sent SIGTERM.

A process that is there and stands still is found by JAX's own heartbeat, which then aborts
all processes without a name. It is known here who has been silent, and said first.
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
HOLD_S = 6.0  # a failing JAX client waits so long for process 0's word of who it was
# A sign of life goes out so often; who has given none for so long stands still, if JAX says so too.
BEAT_S, SILENT_S = 5.0, 20.0


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
        self._heard = dict.fromkeys(range(count), time.monotonic())
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
        threading.Thread(target=self._beat, name="aster-beat", daemon=True).start()
        # JAX's own client aborts, from a thread of its own, when it misses another process.
        self._at_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborting)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._at_abort)

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

    def _beat(self):
        while not self._over:
            self._tell({"beat": 1})
            time.sleep(BEAT_S)

    def _aborting(self, _signal):
        """In the thread that aborts: end with a sentence instead, process 0's if it has one."""
        others = {i: time.monotonic() - self._heard[i] for i in self._lines}
        who = max(others, key=others.get)
        if others[who] < SILENT_S:
            time.sleep(HOLD_S)
            self._end("JAX has lost the connection to another process", -1)
        else:
            still = f"stands still: no sign of life for {others[who]:.0f} s"
            self._end(f"{self._names[who]} {still}", who)

    def _take(self, other, said):
        self._heard[other] = time.monotonic()
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
