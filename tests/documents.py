"""The documents as the tests read them: fenced blocks, the commands in them, anchors.

A block's language says what becomes of it. `sh`: every line is a command of a kind that is
known here, and is tried without being carried out (`documents_commands_test.py`). `python`:
it compiles, and what it imports is there. With `run` behind the language the block is really
run, with `file=NAME` it is that file of the page's own directory, and a block `text output` is what
the run before it prints, `...` for anything (`documents_run_test.py`). Blocks without a language are
commands where a line begins like one, and else not looked at.
"""

import dataclasses
import pathlib
import re
import shlex

from tests import source_tree

ROOT = source_tree.ROOT
# By folder: what lies beside them in somebody's checkout (runs, environments) is no page.
FOLDERS = ("aster_jax", "docs", "experiments", "launch", "tests")
PAGES = sorted(
    p.relative_to(ROOT) for p in (*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md")))
)
# How a line begins that is a command of ours, where a block does not say what it is.
OUR_OWN = re.compile(r"(nice -n 19 )?([A-Z_]+=\S+ )*(export |python |venv/bin/python |aster |launch/\w+\.sh)")
# Programs of others, whose arguments are theirs.
OTHERS = ("cd", "curl", "docker", "export", "gcloud", "git", "kubectl", "nice", "pip", "tensorboard")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: the words behind its fence, its text, the line it begins in."""

    words: tuple[str, ...]
    text: str
    line: int

    @property
    def language(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def file(self) -> str:
        """The name that its text is written under; "" for none."""
        named = [w.removeprefix("file=") for w in self.words if w.startswith("file=")]
        return named[0] if named else ""


def blocks(text: str) -> list[Block]:
    found = []
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S):
        line = text[: match.start()].count("\n") + 1
        found.append(Block(tuple(match[1].split()), match[2], line))
    return found


def prose(text: str) -> str:
    """The text without its blocks."""
    return re.sub(r"^```[^\n]*\n.*?^```$", "", text, flags=re.M | re.S)


def lines(block: Block) -> list[str]:
    """A block's lines, continued ones as one."""
    return [line for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]


def commands(text: str) -> list[tuple[int, dict[str, str], list[str]]]:
    """(line of its block, environment, words) of every command of a page, also in its sentences.

    `export` lines count for what follows in their block; `A && B` are two commands.
    """
    found = []
    spans = (" ".join(s.split()) for s in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text)))
    inline = [Block((), span, 0) for span in spans if " " in span]
    for block in [*blocks(text), *inline]:
        if block.language not in ("", "sh"):
            continue
        exported: dict[str, str] = {}
        for line in lines(block):
            if block.language != "sh" and not OUR_OWN.match(line):
                continue
            for part in line.split(" && "):
                words = shlex.split(part.removesuffix("&"), comments=True)
                given = dict(exported)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    name, _, value = words.pop(0).partition("=")
                    given[name] = value
                if words[:1] == ["export"]:
                    exported |= dict(w.split("=", 1) for w in words[1:])
                if words[:3] == ["nice", "-n", "19"]:
                    words = words[3:]
                found.append((block.line, given, words))
    return found


def anchors(text: str) -> set[str]:
    """What a link to a heading of the page says behind its #, as GitHub makes it."""
    found: set[str] = set()
    for title in re.findall(r"^#+ +(.*)$", prose(text), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()
        name = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        number = 1
        while (unique := name if number == 1 else f"{name}-{number - 1}") in found:
            number += 1
        found.add(unique)
    return found


def links(text: str) -> list[str]:
    """Targets of the page's links and pictures, but for those that go out."""
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", prose(text)) if "://" not in t]


def write_files(page: pathlib.Path, folder: pathlib.Path) -> None:
    """The files that a page's blocks are, in a folder."""
    for block in blocks((ROOT / page).read_text("utf-8")):
        if block.file:
            (folder / block.file).write_text(block.text)
