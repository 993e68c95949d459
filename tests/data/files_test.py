"""Files within bounds: a pipe, a folder, too much, and text that is none."""

import os

import pytest

from aster_jax.data import files


def test_a_regular_file_is_read_through_links(tmp_path):
    (tmp_path / "a").write_text('{"é": 1}', encoding="utf-8")
    os.symlink(tmp_path / "a", tmp_path / "b")
    assert files.read_object(tmp_path / "b") == {"é": 1}


def test_what_has_no_end_or_no_meaning_is_named(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"\xe9")
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "list").write_text("[]")
    os.symlink("loop", tmp_path / "loop")
    cases = {"pipe": "no regular file", ".": "no regular file", "/dev/zero": "no regular file",
             "absent": "does not exist", "a\0b": "cannot be opened", "x" * 300: "cannot be opened",
             "loop": "cannot be opened", "latin": "not UTF-8", "deep": "not valid JSON",
             "list": "not a JSON object but list"}  # fmt: skip
    for name, says in cases.items():
        with pytest.raises(ValueError, match=says):
            files.read_object(tmp_path / name)
    monkeypatch.setattr(files, "MAX_BYTES", 1)
    with pytest.raises(ValueError, match="list has 2 bytes, more than the 1"):
        files.read_bytes(tmp_path / "list")
