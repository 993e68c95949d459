"""Files of demonstrations in any known format: .jsonl, .json or .parquet <-> transcripts.

Which format a row has, its fields tell:

    conversations           ShareGPT with function and tool turns (demos/sharegpt.py)
    messages                OpenAI's (demos/dialogues.py), or ReTool's two messages with code in
                            their text (demos/retool.py)
    problem, messages, statuses     this package's own (demos/transcript.py)

Every row becomes a transcript or a stated reason why it is none. A file that is damaged, or
a row that is no object of a known format, is an error that names file and row.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import pyarrow
import pyarrow.parquet

from aster_jax.data import rows
from aster_jax.demos import dialogues, retool, sharegpt, transcript
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError
from aster_jax.train import metrics

FORMATS = {"sharegpt": sharegpt, "messages": dialogues, "retool": retool, "transcripts": transcript}
# Of fields whose values differ in shape from row to row; a table has one shape per column.
_AS_JSON = ("tools",)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A row that is no usable demonstration; `row` counts from 1."""

    row: int
    reason: str


def load(path: str | pathlib.Path) -> tuple[list[Transcript], list[Skipped]]:
    """All usable rows of a file, and those that are not.

    Raises InputError when the file cannot be read, has a row of no known format, or holds
    no usable one.
    """
    path = pathlib.Path(path)
    made, skipped = [], []
    for row, record in rows.read(path, "demonstration", "demos.source"):
        record = _unpacked(record)
        read = FORMATS[_format(record, f"{path} row {row}")].read_row(record)
        if isinstance(read, Transcript) and transcript.has_half(read):
            read = f"not_writable: {transcript.HALF}"
        if isinstance(read, str):
            skipped.append(Skipped(row, read))
        else:
            made.append(dataclasses.replace(read, origin=read.origin or f"{path.name} row {row}"))
    if not made:
        reason = f"; row {skipped[0].row}: {skipped[0].reason}" if skipped else ""
        raise InputError(f"{path} holds no usable conversation{reason}")
    return made, skipped


def save(path: str | pathlib.Path, transcripts: Sequence[Transcript], form: str) -> None:
    """Write finished transcripts; whole or not at all.

    Raises InputError for an unknown format or suffix, and for a transcript that the format
    cannot hold, by its origin.
    """
    path = pathlib.Path(path)
    if form not in FORMATS:
        raise InputError(f"format {form!r} is unknown; choose one of {', '.join(FORMATS)}")
    if path.suffix not in (".jsonl", ".parquet"):
        raise InputError(f"{path} is neither .jsonl nor .parquet; give it one of these endings")
    if not transcripts:
        raise InputError(f"there is no transcript to write to {path}")
    if halves := [t for t in transcripts if transcript.has_half(t)]:
        raise transcript.unfit(halves[0], "UTF-8", f"it holds {transcript.HALF}")
    written = [FORMATS[form].write_row(t) for t in transcripts]
    try:
        if path.suffix == ".jsonl":
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
            metrics.replace(path, text)
        else:
            _save_table(path, written)
    except (pyarrow.ArrowException, OSError, UnicodeError) as e:
        raise InputError(f"{path} cannot be written: {e}") from e


def _save_table(path, written):
    written = [{k: _cell(k, v) for k, v in row.items()} for row in written]
    names = dict.fromkeys(name for row in written for name in row)
    full = [{name: row[name] if name in row else None for name in names} for row in written]
    beside = path.with_name(path.name + ".writing")
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(full), beside)
        beside.replace(path)
    finally:
        if beside.exists():
            beside.unlink()


def _cell(name, value):
    return json.dumps(value, ensure_ascii=False) if name in _AS_JSON and value else value


def _unpacked(record):
    """With conversations that a table holds as JSON as what they say."""
    if not isinstance(record, dict):
        return record
    made = dict(record)
    for column in (sharegpt.COLUMN, dialogues.COLUMN):
        try:
            if column in made and isinstance(made[column], str):
                made[column] = json.loads(made[column])
        except (ValueError, RecursionError):
            pass  # a text that is none: its format says so
    return made


def _format(record, where) -> str:
    if not isinstance(record, dict):
        raise InputError(f"{where} is not an object with fields: {record!r:.60}")
    # A table of several formats has the columns of all, and nulls in them.
    if {"problem", "messages", "statuses"} <= {k for k, v in record.items() if v is not None}:
        return "transcripts"
    columns = [c for c in (sharegpt.COLUMN, dialogues.COLUMN) if c in record]
    filled = [c for c in columns if record[c] is not None] or columns
    if filled:
        if filled[0] == sharegpt.COLUMN:
            return "sharegpt"
        return "retool" if retool.is_row(record) else "messages"
    raise InputError(
        f"{where} has no field '{sharegpt.COLUMN}' or '{dialogues.COLUMN}' with a conversation "
        f"(fields: {', '.join(map(str, record))})"
    )
