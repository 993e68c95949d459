"""A run's directory: finish markers, foreign configs, and places nobody can write to."""

import json
import os
import pathlib
import re

import pytest

from aster_jax import config, workdir
from aster_jax.errors import InputError


def settings(**changes):
    c = config.default()
    c.name = "t"
    c.seed = 3
    for name, value in changes.items():
        c[name] = value
    return c.lock()


def test_a_new_run_writes_its_config(tmp_path, one_device):
    run = workdir.open_run(settings(), tmp_path / "a" / "b", one_device)
    known = json.loads((run.path / "config.json").read_text())
    assert known["seed"] == 3 and known["sft"]["steps"] == settings().sft.steps
    assert sorted(p.name for p in run.path.iterdir()) == ["config.json"]


def test_the_same_config_resumes_and_stages_may_grow(tmp_path, one_device):
    workdir.open_run(settings(stages=("demos",)), tmp_path, one_device)
    workdir.open_run(settings(stages=("demos", "sft")), tmp_path, one_device)
    assert json.loads((tmp_path / "config.json").read_text())["stages"] == ["demos", "sft"]


def test_another_config_is_refused_and_named(tmp_path, one_device):
    workdir.open_run(settings(), tmp_path, one_device).begin("sft")
    before = (tmp_path / "config.json").read_text()
    other = settings()
    with other.unlocked():
        other.seed = 4
        other.sft.rows = 77
    with pytest.raises(ValueError, match=r"seed: 3 -> 4 .*; sft.rows: \d+ -> 77.*--workdir"):
        workdir.open_run(other, tmp_path, one_device)
    assert (tmp_path / "config.json").read_text() == before


def test_before_a_stage_began_the_config_may_be_mended(tmp_path, one_device):
    """What is refused before the first stage names a remedy, which must not be refused too."""
    workdir.open_run(settings(), tmp_path, one_device)
    workdir.open_run(settings(seed=4), tmp_path, one_device)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 4


def test_a_file_in_the_way_is_one_sentence(tmp_path, one_device):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="cannot be written .*give another one with --workdir"):
        workdir.open_run(settings(), tmp_path / "taken" / "run", one_device)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere but in /proc")
def test_no_permission_is_one_sentence(tmp_path, one_device):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        workdir.open_run(settings(), tmp_path / "run", one_device)


def test_a_read_only_file_system_is_one_sentence(one_device):
    if not pathlib.Path("/proc/self").exists():
        pytest.skip("this system has no /proc to stand for a file system that refuses writing")
    with pytest.raises(ValueError, match="workdir /proc/run cannot be written"):
        workdir.open_run(settings(), pathlib.Path("/proc/run"), one_device)


def test_finish_marks_a_stage_at_once_and_whole(tmp_path, one_device):
    run = workdir.open_run(settings(), tmp_path, one_device)
    assert not run.is_finished("sft")
    with pytest.raises(ValueError, match="stage 'sft' has not finished .*config.stages"):
        run.summary("sft")
    # What a kill inside `finish` leaves behind is not a finished stage.
    (run.directory("sft") / "DONE.json.writing").write_text('{"st')
    assert not run.is_finished("sft")
    run.finish("sft", {"step": 12})
    assert run.is_finished("sft") and run.summary("sft") == {"step": 12}
    assert sorted(p.name for p in (tmp_path / "sft").iterdir()) == ["DONE.json"]


def test_say_names_the_stage_and_the_time(tmp_path, one_device, capsys):
    run = workdir.open_run(settings(), tmp_path, one_device)
    run.say("rl1", "step 1/2")
    run.live("rl1", "only where somebody watches")
    assert re.fullmatch(r"\[   \d\.\d s\] rl1    step 1/2\n", capsys.readouterr().out)


def test_processes_that_were_not_started_alike_are_named():
    workdir._check_same([[7, "/runs/a"], [7, "/runs/a"]])
    with pytest.raises(InputError, match="process 2 has another config than process 0"):
        workdir._check_same([[7, "/runs/a"], [7, "/runs/a"], [8, "/runs/a"]])
    with pytest.raises(InputError, match="process 1 has workdir /b/runs/a, process 0 /runs/a"):
        workdir._check_same([[7, "/runs/a"], [7, "/b/runs/a"]])


def test_a_disk_that_is_not_shared_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "SHARED_S", 0.3)
    assert workdir._sees(tmp_path / workdir._leave_word(tmp_path))
    assert not workdir._sees(tmp_path / "never")
    before = set(tmp_path.iterdir())
    workdir._check_shared(tmp_path)  # leaves nothing of its own
    assert set(tmp_path.iterdir()) == before


def test_what_is_said_is_in_the_log_of_all_starts(tmp_path, one_device, capsys):
    for text in ("first", "second é"):
        workdir.open_run(settings(), tmp_path, one_device).say("sft", text)
    said = capsys.readouterr().out
    assert (tmp_path / "run.log").read_text("utf-8") == said
    assert [line.split("sft", 1)[1].strip() for line in said.splitlines()] == ["first", "second é"]


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path, one_device, capsys):
    (tmp_path / "run.log").mkdir()
    workdir.Run(settings(), tmp_path, one_device).say("sft", "on we go")
    assert "on we go" in capsys.readouterr().out


def test_a_watched_line_fits_the_terminal_and_leaves_nothing_behind(
    tmp_path, one_device, capsys, monkeypatch
):
    monkeypatch.setattr(workdir.Run, "is_watched", lambda self: True)
    monkeypatch.setenv("COLUMNS", "80")
    run = workdir.Run(settings(), tmp_path, one_device)
    run.live("rl1", "x" * 200)
    run.say("rl1", "short")
    live, said = capsys.readouterr().out.split("\r\033[K")[1:]
    assert len(live.rstrip("\r")) == 79 and live.endswith("\r")
    assert said.endswith("short\n")
    assert (tmp_path / "run.log").read_text() == said  # without what steers the terminal


def test_a_recorded_step_reaches_metrics_and_the_trackers_and_tells_the_pace(
    tmp_path, one_device, capsys
):
    (tmp_path / "tensorboard").write_text("in the way")
    run = workdir.open_run(settings(), tmp_path, one_device)
    assert run.rewind("sft", 0) == 0.0
    for step in (1, 2):
        run.record("sft", step, 1.5 * step, {"sft/loss": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["sft/loss"]) for r in lines] == [(1, 0.5), (2, 0.5)]
    assert capsys.readouterr().out.count("tensorboard is left out") == 1
    assert run.eta("sft", 1000).startswith("  eta") and run.eta("sft", 2) == ""
    assert run.rewind("sft", 1) == 1.5
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
