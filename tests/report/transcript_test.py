"""Episodes as HTML: nothing a model or a tool printed may act on the page."""

import html.parser

import hypothesis
import hypothesis.strategies as st
import pytest

from aster_jax.report import transcript
from tests.report import made_run

HOSTILE = (
    "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>"
    "\"'\x00\x1b[31m\u202e"
)


class _Tags(html.parser.HTMLParser):
    """Collects the tags and the text of a page as a browser would read it."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def _read(page):
    reader = _Tags()
    reader.feed(page)
    reader.close()
    return reader


def _hostile_episode():
    full = made_run.episode()
    calls = [{**c, "code": HOSTILE, "status": HOSTILE, "text": HOSTILE} for c in full["calls"]]
    spans = [{**s, "text": HOSTILE} for s in full["spans"]]
    texts = ("problem_id", "family", "question", "gold", "verdict", "end", "checkpoint", "arm")
    return {**full, **{t: HOSTILE for t in texts}, "calls": calls, "spans": spans}


def test_hostile_texts_stay_texts():
    calm = _read(transcript.to_html(made_run.episode(calls=[]), is_open=False))
    hostile = _read(transcript.to_html({**_hostile_episode(), "calls": []}, is_open=False))
    assert [t for t, _ in hostile.tags] == [t for t, _ in calm.tags]
    allowed = {"class", "style"}
    read = _read(transcript.to_html(_hostile_episode(), is_open=False))
    assert {a for _, attrs in read.tags for a in attrs} <= allowed
    assert not any(tag in ("script", "img") for tag, _ in read.tags)
    assert "alert(1)" in "".join(read.text)


def test_invisible_characters_become_visible():
    assert transcript.escape("a\x00\x1b[0m\u202eb\n\tc") == "a\\x00\\x1b[0m\\u202eb\n\tc"
    assert transcript.escape("\ud800 is half a character") == "\\ud800 is half a character"


@hypothesis.settings(derandomize=True, max_examples=60)
@hypothesis.given(st.text(alphabet=st.characters(codec=None), max_size=40))
def test_any_text_can_be_written_and_carries_no_markup(text):
    shown = transcript.escape(text)
    shown.encode()
    assert not set("<>\"'") & set(shown)
    assert all(c.isprintable() or c in "\n\t " or not c.isascii() for c in shown)


def test_code_stands_as_code_and_nothing_is_lost():
    page = transcript.to_html(made_run.episode(), is_open=True)
    assert '<pre class="code">a = 6 * 7\nprint(a)</pre>' in page
    assert "&quot;code_interpreter&quot;" in page
    assert page.count('<section class="tool">') == 2
    assert "2.0 ms" in page and ">error<" in page
    assert "expected answer: 42" in page and " open>" in page


def test_a_malformed_turn_is_shown_as_written():
    call = {"code": "", "status": "malformed", "text": "not closed", "wall_s": 0.0, "queue_s": 0.0}
    page = transcript.to_html(made_run.episode(calls=[call]), is_open=False)
    assert 'class="code"' not in page and ">malformed<" in page
    assert ">0 calls<" in page


def test_long_texts_are_cut_in_the_middle_and_say_so():
    text = "a" * transcript.LONGEST + "b" * 50
    cut = transcript.shorten(text)
    assert "[... 50 characters not shown ...]" in cut
    assert cut.startswith("aaa") and cut.endswith("bbb")
    assert transcript.shorten("short") == "short"


def test_an_episode_of_another_evaluation_says_so():
    assert transcript.label(made_run.episode()) == "rl2 / main"
    assert transcript.label(made_run.episode(evaluation="cool")) == "rl2 / main / cool"


def test_its_style_loads_nothing_and_ends_no_element():
    assert "<" not in transcript.CSS and "url(" not in transcript.CSS and "@" not in transcript.CSS


def test_tokens_are_shaded_by_their_values():
    """The largest distance from 0 has the full shade, half of it half; 0 has none."""
    record = made_run.with_tokens(made_run.episode())
    n = record["num_tokens"]
    page = _read(transcript.shaded(record, [-2.0, 1.0, *[0.0] * (n - 2)]))
    shades = [attrs["style"] for tag, attrs in page.tags if tag == "span"]
    text = "".join(s["text"] for s in record["spans"])
    assert len(shades) == n and "".join(page.text).replace("\u21b5", "\n") == text
    assert shades[:3] == [f"background:rgba({rgb})" for rgb in
                          ("200,69,59,0.55", "47,116,192,0.28", "200,69,59,0.00")]  # fmt: skip
    with pytest.raises(ValueError, match="give one for each"):
        transcript.shaded(record, [0.0])
    with pytest.raises(ValueError, match="no tokens"):
        transcript.shaded(made_run.episode(), [0.0])


@hypothesis.given(st.text(max_size=40))
@hypothesis.settings(max_examples=50, deadline=None)
def test_shaded_tokens_stay_text(text):
    record = made_run.with_tokens({**made_run.episode(), "spans": [{"kind": "model", "text": text + HOSTILE}]})
    page = _read(transcript.shaded(record, [1.0] * record["num_tokens"]))
    assert {tag for tag, _ in page.tags} == {"pre", "span"}
