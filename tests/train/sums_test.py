"""Check sums: every file below the folders, whole and nothing but what was written."""

import json
import zlib

import pytest

from aster_jax.train import sums


@pytest.fixture
def folder(tmp_path):
    for name, data in {"a/x": b"one", "a/deep/y": b"", "b/z": b"\0" * 5000, "top": b"t"}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path


def test_by_hand(folder):
    assert json.loads(sums.of(folder)) == {
        "a/deep/y": [0, 0],
        "a/x": [3, zlib.crc32(b"one")],
        "b/z": [5000, zlib.crc32(b"\0" * 5000)],
    }
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the check value of CRC-32 (ISO 3309)


def test_large_files_are_added_up_in_blocks(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(range(256)))
    whole = sums.of(tmp_path)
    monkeypatch.setattr(sums, "BLOCK_BYTES", 100)
    assert sums.of(tmp_path) == whole


def test_only_what_is_asked_for_is_looked_at(folder):
    known = sums.of(folder)
    sums.check(folder, known, ("a", "b"))
    (folder / "b" / "z").write_bytes(b"\0" * 4999)
    (folder / "a" / "more").write_bytes(b"of no account")
    sums.check(folder, known, ("a",))
    with pytest.raises(ValueError, match="b/z is not as it was written"):
        sums.check(folder, known, ("a", "b"))
    (folder / "a" / "x").unlink()
    with pytest.raises(OSError, match="a/x"):
        sums.check(folder, known, ("a",))


def test_an_item_nobody_summed_is_not_whole(folder):
    with pytest.raises(ValueError, match="nothing is known of c"):
        sums.check(folder, sums.of(folder), ("a", "c"))
    with pytest.raises(ValueError):
        sums.check(folder, "", ("a",))
