"""docs/troubleshooting.md and the code agree: what is quoted is said, and what is raised is quoted."""

import ast
import functools
import re

import pytest

from tests import documents, source_tree

TEXT = (documents.ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
HOLE = "\N{HORIZONTAL ELLIPSIS}"  # what differs from case to case
RAISED = ("InputError", "GaveUp")
CELL = re.compile(r"^\| (`+) ?(.*?) ?\1 \|", re.M)
BEFORE_SYMPTOMS = TEXT.partition("## Symptoms")[0]
QUOTED = [match[2] for match in CELL.finditer(BEFORE_SYMPTOMS)]
FILES = [q for q in QUOTED if re.fullmatch(r"[\w/]+\.py", q)]
MESSAGES = [q for q in QUOTED if q not in FILES]


def _said(node) -> str:
    """A text of the code, with holes for what is filled in; "" for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else HOLE for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_said(node.left) or HOLE) + (_said(node.right) or HOLE)
    return ""


def _trees():
    for folder in ("aster_jax", "launch"):
        for path, tree in source_tree.parsed(folder).items():
            yield f"{folder}/{path}", tree


@functools.cache
def _texts() -> frozenset[str]:
    """Every text of the code."""
    return frozenset(" ".join(_said(n).split()) for _, tree in _trees() for n in ast.walk(tree))


def _pattern(quoted: str) -> re.Pattern:
    return re.compile(".*".join(map(re.escape, quoted.split(HOLE))))


@pytest.mark.parametrize("quoted", MESSAGES)
def test_a_quoted_message_is_said_by_the_code(quoted):
    assert len(re.findall("[a-z]", quoted)) >= 4, "it says nothing"
    pattern = _pattern(quoted)
    assert any(pattern.search(text) for text in _texts())


def test_what_the_code_raises_is_explained():
    patterns = [_pattern(quoted) for quoted in MESSAGES]
    wrong = []
    for path, tree in _trees():
        for node in ast.walk(tree):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if not (called and node.func.id in RAISED and node.args) or path in FILES:
                continue
            text = " ".join(_said(node.args[0]).split())
            if text.strip(HOLE) and not any(pattern.search(text) for pattern in patterns):
                wrong.append(f"{path}:{node.lineno} {text}")
    source_tree.check(wrong)


def test_files_that_are_explained_as_a_whole_raise_something():
    trees = dict(_trees())
    for path in FILES:
        named = {n.id for n in ast.walk(trees[path]) if isinstance(n, ast.Name)}
        assert named & {*RAISED}, path
