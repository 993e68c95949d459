"""A GGUF file: its header as plain values, and its tensors dequantised as they are read.

Under `source`. The header is parsed here rather than by the `gguf` package because a
vocabulary of 50,000 entries takes that 3 s and this 0.2 s, and because every count and
offset is checked against the file's size, so that a truncated file is named as such, and
against what any model needs, so that no header takes long to read.
Source: the public GGUF specification, versions 2 and 3 (little-endian).
"""

import dataclasses
import math
import mmap
import pathlib
import struct
from typing import NamedTuple

import numpy as np

from aster_jax.data import files
from aster_jax.errors import InputError

_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
    11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
# A vocabulary of 262,144 entries and its merges are some 800,000 strings.
_MOST_STRINGS, _MOST_FIELDS, _MOST_TENSORS = 1 << 21, 1 << 14, 1 << 16


class Tensor(NamedTuple):
    """Where a tensor lies: shape (outermost first), ggml type, and bytes in the file."""

    shape: tuple[int, ...]
    ggml_type: int
    start: int


@dataclasses.dataclass
class _Cursor:
    """A position in the file; reading past the end raises struct.error or ValueError."""

    data: mmap.mmap
    at: int = 0
    strings: int = 0  # in arrays, so far

    def number(self, kind: str):
        (value,) = struct.unpack_from(kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def count(self) -> int:
        """A count of things that take at least one byte each."""
        value = self.number("<Q")
        if value > len(self.data):
            raise InputError(f"a count of {value} is more than the file has bytes")
        return value

    def string(self) -> str:
        length = self.count()
        self.at += length
        if self.at > len(self.data):
            raise InputError("a string runs past the end of the file")
        return self.data[self.at - length : self.at].decode("utf-8")

    def value(self, kind: int):
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(self.number("<I"), self.count())
        if kind not in _NUMBERS:
            raise InputError(f"value type {kind} is unknown")
        return self.number(_NUMBERS[kind])

    def array(self, kind: int, length: int):
        """A list of strings, or numbers as a view of the file."""
        if kind == _STRING:
            self.strings += length
            if self.strings > _MOST_STRINGS or 8 * length > len(self.data) - self.at:
                raise InputError(f"an array of {length} strings is more than there can be")
            return [self.string() for _ in range(length)]
        if kind not in _NUMBERS:  # arrays of arrays among them, which no known key needs
            raise InputError(f"an array of value type {kind} is not supported")
        found = np.frombuffer(self.data, np.dtype(_NUMBERS[kind]), length, self.at)
        self.at += found.nbytes
        return found


class GgufArchive:
    """The tensors of one file by name; `fields` is its header as Python values."""

    kind = "gguf"

    def __init__(self, path):
        path = pathlib.Path(path)
        files.check_regular(path)
        self.origin = str(path)
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.fields, self._tensors = _parse(data)
        except (ValueError, OSError, struct.error) as error:
            raise InputError(f"{path} is truncated or no GGUF file ({error})") from error
        self._bytes = np.frombuffer(data, np.uint8)
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        if "general.architecture" not in self.fields:
            raise InputError(f"{path} has no general.architecture")
        # llama.cpp rotates neighbouring pairs for this architecture and so stores q and k
        # rows in another order than the two halves that we rotate.
        self.permuted = self.fields["general.architecture"] == "llama"

    def read(self, name: str, rows: slice, columns: slice) -> np.ndarray:
        """A part of a vector or matrix in float32; whole rows are dequantised."""
        import gguf  # a large import that only this format needs

        tensor = self._tensors[name]
        width = _row_bytes(tensor)
        if len(tensor.shape) == 1:
            stored = self._bytes[tensor.start : tensor.start + width]
            return _dequantize(gguf, stored, tensor)[rows]
        first, last, _ = rows.indices(tensor.shape[0])
        stored = self._bytes[tensor.start + first * width : tensor.start + last * width]
        return _dequantize(gguf, stored.reshape(last - first, width), tensor)[:, columns]


def _parse(data) -> tuple[dict, dict[str, Tensor]]:
    cursor = _Cursor(data)
    if data[:4] != b"GGUF":
        raise InputError("it does not begin with GGUF")
    cursor.at = 4
    version = cursor.number("<I")
    if version not in (2, 3):
        raise InputError(f"GGUF version {version} is not supported, only 2 and 3")
    num_tensors, num_fields = cursor.count(), cursor.count()
    if num_tensors > _MOST_TENSORS or num_fields > _MOST_FIELDS:
        raise InputError(f"{num_tensors} tensors and {num_fields} keys are more than there can be")
    fields = {}
    for _ in range(num_fields):
        key = cursor.string()
        fields[key] = cursor.value(cursor.number("<I"))
    found = {}
    for _ in range(num_tensors):
        name = cursor.string()
        # Dimensions are listed innermost first.
        num_axes = cursor.number("<I")
        if not 1 <= num_axes <= 4:
            raise InputError(f"{name} has {num_axes} axes")
        shape = tuple(cursor.count() for _ in range(num_axes))[::-1]
        if name in found:
            raise InputError(f"{name} is there twice")
        found[name] = Tensor(shape, cursor.number("<I"), cursor.number("<Q"))
    alignment = fields["general.alignment"] if "general.alignment" in fields else 32
    if not isinstance(alignment, int) or alignment < 1:
        raise InputError(f"general.alignment={alignment!r} is not a positive number")
    begin = cursor.at + -cursor.at % alignment
    tensors, total = {}, 0
    for name, tensor in found.items():
        tensors[name] = placed = tensor._replace(start=begin + tensor.start)
        size = _row_bytes(placed) * math.prod(placed.shape[:-1])
        total += size
        if placed.start + size > len(data):
            raise InputError(f"{name} ends at byte {placed.start + size} of {len(data)}")
    if total > len(data):
        raise InputError(f"its tensors overlap: {total} bytes of them in {len(data)}")
    return fields, tensors


def _row_bytes(tensor: Tensor) -> int:
    import gguf

    per_block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.ggml_type)]
    if tensor.shape[-1] % per_block:
        raise InputError(f"rows of {tensor.shape[-1]} values are not whole blocks of {per_block}")
    return tensor.shape[-1] // per_block * block_bytes


def _dequantize(gguf, stored, tensor):
    kind = gguf.GGMLQuantizationType(tensor.ggml_type)
    try:
        return gguf.quants.dequantize(stored, kind)
    except RuntimeError as error:  # the library knows the type's size and not its meaning
        raise InputError(
            f"tensors of type {kind.name} cannot be dequantised; convert the model to F16 or Q8_0"
        ) from error
