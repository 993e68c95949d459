"""One episode as HTML, for a notebook: what was given, what the model wrote, what the tool
answered; and its tokens, shaded. And the way of any text into a page that Python writes.

All of it is hostile: model and tool can print anything. `escape` is the only way from a
record into the HTML.
"""

import base64
import html
from collections.abc import Sequence

import numpy as np

from aster_jax import types
from aster_jax.data import visible
from aster_jax.errors import InputError
from aster_jax.report import collapse, plots
from aster_jax.rollout import record as packed

LONGEST = 20_000  # characters of one text that are shown, head and tail
# How it looks.
CSS = """
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 50%;
  margin-right: 6px; }
.badge { display: inline-block; font-size: 12.5px; line-height: 1; padding: 4px 8px;
  border-radius: 10px; background: #eceff3; color: #3d4550; margin-left: 4px; }
.badge.ok, .badge.correct { background: #d9f0e6; color: #0a6a55; }
.badge.warn { background: #fdebd0; color: #8a5300; }
.badge.wrong { background: #fadcd9; color: #9c2b22; }
.episode { background: #ffffff; color: #24292f; border: 1px solid #e1e4e8;
  border-radius: 8px; margin: 8px 0; padding: 0 14px; }
.episode > summary { cursor: pointer; padding: 10px 0; font-size: 14.5px; }
.episode .question { display: block; color: #6b7280; margin: 4px 0 0 16px; }
.episode section { margin: 8px 0; border-left: 4px solid; border-radius: 4px;
  padding: 6px 12px 8px; }
.episode section header { font-size: 12.5px; font-weight: 700; text-transform: uppercase;
  letter-spacing: 0.05em; }
.episode section header .badge { text-transform: none; letter-spacing: 0; }
.episode section.prompt { background: #f4f5f7; border-color: #b4bac3; }
.episode section.prompt header { color: #6b7280; }
.episode section.model { background: #eef4fb; border-color: #2f74c0; }
.episode section.model header { color: #2f74c0; }
.episode section.tool { background: #fdf6e7; border-color: #e08a1e; margin-left: 28px; }
.episode section.tool header { color: #a4610b; }
.episode pre { margin: 4px 0 0; white-space: pre-wrap; background: none; color: inherit;
  overflow-wrap: anywhere; max-height: 480px; overflow-y: auto;
  font: 13.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
.episode pre.code { background: #1f2630; color: #e6edf3; border-radius: 6px; padding: 10px 12px;
  margin: 6px 0; }
.episode pre.after { color: #7d8794; }
.episode pre:empty { display: none; }
"""
_SHADED = (
    "white-space:pre-wrap;overflow-wrap:anywhere;background:#ffffff;color:#24292f;padding:6px 10px;"
    "font:13px/1.6 ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace"
)
_LABELS = {"prompt": "given", "model": "model", "tool": "tool"}


def escape(text: str) -> str:
    """Text that is safe anywhere in an HTML page, attribute values included: escaped as in
    `data/visible.py`, and markup characters as entities."""
    return html.escape(visible.escaped(text), quote=True)


def shorten(text: str) -> str:
    """At most LONGEST characters: head, a note of what was left out, tail."""
    left_out = len(text) - LONGEST
    if left_out <= 0:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n[... {left_out} characters not shown ...]\n{text[-half:]}"


def label(record: dict) -> str:
    """The checkpoint, the arm and, beside the main one, the evaluation that an episode is of."""
    parts = [record["checkpoint"], record["arm"]]
    if "evaluation" in record and record["evaluation"] != "main":
        parts.append(record["evaluation"])
    return " / ".join(parts)


