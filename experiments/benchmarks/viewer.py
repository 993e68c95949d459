"""How fast the report's page is with thousands of real episodes, in a real browser.

    python -m experiments.benchmarks.viewer RUN [--episodes 5000]

RUN is the workdir of any run (experiments/quickstart.py leaves about 4,600 episodes); its
episodes are repeated under other problem names, with every number in them drawn anew so
that they do not pack better than other ones would, until there are as many as asked for.
Needs a Chromium (Debian: chromium-headless-shell). Says the size of the page, and for its
first paint, the list, searches and an episode the seconds on the clock, and the processor
seconds of the whole browser, which a busy machine leaves as they are. Wanted on two idle
cores: at most 40 MB, 2 s to the first paint, 0.3 s for a search.
"""

import argparse
import copy
import itertools
import json
import pathlib
import random
import re
import tempfile
import time

from aster_jax.report import entries, pack, records, viewer
from tests.report import browser

WORDS = ("modulo", "gcd print", '"least common"', "ZeroDivisionError", "boxed 7", "nowhere-at-all")


def varied(record: dict, copies: int, rng: random.Random) -> dict:
    """The episode with other digits in its texts, under a problem's name of its own."""
    if not copies:
        return record

    def anew(text):
        return re.sub(r"[1-9]", lambda _: str(rng.randint(1, 9)), text)

    made = copy.deepcopy(record)
    made["problem_id"] += f"-{copies}"
    made["question"], made["final_text"] = anew(made["question"]), anew(made["final_text"])
    for part, names in (("spans", ("text",)), ("calls", ("code", "text"))):
        for piece in made[part]:
            piece |= {name: anew(piece[name]) for name in names}
    return made


def build(workdir: pathlib.Path, count: int, path: pathlib.Path) -> None:
    """The page with so many episodes, as the report makes it, without figures."""
    found = records.episodes(workdir)
    packer, rows, rng = pack.Packer(1 << 30), [], random.Random(0)
    for i, record in zip(range(count), itertools.cycle(found)):
        made = varied(record, i // len(found), rng)
        rows.append(entries.row(made, 0, "episodes.jsonl", i + 1))
        packer.add(rows[-1], made)
    entries.number(rows, ("rl1", "rl2", "eval"))
    sheet = viewer.Sheet("benchmark", f"{count} episodes", [], [], [], {})
    episodes = viewer.Episodes(["run"], rows, packer.close(), ["index.html"])
    path.write_text(viewer.pages(sheet, episodes)["index.html"])


def first_paint(window: browser.Browser, path: pathlib.Path) -> tuple[float, float]:
    """(first contentful paint, list in sight), in seconds from the start of the navigation."""
    window.open(path, "#episodes")
    window.wait("document.querySelectorAll('.row').length > 5")
    painted_ms = window.wait(
        "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    )
    listed_ms = window.value("performance.getEntriesByName('listed')[0].startTime")
    return painted_ms / 1e3, listed_ms / 1e3


def search(window: browser.Browser, words: str) -> float:
    """Seconds from a search to the list of what was found."""
    return window.value(
        "(async () => { const began = performance.now();"
        f"const field = document.querySelector('#filters [name=q]'); field.value = {json.dumps(words)};"
        "field.dispatchEvent(new Event('input', {bubbles: true}));"
        f"while (document.documentElement.dataset.searched !== {json.dumps(words)})"
        "await new Promise((then) => setTimeout(then, 1));"
        "return (performance.now() - began) / 1000; })()"
    )


def main() -> None:
    """Build the page, open it, print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--episodes", type=int, default=5000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, browser.Browser() as window:
        path = pathlib.Path(directory) / "index.html"
        began = time.perf_counter()
        build(asked.run, asked.episodes, path)
        print(f"page       {path.stat().st_size / 1e6:.1f} MB of {asked.episodes} episodes, "
              f"made in {time.perf_counter() - began:.1f} s")  # fmt: skip
        for _ in range(2):
            (painted, listed), used = spent(window, lambda: first_paint(window, path))
            print(f"paint      {painted:.2f} s, list {listed:.2f} s; processor {used:.2f} s in all")
        took, used = spent(window, lambda: search(window, "modulo"))
        print(f"search     {took:.3f} s as soon as the page is open; processor {used:.2f} s")
        window.wait("document.documentElement.dataset.searchable === 'yes'", 600)
        for words in WORDS:
            took, used = spent(window, lambda: search(window, words))
            print(f"search     {took:.3f} s, of which 0.12 s wait for more keys; "
                  f"processor {used:.2f} s: {words}")  # fmt: skip
        window.open(path, "#episodes")
        took, used = spent(window, lambda: window.value(OPEN))
        print(f"episode    {took:.3f} s to open; processor {used:.2f} s")


OPEN = (
    "(async () => { const began = performance.now();"
    "document.querySelectorAll('.row')[4].click();"
    "while (!document.querySelector('#detail section'))"
    "await new Promise((then) => setTimeout(then, 1));"
    "return (performance.now() - began) / 1000; })()"
)


def spent(window: browser.Browser, does) -> tuple:
    """(what `does` gave back, the browser's processor seconds meanwhile)."""
    before = window.processor_s()
    found = does()
    return found, window.processor_s() - before


if __name__ == "__main__":
    main()
