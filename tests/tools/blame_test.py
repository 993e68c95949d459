"""What one policy's cells do to others: nothing that is masked, nothing that lasts."""

import os
import pathlib
import resource
import subprocess
import sys
import time

import pytest

from aster_jax.tools import config, nest, result, supervisor
from tests.tools import suite

WORK = "import time\nwhile time.process_time() - begun < {}: pass\n"
HONEST = "import time\nbegun = time.process_time()\n" + WORK.format(0.2) + "6 * 7"
SPIN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"
# Threads of which Python does not know: a C function that never returns, by its address.
NATIVE = (
    "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\n"
    "page = libc.mmap(None, 4096, 7, 0x22, -1, 0)\nctypes.memmove(page, b'\\xeb\\xfe', 2)\n"
    "ids = (ctypes.c_ulong * 12)()\n"
    "for i in range({}): libc.pthread_create(ctypes.byref(ids, 8 * i), None, ctypes.c_void_p(page), None)\n"
)


SLOW_A2 = pytest.param("A2", marks=pytest.mark.slow)


def clock_of(pid: int) -> int:
    """The processor clock of another process."""
    return ~pid << 3 | 2


@pytest.mark.parametrize("tier", ["A1", SLOW_A2, "B2"])
def test_sleepers_hold_no_place_and_nobody_is_masked(tier):
    """Sixty-four cells that sleep past their limit on two places, then honest ones."""
    settings = {"wall_limit_s": 2.0, "max_running": 2, "queue_limit_s": 0.5}
    with suite.start(tier, **settings) as tools:
        sleepers = [tools.submit(tools.open(seed=i), "import time; time.sleep(99)")
                    for i in range(64)]
        begun = time.monotonic()
        honest = [tools.run(tools.open(seed=99), HONEST) for _ in range(2)]
        assert [(r.status, r.text) for r in honest] == [("ok", "42\n")] * 2
        statuses = [future.result(60) for future in sleepers]
        assert {(r.status, r.state) for r in statuses} == {("timeout", "kept")}
        assert time.monotonic() - begun < 64 * 2.0 / 2 / 2  # as places, they would take 64 s
        assert not set(tools.report()["counts"]) & set(result.INFRA_STATUSES)


def test_spinners_are_waited_for_and_nobody_is_masked():
    """Twelve cells that use up their second on two places take six; the queue's limit is 0.2."""
    with suite.start("", wall_limit_s=1.0, max_running=2, queue_limit_s=0.2) as tools:
        spinners = [tools.submit(tools.open(seed=i), "while True: pass") for i in range(12)]
        honest = tools.run(tools.open(), "6 * 7")
        assert honest.text == "42\n" and honest.queue_s > 2.0
        assert {future.result(60).status for future in spinners} == {"timeout"}


def test_cells_that_sleep_first_do_not_all_run_at_once():
    """They want their place back together: the supervisor lets two at a time have one."""
    with suite.start("", wall_limit_s=3.0, max_running=2) as tools:
        nap = "import time; time.sleep(0.5)\nwhile True: pass"
        futures = [tools.submit(tools.open(seed=i), nap) for i in range(12)]
        most = 0
        while not all(future.done() for future in futures):
            most = max(most, tools.report()["running"])
            time.sleep(0.05)
        assert {future.result().status for future in futures} == {"timeout"}
        assert most <= 4  # two, and those let on to hear of their time-out
        assert tools.run(tools.open(), HONEST).text == "42\n"


@pytest.mark.parametrize("tier", ["A1", SLOW_A2, "B2"])
@pytest.mark.parametrize("how", ["python", "native"])
def test_threads_do_not_multiply_a_sessions_share(tier, how):
    """Processor time in the same second: twelve spinning threads against a single one."""
    python = ("import threading\nfor _ in range(12): threading.Thread(target=lambda: "
              "[0 for _ in iter(int, 1)], daemon=True).start()\n")
    many = (python if how == "python" else NATIVE.format(12)) + SPIN.format(2.0)
    with suite.start(tier, wall_limit_s=20.0, max_running=16) as tools:
        crowd = [tools.open(seed=i) for i in range(3)]
        for session in (*crowd, alone := tools.open(seed=9)):
            tools.run(session, "1")
        pids = tools.report()["session_pids"]
        for session in crowd:
            tools.submit(session, many)
        single = tools.submit(alone, SPIN.format(2.0)).result(30)
        used = [time.clock_gettime(clock_of(pids[str(session.number)])) for session in crowd]
        assert single.status == "ok"
        # Alike they would be in the ratio of 12 to 1 (native threads need no lock).
        assert single.cpu_s > sum(used) / 3 / 4, (single.cpu_s, used)
        assert tools.run(tools.open(), "6 * 7").text == "42\n"


