"""Check sums: every file below the folders, whole and nothing but what was written."""

import hashlib
import json

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
        "a/deep/y": hashlib.sha256(b"").hexdigest(),
        "a/x": hashlib.sha256(b"one").hexdigest(),
        "b/z": hashlib.sha256(b"\0" * 5000).hexdigest(),
    }


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
