"""Rows of files: the same from every form, and damage named by file and row."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from aster_jax.data import rows

MADE = [{"a": "x\u2028y"}, {"a": "z"}]


def test_every_form_gives_the_same_rows(tmp_path):
    """A line ends at a newline only, whatever else Unicode calls a line's end."""
    lines = "\n\n".join(json.dumps(r, ensure_ascii=False) for r in MADE) + "\n"
    (tmp_path / "a.jsonl").write_text(lines, "utf-8")
    (tmp_path / "a.json").write_text(json.dumps(MADE), "utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(MADE), tmp_path / "a.parquet")
    assert rows.read(tmp_path / "a.jsonl", "problem", "k") == [(1, MADE[0]), (3, MADE[1])]
    (tmp_path / "marked.jsonl").write_text(lines, "utf-8-sig")
    assert rows.read(tmp_path / "marked.jsonl", "problem", "k") == [(1, MADE[0]), (3, MADE[1])]
    (tmp_path / "marked.json").write_text(json.dumps(MADE), "utf-8-sig")
    for name in ("a.json", "marked.json", "a.parquet"):
        assert rows.read(tmp_path / name, "problem", "k") == list(enumerate(MADE, 1))


@pytest.mark.parametrize("name, data, said", [
    ("a.jsonl", b'{}\n{"a":', "a.jsonl row 2 is not JSON"),
    ("a.jsonl", b'{}\n\n{"a": "\xff"}', "a.jsonl row 3 is not UTF-8"),
    ("a.json", b"[\xff]", "cannot be read as .json"),
    ("a.json", b'{"a": 1}', "is not a JSON list"),
    ("a.json", b"[" * 200_000, "cannot be read as .json"),
    ("a.parquet", b"PAR1", "cannot be read as .parquet"),
    ("a.csv", b"a,b", "neither .jsonl, .json nor .parquet"),
])  # fmt: skip
def test_damage_is_named(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        rows.read(tmp_path / name, "problem", "k")


def test_a_file_that_is_not_there_says_which_key_to_check(tmp_path):
    with pytest.raises(ValueError, match=r"problem file .*a.json does not exist; check problems.source"):
        rows.read(tmp_path / "a.json", "problem", "problems.source")
