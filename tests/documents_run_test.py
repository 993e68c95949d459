"""What a page says it prints, it prints: blocks marked `run`, in the order of their page."""

import contextlib
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile

import pytest

from tests import documents

PAGES = [
    page for page in documents.PAGES
    if any("run" in b.words for b in documents.blocks((documents.ROOT / page).read_text("utf-8")))
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.as_posix())
def test_the_examples_of_a_page_print_what_it_shows(page, tmp_path, monkeypatch):
    documents.write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    said = None
    try:
        for block in documents.blocks((documents.ROOT / page).read_text("utf-8")):
            if "run" in block.words:
                said = _run(block, tmp_path)
            elif "output" in block.words:
                assert _like(block.text, said), f"{page}:{block.line}: it prints\n{said}"
    finally:
        for name in set(sys.modules) - before:  # the page's own modules, and what they changed
            if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
                del sys.modules[name]


def _run(block, folder) -> str:
    if block.language == "sh":
        return _shell(block, folder)
    path = folder / (block.file or "block.py")
    path.write_text(block.text)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(path), run_name="__main__")
    return out.getvalue()


def _shell(block, folder) -> str:
    """The block's commands as a shell runs them; what stays in the background is ended with it."""
    given = {"PYTHON": sys.executable, "PYTHONPATH": str(documents.ROOT), "XLA_FLAGS": ""}
    script = 'python() { "$PYTHON" "$@"; }\nset -e\n' + block.text
    with tempfile.TemporaryFile("w+") as out:  # no pipe, which the background would hold open
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, env={**os.environ, **given}, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = shell.wait(300)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        out.seek(0)
        said = out.read()
    assert code == 0, said
    return said


def _like(shown: str, said: str) -> bool:
    pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, said.strip(), re.S) is not None
