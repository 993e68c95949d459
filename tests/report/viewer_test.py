"""The page: self-contained, well-formed, complete without script."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess

import pytest

from aster_jax.report import entries, pack, tables, viewer
from tests.report import made_run

VOID = {"meta", "img", "br", "link", "input"}


class _Balance(html.parser.HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()


def _page(records=(made_run.episode(), made_run.without_tool(family="lcm")), **changed):
    """The first page, with all episodes in it."""
    packer, rows = pack.Packer(1 << 20), []
    for line, record in enumerate(records, start=1):
        rows.append(entries.row(record, 0, "f.jsonl", line))
        packer.add(rows[-1], record)
    entries.number(rows, ("eval",))
    parts = {
        "title": "<run> & co",
        "lead": "a lead",
        "conclusions": ["a < b"],
        "tables": [tables.Table("R", ("checkpoint",), (("sft",),), "note"),
                   tables.Table("Empty", ("x",), ())],
        "figures": [viewer.Figure("a", "A figure", b"png"), viewer.Figure("b", "None", None)],
        "configs": {"run": {"seed": 0}},
    }  # fmt: skip
    sheet = viewer.Sheet(**{**parts, **changed})
    episodes = viewer.Episodes(["run"], rows, packer.close(), ["index.html"])
    return viewer.pages(sheet, episodes)["index.html"]


def _read(page):
    reader = _Balance()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader.seen


def test_the_page_asks_for_nothing():
    page = _page()
    assert "://" not in page
    assert all(a["src"].startswith("data:image/png;base64,") for t, a in _read(page) if t == "img")
    assert [t for t, _ in _read(page) if t in ("link", "iframe", "object")] == []


def test_only_the_pages_own_script_and_style_may_run():
    page = _page([made_run.episode(question="</script><script>alert(1)</script>")])
    running = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(running) == len(style) == 1 and " style=" not in page
    policy = re.search(r'Security-Policy" content="([^"]*)"', page)[1]
    for kind, text in (("script", running[0]), ("style", style[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    kinds = {a.get("type") for t, a in _read(page) if t == "script"}
    assert kinds == {None, "application/octet-stream"}


def test_what_episodes_hold_is_in_the_page_in_base64_only():
    word = "supercalifragilistic"
    page = _page([made_run.episode(question=word, gold=word, family=word, verdict=word)])
    assert word not in page
    chunks = re.findall(r'data-kind="texts">([^<]*)<', page)
    assert word in pack.inflated(chunks[0])


def test_the_script_reads_no_text_as_markup_and_asks_for_nothing():
    script, style = viewer.script_text(), (viewer.SOURCES / "page.css").read_text()
    for name in ("innerHTML", "outerHTML", "insertAdjacent", "eval(", "Function(", "fetch(",
                 "document.write", "XMLHttp", "import(", "DOMParser", "srcdoc"):  # fmt: skip
        assert name not in script
    assert "</" not in re.sub(r"<\\/think>", "", script) and "<!--" not in script
    assert "<" not in style and "url(" not in style and "@import" not in style


# The turn of a model as the page takes it apart; what is shown is told in place of drawn.
WRITTEN = """
const shown = [], box = { append() {} };
const el = () => box, plain = (text) => text, python = null;
const long = (pre, text) => (shown.push(text), pre);
SOURCE
for (const turn of JSON.parse(require("fs").readFileSync(0, "utf8"))) written(box, turn);
console.log(JSON.stringify(shown));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on the PATH")
def test_a_turn_of_much_white_space_is_taken_apart_at_once():
    blank = " " * 400_000
    call = {"code": "print(1)"}
    texts = ["a \n<tool_call>\n{\"code\": \"print(1)\"}", "Look.\n \"print(1)\"", f"a{blank}b \"print(1)\""]
    turns = [{"text": text, "call": call} for text in texts]
    turns.append({"text": f"\n\n c{blank}d \n", "call": None})
    source = (viewer.SOURCES / "5_episode.js").read_text("utf-8")
    done = subprocess.run(["node", "-e", WRITTEN.replace("SOURCE", source)], input=json.dumps(turns),
                          capture_output=True, text=True, timeout=30, check=True)  # fmt: skip
    code = call["code"]
    assert json.loads(done.stdout) == ["a", code, "Look.", code, f"a{blank}b", code, f" c{blank}d"]


def test_missing_parts_say_so():
    assert _page().count("not run") == 2


def test_no_episodes_are_a_page_too():
    assert "0 episodes" not in _page([]) and 'id="index"' in _page([])


def test_texts_of_config_and_conclusions_are_escaped():
    page = _page()
    assert "<h1>&lt;run&gt; &amp; co</h1>" in page and "<li>a &lt; b</li>" in page
