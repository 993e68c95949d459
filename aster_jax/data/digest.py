"""What a file or directory holds, in one short text: whether it changed between two starts.

A run records the digests of what it reads. Tensors are not read whole: gigabytes would take
longer than the start of a run, and another checkpoint differs almost everywhere.
"""

import hashlib
import os
import pathlib

from aster_jax.data import files
from aster_jax.errors import InputError

# Of a directory with weights only these say what the model is, and the tensors themselves.
_OF_A_MODEL = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "chat_template.jinja", "model.safetensors.index.json",
)  # fmt: skip
_TENSORS = (".safetensors", ".gguf")
_WHOLE_BYTES, _PART_BYTES, _NUM_PARTS = 64 << 20, 64 << 10, 32


def of(path: str | pathlib.Path) -> str:
    """64 hex digits for a file's bytes, or for a directory's files and their names.

    A file's is its sha256; that of a file of tensors above 64 MiB is of its size and of 32
    parts of 64 KiB spread evenly over it, first and last bytes included. A directory's covers
    what is directly in it (hidden files left out), and where there is a config.json just the
    files that make a model.

    Raises InputError for a path that is neither, or a directory with no such file.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return _of_file(path)
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    if "config.json" in names:
        names = [n for n in names if n in _OF_A_MODEL or n.endswith(_TENSORS)]
    total = hashlib.sha256()
    found = [name for name in names if not (path / name).is_dir()]
    for name in found:
        total.update(f"{_of_file(path / name)}  {name}\n".encode("utf-8", "surrogateescape"))
    if not found:
        raise InputError(f"{path} holds no file; give a file, or a directory that has some")
    return total.hexdigest()


def _of_file(path) -> str:
    files.check_regular(path)
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        if not path.name.endswith(_TENSORS) or size <= _WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        parts = hashlib.sha256(str(size).encode())
        for i in range(_NUM_PARTS):
            file.seek((size - _PART_BYTES) * i // (_NUM_PARTS - 1))
            parts.update(file.read(_PART_BYTES))
        return parts.hexdigest()
