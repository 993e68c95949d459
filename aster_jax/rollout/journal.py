"""Episodes of one phase, kept as they end, so that a killed process need not make them again.

While the phase runs, records are lines of a file beside the final one. The final file
appears at once and whole, when the phase is over.
"""

import glob
import json
import os
import pathlib
import threading

from aster_jax.errors import InputError
from aster_jax.train import metrics


class Journal:
    """Records of one phase on their way to the file `path`.

    Lines go to `path` + ".partial" until `seal`. Nothing is opened or changed before the
    first call. Several processes have one journal each, and each adds to its own partial
    file, named after its number `owner`; the first one reads, seals and discards for all.
    """

    def __init__(self, path: pathlib.Path, owner: int = 0):
        self._path = pathlib.Path(path)
        own = f".{owner}.partial" if owner else ".partial"
        self._partial = self._path.with_name(self._path.name + own)
        self._lock = threading.Lock()
        self._file = None
        self._is_over = False

    @property
    def path(self) -> pathlib.Path:
        """Where the final file is, or will be."""
        return self._path

    def add(self, record: dict) -> None:
        """Append one record, from any thread; the kernel has it when this returns.

        All or nothing: where writing fails, no part of the line stays. A full disk is waited
        for (`metrics.patiently`). What comes after `seal` or `close` (a verdict that nobody
        waits for any more) is not written.
        """
        line = (json.dumps(record) + "\n").encode("ascii")
        with self._lock:
            if not self._is_over:
                metrics.patiently(lambda: self._append(line), self._partial)

    def _append(self, line):
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _whole(self._partial)
            self._file = open(self._partial, "ab", buffering=0)
        before = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:
            self._file.truncate(before)
            raise

    def read(self) -> list[dict]:
        """Records of the final file if there is one, else those added so far, by all owners.

        A process that was killed leaves a torn last line: it, and whatever a damaged disk
        has put after the last whole record, is cut off the file. The final file was whole:
        InputError names its line that is no record.
        """
        with self._lock:
            if self._path.exists():
                with open(self._path, "rb") as lines:
                    return [_sealed(line, self._path, i) for i, line in enumerate(lines, 1)]
            return [record for partial in self._partials() for record in _whole(partial)]

    def _partials(self) -> list[pathlib.Path]:
        """The partial files there are, of all owners there ever were."""
        name = glob.escape(self._path.name)
        return sorted(self._path.parent.glob(f"{name}*.partial"))

    def seal(self, records: list[dict]) -> None:
        """Make the final file, of these records; the partial one is gone then.

        A process that is killed in here leaves what was added or the final file.
        """
        with self._lock:
            self._is_over = True
            self._close()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            metrics.replace(self._path, "".join(json.dumps(record) + "\n" for record in records))
            self._drop()

    def discard(self) -> None:
        """Forget the phase: neither file is there afterwards, and another one may begin."""
        with self._lock:
            self._is_over = False
            self._close()
            self._drop()
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the partial file; it stays as it is from now on."""
        with self._lock:
            self._is_over = True
            self._close()

    def _drop(self):
        for partial in self._partials():
            partial.unlink(missing_ok=True)

    def _close(self):
        if self._file is not None:
            self._file.close()
            self._file = None


def _whole(partial: pathlib.Path) -> list[dict]:
    """The whole records of a partial file, which ends after them from now on."""
    if not partial.exists():
        return []
    records, good = [], 0
    with open(partial, "rb+") as lines:
        for line in lines:
            record = _parse(line)
            if record is None:
                break
            records.append(record)
            good += len(line)
        lines.truncate(good)
    return records


def _sealed(line: bytes, path: pathlib.Path, number: int) -> dict:
    record = _parse(line.removesuffix(b"\n") + b"\n")  # an editor may have left the last end off
    if record is None:
        raise InputError(
            f"{path}, line {number}: no episode; the file was edited or a disk was full: remove "
            "the line, and the same command makes what it held again"
        )
    return record


def _parse(line: bytes) -> dict | None:
    """The record of a line, None where it is torn or no record."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
