"""One episode as HTML: what was given, what the model wrote, what the tool answered.

All of it is hostile: model and tool can print anything. `escape` is the only way from a
record into the page.
"""

import html
import unicodedata

from aster_jax import types
from aster_jax.report import collapse, plots

LONGEST = 20_000  # characters of one text that are shown, head and tail
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_LABELS = {"prompt": "given", "model": "model", "tool": "tool"}


def escape(text: str) -> str:
    """Text that is safe anywhere in an HTML page, attribute values included.

    Markup characters become entities; characters that would be invisible, reorder the
    text or cannot be encoded become visible escapes such as `\\x1b`. Newlines and tabs stay.
    """
    shown = []
    for char in text:
        if char not in "\n\t" and unicodedata.category(char) in _HIDDEN:
            shown.append(char.encode("unicode_escape", "surrogatepass").decode("ascii"))
        else:
            shown.append(char)
    return html.escape("".join(shown), quote=True)


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
    """The episode as one foldable block that the page's filter can find."""
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
        f'<details class="episode" data-checkpoint="{escape(name)}" '
        f'data-family="{escape(record["family"])}" data-outcome="{outcome}"'
        f"{' open' if is_open else ''}>\n"
        f"<summary>{' '.join(badges)}"
        f'<span class="question">{escape(_first_line(record["question"]))}</span></summary>\n'
        f'<p class="facts">{escape(facts)}</p>\n{_spans(record)}</details>\n'
    )


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
