"""One process per workdir, however the one before ended."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from aster_jax.errors import InputError
from aster_jax.lifetime import lock

HOLD = (
    "import pathlib, sys, time; from aster_jax.lifetime import lock\n"
    "with lock.held(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_who_has_it(tmp_path, holder):
    with pytest.raises(InputError, match=f"in use by process {holder.pid} on .*--workdir"):
        with lock.held(tmp_path):
            pass


def test_the_lock_is_gone_with_a_killed_process(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.held(tmp_path):
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_released_is_free_again(tmp_path):
    for _ in range(3):
        with lock.held(tmp_path):
            with pytest.raises(InputError):
                with lock.held(tmp_path):
                    pass


@pytest.mark.parametrize("silent_s, free", [(5.0, False), (2 * lock.SILENT_S, True)])
def test_another_machines_heartbeat(tmp_path, silent_s, free):
    """What the kernel's lock does not tell: a holder on a machine that shares the directory."""
    path = tmp_path / "LOCK"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    os.utime(path, times=(time.time() - silent_s,) * 2)
    if free:
        with lock.held(tmp_path):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        return
    with pytest.raises(InputError, match="process 7 on elsewhere"):
        with lock.held(tmp_path):
            pass


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with lock.held(tmp_path):
        path = tmp_path / "LOCK"
        os.utime(path, times=(1.0, 1.0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 2.0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 2.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 3}', '{"host": "h", "pid": "x"}'])
def test_a_lock_file_without_sense_holds_nobody_up(tmp_path, text):
    (tmp_path / "LOCK").write_text(text)
    with lock.held(tmp_path):
        pass
