"""The tensors of a Hugging Face directory: names, shapes, and parts read when asked for.

Under `source`. Nothing is held in memory: a part is copied out of a memory map.
"""

import json
import pathlib

import numpy as np
import safetensors

from aster_jax.errors import InputError


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
        self._files = []
        for name in names:
            opened = _open_safetensors(directory / name)
            self._files.append(opened)
            for tensor in opened.keys():
                if where is not None and (tensor not in where or where[tensor] != name):
                    raise InputError(f"{directory / name} holds {tensor}, which {index.name} "
                                     "does not place there")  # fmt: skip
                part = opened.get_slice(tensor)
                self._slices[tensor] = part
                self.shapes[tensor] = tuple(part.get_shape())
                if part.get_dtype() not in ("F32", "BF16", "F16"):
                    raise InputError(
                        f"{directory / name}: {tensor} has type {part.get_dtype()}; only F32, "
                        "BF16 and F16 weights are read"
                    )
        for tensor in where or ():
            if tensor not in self.shapes:
                raise InputError(f"{directory / where[tensor]} lacks {tensor}, which {index.name} "
                                 "places there")  # fmt: skip

    def read(self, name: str, rows: slice, columns: slice) -> np.ndarray:
        """A part of a vector or matrix, in the type it is stored in."""
        if len(self.shapes[name]) == 1:
            return self._slices[name][rows]
        return self._slices[name][rows, columns]


def _weight_map(index) -> dict[str, str]:
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index} is truncated or no index ({error}); fetch it again") from error


def _open_safetensors(path):
    if not path.exists():
        raise InputError(f"{path} does not exist; the checkpoint is incomplete")
    try:
        return safetensors.safe_open(str(path), framework="numpy")
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is truncated or no safetensors file ({error}); fetch it again"
        ) from error
