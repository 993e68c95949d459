"""The report as one HTML page that needs nothing but itself: results, and every episode.

Styles and script stand in the page (the files of `report/page`, which ship with the
package), images are data URLs, episodes are packed (`pack.py`). A content security policy
names the style and the script by their hashes and forbids everything else: no request
leaves the page, and no text in it can run.
"""

import base64
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

from aster_jax.report import entries, pack, plots, tables, transcript

SOURCES = pathlib.Path(__file__).parent / "page"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of the page: file name, what it shows, PNG bytes or None (not run)."""

    name: str
    caption: str
    png: bytes | None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """What the first page shows before the episodes: results first, then the curves, then the
    other tables, then the configs by run.

    `lead` is one line under the title. The first table stands before the figures.
    """

    title: str
    lead: str
    conclusions: Sequence[str]
    tables: Sequence[tables.Table]
    figures: Sequence[Figure]
    configs: dict[str, dict]


@dataclasses.dataclass(frozen=True)
class Episodes:
    """What there is to look at: rows (`entries.row`) and the pages that hold their texts.

    `runs` are names, `files` the pages' own, the first one's first.
    """

    runs: Sequence[str]
    rows: Sequence[dict]
    pages: Sequence[pack.Page]
    files: Sequence[str]

    @property
    def left_out(self) -> int:
        """Episodes whose text is in no page."""
        return sum(row["page"] < 0 for row in self.rows)


def pages(sheet: Sheet, episodes: Episodes) -> dict[str, str]:
    """The files to be written: name -> HTML. The first has the report, all have the list."""
    made = {}
    for number, (name, page) in enumerate(zip(episodes.files, episodes.pages, strict=True)):
        said = _spread(episodes, number)
        report = _report(sheet) if number == 0 else ""
        index = {
            "count": len(episodes.rows),
            "page": number,
            "runs": [{"name": run} for run in episodes.runs],
            "files": list(episodes.files),
            "kinds": pack.KINDS,
            "columns": entries.columns(episodes.rows),
        }
        made[name] = _document(sheet.title, report, said, pack.elements(page, index), number == 0)
    return made


def _report(sheet: Sheet) -> str:
    said = "".join(f"<li>{transcript.escape(s)}</li>" for s in sheet.conclusions)
    parts = [
        f"<h1>{transcript.escape(sheet.title)}</h1>",
        f'<p class="lead">{transcript.escape(sheet.lead)}</p>',
        f'<ul class="conclusions">{said}</ul>' if said else "",
        *(_table(t) for t in sheet.tables[:1]),
        *(_figure(f) for f in sheet.figures),
        *(_table(t) for t in sheet.tables[1:]),
        *(_config(name, config, len(sheet.configs) > 1) for name, config in sheet.configs.items()),
    ]
    return "\n".join(parts)


def _config(name: str, config: dict, is_named: bool) -> str:
    title = f"The config of {name}" if is_named else "The config of this run"
    return (
        f'<details class="config card"><summary>{transcript.escape(title)}</summary><pre>'
        f"{transcript.escape(json.dumps(config, indent=1))}</pre></details>"
    )


def _spread(episodes: Episodes, number: int) -> str:
    """What the reader has to know where one page did not hold all episodes."""
    if len(episodes.pages) == 1 and not episodes.left_out:
        return ""
    here = sum(row["page"] == number for row in episodes.rows)
    others = ", ".join(
        f'<a href="{transcript.escape(name)}#episodes">{transcript.escape(name)}</a>'
        for i, name in enumerate(episodes.files) if i != number
    )  # fmt: skip
    text = f"This page holds the texts of {here:,} of {len(episodes.rows):,} episodes"
    text += f"; others are in {others}" if others else ""
    if episodes.left_out:
        text += f"; {episodes.left_out:,} are only listed, with their file and line"
    return f'<p class="note">{text}. A search reads the texts of this page.</p>'


def _document(title: str, report: str, spread: str, data: str, is_first: bool) -> str:
    style = (SOURCES / "page.css").read_text("utf-8") + _dots()
    script = script_text()
    shell = (SOURCES / "shell.html").read_text("utf-8").replace("<!-- spread -->", spread)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    name = transcript.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{name} - run report</title>\n<style>{style}</style>\n</head>\n"
        f'<body data-start="{"report" if is_first else "episodes"}">\n'
        f"{shell.replace('<!-- report -->', report)}\n{data}\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def script_text() -> str:
    """The page's script: the files of `page`, in order, in a scope of their own."""
    sources = sorted(SOURCES.glob("*.js"))
    parts = "\n".join(source.read_text("utf-8") for source in sources)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _dots() -> str:
    """The checkpoints' colours as classes, since the policy forbids styles of elements."""
    shades = {**plots.COLORS, "other": plots.OTHER_COLOR}
    return "".join(f".c-{name} {{ background: {shade}; }}\n" for name, shade in shades.items())


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _table(table: tables.Table) -> str:
    title = f"<h2>{transcript.escape(table.title)}</h2>"
    if not table.rows:
        return f'{title}<p class="missing">not run</p>'
    head = "".join(f"<th>{transcript.escape(c)}</th>" for c in table.columns)
    rows = "\n".join(f"<tr>{_cells(row)}</tr>" for row in table.rows)
    note = f'<p class="note">{transcript.escape(table.note)}</p>' if table.note else ""
    return (
        f'{title}<div class="card"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>{note}"
    )


def _cells(row: Sequence[str]) -> str:
    """The row's cells; a checkpoint's name gets its coloured dot."""
    cells = [transcript.escape(cell) for cell in row]
    if row[0] in plots.COLORS:
        cells[0] = f'<b class="dot c-{row[0]}"></b>{cells[0]}'
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _figure(figure: Figure) -> str:
    caption = transcript.escape(figure.caption)
    if figure.png is None:
        return f'<h2>{caption}</h2><p class="missing">not run</p>'
    data = base64.b64encode(figure.png).decode()
    return (
        f'<h2>{caption}</h2><div class="card picture">'
        f'<img alt="{caption}" src="data:image/png;base64,{data}"></div>'
    )
