"""One process per workdir: a lock with host, process number and heartbeat.

On one machine the kernel's file lock tells, and is gone with the process however it ends.
Between machines that share the directory it may not; there the heartbeat tells: the file's
time, compared with that of a file written just now, so that no clocks are compared.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import threading

from aster_jax.errors import InputError

BEAT_S = 10.0  # seconds between heartbeats
SILENT_S = 60.0  # without one for so long, the holder on another machine is taken for gone


@contextlib.contextmanager
def held(workdir: pathlib.Path):
    """Hold the workdir's lock. Raises InputError, naming the holder, when another has it."""
    path = workdir / "LOCK"
    file = _take(path)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(file, stop), name="aster-lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        path.unlink(missing_ok=True)
        os.close(file)


def _take(path: pathlib.Path) -> int:
    """The open and locked file; its holder's name is in it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _claim(file, path)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # it was removed, by the one who had it, before it was locked here


def _claim(file: int, path: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(_refusal(path, _holder(file))) from None
    except OSError as e:
        if e.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise  # some shared file systems have no locks; there only the heartbeat tells
    holder = _holder(file)
    elsewhere = holder and holder["host"] != socket.gethostname()
    if elsewhere and _age_s(path) < SILENT_S:
        raise InputError(_refusal(path, holder))
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _holder(file: int) -> dict | None:
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return {"host": str(found["host"]), "pid": int(found["pid"])}
    except (ValueError, KeyError, TypeError):
        return None  # released, or written by a hand


def _refusal(path, holder) -> str:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return (
        f"workdir {path.parent} is in use by {who}; wait for it or end it, or give another one "
        "with --workdir"
    )


def _age_s(path: pathlib.Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system itself."""
    now = path.with_name(f".now-{socket.gethostname()}-{os.getpid()}")
    now.write_text("")
    try:
        return now.stat().st_mtime - path.stat().st_mtime
    finally:
        now.unlink()


def _beat(file: int, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):  # a shared disk that is away for a moment
            os.utime(file)
