"""The page in a real browser: filters, search, deep links, keys, and episodes that attack it.

Needs a Chromium on the machine (Debian: chromium-headless-shell); the page's data and its
policy are tested without one in viewer_test.py and pack_test.py.
"""

import json

import pytest

from aster_jax.data import visible
from aster_jax.report import run as report
from tests.report import browser, made_run

pytestmark = pytest.mark.skipif(
    browser.executable() is None,
    reason=f"no Chromium here: none of {', '.join(browser.NAMES)} is on the PATH",
)

ATTACK = (
    "</script></pre><script>window.hit=1</script><img src=x onerror=window.hit=2>"
    "<a href='javascript:window.hit=3'>\x00\x1b[31m\u202eabc\u2066\ud800\u2028 &lt; ${1}"
)


def hostile(problem, **changed):
    """An episode whose every text attacks the page."""
    full = made_run.episode()
    calls = [{**c, "code": ATTACK, "status": ATTACK, "text": ATTACK} for c in full["calls"]]
    spans = [{**s, "text": ATTACK} for s in full["spans"]]
    texts = ("family", "question", "gold", "verdict", "end", "final_text")
    return {**full, "checkpoint": "rl2", "problem_id": problem, "calls": calls, "spans": spans,
            "final_text": ATTACK, **{t: ATTACK for t in texts}, **changed}  # fmt: skip


