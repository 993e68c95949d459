"""The executor as a library: the documented example, misuse, loss, clocks, growth."""

import concurrent.futures
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from aster_jax.tools import Executor, Session, ToolConfig
from tests.tools import suite

SMALL = ToolConfig(preload=(), wall_limit_s=10.0, niceness=0)


@pytest.fixture(scope="module")
def tools():
    with Executor(SMALL) as executor:
        yield executor


def test_the_documented_example(tools):
    session = tools.open(seed=0)
    result = tools.run(session, "x = 2**10\nx")
    assert (result.status, result.text, result.state) == ("ok", "1024\n", "kept")
    assert tools.submit(session, "x + 1").result().text == "1025\n"
    assert result.wall_s > 0 and result.queue_s >= 0
    # A virtual machine takes what its host stole off processor time, which can leave nothing of
    # a cell this short: only one that computes for a while has to have used some.
    assert result.cpu_s >= 0
    assert tools.run(session, "sum(i * i for i in range(10**6))").cpu_s > 0
    assert not result.is_infra and result.tier == tools.tier
    tools.close(session)


def test_the_banner_is_one_line_that_names_the_tier(tools):
    assert tools.banner.startswith(f"tools: tier {tools.tier} (") and "\n" not in tools.banner
    assert "seccomp" in tools.banner and "python 3." in tools.banner


def test_import_brings_neither_jax_nor_numpy():
    code = "import sys, aster_jax.tools; print({'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert done.stdout == "set()\n"


def test_misuse_is_a_status_and_harms_nobody(tools):
    session, other = tools.open(), tools.open()
    tools.run(other, "kept = 1")
    stranger = Session(session.generation, 10**6, 0)
    for bad in (None, "7", stranger, object()):
        assert tools.run(bad, "1").status == "usage_error"
    for code in (None, 5, b"1"):
        assert tools.run(session, code).status == "usage_error"
    assert tools.run(session, "").status == "ok"
    assert tools.run(session, "a\x00b").status == "syntax_error"
    assert tools.run(session, "x = 1 #" + "y" * 10_000_000).status == "syntax_error"
    assert tools.run(session, "'\ud800'").status == "syntax_error"
    tools.close(session)
    assert tools.run(session, "1").status == "usage_error"
    assert tools.run(other, "kept").text == "1\n"
    tools.close(other)


def test_second_call_of_a_busy_session_is_misuse(tools):
    session = tools.open()
    first = tools.submit(session, "import time; time.sleep(0.3); 1")
    assert tools.run(session, "2").status == "usage_error"
    assert first.result().text == "1\n"


def test_closing_a_session_cancels_its_call(tools):
    session = tools.open()
    tools.run(session, "1")
    future = tools.submit(session, "import time; time.sleep(60)")
    tools.close(session)
    assert future.result(2).status == "cancelled" and future.result().is_infra


@pytest.mark.parametrize("change", [
    {"wall_limit_s": 0}, {"wall_limit_s": float("nan")}, {"wall_limit_s": "3"},
    {"memory_limit_mib": 1}, {"memory_limit_mib": 100.5}, {"max_calls": 0}, {"max_files": 10**9},
    {"min_tier": "D"}, {"tier": "Z"}, {"tier": "B2", "min_tier": "A1"}, {"last_value": "all"},
    {"preload": "numpy"},
])
def test_absurd_limits_are_refused_by_name(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(ToolConfig(), **change)


def test_seed_and_closed_executor_are_refused():
    executor = Executor(SMALL)
    for seed in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match="seed"):
            executor.open(seed=seed)
    session = executor.open()
    executor.close()
    executor.close()
    assert executor.run(session, "1").status == "usage_error"
    with pytest.raises(RuntimeError, match="closed"):
        executor.open()


def test_a_module_that_cannot_be_preloaded_is_named():
    with pytest.raises(RuntimeError, match="no_such_module"):
        Executor(ToolConfig(preload=("no_such_module",)))


def test_a_death_between_calls_is_told_at_the_next_one(tools):
    session = tools.open()
    tools.run(session, "x = 1")
    os.kill(tools.report()["session_pids"][str(session.number)], signal.SIGKILL)
    time.sleep(0.2)
    result = tools.run(session, "'x' in globals()")
    assert result.state == "lost"
    assert result.text.startswith("False\n[the interpreter was restarted")
    assert tools.run(session, "1").state == "kept"


