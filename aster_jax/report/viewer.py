"""The report as one HTML page that needs nothing but itself.

Styles and script are inline, images are data URLs, and a content security policy forbids
everything else: no request leaves the page, and no text in it can run.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence

from aster_jax.report import plots, tables, theme, transcript


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of the page: file name, what it shows, PNG bytes or None (not run)."""

    name: str
    caption: str
    png: bytes | None


def page(
    config: dict,
    conclusions: Sequence[str],
    shown_tables: Sequence[tables.Table],
    figures: Sequence[Figure],
    episodes: Sequence[dict],
) -> str:
    """The whole page: results first, then the curves, then trajectories, then the config.

    The first table is shown before the figures and the others after them.
    """
    name = transcript.escape(config["name"])
    said = "".join(f"<li>{transcript.escape(s)}</li>" for s in conclusions)
    parts = [
        f"<h1>{name}</h1>",
        f'<p class="lead">Run report, seed {transcript.escape(str(config["seed"]))}, model '
        f"{transcript.escape(str(config['model']['source']))}</p>",
        f'<ul class="conclusions">{said}</ul>' if said else "",
        *(_table(t) for t in shown_tables[:1]),
        *(_figure(f) for f in figures),
        *(_table(t) for t in shown_tables[1:]),
        _episodes(episodes),
        '<details class="config card"><summary>The config of this run</summary><pre>'
        f"{transcript.escape(json.dumps(config, indent=1))}</pre></details>",
    ]
    return _document(name, "\n".join(parts))


def _document(title: str, body: str) -> str:
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {_script_hash(theme.JS)}; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} - run report</title>\n<style>{theme.CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>{theme.JS}</script>\n</body>\n</html>\n"
    )


def _script_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
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
    dot = ""
    if row[0] in plots.COLORS:
        dot = f'<b class="dot" style="background:{plots.color(row[0])}"></b>'
    cells = [transcript.escape(cell) for cell in row]
    cells[0] = dot + cells[0]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _figure(figure: Figure) -> str:
    caption = transcript.escape(figure.caption)
    if figure.png is None:
        return f'<h2>{caption}</h2><p class="missing">not run</p>'
    data = base64.b64encode(figure.png).decode()
    return (
        f'<h2>{caption}</h2><div class="card">'
        f'<img alt="{caption}" src="data:image/png;base64,{data}"></div>'
    )


def _episodes(episodes: Sequence[dict]) -> str:
    """The filter bar (for browsers with script) and all episodes; one with a call is open."""
    opened = next((i for i, e in enumerate(episodes) if e["calls"]), 0)
    blocks = [transcript.to_html(e, is_open=i == opened) for i, e in enumerate(episodes)]
    menus = "".join(
        _menu(label, name, values)
        for label, name, values in (
            ("Checkpoint", "checkpoint", [transcript.label(e) for e in episodes]),
            ("Family", "family", [e["family"] for e in episodes]),
            ("Outcome", "outcome", ["correct", "wrong"]),
        )
    )
    empty = "" if blocks else '<p class="missing">not run</p>'
    return (
        f'<h2>Trajectories</h2>{empty}<div class="filter" hidden>{menus}<output></output></div>\n'
        + "".join(blocks)
    )


def _menu(label: str, name: str, values: Sequence[str]) -> str:
    options = "".join(
        f'<option value="{transcript.escape(v)}">{transcript.escape(v)}</option>'
        for v in dict.fromkeys(values)
    )
    everything = '<option value="">all</option>'
    return f'<label>{label} <select name="{name}">{everything}{options}</select></label>'
