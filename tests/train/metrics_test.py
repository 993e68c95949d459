"""metrics.jsonl: cadence, lines, rewinding and whole-file replacement, also on a full disk."""

import errno
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aster_jax.train import metrics
from tests.train import small_disk


def test_every_by_hand():
    assert [s for s in range(1, 11) if metrics.every(4, s, 10)] == [4, 8, 10]
    assert [s for s in range(1, 11) if metrics.every(0, s, 10)] == [10]
    assert [s for s in range(1, 4) if metrics.every(1, s, 3)] == [1, 2, 3]


def lines(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_append_adds_one_line(tmp_path):
    metrics.append(tmp_path, "sft", 1, 0.12345, {"sft/loss": 2.5})
    metrics.append(tmp_path, "rl1", 2, 1.0, {"rl/loss": -0.5})
    assert lines(tmp_path) == [
        {"stage": "sft", "step": 1, "time_s": 0.123, "sft/loss": 2.5},
        {"stage": "rl1", "step": 2, "time_s": 1.0, "rl/loss": -0.5},
    ]


def test_what_is_not_finite_becomes_null(tmp_path):
    odd = {"a": float("nan"), "b": [1.0, -float("inf")], "c": {"d": np.float64("inf")}, "e": 2}
    metrics.append(tmp_path, "rl1", 1, 0.0, odd)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    (record,) = lines(tmp_path)
    assert [record[k] for k in "abce"] == [None, [1.0, None], {"d": None}, 2]


def test_rewind_drops_later_steps_of_that_stage_and_a_torn_line(tmp_path):
    for stage, step in [("sft", 1), ("sft", 2), ("sft", 3), ("rl1", 3)]:
        metrics.append(tmp_path, stage, step, 10.0 * step, {})
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"stage": "sft", "st')
    assert metrics.rewind(tmp_path, "sft", 1) == 10.0
    assert [(r["stage"], r["step"]) for r in lines(tmp_path)] == [("sft", 1), ("rl1", 3)]
    metrics.append(tmp_path, "sft", 2, 0.0, {})
    assert len(lines(tmp_path)) == 3
    assert metrics.rewind(tmp_path, "rl1", 9) == 30.0
    assert metrics.rewind(tmp_path, "rl2", 0) == 0.0
    assert len(lines(tmp_path)) == 3


def test_rewind_without_a_file_does_nothing(tmp_path):
    assert metrics.rewind(tmp_path, "sft", 0) == 0.0
    assert not (tmp_path / "metrics.jsonl").exists()


@given(st.data())
def test_any_torn_tail_is_dropped(tmp_path_factory, data):
    """Whatever a kill or a power cut left behind the last whole line, zeros included."""
    workdir = tmp_path_factory.mktemp("run")
    for step in (1, 2):
        metrics.append(workdir, "sft", step, step, {"sft/note": "é"})
    whole = (workdir / "metrics.jsonl").read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    cut = data.draw(st.integers(0, len(last) - 2))
    with open(workdir / "metrics.jsonl", "ab") as f:
        f.write(last[:cut] + data.draw(st.sampled_from([b"", b"\0\0\0", b"\xff\xfe", b"null"])))
    assert metrics.rewind(workdir, "sft", 2) == 2.0
    assert (workdir / "metrics.jsonl").read_bytes() == whole


def test_replace_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "DONE.json"
    metrics.replace(path, "old")
    with pytest.raises(UnicodeEncodeError):
        metrics.replace(path, "new \udcff")
    assert path.read_text() == "old"
    metrics.replace(path, "new é")
    assert path.read_text("utf-8") == "new é"
    assert [p.name for p in tmp_path.iterdir()] == ["DONE.json"]


def test_a_full_disk_is_waited_out_and_said(tmp_path, capsys):
    """A line and a file larger than what is left; the space comes after 13 looks."""
    with small_disk.mounted(tmp_path / "disk", 1 << 20) as disk:
        metrics.append(disk, "sft", 1, 0.0, {})
        metrics.replace(disk / "DONE.json", "old")
        long, new = {"note": "x" * 50_000}, "new" * 20_000
        for leave, write in (
            (4096, lambda wait: metrics.append(disk, "sft", 2, 0.0, long, sleep=wait)),
            (4096, lambda wait: metrics.replace(disk / "DONE.json", new, sleep=wait)),
            (0, lambda wait: metrics.rewind(disk, "sft", 1, sleep=wait)),
        ):
            small_disk.fill(disk, leave)
            looks = []

            def wait(seconds, looks=looks):
                looks.append(seconds)
                assert len(lines(disk)) in (1, 2)  # never a torn one
                assert (disk / "DONE.json").read_text() in ("old", new)
                if len(looks) == 13:
                    small_disk.free(disk)

            write(wait)
        assert [r["step"] for r in lines(disk)] == [1]
        assert (disk / "DONE.json").read_text() == new
        said = capsys.readouterr().err.splitlines()
        assert all("No space left on device" in line for line in said)
        assert sum("metrics.jsonl" in line for line in said) == 4  # twice each: once a minute
        assert sum("DONE.json" in line for line in said) == 2
        assert not list(disk.glob("*.writing"))


def test_a_disk_that_stays_full_is_an_error_and_leaves_the_file_as_it_was(tmp_path):
    with small_disk.mounted(tmp_path / "disk", 1 << 20) as disk:
        metrics.append(disk, "sft", 1, 0.0, {})
        small_disk.fill(disk, leave=4096)
        slept = []
        with pytest.raises(OSError) as caught:
            metrics.append(disk, "sft", 2, 0.0, {"note": "x" * 50_000}, sleep=slept.append)
        assert caught.value.errno == errno.ENOSPC
        assert sum(slept) == metrics.FULL_DISK_WAIT_S
        assert len(lines(disk)) == 1 and (disk / "metrics.jsonl").read_bytes().endswith(b"\n")


def test_another_error_of_the_disk_is_raised_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        metrics.append(tmp_path / "absent", "sft", 1, 0.0, {}, sleep=lambda s: pytest.fail())
    os.mkdir(tmp_path / "DONE.json")
    with pytest.raises(OSError):
        metrics.replace(tmp_path / "DONE.json", "x", sleep=lambda s: pytest.fail())
    assert [p.name for p in tmp_path.iterdir()] == ["DONE.json"]


def test_history_is_of_the_stages_asked_for_and_in_their_order(tmp_path):
    assert metrics.history(tmp_path, ("rl1",), "x") == []
    for stage, step, values in (("sft", 1, {"x": 9.0}), ("rl1", 1, {"x": 1.0}), ("rl1", 2, {}),
                                ("rl2", 1, {"x": 3.0})):  # fmt: skip
        metrics.append(tmp_path, stage, step, 0.0, values)
    assert metrics.history(tmp_path, ("rl1", "rl2"), "x") == [1.0, 3.0]