def test_calls_per_session_are_limited():
    with Executor(dataclasses.replace(SMALL, max_calls=2)) as executor:
        session = executor.open()
        statuses = [executor.run(session, "1").status for _ in range(3)]
    assert statuses == ["ok", "ok", "call_limit"]


def test_queue_time_is_outside_the_limit_of_a_cell():
    config = dataclasses.replace(SMALL, wall_limit_s=0.6, max_running=1)
    with Executor(config) as executor:
        spin = "import time; end = time.monotonic() + 0.3\nwhile time.monotonic() < end: pass"
        futures = [executor.submit(executor.open(), spin) for _ in range(5)]
        results = [future.result() for future in futures]
    assert [result.status for result in results] == ["ok"] * 5
    assert results[-1].queue_s > 1.0 > results[-1].wall_s


def test_a_cell_that_prints_when_its_time_is_over_keeps_its_variables():
    """The alarm nearly always comes amid a write; eight times, since it may come between two."""
    config = dataclasses.replace(SMALL, wall_limit_s=0.1)
    with Executor(config) as executor:
        session = executor.open(seed=0)
        executor.run(session, "kept = 41\nrow = 'y' * 10**6")
        for _ in range(8):
            result = executor.run(session, "while True:\n    print(row)")
            assert (result.status, result.state) == ("timeout", "kept"), result


def test_only_the_main_thread_is_interrupted_by_a_time_limit():
    """Threads print beside it: none may get the time-out that came amid a write of the main one."""
    define = (
        "import threading\nkept, row, hurt = 41, 'y' * 10**6, []\n"
        "def flood(seen):\n    try:\n        while not seen:\n            print(1)\n"
        "    except BaseException as error:\n        hurt.append(error)"
    )
    overrun = (
        "seen = []\nthreads = [threading.Thread(target=flood, args=(seen,)) for _ in range(4)]\n"
        "for thread in threads:\n    thread.start()\n"
        "try:\n    while True:\n        print(row)\nfinally:\n    seen.append(1)"
    )
    with Executor(dataclasses.replace(SMALL, wall_limit_s=0.2)) as executor:
        session = executor.open(seed=0)
        executor.run(session, define)
        for _ in range(8):
            result = executor.run(session, overrun)
            assert (result.status, result.state) == ("timeout", "kept"), result
            result = executor.run(session, "for t in threads:\n    t.join()\nhurt, kept")
            assert result.text.endswith("([], 41)\n"), result.text[-200:]


@pytest.mark.parametrize("victim", ["supervisor_pid", "zygote_pids"])
def test_killed_in_the_middle_of_64_calls(victim):
    config = dataclasses.replace(SMALL, max_running=64, wall_limit_s=60.0, niceness=10)
    with Executor(config) as executor:
        sessions = [executor.open(seed=number) for number in range(64)]
        for future in [executor.submit(session, "1") for session in sessions]:
            assert future.result().status == "ok"
        futures = [executor.submit(session, "while True: pass") for session in sessions]
        time.sleep(0.3)
        report = executor.report()
        assert report["running"] == 64
        pids = suite.known_pids(report)
        number = report[victim]
        os.kill(number if isinstance(number, int) else number[0], signal.SIGKILL)
        killed = time.monotonic()
        done = concurrent.futures.wait(futures, timeout=2.0)
        assert not done.not_done
        assert {future.result().status for future in futures} == {"infra_lost"}
        assert not suite.survivors(pids, killed + 1.0)
        session = executor.open()
        assert executor.run(session, "6 * 7").text == "42\n"
        assert time.monotonic() - killed < 5.0
        assert executor.run(sessions[0], "1").status == "infra_lost"  # never silently empty


