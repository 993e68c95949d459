"""Files that others wrote, opened within bounds: regular, not too large, UTF-8, whole JSON.

Under every loader. A name may stand for a pipe that never answers or a device that never
ends, and a parser may answer damage with any exception at all: here each of these becomes
an `InputError` that names the file.
"""

import json
import os
import pathlib
import stat

from aster_jax.errors import InputError

# Several times the largest tokenizer.json in use; tensors are never read through here.
MAX_BYTES = 1 << 28


def check_regular(path) -> None:
    """Raise InputError unless the path, links followed, is a file that has an end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path!s:.300} cannot be opened ({error})") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is no regular file; give a file, not a folder, pipe or device")


def read_bytes(path) -> bytes:
    """All of a regular file of at most `MAX_BYTES`."""
    path = pathlib.Path(path)
    check_regular(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} has {size} bytes, more than the {MAX_BYTES} that are read")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def read_text(path) -> str:
    """A file's text, which has to be UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error})") from error


def parse_object(text: str, origin) -> dict:
    """The JSON object that a text is; `origin` is the file it is from."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{origin} is not a JSON object but {type(found).__name__}")
    return found


def read_object(path) -> dict:
    """A file that holds one JSON object."""
    return parse_object(read_text(path), path)
