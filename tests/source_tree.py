"""The repository's own files, and their syntax trees: what the rule tests read."""

import ast
import functools
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@functools.cache
def tracked() -> tuple[pathlib.Path, ...]:
    """The repository's files, relative to its root: those that git knows or would add."""
    found = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    names = sorted(set(found.stdout.split("\0")) - {""})
    return tuple(pathlib.Path(n) for n in names if (ROOT / n).is_file())


@functools.cache
def parsed(folder: str) -> dict[str, ast.Module]:
    """Syntax trees of the Python files below a folder of the root, by path below it."""
    paths = [p for p in tracked() if p.parts[0] == folder and p.suffix == ".py"]
    return {
        p.relative_to(folder).as_posix(): ast.parse((ROOT / p).read_text("utf-8")) for p in paths
    }


def imports(tree: ast.Module) -> list[str]:
    """Full dotted names that a file imports, wherever in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{a.name}" for a in node.names]
    return found


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """All functions and methods of a file, nested ones too."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def check(wrong: list[str]) -> None:
    """Fail with the whole list of what breaks a rule."""
    assert not wrong, "\n" + "\n".join(wrong)
