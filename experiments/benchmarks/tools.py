"""The tool executor against its peers, requirement beside measurement.

    python -m experiments.benchmarks.tools [--peers_python PATH] [--quick]

Measured in one run on this machine: our executor, a real Jupyter kernel, a fresh
`python -c 'import sympy'` per call, and a process per call that restores, runs and
persists. The peers run under `--peers_python` (an environment with the `peers` extra);
what cannot be measured is printed as skipped. Reference run: two cores of a virtual
machine, tier A1, about three minutes; the load average is printed with the table, since
latencies measured beside other work are that work's too.
"""

import dataclasses
import gc
import json
import os
import pathlib
import subprocess
import sys
import time

from absl import app, flags

from aster_jax.tools import Executor, ToolConfig
from experiments.benchmarks import tools_peers, tools_probes, tools_table

PEERS = flags.DEFINE_string("peers_python", sys.executable, "interpreter that has jupyter_client")
QUICK = flags.DEFINE_bool("quick", False, "fewer repetitions: a minute instead of three")
OPEN = ToolConfig(max_calls=1 << 20)
SUM = "sum(range(100))"
C_LOOP = "sum(range(10**12))"


def time_calls(tools, session, count: int) -> list[float]:
    """Seconds of `count` trivial calls, one after the other."""
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        tools.run(session, "1 + 1")
        taken.append(time.perf_counter() - begun)
    return taken


def time_starts(tools, count: int) -> list[float]:
    """Seconds from `open` to the answer of a first empty cell, one after the other."""
    taken = []
    for number in range(count):
        begun = time.perf_counter()
        session = tools.open(seed=number)
        tools.run(session, "")
        taken.append(time.perf_counter() - begun)
        tools.close(session)
    return taken


def measure_latency(repeats: int) -> dict:
    """Start and call latency in the best tier and, for A18, without any isolation."""
    found = {}
    for name, config in (
        ("best", OPEN),
        ("none", dataclasses.replace(OPEN, tier="D", min_tier="D", allow_unsafe=True)),
    ):
        with Executor(config) as tools:
            starts = time_starts(tools, repeats)
            session = tools.open()
            time_calls(tools, session, 50)
            calls = time_calls(tools, session, 10 * repeats)
            found[name] = {
                "tier": tools.tier, "start": tools_peers.percentile(starts, 0.5),
                "start_p99": tools_peers.percentile(starts, 0.99),
                "call": tools_peers.percentile(calls, 0.5),
                "call_p99": tools_peers.percentile(calls, 0.99),
            }
    return found


