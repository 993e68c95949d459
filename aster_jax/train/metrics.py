"""metrics.jsonl: one JSON line per step, the only thing the report reads about training.

And how small files are written here: whole or not at all. A full disk is waited out, since
what is in memory by then (a trained state, a finished rollout) cost hours, and somebody
can free a gigabyte in minutes.
"""

import errno
import json
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence

from aster_jax import together

FULL_DISK_WAIT_S = 1800.0  # for space, before the error is raised
LOOK_EVERY_S = 5.0
SAY_EVERY_S = 60.0
FULL = (errno.ENOSPC, errno.EDQUOT)


def every(interval: int, step: int, last: int) -> bool:
    """Whether something with this cadence is due after step `step` (1-based).

    Always at the last step; never when `interval` is 0, except then.
    """
    return step == last or (interval > 0 and step % interval == 0)


def append(
    workdir: pathlib.Path,
    stage: str,
    step: int,
    time_s: float,
    values: dict,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Add one line; it reaches the disk before this returns, or the file stays as it was.

    A float that is not finite is written as null, for JSON has no such numbers.

    Of several processes the first one writes it.

    Raises OSError when the disk fails, or is still full after `FULL_DISK_WAIT_S`.
    """
    if not together.is_first():
        return
    record = {"stage": stage, "step": step, "time_s": round(time_s, 3), **values}
    line = (json.dumps(_jsonable(record), allow_nan=False) + "\n").encode()
    path = workdir / "metrics.jsonl"
    patiently(lambda: _append_whole(path, line), path, sleep)


def rewind(
    workdir: pathlib.Path, stage: str, step: int, *, sleep: Callable[[float], None] = time.sleep
) -> float:
    """Drop a stage's lines after `step`, and a half-written last line.

    Called when a stage resumes from the checkpoint of `step`: the steps after it are
    made again, identically, and must not stand there twice.

    Returns:
      `time_s` of the stage's last line that stays, so that its clock can go on from there;
      0 when there is none.
    """
    return together.once("rewind", lambda: _rewind(workdir, stage, step, sleep))


def _rewind(workdir, stage, step, sleep) -> float:
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return 0.0
    text = path.read_text("utf-8", errors="replace")
    kept, reached = [], 0.0
    for line in text.split("\n"):
        record = _parsed(line)
        if record is None or (record["stage"] == stage and record["step"] > step):
            continue
        kept.append(line)
        if record["stage"] == stage:
            reached = float(record["time_s"])
    rest = "".join(line + "\n" for line in kept)
    if rest != text:
        replace(path, rest, sleep=sleep)
    return reached


def history(workdir: pathlib.Path, stages: Sequence[str], name: str) -> list[float]:
    """The values of a metric in the lines of these stages so far, in their order."""
    found = together.once("history", lambda: lines(workdir, *stages))
    return [r[name] for r in found if name in r]


def lines(workdir: pathlib.Path, *stages: str) -> list[dict]:
    """The whole lines of these stages, in order; none where there is no file."""
    path = workdir / "metrics.jsonl"
    text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    found = (_parsed(line) for line in text.split("\n"))
    return [r for r in found if r is not None and r["stage"] in stages]


def replace(path: pathlib.Path, text: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Write a file so that it is either the old one or the whole new one, never a part.

    Raises OSError when the disk fails, or is still full after `FULL_DISK_WAIT_S`.
    """
    data = text.encode()
    patiently(lambda: _replace_whole(path, data), path, sleep)


def add_line(path: pathlib.Path, record: dict) -> None:
    """Add a JSON object to a file of lines; on the disk when this returns, or the file is as
    it was. Raises OSError as `replace` does."""
    line = (json.dumps(record) + "\n").encode()
    patiently(lambda: _append_whole(path, line), path)


def _append_whole(path, line):
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(file).st_size
        try:
            _write_all(file, line)
        except BaseException:
            os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


def _replace_whole(path, data):
    temporary = path.with_name(path.name + ".writing")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _write_all(file, data)
        finally:
            os.close(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_all(file, data):
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def patiently(
    write: Callable[[], None], path: pathlib.Path, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Call `write`, again and again while the disk of `path` has no space for what it writes.

    `write` has to leave nothing behind where it fails. Says on standard error what it waits
    for. Raises OSError when the disk fails, or is still full after `FULL_DISK_WAIT_S`.
    """
    waited = 0.0
    while True:
        try:
            write()
            return
        except OSError as e:
            if e.errno not in FULL or waited >= FULL_DISK_WAIT_S:
                raise
            if waited % SAY_EVERY_S == 0:
                left = (FULL_DISK_WAIT_S - waited) / 60
                print(
                    f"{path} cannot be written ({e.strerror}); waiting up to {left:.0f} more "
                    "minutes for space",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
        sleep(LOOK_EVERY_S)
        waited += LOOK_EVERY_S


def fault_of_disk(error: BaseException) -> str | None:
    """What the operating system said, if it is the cause; tensorstore has it in its text."""
    if isinstance(error, OSError):
        return error.strerror or brief(error)
    code = re.search(r"os_error_code='?(\d+)", str(error))
    return os.strerror(int(code[1])) if code else None


def brief(error: BaseException) -> str:
    """One line of an error's text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."


def _parsed(line) -> dict | None:
    """A line's record; None for one that is empty, torn, or none of ours."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    whole = isinstance(record, dict) and {"stage", "step", "time_s"} <= record.keys()
    return record if whole else None


def _jsonable(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _jsonable(v) for key, v in value.items()}
    return [_jsonable(v) for v in value] if isinstance(value, list | tuple) else value
