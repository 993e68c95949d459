"""Rows of a .jsonl, .json or .parquet file that somebody else made, numbered from 1.

Under the loaders of problems and of demonstrations, who know what a row may hold.
"""

import codecs
import json
import pathlib
from collections.abc import Iterator

import pyarrow
import pyarrow.parquet

from aster_jax.errors import InputError

SUFFIXES = (".jsonl", ".json", ".parquet")


def read(path: pathlib.Path, kind: str, keys: str) -> list[tuple[int, object]]:
    """(row number, record) of every record in the file; blank lines of .jsonl are none.

    `kind` is what a row should be and `keys` the config's keys that name such files, for
    errors: InputError for a file that is missing, of another kind or damaged, naming the row
    where one is to blame.
    """
    if not path.is_file():
        raise InputError(f"{kind} file {path} does not exist; check {keys}")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is neither {', '.join(SUFFIXES[:-1])} nor {SUFFIXES[-1]}; convert it to one")
    try:
        if path.suffix == ".parquet":
            return list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1))
        if path.suffix == ".jsonl":
            return list(lines(path))
        records = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(records, list):
            raise InputError(f"{path} is not a JSON list, of one {kind} each")
        return list(enumerate(records, 1))
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, RecursionError) as e:
        raise InputError(f"{path} cannot be read as {path.suffix}: {e}") from e


def lines(path: pathlib.Path) -> Iterator[tuple[int, object]]:
    """The same of a file of JSON lines, one after the other, so that it may be a large one.

    Raises InputError naming the row that is no JSON, or no UTF-8.
    """
    with open(path, "rb") as file:
        for row, line in enumerate(file, 1):
            line = line.removeprefix(codecs.BOM_UTF8) if row == 1 else line
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as e:
                raise InputError(f"{path} row {row} is not UTF-8: {e}; save the file as such") from e
            except (ValueError, RecursionError) as e:
                raise InputError(f"{path} row {row} is not JSON: {e}") from e
            yield row, record
