"""Digests of files, so that a run knows when what it reads has changed."""

import hashlib
import pathlib


def of(path: str | pathlib.Path) -> str:
    """SHA-256 of a file, or of a directory's small files and the sizes of its large ones."""
    path = pathlib.Path(path)
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(str(file.relative_to(path)).encode())
        if path.is_dir() and file.stat().st_size > 64 << 20:
            total.update(str(file.stat().st_size).encode())
            continue
        with file.open("rb") as f:
            total.update(hashlib.file_digest(f, "sha256").digest())
    return total.hexdigest()
