"""SIGTERM: heard while the main thread is busy, and the end of the notice is kept."""

import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from aster_jax.errors import Leaving
from aster_jax.lifetime import notice

# A computation in C that runs no Python for seconds, as a long XLA call does.
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'p', b's', 10**9)"
LOOPING = "import time\nwhile not asked.is_given(): time.sleep(0.01)\nprint('left', flush=True)"


def process(body: str, notice_s: float):
    code = (
        "from aster_jax.lifetime import notice\nasked = notice.Notice()\n"
        f"with asked.heard({notice_s}):\n    print('ready', flush=True)\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
    )
    made = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert made.stdout.readline() == "ready\n"
    return made


def test_a_loop_sees_the_flag_and_ends_by_itself():
    made = process(LOOPING, 30.0)
    made.send_signal(signal.SIGTERM)
    out, err = made.communicate(timeout=20)
    assert out == "left\n" and made.returncode == 0 and err == ""


def test_a_process_that_cannot_listen_is_ended_within_its_notice():
    made = process(BUSY, 1.5)
    began = time.monotonic()
    made.send_signal(signal.SIGTERM)
    _, err = made.communicate(timeout=30)
    assert made.returncode == notice.EXIT_CODE == 143
    assert "notice of 1.5 s is over" in err
    assert time.monotonic() - began < 10  # the computation would take much longer


def test_check_raises_where_it_is_looked_at():
    asked = notice.Notice()
    old = signal.getsignal(signal.SIGTERM)
    with asked.heard(3600.0):
        asked.check()
        signal.raise_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not asked.is_given() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(Leaving):
            asked.check()
    assert signal.getsignal(signal.SIGTERM) is old


def test_outside_the_main_thread_nothing_is_touched():
    old, found = signal.getsignal(signal.SIGTERM), []

    def body():
        with notice.Notice().heard(1.0):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [old]


def test_leaving_is_no_failure():
    """Handlers of failures must not take it for one."""
    assert not issubclass(Leaving, Exception)