def measure_crowd(count: int, rounds: int) -> dict:
    """`count` sessions at once: parallel start, throughput, memory per session."""
    with Executor(OPEN) as tools:
        begun = time.perf_counter()
        sessions = [tools.open(seed=number) for number in range(count)]
        first = [tools.submit(session, "1") for session in sessions]
        failures = sum(future.result().status != "ok" for future in first)
        start = time.perf_counter() - begun
        pids = list(tools.report()["session_pids"].values())[:: max(1, count // 16)]
        idle = sum(map(tools_peers.find_pss, pids)) / len(pids)
        begun = time.perf_counter()
        for _ in range(rounds):
            for future in [tools.submit(session, SUM) for session in sessions]:
                failures += future.result().status != "ok"
        rate = rounds * count / (time.perf_counter() - begun)
        for future in [tools.submit(session, tools_peers.SOLVE) for session in sessions[:64]]:
            failures += future.result().status != "ok"
        pids = [pid for number, pid in tools.report()["session_pids"].items()][:64:4]
        solved = sum(map(tools_peers.find_pss, pids)) / len(pids)
    return {"start": start, "rate": rate, "idle": idle, "solved": solved, "failures": failures}


def measure_fidelity() -> list[str]:
    """Names of the state probes that fail."""
    config = dataclasses.replace(OPEN, wall_limit_s=2.0, grace_s=0.5)
    failed = []
    with Executor(config) as tools:
        for name, first, check in tools_probes.PROBES:
            session = tools.open(seed=0)
            for cell in tools_probes.HARD if first is None else (first,):
                tools.run(session, cell)
            if tools.run(session, f"print(bool({check}))").text != "True\n":
                failed.append(name)
            tools.close(session)
    return failed


def measure_kills(repeats: int) -> dict:
    """Overshoot of soft and hard time-outs, idle and with 128 busy loops around."""
    config = dataclasses.replace(OPEN, wall_limit_s=0.3, grace_s=0.2)
    soft, hard = [], []
    with Executor(config) as tools:
        for _ in range(repeats):
            session = tools.open()
            tools.run(session, "1")
            soft.append(tools.run(session, "while True:\n    i = 0").wall_s - 0.3)
            hard.append(tools.run(session, C_LOOP).wall_s - 0.5)
            tools.close(session)
    config = dataclasses.replace(OPEN, wall_limit_s=3.0, max_running=256)
    with Executor(config) as tools:
        canary = tools.open()
        sessions = [tools.open(seed=number) for number in range(128)]
        for future in [tools.submit(session, "1") for session in sessions]:
            future.result()
        futures = [tools.submit(session, "while True:\n    i = 0") for session in sessions]
        waits = []
        while not all(future.done() for future in futures):
            begun = time.perf_counter()
            tools.run(canary, "1")
            waits.append(time.perf_counter() - begun)
        busy = [future.result().wall_s - 3.0 for future in futures]
    high = tools_peers.percentile
    return {"soft": high(soft, 0.99), "hard": high(hard, 0.99), "busy": high(busy, 0.99),
            "canary": high(waits, 0.99)}


def measure_growth(cycles: int) -> dict:
    """Descriptors, zombies and resident memory before and after many lifecycles."""
    with Executor(OPEN) as tools:
        def cycle(count: int) -> None:
            for number in range(count):
                session = tools.open(seed=number)
                tools.run(session, "import os\nos._exit(1)" if number % 5 == 0 else "x = 1")
                tools.close(session)

        cycle(50)
        before = measure_size(tools)
        cycle(cycles)
        after = measure_size(tools)
    return {name: after[name] - before[name] for name in before}


def measure_size(tools) -> dict:
    """Descriptors and resident kB of trainer, supervisor and zygote; zombies on the host.

    Taken when nothing is under way: a spare that is being forked has more descriptors open.
    """
    gc.collect()
    deadline = time.monotonic() + 10.0
    while len((report := tools.report())["spare_pids"]) < OPEN.spares:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the spares are not there after 10 s: {report}")
        time.sleep(0.05)
    pids = (os.getpid(), report["supervisor_pid"], report["zygote_pids"][0])
    size = {"files": 0, "resident_kb": 0, "zombies": 0}
    for pid in pids:
        size["files"] += len(os.listdir(f"/proc/{pid}/fd"))
        size["resident_kb"] += 4 * int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    size["zombies"] = sum(count_zombies(pid) for pid in pids)
    return size


def count_zombies(parent: int) -> int:
    """Dead children that `parent` has not collected."""
    found = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, owner = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        found += state == "Z" and int(owner) == parent
    return found


def measure_repeat(trajectories: int) -> dict:
    """Seeded mixed cells, run twice: equal text and no infrastructure status."""
    cells = ("import random; random.random()", "import numpy as np; np.random.rand(2)", "1 / 0",
             "from sympy import *; x = symbols('x'); factor(x**4 - 1)", "print('a'); 5", SUM)
    texts, infra = [], 0
    for _ in range(2):
        with Executor(OPEN) as tools:
            sessions = [tools.open(seed=number) for number in range(trajectories)]
            rows = []
            for index in range(20):
                cell = cells[index % len(cells)]
                results = [f.result() for f in [tools.submit(s, cell) for s in sessions]]
                infra += sum(result.is_infra for result in results)
                rows.append([result.text for result in results])
            texts.append(rows)
    return {"equal": texts[0] == texts[1], "infra": infra}


def measure_peers() -> dict:
    """The peers' JSON object, from their own interpreter."""
    script = pathlib.Path(__file__).with_name("tools_peers.py")
    done = subprocess.run(
        [PEERS.value, str(script), "3" if QUICK.value else "7"], check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    return json.loads(done.stdout.strip().split("\n")[-1])


def main(argv) -> None:
    """Measures everything and prints the table."""
    del argv
    quick = QUICK.value
    print(f"load average before: {os.getloadavg()}", flush=True)
    found = {"peers": measure_peers(), "latency": measure_latency(50 if quick else 200)}
    found["crowds"] = {count: measure_crowd(count, 4 if quick else 8) for count in (64, 256, 512)}
    found["kills"] = measure_kills(5 if quick else 20)
    found["growth"] = measure_growth(200 if quick else 2000)
    found["fidelity"] = measure_fidelity()
    found["repeat"] = measure_repeat(50 if quick else 1000)
    print(f"load average after: {os.getloadavg()}\ntier {found['latency']['best']['tier']}")
    tools_table.show(found)


if __name__ == "__main__":
    app.run(main)
