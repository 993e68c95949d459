"""A session: the forked process in which one trajectory's cells run.

It reads a request frame, runs the cell, writes a reply frame, and repeats until its
socket closes. Descriptors: 0 is empty, 1 and 2 are the output pipes, 3 the protocol
socket, 4 and 5 private copies of the pipes, and if checkpoints are on 6 the keeper channel
and a pipe whose end says that the last copy was let go. What it replies is only a claim; the
supervisor decides what to believe.
"""

import builtins
import gc
import json
import os
import random
import socket
import struct
import sys

from aster_jax.tools import cell, confine, linux, streams

# Functions below look names up in this copy: cells may replace what is in `builtins`.
__builtins__ = dict(vars(builtins))

SOCKET, OUT, ERR, KEEPER = 3, 4, 5, 6
MOST_LEAVING = 2  # copies let go and not collected yet
_leaving: list[int] = []
_read, _write, _dup2, _leave, _open = os.read, os.write, os.dup2, os._exit, open
_waitpid, _fork, _getpid, _set_blocking = os.waitpid, os.fork, os.getpid, os.set_blocking
_pipe, _close = os.pipe, os.close
_getstate, _setstate = random.getstate, random.setstate
_scan, _quote = json.JSONDecoder().scan_once, json.encoder.encode_basestring_ascii
_unpack, _pack = struct.Struct(">I").unpack, struct.Struct(">I").pack


def serve(descriptors, order: dict, settings: dict, tier: str, walls, interpreter) -> None:
    """Becomes a session for ever: places descriptors, confines itself, answers calls.

    `walls` is what the zygote prepared for the last two layers: readable paths, filter.
    """
    place(descriptors)
    listener = confine.enter(tier, order, settings, *walls)
    null = os.dup(0)
    sinks = [
        streams.Sink(OUT, 1, settings["output_tail_bytes"], interpreter.before_write),
        streams.Sink(ERR, 2, settings["output_tail_bytes"], interpreter.before_write),
    ]
    gc.enable()
    say_ready(listener)
    keeper = None
    while True:
        standard = prepare(sinks, null)  # behind the last reply: nobody waits for it
        request = receive()
        if request is None:
            _leave(0)
        if "seed" in request:
            seed_generators(request["seed"])
        if listener is not None:
            keeper = save(*keeper) if keeper else save()
            if keeper is None:  # this is the copy, put in place after the runner died
                continue
        send(answer(request, interpreter, sinks, null, standard))


def say_ready(listener: int | None) -> None:
    """Tells the supervisor, with the fork listener attached where there is one."""
    if listener is None:
        send('{"ready":1}')
        return
    body = b'{"ready":1}'
    channel = socket.socket(fileno=SOCKET)
    socket.send_fds(channel, [_pack(len(body)) + body], [listener])
    channel.detach()
    os.close(listener)


def save(copy: int = 0, gone: int = -1) -> tuple[int, int] | None:
    """Forks a paused copy of this process; returns its pid and what tells that it is let go.

    The copy waits for one byte: it is let go, or it becomes the runner (None inside it). The
    previous copy, let go when its cell ended, must have read its byte before the next one
    listens; freeing its memory takes milliseconds and need not be waited for.
    """
    if copy:
        try:
            _read(gone, 1)
            _close(gone)
        except OSError:  # a cell closed it
            collect(copy)
        else:
            if len(_leaving) >= MOST_LEAVING:
                collect(_leaving.pop(0))
            _leaving.append(copy)
    gone, here = _pipe()
    streams_before = _getstate()
    pid = _fork()
    if pid:
        _close(here)
        return pid, gone
    if _read(KEEPER, 1) != b"p":
        _close(here)
        _leave(0)
    _close(gone)
    _close(here)
    _leaving.clear()  # children of the runner that died, not of this process
    _setstate(streams_before)  # Python reseeds `random` in every fork
    _set_blocking(SOCKET, False)
    try:
        while _read(SOCKET, 65536):  # what the dead runner had not read yet
            pass
    except BlockingIOError:
        pass
    _set_blocking(SOCKET, True)
    send(f'{{"promoted":{_getpid():d}}}')
    return None


def collect(pid: int) -> None:
    """Waits until a copy that was let go is gone."""
    try:
        _waitpid(pid, 0)
    except ChildProcessError:  # a cell waited for it
        pass


def place(descriptors: list[int]) -> None:
    """Moves (socket, out, err[, keeper channel]) to their places and closes all else."""
    high = descriptors
    while min(high) < 16:  # never overwrite one that is still to be moved
        high = [os.dup(number) for number in high]
    for target, source in ((1, 1), (2, 2), (SOCKET, 0), (OUT, 1), (ERR, 2)):
        os.dup2(high[source], target, inheritable=False)
    if len(high) > 3:
        os.dup2(high[3], KEEPER, inheritable=False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0, inheritable=False)
    linux.close_from(KEEPER + (len(high) > 3))


def seed_generators(seed: int) -> None:
    """Gives this session its own random streams; a fork would share the zygote's."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    if "sympy" in sys.modules:
        sys.modules["sympy.core.random"].seed(seed)


def receive() -> dict | None:
    """The next request, or None when the supervisor is gone."""
    header = read_exactly(4)
    if header is None:
        return None
    body = read_exactly(_unpack(header)[0])
    return None if body is None else _scan(body.decode("utf-8"), 0)[0]


def read_exactly(count: int) -> bytes | None:
    """`count` bytes from the protocol socket, or None at its end."""
    parts = bytearray()
    while len(parts) < count:
        data = _read(SOCKET, count - len(parts))
        if not data:
            return None
        parts += data
    return bytes(parts)


def send(text: str) -> None:
    """Writes one frame."""
    data = text.encode("ascii")
    data = _pack(len(data)) + data
    while data:
        data = data[_write(SOCKET, data) :]


def prepare(sinks: list, null: int) -> tuple:
    """Fresh standard streams for the next cell, whatever the last one did to its own."""
    _dup2(null, 0, False)
    return (_open(0, encoding="utf-8", closefd=False), *map(streams.open_text, sinks))


def answer(request: dict, interpreter, sinks: list, null: int, standard: tuple) -> str:
    """Runs one cell with the `standard` streams and renders the reply."""
    _dup2(null, 0, False)  # again: threads of the last cell may have been at them
    _dup2(OUT, 1, False)
    _dup2(ERR, 2, False)
    sys.stdin, sys.stdout, sys.stderr = standard
    _, out, err = standard
    claim = interpreter.run(request["code"], request["limit_s"], out, err)
    dropped = 0
    for text, sink in ((out, sinks[0]), (err, sinks[1])):
        try:
            text.flush()
        except ValueError:  # the cell closed or detached it
            pass
        dropped += sink.finish()
    message = claim.get("message", "").encode("utf-8", "backslashreplace").decode("utf-8")
    return (
        f'{{"id":{request["id"]:d},"status":{_quote(claim["status"])},'
        f'"type":{_quote(claim.get("type", ""))},"message":{_quote(message)},'
        f'"shown":{1 if claim.get("shown") else 0:d},'
        f'"threads":{cell.count_threads():d},"dropped":{dropped:d}}}'
    )
