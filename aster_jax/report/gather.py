"""Runs read for a page: what is measured of them, and all their episodes, packed.

Sits between the files of a workdir (`records.py`) and the page (`viewer.py`).
"""

import pathlib
from collections.abc import Sequence

from aster_jax.report import advantages, entries, pack, records, viewer

MIB = 1 << 20


def runs(
    paths: Sequence[pathlib.Path], page_mib: float
) -> tuple[dict[str, records.RunRecords], viewer.Episodes]:
    """Runs by name, and their episodes; `page_mib` is of packed episodes in one page.

    Raises ValueError as `records.read` does.
    """
    packer = pack.Packer(int(page_mib * MIB))
    found, rows = {}, []
    for number, (name, path) in enumerate(zip(names(paths), paths, strict=True)):
        found[name], made = _run(path, number, packer)
        rows += made
    made_pages = packer.close()
    files = ["index.html", *(f"index-{i}.html" for i in range(2, len(made_pages) + 1))]
    return found, viewer.Episodes(list(found), rows, made_pages, files)


def _run(path, number, packer) -> tuple[records.RunRecords, list[dict]]:
    """A run, and the rows of its episodes in the order of their steps and lines."""
    rows: list[dict] = []

    def visit(record, file, line):
        row = entries.row(record, number, file, line)
        packer.add(row, record)
        rows.append(row)

    found = records.read(path, visit)
    entries.number(rows, found.config["stages"])
    advantages.fill(rows, found.config)
    return found, rows


def names(paths: Sequence[pathlib.Path]) -> list[str]:
    """What runs are called beside each other: as much of their paths' ends as tells them apart."""
    parts = [path.resolve().parts for path in paths]
    length = 1
    while length < max(map(len, parts)) and len({p[-length:] for p in parts}) < len(parts):
        length += 1
    found = ["/".join(p[-length:]).lstrip("/") for p in parts]
    return [
        name if found.count(name) == 1 else f"{name} ({found[: i + 1].count(name)})"
        for i, name in enumerate(found)
    ]
