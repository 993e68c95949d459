"""Trackers: event files that go on without doubled steps, and failures that end nothing."""

import errno
import json
import os
import pathlib
import sys
import types

import pytest

from aster_jax import track
from aster_jax.train import metrics

VALUES = {"sft/loss": 0.5, "sft/skipped_nonfinite": 0, "note": "text", "flag": True, "none": None}


@pytest.fixture(scope="module")
def board():
    return pytest.importorskip("tensorboardX", reason="tensorboardX is not here").proto


def record(path, trackers, stage, step, **values):
    metrics.append(path, stage, step, float(step), values)
    return trackers.log(stage, step, values)


def events(path, stage):
    """(step, {tag: value}) of every record of the one event file of a stage, read as TensorBoard
    reads it."""
    from tensorboardX.proto import event_pb2

    (file,) = (path / "tensorboard" / stage).glob("events.out.tfevents.*")
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length
        if event.file_version:
            assert not found and event.file_version == "brain.Event:2"
        else:
            found.append((event.step, {v.tag: v.simple_value for v in event.summary.value}))
    assert at == len(data)
    return found


def test_every_number_of_a_step_is_in_the_stages_event_file(board, tmp_path):
    trackers = track.Trackers(("tensorboard",), tmp_path)
    assert trackers.rewind("sft", 0) == []
    assert record(tmp_path, trackers, "sft", 1, **VALUES) == []
    assert record(tmp_path, trackers, "rl1", 1, **{"rl/loss": float("nan"), "rl/x": -2}) == []
    assert events(tmp_path, "sft") == [(1, {"sft/loss": 0.5, "sft/skipped_nonfinite": 0.0})]
    assert events(tmp_path, "rl1") == [(1, {"rl/x": -2.0})]


@pytest.mark.parametrize("torn", [b"", b"\x08", b"\x30\0\0\0\0\0\0\0abcdef", b"\0" * 40])
def test_a_resumed_stage_goes_on_in_the_same_file_without_doubled_steps(board, tmp_path, torn):
    trackers = track.Trackers(("tensorboard",), tmp_path)
    for step in range(1, 6):
        record(tmp_path, trackers, "sft", step, **{"sft/loss": float(step)})
    (file,) = (tmp_path / "tensorboard" / "sft").iterdir()
    before, inode = file.read_bytes(), file.stat().st_ino
    with open(file, "ab") as f:
        f.write(torn)  # killed while writing
    again = track.Trackers(("tensorboard",), tmp_path)
    metrics.rewind(tmp_path, "sft", 3)
    assert again.rewind("sft", 3) == []
    assert before.startswith(file.read_bytes()) and file.stat().st_ino == inode
    for step in range(4, 7):
        record(tmp_path, again, "sft", step, **{"sft/loss": float(step)})
    assert events(tmp_path, "sft") == [(s, {"sft/loss": float(s)}) for s in range(1, 7)]


def test_what_was_not_tracked_is_filled_in_from_metrics(board, tmp_path):
    off = track.Trackers((), tmp_path)
    for step in (1, 2, 3):
        record(tmp_path, off, "rl1", step, **{"rl/loss": float(step)})
    assert not (tmp_path / "tensorboard").exists()
    on = track.Trackers(("tensorboard",), tmp_path)
    record(tmp_path, on, "rl1", 4, **{"rl/loss": 4.0})  # without a rewind, too
    assert events(tmp_path, "rl1") == [(s, {"rl/loss": float(s)}) for s in range(1, 5)]


def test_an_emptied_event_file_is_made_again(board, tmp_path):
    trackers = track.Trackers(("tensorboard",), tmp_path)
    record(tmp_path, trackers, "sft", 1, **{"sft/loss": 1.0})
    (file,) = (tmp_path / "tensorboard" / "sft").iterdir()
    os.truncate(file, 7)
    track.Trackers(("tensorboard",), tmp_path).rewind("sft", 1)
    assert events(tmp_path, "sft") == [(1, {"sft/loss": 1.0})]


def test_a_tracker_that_fails_is_said_once_and_ends_nothing(board, tmp_path):
    (tmp_path / "tensorboard").write_text("no directory")
    trackers = track.Trackers(("tensorboard",), tmp_path)
    (said,) = record(tmp_path, trackers, "sft", 1, **{"sft/loss": 1.0})
    assert said.startswith("tensorboard is left out") and "metrics.jsonl has everything" in said
    assert record(tmp_path, trackers, "sft", 2, **{"sft/loss": 1.0}) == []
    assert [r["step"] for r in metrics.lines(tmp_path, "sft")] == [1, 2]


