"""Digests: any change of what a run reads shows, and gigabytes are not read for it."""

import hashlib
import os

import pytest

from aster_jax.data import digest
from tests import shared_data


def test_a_file_is_its_sha256():
    path = shared_data.path("problems/aime24.jsonl")  # as data/README.md lists it
    listed = "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac"
    assert digest.of(path) == digest.of(str(path)) == listed


def model(folder):
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model-1.safetensors", "README.md"):
        (folder / name).write_text(name)
    return folder


def test_every_file_of_a_model_counts_and_nothing_else(tmp_path):
    a, b = model(tmp_path / "a"), model(tmp_path / "b")
    first = digest.of(a)
    assert first == digest.of(b) and len(first) == 64
    (b / "README.md").write_text("changed")
    (b / ".cache").write_text("hidden")
    (b / "logs").mkdir()
    assert digest.of(b) == first
    for name in ("config.json", "tokenizer.json", "model-1.safetensors"):
        c = model(tmp_path / f"c-{name}")
        (c / name).write_text("changed")
        assert digest.of(c) != first
    (b / "chat_template.jinja").write_text("new")
    assert digest.of(b) != first
    os.rename(a / "model-1.safetensors", a / "model-2.safetensors")
    assert digest.of(a) != first


def test_another_directory_is_all_its_files(tmp_path):
    (tmp_path / "README.md").write_text("a")
    first = digest.of(tmp_path)
    (tmp_path / "README.md").write_text("b")
    assert digest.of(tmp_path) != first


def test_of_large_tensors_the_size_and_parts_of_it_are_read(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(100))
    assert digest.of(path) == hashlib.sha256(bytes(100)).hexdigest()
    with open(path, "wb") as file:
        file.truncate(40 << 30)  # a hole: no space is taken, and reading it all takes long
    first = digest.of(path)
    for at in (0, (40 << 30) - 1):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(b"x")
        assert digest.of(path) != first
        first = digest.of(path)
    with open(path, "ab") as file:
        file.write(b"\0")
    assert digest.of(path) != first


def test_what_cannot_be_read_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for name, says in {"absent": "does not exist", "pipe": "no regular", "empty": "no file"}.items():
        with pytest.raises(ValueError, match=says):
            digest.of(tmp_path / name)
