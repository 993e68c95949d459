"""Check sums of a folder's files: whether what is read back is what was written.

Orbax notices a checkpoint's torn and missing files, but not a flipped bit in the arrays
(its zstd blocks carry no sum): parameters would be silently other ones. Accidents are
looked for, not forgers, so CRC-32 does, at several times the speed of a cryptographic sum:
a state of 4 B parameters is 48 GB.
"""

import concurrent.futures
import json
import pathlib
import zlib

THREADS = 4  # adding up leaves the interpreter lock, reading waits for the disk
BLOCK_BYTES = 1 << 20


def of(folder: pathlib.Path) -> str:
    """Size and CRC-32 of every file in the folders of `folder`, as JSON by relative path."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.parent != folder)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(_sum, paths)
    names = [p.relative_to(folder).as_posix() for p in paths]
    return json.dumps(dict(zip(names, found, strict=True)), indent=1) + "\n"


def check(folder: pathlib.Path, sums: str, items: tuple[str, ...]) -> None:
    """Raise ValueError naming the first file of the folders `items` that is not as in `sums`.

    OSError when one cannot be read at all.
    """
    wanted = {k: v for k, v in json.loads(sums).items() if k.split("/")[0] in items}
    absent = set(items) - {name.split("/")[0] for name in wanted}
    if absent:
        raise ValueError(f"nothing is known of {', '.join(sorted(absent))}")
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(_sum, [folder / name for name in wanted])
        for name, one in zip(wanted, found, strict=True):
            if one != wanted[name]:
                raise ValueError(f"{name} is not as it was written")


def _sum(path: pathlib.Path) -> list[int]:
    size = crc = 0
    with open(path, "rb") as f:
        while block := f.read(BLOCK_BYTES):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]
