"""The page: self-contained, well-formed, complete without script."""

import html.parser
import re

from aster_jax.report import tables, theme, viewer
from tests.report import made_run

CONFIG = {"name": "<run> & co", "seed": 0, "model": {"source": "scratch"}}
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


def _page(**changed):
    parts = {
        "config": CONFIG,
        "conclusions": ["a < b"],
        "shown_tables": [tables.Table("R", ("checkpoint",), (("sft",),), "note"),
                         tables.Table("Empty", ("x",), ())],
        "figures": [viewer.Figure("a", "A figure", b"png"), viewer.Figure("b", "None", None)],
        "episodes": [made_run.episode(), made_run.without_tool(family="lcm")],
    }  # fmt: skip
    return viewer.page(**{**parts, **changed})


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


def test_only_the_pages_own_script_may_run():
    page = _page(episodes=[made_run.episode(question="</script><script>alert(1)</script>")])
    assert len(re.findall("<script", page)) == 1
    assert "script-src 'sha256-" in page and "default-src 'none'" in page


def test_missing_parts_say_so():
    assert _page().count("not run") == 2
    assert "<h2>Trajectories</h2><p" in _page(episodes=[])


def test_the_filter_offers_every_value_once_and_is_hidden_without_script():
    seen = _read(_page())
    options = [a["value"] for t, a in seen if t == "option"]
    assert options == ["", "rl2 / main", "", "prod", "lcm", "", "correct", "wrong"]
    bar = next(a for t, a in seen if t == "div" and a["class"] == "filter")
    assert "hidden" in bar and "bar.hidden = false" in theme.JS


def test_texts_of_config_and_conclusions_are_escaped():
    page = _page()
    assert "<h1>&lt;run&gt; &amp; co</h1>" in page and "<li>a &lt; b</li>" in page
