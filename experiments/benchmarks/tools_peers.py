"""The peers of the tool benchmark, measured by their own interpreter.

`PYTHON tools_peers.py` prints one JSON object: a real Jupyter kernel driven through
jupyter_client, a fresh `python -c "import sympy"` per call, and a process per call that
restores pickled variables, runs the cell and persists them again (what the public ASTER
sandbox does). Needs the `peers` extra; without jupyter_client its part says so.
"""

import json
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tools_probes  # noqa: E402  (a plain script: it runs in the peers' own environment)

MATHS = "import numpy, scipy, scipy.optimize, scipy.special, scipy.linalg, sympy, networkx"
SOLVE = "import sympy\nx = sympy.symbols('x')\nsympy.solve(x**3 - 2*x + 1, x)\nimport gc; gc.collect();"
RESTORE_RUN_PERSIST = """
import pickle, sys
import math, sympy
path = sys.argv[1]
with open(path, "rb") as source:
    state = pickle.load(source)
exec(sys.argv[2], state)
kept = {}
for name, value in state.items():
    if name.startswith("__"):
        continue
    try:
        kept[name] = pickle.loads(pickle.dumps(value))
    except Exception:
        pass
with open(path, "wb") as target:
    pickle.dump(kept, target)
"""


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def find_pss(pid: int) -> float:
    """Proportional set size of a process in MB."""
    for row in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n"):
        if row.startswith("Pss:"):
            return int(row.split()[1]) / 1024
    return 0.0


class Kernel:
    """A live ipykernel and a client that waits for both the reply and idleness."""

    def __init__(self):
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager()
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str, limit_s: float = 60.0) -> str | None:
        """Printed text of one cell, or None after `limit_s`."""
        wanted, parts = self.client.execute(code), []
        deadline = time.monotonic() + limit_s
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
            except Exception:  # queue.Empty of jupyter_client's own kind
                return None
            if message["parent_header"].get("msg_id") != wanted:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                parts.append(content["text"])
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                self.client.get_shell_msg(timeout=60)
                return "".join(parts)

    def pid(self) -> int:
        """The kernel's process."""
        return self.manager.provisioner.process.pid

    def close(self) -> None:
        """Ends the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def measure_jupyter(repeats: int) -> dict:
    """Start, calls, memory, throughput of real kernels."""
    starts, imports = [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        kernel = Kernel()
        starts.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        kernel.run(MATHS)
        imports.append(time.perf_counter() - begun)
        kernel.close()
    kernel = Kernel()
    calls = []
    idle = find_pss(kernel.pid())
    for _ in range(200):
        begun = time.perf_counter()
        kernel.run("1 + 1")
        calls.append(time.perf_counter() - begun)
    kernel.run(MATHS)
    kernel.run(SOLVE)
    found = {
        "start_s": percentile(starts, 0.5), "import_s": percentile(imports, 0.5),
        "call_p50_s": percentile(calls, 0.5), "call_p99_s": percentile(calls, 0.99),
        "idle_mb": idle, "solved_mb": find_pss(kernel.pid()),
    }
    kernel.close()
    return found | {"calls_per_s": measure_kernels(4), "fidelity": measure_fidelity()}


def measure_kernels(count: int) -> float:
    """Calls per second of `count` kernels, each driven by a thread."""
    kernels = [Kernel() for _ in range(count)]

    def drive(kernel: Kernel) -> None:
        for _ in range(100):
            kernel.run("sum(range(100))")

    threads = [threading.Thread(target=drive, args=(kernel,)) for kernel in kernels]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
    for kernel in kernels:
        kernel.close()
    return 100 * count / taken


def measure_fidelity() -> list[str]:
    """Names of the probes that fail, in one kernel reset between probes."""
    failed, kernel = [], Kernel()
    for name, first, check in tools_probes.PROBES:
        cells = tools_probes.HARD if first is None else (first,)
        for cell in cells:
            if kernel.run(cell, 2.0) is None:
                kernel.manager.interrupt_kernel()
                if kernel.run("1", 2.0) is None:  # a C loop: only a restart helps
                    kernel.close()
                    kernel = Kernel()
        if kernel.run(f"print(bool({check}))", 5.0) != "True\n":
            failed.append(name)
        kernel.run("%reset -f")
    kernel.close()
    return failed


def measure_processes(repeats: int) -> dict:
    """A fresh interpreter per call, with sympy, and with restore and persist."""
    fresh, persisted = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/state"
        pathlib.Path(path).write_bytes(pickle.dumps({"a": 1}))
        for _ in range(repeats):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import sympy\nprint(1 + 1)"], check=True,
                           stdout=subprocess.DEVNULL)
            fresh.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", RESTORE_RUN_PERSIST, path, "a = a + 1"],
                           check=True, stdout=subprocess.DEVNULL)
            persisted.append(time.perf_counter() - begun)
    return {"fresh_s": percentile(fresh, 0.5), "persist_s": percentile(persisted, 0.5)}


def main() -> None:
    """Prints the JSON object."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found = {"processes": measure_processes(repeats)}
    try:
        import jupyter_client  # noqa: F401  (asked for only to say that it is missing)

        found["jupyter"] = measure_jupyter(repeats)
    except ImportError as error:
        found["jupyter"] = None
        found["jupyter_missing"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
