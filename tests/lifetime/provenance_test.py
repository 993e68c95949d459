"""Where a run comes from, and what differs between two starts."""

import json
import subprocess

from aster_jax.lifetime import provenance


def test_a_start_is_a_line_and_a_change_is_said(tmp_path):
    assert provenance.record(tmp_path, "") == []
    assert provenance.record(tmp_path, "") == []
    said = provenance.record(tmp_path, "abc123")
    assert said == ["model_revision was '', is 'abc123'"]
    lines = [json.loads(x) for x in (tmp_path / "provenance.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(x["jax"] and x["python"] and x["host"] for x in lines)
    # Another version of a library.
    changed = {**lines[-1], "jax": "0.0.1"}
    (tmp_path / "provenance.jsonl").write_text(json.dumps(changed) + "\n" + '{"torn')
    said = provenance.record(tmp_path, "abc123")
    assert len(said) == 1 and said[0].startswith("jax was '0.0.1'")


def test_the_commit_tells_of_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() == ""

    def git(*arguments):
        who = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    head = provenance.commit()
    assert len(head) == 40
    (tmp_path / "a").write_text("2")
    assert provenance.commit() == head + "+changes"
