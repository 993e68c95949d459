"""A supervisor that is stopped, killed or cannot come back; one that is only very busy."""

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from aster_jax.tools import Executor, ToolConfig, channel
from tests.tools import suite

QUIET = ToolConfig(preload=(), wall_limit_s=60.0, silence_limit_s=2.0)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_supervisor_that_says_nothing_is_replaced(number):
    """Open calls end as ours in time, nothing of the old one is left, `open` gives a new one."""
    with Executor(QUIET) as tools:
        sessions = [tools.open(seed=seed) for seed in range(8)]
        for session in sessions:
            assert tools.run(session, "1").status == "ok"
        futures = [tools.submit(session, "while True: pass") for session in sessions[:4]]
        time.sleep(0.2)
        report = tools.report()
        first, pids = report["supervisor_pid"], suite.known_pids(report)
        pids |= {report["supervisor_pid"], *report["zygote_pids"]}
        os.kill(first, number)
        struck = time.monotonic()
        # More than the socket takes: the senders wait in the kernel until it is over.
        late = [threading.Thread(target=tools.run, args=(session, "x = 1 #" + "y" * 400_000))
                for session in sessions[4:]]
        for thread in late:
            thread.start()
        done = concurrent.futures.wait(futures, timeout=QUIET.silence_limit_s + 3.0)
        assert not done.not_done
        assert {future.result().status for future in futures} == {"infra_lost"}
        said = {future.result().error_message for future in futures}
        assert number == signal.SIGKILL or said == {"the supervisor went silent for 2 s"}
        for thread in late:
            thread.join(5)
            assert not thread.is_alive()
        assert tools.run(tools.open(seed=3), "6 * 7").text == "42\n"
        assert time.monotonic() - struck < QUIET.silence_limit_s + 8.0
        assert tools.run(sessions[0], "1").status == "infra_lost"
        assert tools.report()["supervisor_pid"] != first
        assert not suite.survivors(pids, time.monotonic() + 1.0)


def test_silence_is_noticed_while_nothing_runs():
    with Executor(QUIET) as tools:
        session = tools.open()
        tools.run(session, "1")
        first = tools.report()["supervisor_pid"]
        os.kill(first, signal.SIGSTOP)
        time.sleep(QUIET.silence_limit_s + 1.5)
        assert not tools.report()["alive"]
        assert tools.run(tools.open(), "2").text == "2\n"


def test_a_long_quiet_and_a_busy_machine_are_no_silence():
    """Nothing to say for two limits, then 64 busy cells on all processors for two."""
    config = ToolConfig(preload=(), wall_limit_s=4.0, silence_limit_s=2.0, max_running=64)
    with Executor(config) as tools:
        sessions = [tools.open(seed=seed) for seed in range(64)]
        tools.run(sessions[0], "1")
        first = tools.report()["supervisor_pid"]
        time.sleep(2 * config.silence_limit_s)
        futures = [tools.submit(session, "while True: pass") for session in sessions]
        assert {future.result(30).status for future in futures} == {"timeout"}
        assert tools.report()["supervisor_pid"] == first


def test_a_trainer_that_was_stopped_does_not_blame_the_supervisor():
    code = (
        "import time\nfrom aster_jax.tools import Executor, ToolConfig\n"
        "with Executor(ToolConfig(preload=(), silence_limit_s=1.5)) as tools:\n"
        "    session = tools.open(); tools.run(session, 'x = 5')\n"
        "    future = tools.submit(session, 'import time; time.sleep(5); x')\n"
        "    print('sent', flush=True)\n"
        "    print(future.result().text, flush=True)\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert trainer.stdout.readline() == "sent\n"
    trainer.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    trainer.send_signal(signal.SIGCONT)
    assert trainer.stdout.readline() == "5\n"
    assert trainer.wait(15) == 0


def test_a_supervisor_that_freezes_while_it_starts_is_noticed_by_its_silence(monkeypatch):
    popen = subprocess.Popen

    def start(*args, **names):
        child = popen(*args, **names)
        child.send_signal(signal.SIGSTOP)
        return child

    monkeypatch.setattr(channel.subprocess, "Popen", start)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="went silent for 2 s"):
        Executor(QUIET)
    assert QUIET.silence_limit_s <= time.monotonic() - begun < QUIET.silence_limit_s + 8.0


def test_a_supervisor_that_starts_slowly_is_waited_for(monkeypatch):
    """Silent for more than its limit, but at work now and then."""
    slow = "import time\nfor _ in range(6): time.sleep(0.5); sum(range(10**6))\n"
    monkeypatch.setattr(channel, "START", slow + channel.START)
    with Executor(QUIET) as tools:
        assert tools.run(tools.open(), "2").text == "2\n"


def test_a_supervisor_that_cannot_start_at_once_is_waited_for(monkeypatch):
    """Two starts fail as on a machine out of descriptors, the third succeeds."""
    popen, failures = subprocess.Popen, [OSError("none left"), OSError("none left")]

    def start(*args, **names):
        if failures:
            raise failures.pop()
        return popen(*args, **names)

    with Executor(QUIET) as tools:
        os.kill(tools.report()["supervisor_pid"], signal.SIGKILL)
        monkeypatch.setattr(channel.subprocess, "Popen", start)
        deadline = time.monotonic() + 2.0
        while tools.report()["alive"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert tools.run(tools.open(), "2").text == "2\n"
        assert not failures
        os.kill(tools.report()["supervisor_pid"], signal.SIGKILL)
        failures += [OSError("none left")] * 3
        time.sleep(0.5)
        with pytest.raises(RuntimeError, match="did not come back"):
            tools.open()
        assert tools.run(tools.open(), "3").text == "3\n"
