"""Check sums of a folder's files: whether what is read back is what was written.

Orbax notices a checkpoint's torn and missing files, but not a flipped bit in the arrays
(its zstd blocks carry no sum): parameters would be silently other ones.
"""

import concurrent.futures
import hashlib
import json
import pathlib

THREADS = 4  # hashing leaves the interpreter lock, reading waits for the disk


def of(folder: pathlib.Path) -> str:
    """SHA-256 of every file in the folders of `folder`, as JSON by relative path."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.parent != folder)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(_digest, paths)
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
        found = pool.map(_digest, [folder / name for name in wanted])
        for name, digest in zip(wanted, found, strict=True):
            if digest != wanted[name]:
                raise ValueError(f"{name} is not as it was written")


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
