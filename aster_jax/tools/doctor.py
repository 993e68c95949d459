"""What this host can enforce: every tier is tried by starting it, every layer by use.

`python -m aster_jax.tools doctor` prints the table and the tier a run would get.
"""

import os
import platform
import subprocess
import sys
import time

from aster_jax.tools import channel, config, executor, landlock, linux

PROMISES = {
    "A1": "own root, network, users and processes; uid per session; Landlock; seccomp",
    "A2": "the same inside one user's namespace",
    "B1": "uid per session; Landlock; seccomp",
    "B2": "Landlock; seccomp; no writable directory",
    "C": "UNSAFE: seccomp only, this user's files are readable",
    "D": "UNSAFE: resource limits only",
}


def probe_layers() -> list[tuple[str, str]]:
    """(layer, what was found) for what can be asked without starting anything."""
    rows = [
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("python", f"{platform.python_version()} at {sys.prefix}, library {sys.base_prefix}"),
        ("user", str(os.getuid())),
        ("processors", str(os.cpu_count())),
    ]
    try:
        rows.append(("landlock", f"ABI {landlock.find_abi()}"))
    except OSError as error:
        rows.append(("landlock", f"unavailable: {error}"))
    namespaces = {
        "user": linux.CLONE_NEWUSER, "mount": linux.CLONE_NEWNS, "network": linux.CLONE_NEWNET,
        "PID": linux.CLONE_NEWPID,
    }
    return rows + [(f"{n} namespace", probe_namespace(kinds)) for n, kinds in namespaces.items()]


def probe_namespace(kinds: int) -> str:
    """Tries to unshare in a fresh process: this one may have threads and must stay."""
    code = f"import sys; sys.path.append({channel.ROOT!r})\n"
    code += f"from aster_jax.tools import linux; linux.unshare({kinds})"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    return "yes" if done.returncode == 0 else "no: " + done.stderr.strip().split("\n")[-1]


def probe_tiers() -> list[tuple[str, str, float]]:
    """(tier, "" or why not, seconds) for each tier, started with nothing preloaded."""
    rows = []
    for tier in config.TIERS:
        begun = time.monotonic()
        settings = config.ToolConfig(
            tier=tier, min_tier="D", allow_unsafe=True, preload=(), start_limit_s=30.0
        )
        try:
            with executor.Executor(settings) as tools:
                outcome = tools.run(tools.open(), "6 * 7")
                problem = "" if outcome.text == "42\n" else repr(outcome)
        except RuntimeError as error:
            problem = str(error).partition("(")[2].rpartition(")")[0] or str(error)
        rows.append((tier, problem, time.monotonic() - begun))
    return rows


def main() -> int:
    """Prints both tables; exit code 1 if no safe tier works here."""
    for name, found in probe_layers():
        print(f"{name:18} {found}")
    print()
    best = ""
    for tier, problem, seconds in probe_tiers():
        if not problem and not best:
            best = tier
        print(f"tier {tier:3} {'works' if not problem else 'no   '} {seconds:5.2f} s  "
              f"{problem or PROMISES[tier]}")
    print(f"\nchosen: {best or 'none'}" + (f" ({PROMISES[best]})" if best else ""))
    return 0 if best in config.SAFE_TIERS else 1