@pytest.mark.parametrize("tier", ["A1", "A2", "B2"])
@pytest.mark.parametrize("code", [
    NATIVE.format(1),
    "import sys, threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)], "
    "daemon=True).start()\nsys._current_frames = dict",
    "import signal\nsignal.signal(signal.SIGVTALRM, lambda *a: [0 for _ in range(10**8)])\n"
    "signal.signal(signal.SIGUSR1, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)\n"
    "signal.signal(signal.SIGALRM, lambda *a: [0 for _ in range(10**8)])",
])
def test_nothing_runs_between_calls(tier, code):
    with suite.start(tier, wall_limit_s=10.0) as tools:
        session = tools.open()
        tools.run(session, "kept = 41")
        assert tools.run(session, code).status == "ok"
        pid = tools.report()["session_pids"][str(session.number)]
        time.sleep(0.4)
        before = time.clock_gettime(clock_of(pid))
        time.sleep(1.0)
        assert time.clock_gettime(clock_of(pid)) - before < 0.02
        assert tools.run(session, "kept").text == "41\n"
        assert tools.run(tools.open(), "6 * 7").text == "42\n"


@pytest.mark.parametrize("tier", ["A1", SLOW_A2, "B2"])
def test_the_trainer_comes_first_where_the_kernel_shares_out_by_groups(tier):
    """Two busy processes of ours against four cells: weights of 1024 and, together, 110."""
    switch = pathlib.Path("/proc/sys/kernel/sched_autogroup_enabled")
    if not switch.exists() or switch.read_text().strip() != "1":
        pytest.skip("this kernel does not group by session")
    with suite.start(tier, niceness=10, max_running=8) as tools:
        sessions = [tools.open(seed=i) for i in range(4)]
        futures = [tools.submit(session, SPIN.format(5.0)) for session in sessions]
        time.sleep(0.5)
        pids = tools.report()["session_pids"].values()
        spin = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\n"
        spin += "print(time.process_time())"
        before = sum(time.clock_gettime(clock_of(pid)) for pid in pids)
        ours = [subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE, text=True)
                for _ in range(os.cpu_count())]
        trainer_s = sum(float(one.communicate()[0]) for one in ours)
        cells_s = sum(time.clock_gettime(clock_of(pid)) for pid in pids) - before
        assert trainer_s > 3 * cells_s, (trainer_s, cells_s)
        assert {future.result(60).status for future in futures} == {"ok"}


def test_only_cells_that_compute_for_long_weigh_little():
    """The niceness of the sessions' group: 0 for short cells, which would wait for no good."""
    with suite.start("", niceness=10, wall_limit_s=20.0) as tools:
        group = pathlib.Path(f"/proc/{tools.report()['zygote_pids'][0]}/autogroup")
        if not group.exists():
            pytest.skip("this kernel does not group by session")
        session = tools.open()
        for cell, weight in (("1", "nice 0"), (SPIN.format(2.0), "nice 10"), ("1", "nice 0")):
            future = tools.submit(session, cell)
            deadline = time.monotonic() + 5.0
            while not (found := group.read_text()).endswith(f"{weight}\n"):
                assert time.monotonic() < deadline, (cell, found)
                time.sleep(0.02)
            assert future.result(20).status == "ok"


@pytest.mark.parametrize("tier", config.SAFE_TIERS)
def test_sessions_go_first_when_memory_runs_out(tier):
    with suite.start(tier) as tools:
        session = tools.open()
        tools.run(session, "1")
        report = tools.report()
        scores = {}
        for pid in (report["session_pids"][str(session.number)], report["zygote_pids"][0],
                    report["supervisor_pid"]):
            with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as score:
                scores[pid] = int(score.read())
        assert list(scores.values())[:2] == [1000, 900] and list(scores.values())[2] < 900


def test_too_many_sessions_for_the_hosts_descriptors_are_refused_in_a_sentence(monkeypatch):
    """As for an ordinary user whose hard limit is 4,096; root would raise it."""
    def refuse(name, limits):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(supervisor.resource, "getrlimit", lambda name: (1024, 4096))
    monkeypatch.setattr(supervisor.resource, "setrlimit", refuse)
    with pytest.raises(nest.StartError, match="lower max_sessions to 1008"):
        supervisor.reserve_files(2000)


def test_512_sessions_have_their_descriptors_under_a_low_soft_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with suite.start("", max_sessions=512) as tools:
            futures = [tools.submit(tools.open(seed=i), "1") for i in range(512)]
            assert {future.result(60).text for future in futures} == {"1\n"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
