"""A session: the forked process in which one trajectory's cells run.

It reads a request frame, runs the cell, writes a reply frame, and repeats until its
socket closes. Descriptors: 0 is empty, 1 and 2 are the output pipes, 3 the protocol
socket, 4 and 5 private copies of the pipes. What it replies is only a claim; the supervisor
decides what to believe, and a session that finds its channels changed ends itself.
"""

import builtins
import gc
import json
import os
import resource
import struct
import sys

from aster_jax.tools import confine, linux, streams, surroundings

# Functions below look names up in this copy: cells may replace what is in `builtins`.
__builtins__ = dict(vars(builtins))

SOCKET, OUT, ERR = CHANNELS = 3, 4, 5
_read, _write, _dup2, _leave, _open = os.read, os.write, os.dup2, os._exit, open
_fstat, _set_blocking, _seed = os.fstat, os.set_blocking, surroundings.seed
_threads = sys._current_frames
_scan, _quote = json.JSONDecoder().scan_once, json.encoder.encode_basestring_ascii
_unpack, _pack = struct.Struct(">I").unpack, struct.Struct(">I").pack


def serve(descriptors, order: dict, settings: dict, tier: str, walls, interpreter) -> None:
    """Becomes a session for ever: places descriptors, confines itself, answers calls.

    `walls` is what the zygote prepared for the last two layers: readable paths, filter.
    """
    place(descriptors)
    confine.enter(tier, order, settings, *walls)
    room = resource.getrlimit(resource.RLIMIT_AS)
    interpreter.limit_memory(room, settings["headroom_mib"] << 20)
    null, marks = os.dup(0), [_fstat(number).st_ino for number in CHANNELS]
    tail, before = settings["output_tail_bytes"], interpreter.before_write
    sinks = streams.Sink(OUT, 1, tail, before), streams.Sink(ERR, 2, tail, before)
    settings.clear()  # frames of the zygote, which a cell can walk to, hold these, too
    order.clear()
    walls = None
    gc.enable()
    send('{"ready":1}')
    while True:
        # Fresh streams, whatever the last cell did to its own; nobody waits for this.
        _dup2(null, 0, False)
        standard = _open(0, encoding="utf-8", closefd=False), *map(streams.open_text, sinks)
        (size,) = _unpack(read_exactly(4))
        request = _scan(read_exactly(size).decode("utf-8"), 0)[0]
        if "seed" in request:
            _seed(request["seed"])
        reply = answer(request, interpreter, sinks, null, standard)
        if [_fstat(number).st_ino for number in CHANNELS] != marks:
            _leave(70)  # another file stands in a channel's place: it would be silent for good
        send(reply)


def place(descriptors: list[int]) -> None:
    """Moves (socket, out, err) to their places and closes all else."""
    high = descriptors
    while min(high) < 16:  # never overwrite one that is still to be moved
        high = [os.dup(number) for number in high]
    for target, source in ((1, 1), (2, 2), (SOCKET, 0), (OUT, 1), (ERR, 2)):
        os.dup2(high[source], target, inheritable=False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0, inheritable=False)
    try:
        linux.syscall(linux.CLOSE_RANGE, ERR + 1, 0xFFFFFFFF, 0)
    except OSError:  # before kernel 5.9
        os.closerange(ERR + 1, 65536)


def read_exactly(count: int) -> bytearray:
    """`count` bytes from the protocol socket; at its end the supervisor is gone."""
    parts = bytearray()
    while len(parts) < count:
        data = _read(SOCKET, count - len(parts))
        if not data:
            _leave(0)
        parts += data
    return parts


def send(text: str) -> None:
    """Writes one frame."""
    data = text.encode("ascii")
    data = _pack(len(data)) + data
    while data:
        data = data[_write(SOCKET, data) :]


def answer(request: dict, interpreter, sinks: tuple, null: int, standard: tuple) -> str:
    """Runs one cell with the `standard` streams and renders the reply."""
    _dup2(null, 0, False)  # again: threads of the last cell may have been at them
    _dup2(OUT, 1, False)
    _dup2(ERR, 2, False)
    sys.stdin, sys.stdout, sys.stderr = standard
    _, out, err = standard
    claim = interpreter.run(request["code"], request["limit_s"], out, err)
    for number in CHANNELS:
        _set_blocking(number, True)  # whatever the cell made of them
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
        f'"threads":{len(_threads()) - 1:d},"dropped":{dropped:d}}}'
    )
