"""What a run can meet, for `benchmarks.chaos`: signals, supervisors, checkpoints, disks.

Each event is what a week on rented machines brings; none knows anything of the run but its
process and its directory.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
EVENTS = {
    "SIGKILL": 20, "SIGTERM": 5, "tool supervisor killed": 5, "tool supervisor frozen": 3,
    "verifier's supervisor killed": 2, "verifier's supervisor frozen": 1,
    "gradient not a number": 1, "newest checkpoint truncated": 1, "disk full": 1,
    "second process": 1,
}  # fmt: skip
DISK_MIB = 700
FULL_S = 20.0  # seconds that the disk stays full
STRIKE_S = 300.0  # a supervisor frozen while it started can hold the run for two minutes


@dataclasses.dataclass
class Seen:
    """What happened: exit codes of the processes, events met and events that had no object."""

    codes: list[int] = dataclasses.field(default_factory=list)
    met: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)


class Child:
    """The run's process, started again and again."""

    def __init__(self, command: list[str], seen: Seen, log: pathlib.Path):
        self.command, self.seen, self.log = command, seen, log
        self.process, self.frozen = None, []

    def start(self) -> None:
        """Begin, or go on, as somebody would who gives the same command again."""
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=open(self.log, "a"), stderr=subprocess.STDOUT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"}, start_new_session=True,
        )  # fmt: skip

    def ended(self) -> int | None:
        """The exit code, noted once; None while it runs."""
        code = self.process.poll()
        return code

    def end(self, how: int, within_s: float) -> int:
        """Send a signal and wait for the end; what takes too long is killed and noted."""
        self.process.send_signal(how)
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.seen.remarks.append(f"still there {within_s} s after signal {how}")
            self.process.kill()
            self.process.wait()
        self.seen.codes.append(self.process.returncode)
        return self.process.returncode

    def bury(self) -> None:
        """End the supervisors that were frozen: one whose run was killed meanwhile is still."""
        for pid in self.frozen:
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if fields[0] == "T":
                    os.killpg(pid, signal.SIGKILL)

    def supervisor(self, workdir: pathlib.Path, whose: str) -> int | None:
        """The tool's or the verifier's, while it is a process of this run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((workdir.parent / f"{whose}.pid").read_text())
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == self.process.pid and fields[0] != "Z":
                return pid
        return None


def meet(kind: str, child: Child, workdir: pathlib.Path, seen: Seen) -> None:
    """One event."""
    if kind == "SIGKILL":
        child.end(signal.SIGKILL, 5.0)
        child.start()
    elif kind == "SIGTERM":
        code = child.end(signal.SIGTERM, 30.0)
        if code not in (143, -signal.SIGTERM):  # the latter: before it could listen; 143 in a shell
            seen.remarks.append(f"SIGTERM gave exit code {code}")
        child.start()
    elif "supervisor" in kind:
        whose = "verifier" if kind.startswith("verifier") else "tool"
        how = signal.SIGSTOP if "frozen" in kind else signal.SIGKILL
        if not strike(child, workdir, whose, how):
            seen.skipped[kind] = f"it was not running within {STRIKE_S:.0f} s"
            return
    elif kind == "gradient not a number":
        (workdir / "make_nan").write_text("")
    elif kind == "newest checkpoint truncated":
        child.end(signal.SIGKILL, 5.0)
        truncate_newest(workdir)
        child.start()
    elif kind == "disk full":
        if not os.path.ismount(workdir.parent):
            seen.skipped[kind] = "no tmpfs could be mounted"
            return
        fill(workdir.parent)
    elif kind == "second process":
        other = subprocess.run(child.command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        if other.returncode != 1 or "is in use by process" not in other.stderr:
            seen.remarks.append(f"a second process ended with {other.returncode}: {other.stderr[-200:]}")
    seen.met[kind] = seen.met.get(kind, 0) + 1


def strike(child: Child, workdir: pathlib.Path, whose: str, how: int) -> bool:
    """Signal one of the supervisors as soon as it is there; whether it was.

    A run between two stages has none, one that has just been started not yet.
    """
    deadline = time.monotonic() + STRIKE_S
    while time.monotonic() < deadline and child.ended() is None:
        pid = child.supervisor(workdir, whose)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
                child.frozen += [pid] if how == signal.SIGSTOP else []
                return True
        time.sleep(0.05)
    return False


def truncate_newest(workdir: pathlib.Path) -> None:
    """Cut the largest file of the parameters in the newest checkpoint to a half."""
    begun = [s for s in ("sft", "rl1", "rl2") if any((workdir / s / "checkpoints").glob("[0-9]*"))]
    found = (workdir / begun[-1] / "checkpoints").iterdir()
    newest = max((p for p in found if p.name.isdigit()), key=lambda p: int(p.name))
    files = [p for p in (newest / "params").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def fill(disk: pathlib.Path) -> None:
    """Leave no room on the disk for a while."""
    path = disk / "filler"
    with open(path, "wb") as f, contextlib.suppress(OSError):
        while True:
            f.write(bytes(1 << 20))
            f.flush()
    time.sleep(FULL_S)
    path.unlink()


@contextlib.contextmanager
def small_disk(path: pathlib.Path):
    """A tmpfs of its own at `path`, where one can be mounted; else the directory as it is."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], check=False)
