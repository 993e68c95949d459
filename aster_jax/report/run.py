"""The report stage: everything a run left behind -> one page, its figures and tables.

Can be made at any time, of a run that is finished or not; parts that are missing are
shown as "not run". Reads only the workdir, never a checkpoint. Of several runs, the page
compares them (`compare.py`) and shows the episodes of all.
"""

import json
import os
import pathlib
from collections.abc import Sequence

from aster_jax import together, workdir
from aster_jax.data import visible
from aster_jax.report import compare, gather, sections, tables, viewer

DIRECTORY = "report"


def run(run: workdir.Run) -> None:
    """Write the report of a run and print its table; process 0 only."""
    together.once("report", lambda: _run(run))


def _run(run):
    print(write(run.path, run.config.report.page_mib), flush=True)
    run.say("report", f"see {run.path / DIRECTORY / 'index.html'}")
    run.finish("report", {"page": "index.html"})


def write(path: pathlib.Path, page_mib: float) -> str:
    """The report of the run at `path`, under `path`/report; see `write_pages`."""
    return write_pages([path], path / DIRECTORY, page_mib)


def write_pages(paths: Sequence[pathlib.Path], directory: pathlib.Path, page_mib: float) -> str:
    """Write the pages, the PNGs, summary.json and summary.txt into `directory`.

    Args:
      paths: workdirs; of one, its report, of several, their comparison. Raises ValueError
        if one of them is none, or for a broken line in it.
      page_mib: size of the packed episodes in one page, in MiB; what is over it goes into
        pages beside it.

    Returns the beginning of summary.txt, the results, for a terminal.
    """
    runs, episodes = gather.runs(paths, page_mib)
    sheet, numbers = compare.sheet(runs) if len(runs) > 1 else sections.of_run(*runs.values())
    return _write(directory, sheet, episodes, numbers)


def _write(directory, sheet: viewer.Sheet, episodes: viewer.Episodes, numbers: dict) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    for figure in sheet.figures:
        if figure.png is not None:
            _replace(directory / f"{figure.name}.png", figure.png)
    pages = viewer.pages(sheet, episodes)
    for name, page in pages.items():
        _replace(directory / name, page.encode())
    for stale in directory.glob("index-*.html"):
        if stale.name not in pages:
            stale.unlink()
    _replace(directory / "summary.json", (json.dumps(numbers, indent=1) + "\n").encode())
    _replace(directory / "summary.txt", summary_text(sheet, sheet.tables).encode())
    return summary_text(sheet, sheet.tables[:1])


def summary_text(sheet: viewer.Sheet, shown: Sequence[tables.Table]) -> str:
    """The report as plain text: the first table, what follows from it, the other tables."""
    results, *others = map(tables.to_text, shown)
    text = "\n".join([sheet.title, sheet.lead, "", results, *sheet.conclusions, "", *others])
    return visible.escaped(text) + "\n"


def _replace(path: pathlib.Path, data: bytes) -> None:
    """Write a file so that it is never seen half-written."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    os.replace(temporary, path)