def special_ones():
    """Episodes that stand out: a thought, a hostile one, and 10 MB of output."""
    thinking = made_run.with_tokens(made_run.episode(problem_id="think"))
    thinking["spans"][1]["text"] = "<think>Zanzibar is far</think>" + thinking["spans"][1]["text"]
    flood = "0123456789" * 1_000_000 + "the end"
    calls = [{"code": "print(x)", "status": "ok", "text": flood, "wall_s": 1.0, "queue_s": 0.0}]
    spans = [*made_run.episode()["spans"][:3], made_run.episode()["spans"][5]]
    return [
        thinking, hostile(ATTACK + "evil"), hostile("evil"),
        made_run.episode(problem_id="flood", calls=calls, spans=spans),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = made_run.write(tmp_path_factory.mktemp("run"))
    result = made_run.result("rl2", "main", 0.5, 2.0, 99)
    file = path / result["file"]
    text = file.read_text() + "".join(json.dumps(r) + "\n" for r in special_ones())
    file.write_text(text)
    made_run.put(path / "eval" / "results.json", json.dumps([result]))
    made_run.put(path / "eval" / "asked.json", json.dumps([result["file"]]))
    report.write(path, 32.0)
    return path / "report" / "index.html"


@pytest.fixture(scope="module")
def window():
    with browser.Browser() as opened:
        yield opened


TEXT = "document.querySelector('#detail').textContent"


def shown(window):
    return window.value("document.querySelector('#count').textContent")


def opened(window, view, key):
    """Wait for an episode in a view."""
    name = json.dumps(f"{view} {key}")
    return window.wait(f"document.querySelector('#detail').dataset.key === {name}")


def test_it_asks_for_nothing_and_starts_with_the_report(page, window):
    window.asked.clear()
    window.open(page)
    assert all(url.startswith(("file://", "data:", "about:")) for url in window.asked)
    assert window.value("document.querySelector('#episodes').hidden")
    assert window.value("document.querySelector('h1').textContent") == "made"


def test_filters_narrow_the_list_and_the_address_says_so(page, window):
    window.open(page, "#episodes")
    assert shown(window) == "208 episodes"  # 2 x 12 steps x 8, and 16 evaluated
    window.fill("where", "rl1")
    window.wait("document.querySelector('#count').textContent === '96 of 208'")
    window.fill("from", "3")
    window.fill("to", "4")
    window.wait("document.querySelector('#count').textContent === '16 of 208'")
    window.fill("status", "error")
    window.wait("location.hash.includes('status=error')")
    with_error = window.value("document.querySelector('#count').textContent")
    window.open(page, "#episodes&where=rl1&from=3&to=4&status=error")
    assert shown(window) == with_error != "16 of 208"
    assert window.value("document.querySelector('[name=where]').value") == "rl1"
    window.value("document.querySelector('#clear').click()")
    window.wait("document.querySelector('#count').textContent === '208 episodes'")


def test_a_search_reads_thoughts_code_and_output(page, window):
    window.open(page, "#episodes")
    for query, found in (
        ("zanzibar", "1 of 208"), ("zanzibar -far", "0 of 208"), ('"is far" zanzibar', "1 of 208"),
        ("789the end", "1 of 208"), ("nowhere-at-all", "0 of 208"),
    ):  # fmt: skip
        window.fill("q", query)
        window.wait(f"document.documentElement.dataset.searched === {json.dumps(query)}")
        assert shown(window) == found, query
    window.fill("q", "zanzibar")
    window.wait("document.querySelector('.row mark')?.textContent === 'zanzibar'")


def test_a_deep_link_opens_an_episode_with_code_status_and_time(page, window):
    window.open(page, "#episodes&e=rl2/12/prod-17/4")
    opened(window, "one", "rl2/12/prod-17/4")
    text = window.value(TEXT)
    assert "What is 6 * 7?" in text and "ZeroDivisionError" in text and "advantage" in text
    assert "rl2/episodes/step_000012.jsonl, line 5" in text
    assert window.value("document.querySelector('.code .py-builtin').textContent") == "print"
    assert window.value("document.querySelectorAll('.bar button').length") == 10
    window.open(page, "#episodes&e=no/such/episode")
    assert "Choose an episode" in window.value(TEXT)


def test_keys_move_open_and_go_back(page, window):
    window.open(page, "#episodes&where=rl1")
    for key in "jjk":
        window.key(key)
    window.key("Enter")
    opened(window, "one", "rl1/1/prod-17/1")
    window.key("j")
    opened(window, "one", "rl1/1/prod-17/2")
    window.key("g")
    opened(window, "group", "rl1/1/prod-17/2")
    assert window.value("document.querySelectorAll('.column').length") == 8
    assert "advantage" in window.value("document.querySelector('.column').textContent")
    window.key("p")
    opened(window, "problem", "rl1/1/prod-17/2")
    window.key("Escape")
    opened(window, "one", "rl1/1/prod-17/2")
    window.key("Escape")
    window.wait("!document.body.classList.contains('opened')")
    window.key("/")
    window.key("j")
    assert window.value("document.querySelector('[name=q]').value") == "j"


def test_the_list_holds_only_what_is_in_sight(page, window):
    window.open(page, "#episodes")
    assert 5 < window.value("document.querySelectorAll('.row').length") < 60
    first = window.value("document.querySelector('.row').dataset.key")
    window.value("document.querySelector('#list').scrollTop = 1e6")
    shown = "[...document.querySelectorAll('.row')].map((row) => row.dataset.key)"
    window.wait(f"!{shown}.includes({json.dumps(first)})")
    assert 5 < window.value(f"{shown}.length") < 60


@pytest.mark.parametrize("shade", ["logprob", "entropy", "mask"])
def test_tokens_are_shaded_and_lose_no_text(page, window, shade):
    window.open(page, f"#episodes&e=rl2/12/prod-17/4&shade={shade}")
    opened(window, "one", "rl2/12/prod-17/4")
    record = made_run.episode()
    texts = window.value("[...document.querySelectorAll('.shaded')].map((e) => e.textContent)")
    assert texts == [s["text"] for s in record["spans"]]
    levels = set(window.value("[...document.querySelectorAll('.shaded .t')].map((e) => e.className)"))
    # The made log-probs go down to -4 of -5 nats, the entropies up to 2 of 2.5.
    strengths = ["none", 8] if shade == "mask" else ["none", *range(7)]
    assert levels == {f"t s{strength}" for strength in strengths}


def test_the_record_that_is_downloaded_is_the_record(page, window):
    window.open(page, "#episodes&e=rl2/12/prod-17/4")
    lines = (page.parents[1] / "rl2" / "episodes" / "step_000012.jsonl").read_text().splitlines()
    window.value(
        "URL.createObjectURL = (blob) => { blob.text().then((t) => { window.saved = t; });"
        "return 'data:,'; }"
    )
    window.value("[...document.querySelectorAll('.toolbar button')].at(-1).click()")
    assert json.loads(window.wait("window.saved")) == json.loads(lines[4])


def test_hostile_episodes_do_nothing(page, window):
    window.said.clear()
    for problem in ("evil", ATTACK + "evil"):
        for view in ("", "&view=group", "&view=problem", "&shade=logprob"):
            key = json.dumps(f"eval/rl2/main/main/{visible.escaped(problem)}/0")
            window.open(page, "#episodes")
            window.value(
                f"location.hash = '#episodes&' + new URLSearchParams({{e: {key}}}) + '{view}'"
            )
            window.wait(f"document.querySelector('#detail').dataset.key?.endsWith({key})")
            assert window.value("document.querySelectorAll('#detail img, #detail script').length") == 0
            assert window.value("window.hit") is None
    text = window.value(TEXT)
    assert "<script>window.hit=1</script>" in text
    assert "\\x00" in text and "\\u202e" in text and "\\ud800" in text
    assert not set("\x00\x1b\u202e\u2066\u2028") & set(window.value("document.body.innerText"))
    assert window.said == []


def test_ten_megabytes_of_output_are_shown_piece_by_piece(page, window):
    window.open(page, "#episodes&e=eval/rl2/main/main/flood/0")
    opened(window, "one", "eval/rl2/main/main/flood/0")
    assert window.value(f"{TEXT}.length") < 40_000
    assert "the end" in window.value(TEXT)
    window.value("document.querySelector('.gap').click()")
    assert 200_000 < window.value(f"{TEXT}.length") < 260_000


def test_a_small_window_shows_list_or_episode(page, window):
    window.resize(400, 800)
    try:
        window.open(page, "#episodes&e=rl2/12/prod-17/4")
        opened(window, "one", "rl2/12/prod-17/4")
        assert window.value("getComputedStyle(document.querySelector('aside')).display") == "none"
        assert window.value("document.documentElement.scrollWidth") <= 400
        window.key("Escape")
        window.wait("getComputedStyle(document.querySelector('aside')).display !== 'none'")
        assert window.value("document.documentElement.scrollWidth") <= 400
    finally:
        window.resize(1300, 900)


def test_on_paper_nothing_is_cut_and_colours_stay(page, window):
    """At the width of a sheet, in a dark room: tables break their cells, a group is all there."""
    wider = "[...document.querySelectorAll('.card, .column')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    window.resize(690, 900)
    try:
        window.call("Emulation.setEmulatedMedia", media="print", features=dark)
        window.open(page)
        assert window.value(f"{wider}.length") == 0
        style = "getComputedStyle(document.querySelector('.card'))"
        assert window.value(f"{style}.printColorAdjust") == "exact"
        assert window.value(f"{style}.overflow") == "visible"
        assert window.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert window.value("getComputedStyle(document.querySelector('h2')).breakAfter") == "avoid-page"
        window.open(page, "#episodes&e=rl2/12/prod-17/4&view=group")
        opened(window, "group", "rl2/12/prod-17/4")
        columns = "[...document.querySelectorAll('.column')]"
        window.wait(f"{columns}.every((e) => e.querySelector('section'))")
        assert window.value(f"{columns}.length") == 8 and window.value(f"{wider}.length") == 0
    finally:
        window.call("Emulation.setEmulatedMedia", media="", features=[])
        window.resize(1300, 900)
