"""The socket to the supervisor: who reads it, interrupts while reading, its end while idle."""

import concurrent.futures
import os
import signal
import threading
import time

import pytest

from aster_jax.tools import Executor, ToolConfig
from aster_jax.tools.channel import Channel

SMALL = ToolConfig(preload=(), wall_limit_s=10.0, max_calls=1 << 20)


@pytest.fixture(scope="module")
def tools():
    with Executor(SMALL) as executor:
        yield executor


def test_waiting_threads_and_futures_share_one_socket(tools):
    """Every mix of readers: callers that wait, futures nobody waits for, in many threads."""
    def drive(number: int) -> list[str]:
        session, seen = tools.open(seed=number), []
        tools.run(session, "i = 0")
        for turn in range(40):
            if (number + turn) % 3:
                seen.append(tools.run(session, "i += 1\ni").text)
            else:
                seen.append(tools.submit(session, "i += 1\ni").result(10).text)
        tools.close(session)
        return seen

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(drive, range(8)))
    assert made == [[f"{i}\n" for i in range(1, 41)]] * 8
    assert not tools._channel.futures


def test_a_future_resolves_while_a_longer_call_is_waited_for(tools):
    slow, fast = tools.open(), tools.open()
    waiting = threading.Thread(target=tools.run, args=(slow, "import time; time.sleep(2)"))
    waiting.start()
    time.sleep(0.3)
    begun = time.monotonic()
    assert tools.submit(fast, "1").result(5).text == "1\n"
    assert tools.run(fast, "2").text == "2\n"
    assert time.monotonic() - begun < 1.0
    left = tools.submit(fast, "time = __import__('time'); time.sleep(2.5); 3")
    waiting.join()  # the one that read is done: the thread takes over
    assert left.result(5).text == "3\n"


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal: a process that a shell started behind itself ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_wait_leaves_the_channel_whole(tools, interruptible):
    session, other = tools.open(), tools.open()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        tools.run(session, "import time; time.sleep(1); x = 5")
    assert tools.run(other, "7").text == "7\n"
    time.sleep(1.0)
    assert tools.run(session, "x").text == "5\n"


def test_bytes_lost_between_socket_and_answer_end_the_channel(monkeypatch):
    """An interrupt after the read would misalign all that follows: calls are infra_lost."""
    with Executor(SMALL) as tools:
        session = tools.open()
        tools.run(session, "1")

        def interrupt(channel, message):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Channel, "take", interrupt)
            with pytest.raises(KeyboardInterrupt):
                tools.run(session, "1")
        assert tools.run(session, "1").status == "infra_lost"
        assert tools.run(tools.open(), "2").text == "2\n"


def test_a_supervisor_that_dies_while_nothing_runs_is_replaced_at_the_next_open():
    with Executor(SMALL) as tools:
        session = tools.open()
        tools.run(session, "1")
        first = tools.report()["supervisor_pid"]
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 2.0
        while tools.report()["alive"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert tools.run(session, "1").status == "infra_lost"
        assert tools.run(tools.open(), "2").text == "2\n"
        assert tools.report()["supervisor_pid"] != first