def test_a_blocked_trainer_does_not_delay_a_kill():
    """The trainer is stopped whole (as by a long compilation) while a deadline passes."""
    code = (
        "import sys, time\nfrom aster_jax.tools import Executor, ToolConfig\n"
        "with Executor(ToolConfig(preload=(), wall_limit_s=0.7, grace_s=0.3)) as tools:\n"
        "    session = tools.open(); tools.run(session, '1')\n"
        "    future = tools.submit(session, 'sum(range(10**12))')\n"
        "    print('sent', flush=True)\n"
        "    result = future.result(); print(result.status, result.wall_s, flush=True)\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert trainer.stdout.readline() == "sent\n"
    trainer.send_signal(signal.SIGSTOP)
    time.sleep(5.0)
    trainer.send_signal(signal.SIGCONT)
    status, wall_s = trainer.stdout.readline().split()
    assert trainer.wait(10) == 0
    assert status == "timeout" and 1.0 <= float(wall_s) < 1.5


def test_calls_from_many_threads(tools):
    def work(number: int) -> str:
        session = tools.open(seed=number)
        texts = [tools.run(session, f"x = {number}\nx * {factor}").text for factor in range(5)]
        tools.close(session)
        return "".join(texts)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(work, range(48)))
    assert texts == ["".join(f"{n * f}\n" for f in range(5)) for n in range(48)]


def test_lifecycles_leave_nothing_behind(tools):
    def cycle(count: int) -> None:
        for number in range(count):
            session = tools.open(seed=number)
            crash = "import os; os._exit(1)" if number % 5 == 0 else "x = [0] * 1000"
            assert tools.run(session, crash).status == ("crashed" if number % 5 == 0 else "ok")
            tools.close(session)

    def wait_for_spares() -> None:  # one on its way has other descriptors than one that waits
        deadline = time.monotonic() + 10.0
        while len(tools.report()["spare_pids"]) < SMALL.spares and time.monotonic() < deadline:
            time.sleep(0.05)

    cycle(10)
    wait_for_spares()
    before = measure(tools)
    cycle(100)
    wait_for_spares()
    deadline = time.monotonic() + 5.0
    while (after := measure(tools))[:2] != before[:2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert after[0] <= before[0] and after[1] <= before[1]
    assert after[2] < before[2] + (4 << 20)


def measure(tools) -> tuple[int, int, int]:
    """(descriptors of supervisor and trainer, processes below the zygote, resident bytes)."""
    report = tools.report()
    pids = [report["supervisor_pid"], os.getpid()]
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    left = suite.descendants(report["zygote_pids"][0]) - suite.known_pids(report)
    pages = int(pathlib.Path(f"/proc/{pids[0]}/statm").read_text().split()[1])
    return files, len(left), pages * os.sysconf("SC_PAGE_SIZE")


def test_the_same_seeds_and_cells_give_the_same_text():
    cells = (
        "import random; [random.randrange(10**6) for _ in range(3)]",
        "import numpy as np; np.random.permutation(9)",
        "from sympy import *; x = symbols('x'); set(map(str, (sin(x) + cos(x) + x).args))",
        "hash('text'), {('a', 'b'), ('c', 'd')}",
        "1 / 0",
    )
    texts = []
    for _ in range(2):
        with Executor(ToolConfig()) as executor:
            sessions = [executor.open(seed=number) for number in range(4)]
            texts.append([[executor.run(s, cell).text for cell in cells] for s in sessions])
    assert texts[0] == texts[1]
    assert texts[0][0][0] != texts[0][1][0]


def test_futures_resolve_while_another_thread_closes():
    executor = Executor(SMALL)
    session = executor.open()
    future = executor.submit(session, "import time; time.sleep(30)")
    threading.Timer(0.2, executor.close).start()
    assert future.result(5).is_infra


def test_the_longest_cell_and_the_longest_output_fit_their_frames():
    config = dataclasses.replace(
        SMALL, code_limit_bytes=640 << 10, output_head_bytes=1 << 16, output_tail_bytes=1 << 16
    )
    with Executor(config) as executor:
        session = executor.open()
        code = "x = '''" + "\x01" * (600 << 10) + "'''\nlen(x)"
        assert executor.run(session, code).text == f"{600 << 10}\n"
        flood = "import sys\nfor f in (sys.stdout, sys.stderr): f.write('\\x01' * 200000)"
        result = executor.run(session, flood)
        assert result.status == "ok" and result.dropped_bytes == 2 * (200_000 - (1 << 17))
        assert executor.run(session, "1").text == "1\n"
