"""metrics.jsonl: cadence, lines, rewinding and whole-file replacement."""

import json

import pytest

from aster_jax.train import metrics


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


def test_rewind_drops_later_steps_of_that_stage_and_a_torn_line(tmp_path):
    for stage, step in [("sft", 1), ("sft", 2), ("sft", 3), ("rl1", 3)]:
        metrics.append(tmp_path, stage, step, 0.0, {})
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"stage": "sft", "st')
    metrics.rewind(tmp_path, "sft", 1)
    assert [(r["stage"], r["step"]) for r in lines(tmp_path)] == [("sft", 1), ("rl1", 3)]
    metrics.append(tmp_path, "sft", 2, 0.0, {})
    assert len(lines(tmp_path)) == 3


def test_rewind_without_a_file_does_nothing(tmp_path):
    metrics.rewind(tmp_path, "sft", 0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_replace_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "DONE.json"
    metrics.replace(path, "old")
    with pytest.raises(UnicodeEncodeError):
        metrics.replace(path, "new \udcff")
    assert path.read_text() == "old"
    metrics.replace(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["DONE.json"]