@pytest.mark.parametrize("name", track.KNOWN)
def test_a_tracker_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch, name):
    for module in [m for m in sys.modules if m.split(".")[0].lower().startswith(name)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(name, name), None)
    (said,) = record(tmp_path, track.Trackers((name,), tmp_path), "sft", 1, loss=1.0)
    assert f"pip install {name}" in said


@pytest.fixture
def service(monkeypatch):
    """A stand-in for a service that this environment has no account of: what it was told."""
    told = types.SimpleNamespace(inits=[], logs=[], axes=[], lines=[], fail=False)

    def log(numbers, step):
        if told.fail:
            raise ConnectionError("no route")
        told.logs.append(numbers)
        told.lines.append(step)

    made = types.SimpleNamespace(init=lambda **words: told.inits.append(words), log=log)
    monkeypatch.setitem(sys.modules, "trackio", made)  # it has no axes to choose
    axes = lambda names, step_metric: told.axes.append((names, step_metric))  # noqa: E731
    made = types.SimpleNamespace(**vars(made), define_metric=axes)
    monkeypatch.setitem(sys.modules, "wandb", made)
    return told


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_every_step_once_in_one_run(service, tmp_path, name):
    def start():
        return track.Trackers((name,), tmp_path, "smoke", {"seed": 3})

    first = start()
    for step in (1, 2, 3):
        assert record(tmp_path, first, "sft", step, name="x", **{"sft/loss": 1.0}) == []
    again = start()
    again.rewind("sft", 1)
    for step in (2, 3, 4):
        record(tmp_path, again, "sft", step, **{"sft/loss": 1.0})
    record(tmp_path, again, "rl1", 1, **{"rl/loss": 2.0})
    assert service.logs == [
        *({"sft/step": s, "sft/loss": 1.0} for s in (1, 2, 3, 4)), {"rl1/step": 1, "rl1/rl/loss": 2.0},
    ]  # fmt: skip
    assert service.lines == [1, 2, 3, 4, 5]  # a service drops lines that go back
    axes = [("sft/*", "sft/step"), ("sft/*", "sft/step"), ("rl1/*", "rl1/step")]  # in each start
    assert service.axes == (axes if name == "wandb" else [])
    one, two = service.inits
    assert one == two and one["resume"] == "allow" and one["config"] == {"seed": 3}
    assert one["name"].startswith("smoke-")
    assert json.loads((tmp_path / f"{name}.json").read_text())["steps"] == {"sft": 4, "rl1": 1}


@pytest.mark.parametrize("torn", ["", '{"id": "ab', "[]", '{"id": "ab"}', '{"id": "ab", "steps": 7}'])
def test_a_torn_note_of_what_was_sent_ends_no_tracking(service, tmp_path, torn):
    (tmp_path / "wandb.json").write_text(torn)
    trackers = track.Trackers(("wandb",), tmp_path)
    assert record(tmp_path, trackers, "sft", 1, loss=1.0) == [] and len(service.logs) == 1
    assert json.loads((tmp_path / "wandb.json").read_text())["steps"] == {"sft": 1}


def test_a_full_disk_leaves_the_note_of_what_was_sent(service, tmp_path, monkeypatch):
    trackers = track.Trackers(("wandb",), tmp_path)
    record(tmp_path, trackers, "sft", 1, loss=1.0)
    before = (tmp_path / "wandb.json").read_text()

    def half(path, text):
        path.write_bytes(text.encode()[:5])
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as full:
        full.setattr(pathlib.Path, "write_text", half)
        (said,) = trackers.log("sft", 2, {"loss": 1.0})
    assert "no space" in said and (tmp_path / "wandb.json").read_text() == before


def test_a_service_that_is_away_is_left_out_and_the_others_go_on(service, tmp_path):
    trackers = track.Trackers(("wandb", "trackio"), tmp_path)
    record(tmp_path, trackers, "sft", 1, loss=1.0)
    service.fail = True
    said = record(tmp_path, trackers, "sft", 2, loss=1.0)
    assert [s.split()[0] for s in said] == ["wandb", "trackio"] and "no route" in said[0]
    assert record(tmp_path, trackers, "sft", 3, loss=1.0) == []


def test_only_process_0_tells_anybody(service, tmp_path, monkeypatch):
    monkeypatch.setattr(track.together, "is_first", lambda: False)
    trackers = track.Trackers(track.KNOWN, tmp_path)
    trackers.rewind("sft", 0)
    assert trackers.log("sft", 1, {"loss": 1.0}) == []
    assert service.inits == [] and list(tmp_path.iterdir()) == []
