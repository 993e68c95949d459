"""The tensors of a Hugging Face directory: names, shapes, and parts read when asked for.

Under `source`. Nothing is held in memory: a part is copied out of a memory map. An index is
a text from elsewhere: it may only name files beside it.
"""

import pathlib
import re

import numpy as np
import safetensors

from aster_jax.data import files
from aster_jax.errors import InputError
from aster_jax.weights import convert

_TYPES = ("F32", "BF16", "F16")
_FILE_NAME = re.compile(r"\w[\w .+=@-]{0,200}\.safetensors")


class SafetensorsArchive:
    """A Hugging Face directory's model.safetensors, or its shards with their index.

    `shapes` maps names to shapes; `kind` says which names of the table it uses.
    """

    kind = "hf"
    permuted = False

    def __init__(self, directory):
        directory = pathlib.Path(directory)
        single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
        if index.exists():
            where = _weight_map(index)
        elif single.exists():
            where = None
        else:
            raise InputError(f"{directory} has neither {single.name} nor {index.name}")
        names = [single.name] if where is None else sorted(set(where.values()))
        self._slices, self.shapes, self.origin = {}, {}, str(directory)
        self._files, self._skipped = [], set()
        for name in names if where is not None else ():
            _check_beside(directory, name, index)
        for name in names:
            opened = _open_safetensors(directory / name)
            self._files.append(opened)
            self._add(opened, directory / name, where, index)
        for tensor, name in (where or {}).items():
            if tensor not in self.shapes and tensor not in self._skipped:
                raise InputError(f"{directory / name} lacks {tensor}, which {index.name} "
                                 "places there")  # fmt: skip

    def _add(self, opened, path, where, index):
        """The tensors of one file, without buffers that every reader skips."""
        for tensor in opened.keys():
            part = opened.get_slice(tensor)
            shape = tuple(part.get_shape())
            if convert.is_buffer(tensor, shape):
                self._skipped.add(tensor)
                continue
            if where is not None and (tensor not in where or where[tensor] != path.name):
                raise InputError(f"{path} holds {tensor}, which {index.name} does not place there")
            if part.get_dtype() not in _TYPES:
                raise InputError(
                    f"{path}: {tensor} has type {part.get_dtype()}; only F32, BF16 and F16 "
                    "weights are read"
                )
            self._slices[tensor] = part
            self.shapes[tensor] = shape

    def read(self, name: str, rows: slice, columns: slice) -> np.ndarray:
        """A part of a vector or matrix, in the type it is stored in."""
        if len(self.shapes[name]) == 1:
            return self._slices[name][rows]
        return self._slices[name][rows, columns]


def _weight_map(index) -> dict[str, str]:
    try:
        found = files.read_object(index)
    except InputError as error:
        raise InputError(f"{index} is truncated or no index ({error}); fetch it again") from error
    where = found["weight_map"] if "weight_map" in found else None
    texts = isinstance(where, dict) and all(isinstance(name, str) for name in where.values())
    if not texts or not where:
        raise InputError(f"{index} is truncated or no index (its weight_map is no object of file "
                         "names); fetch it again")  # fmt: skip
    return where


def _check_beside(directory, name: str, index):
    """Refuse a file that is not the index's neighbour, whatever its name makes of itself.

    A link may lead out of a snapshot in the hub's cache, into the blobs beside it, and
    nowhere else.
    """
    if not _FILE_NAME.fullmatch(name):
        raise InputError(f"{index} names {name!r:.80}; only plain names of .safetensors files "
                         "beside it are opened")  # fmt: skip
    path, home = directory / name, directory.resolve()
    if not path.exists():
        raise InputError(f"{path} does not exist; the checkpoint is incomplete")
    allowed = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if path.resolve().parent not in allowed:
        raise InputError(f"{path} is a link to {path.resolve()}, outside of the checkpoint; put "
                         "the file itself there")  # fmt: skip


def _open_safetensors(path):
    files.check_regular(path)
    try:
        return safetensors.safe_open(str(path), framework="numpy")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is truncated or no safetensors file ({error}); fetch it again"
        ) from error
