"""Running the hostile cells against a live executor: steps, canary, leftover processes."""

import dataclasses
import os
import pathlib
import tempfile
import time

import pytest

from aster_jax.tools import Executor, ToolConfig
from tests.tools import escape_cells, hostile_cells, kind_cells

FIFTY = (
    hostile_cells.ORDINARY + hostile_cells.TIME + hostile_cells.RESOURCES
    + escape_cells.SECRETS + escape_cells.SABOTAGE
)
GROUPS = FIFTY + kind_cells.KINDS
POOLS = {
    "patient": ToolConfig(wall_limit_s=30.0, grace_s=0.5, memory_limit_mib=512, niceness=0),
    "tight": ToolConfig(preload=(), memory_limit_mib=64, wall_limit_s=60.0, niceness=0),
    "strict": ToolConfig(wall_limit_s=1.0, grace_s=0.5, memory_limit_mib=512, niceness=0),
}


class Bench:
    """One executor per pool, a canary session in each, and planted secrets."""

    def __init__(self, folder: pathlib.Path, tier: str = ""):
        self.values = {"answers": str(folder / "answers.txt"), "home": str(folder)}
        for name in ("answers.txt", "token"):
            (folder / name).write_text("secret")
            os.chmod(folder / name, 0o644)
        self.shared = tempfile.NamedTemporaryFile(dir="/dev/shm")
        self.values["shared"] = self.shared.name
        pathlib.Path(self.shared.name).write_text("secret")
        os.chmod(self.shared.name, 0o644)
        paths = (self.values["answers"], self.values["shared"])
        self.planted = {path: describe(path) for path in paths}
        os.environ["ASTER_SECRET"] = "secret"
        pools = {name: dataclasses.replace(pool, tier=tier) for name, pool in POOLS.items()}
        self.pools = {name: Executor(pool) for name, pool in pools.items()}
        self.canaries = {name: pool.open(seed=1) for name, pool in self.pools.items()}
        for name, pool in self.pools.items():
            assert pool.run(self.canaries[name], "kept = 41").status == "ok"
        self.tier = self.pools["patient"].tier

    def close(self) -> None:
        """Ends both pools."""
        del os.environ["ASTER_SECRET"]
        self.shared.close()
        for pool in self.pools.values():
            pool.close()

    def run(self, group: hostile_cells.Group) -> None:
        """All sequences of a group; AssertionError tells the first surprise."""
        pool = self.pools[group.pool]
        for sequence in group.sequences:
            session = pool.open(seed=0)
            for step in sequence:
                self.check(group, step, pool.run(session, self.fill(step.code)))
            pool.close(session)
            self.check_others(group, pool)

    def fill(self, code: str) -> str:
        """The cell with the planted paths in place."""
        for name, value in self.values.items():
            code = code.replace("{" + name + "!r}", repr(value))
        return code

    def check(self, group, step, result) -> None:
        """One result against its step."""
        about = f"group {group.number} ({group.title}), {step.code[:200]!r}: {result}"
        assert result.status in step.statuses, about
        assert not step.state or result.state == step.state, about
        assert step.contains in result.text, about
        assert not step.lacks or step.lacks not in result.text, about
        assert len(result.text) < 70_000, about

    def check_others(self, group, pool) -> None:
        """The canary has its own state, planted files are as they were, no process is left."""
        for path, before in self.planted.items():
            assert describe(path) == before, f"group {group.number} changed {path}"
        canary = self.canaries[group.pool]
        result = pool.run(canary, "kept")
        if result.status == "call_limit":
            pool.close(canary)
            self.canaries[group.pool] = canary = pool.open(seed=1)
            result = pool.run(canary, "kept = 41\nkept")
        assert result.text == "41\n", f"canary after group {group.number}: {result}"
        report = pool.report()
        assert report["counts"].get("zygotes_lost", 0) == 0, f"group {group.number}: {report}"
        for _ in range(100):  # a killed session or a fresh spare takes a moment to settle
            report = pool.report()
            left = descendants(report["zygote_pids"][0]) - known_pids(report)
            if not left:
                break
            pool.run(canary, "import time; time.sleep(0.02); kept = 41")
        assert not left, f"processes left after group {group.number}: {left}"


def describe(path: str) -> tuple:
    """What nobody may change about a planted file."""
    found = os.stat(path)
    content = pathlib.Path(path).read_bytes()
    return found.st_mode, found.st_uid, found.st_mtime_ns, os.listxattr(path), content


def start(tier: str, **changes) -> Executor:
    """An executor in just this tier; a host without it skips, a failed self-test does not."""
    try:
        return Executor(ToolConfig(**{"tier": tier, "preload": (), "niceness": 0, **changes}))
    except RuntimeError as error:
        if "self-test" in str(error):
            raise
        pytest.skip(f"no tier {tier} here: {error}")


def survivors(pids: set[int], deadline: float) -> set[int]:
    """Those of `pids` that are still alive at `deadline`, a monotonic time."""
    while (alive := set(filter(is_alive, pids))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def known_pids(report: dict) -> set[int]:
    """The session processes an executor answers for."""
    return {*report["session_pids"].values(), *report["spare_pids"]}


def descendants(pid: int) -> set[int]:
    """All live processes below `pid`, zombies included."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = pathlib.Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            parents[int(name)] = int(text.rpartition(")")[2].split()[1])
    found, grew = {pid}, True
    while grew:
        new = {child for child, parent in parents.items() if parent in found} - found
        found |= new
        grew = bool(new)
    return found - {pid}