def to_html(record: dict, is_open: bool) -> str:
    """The episode as one foldable block; `CSS` has to be in the page once."""
    outcome = "correct" if record["reward"] > 0 else "wrong"
    name = label(record)
    badges = [
        f'<b class="dot" style="background:{plots.color(record["checkpoint"])}"></b>{escape(name)}',
        _badge(outcome, outcome),
        _badge(record["family"], ""),
        _badge(f"{types.num_calls(c['status'] for c in record['calls'])} calls", ""),
        _badge(record["end"], "" if record["end"] == "answered" else "warn"),
    ]
    facts = (
        f"problem {record['problem_id']}, sample {record['sample']}, "
        f"stage {record['stage']} step {record['step']}; reward {record['reward']:g} "
        f"({record['verdict']}); {record['num_model_tokens']} tokens written of "
        f"{record['num_tokens']}; expected answer: {record['gold']}"
    )
    return (
        f'<details class="episode"{" open" if is_open else ""}>\n'
        f"<summary>{' '.join(badges)}"
        f'<span class="question">{escape(_first_line(record["question"]))}</span></summary>\n'
        f'<p class="facts">{escape(facts)}</p>\n{_spans(record)}</details>\n'
    )


def shaded(record: dict, values: Sequence[float]) -> str:
    """The episode's tokens one after the other, each with its value as the colour behind it; a
    newline is shown as one sign, so that they run on.

    Blue is above 0 and red below, the darker the further away, in shares of the largest
    distance there is; the number shows under the pointer. `values` has one per token: its
    loss mask, log-prob, advantage. Raises InputError for a record without tokens, or with
    another number of them.
    """
    if "chars" not in record:
        raise InputError(f"the record of problem {record['problem_id']} holds no tokens to shade")
    lengths = np.frombuffer(base64.b64decode(record["chars"]), packed.CHARS).tolist()
    values = [float(v) for v in values]
    if len(values) != len(lengths):
        raise InputError(f"{len(values)} values for {len(lengths)} tokens; give one for each")
    text = "".join(span["text"] for span in record["spans"])
    largest = max(map(abs, values), default=0.0) or 1.0
    at, pieces = 0, []
    for length, value in zip(lengths, values, strict=True):
        rgb = "47,116,192" if value > 0 else "200,69,59"
        shade = f"background:rgba({rgb},{0.55 * abs(value) / largest:.2f})"
        shown = escape(text[at : at + length].replace("\n", "\u21b5"))
        pieces.append(f'<span style="{shade}" title="{value:.4g}">{shown}</span>')
        at += length
    return f'<pre style="{_SHADED}">{"".join(pieces)}</pre>'


def _spans(record) -> str:
    """The spans in order; the i-th model turn made the i-th call, if there is one."""
    parts, turn, answered = [], 0, 0
    calls = record["calls"]
    for span in record["spans"]:
        head, body = _LABELS[span["kind"]], f"<pre>{escape(shorten(span['text']))}</pre>"
        if span["kind"] == "model":
            if turn < len(calls):
                body = _turn(span["text"], calls[turn]["code"])
            turn += 1
        elif span["kind"] == "tool" and answered < len(calls):
            call = calls[answered]
            answered += 1
            kind = "ok" if call["status"] == "ok" else "warn"
            took = f"{1000 * call['wall_s']:.1f} ms"
            head += f" {_badge(call['status'], kind)} {_badge(took, '')}"
        parts.append(
            f'<section class="{span["kind"]}"><header>{head}</header>{body}</section>\n'
        )
    return "".join(parts)


def _turn(text: str, code: str) -> str:
    """A turn with its call: the code is shown as code, everything around it as written."""
    before, found, after = collapse.split_at_code(text, code)
    if not found:
        return f"<pre>{escape(shorten(text))}</pre>"
    return (
        f"<pre>{escape(shorten(before))}</pre>"
        f'<pre class="code">{escape(shorten(code))}</pre>'
        f'<pre class="after">{escape(shorten(after))}</pre>'
    )


def _badge(text: str, kind: str) -> str:
    return f'<span class="badge {kind}">{escape(str(text))}</span>'


def _first_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 110 else line[:107] + "..."
