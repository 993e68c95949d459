"""Where a run comes from: code, libraries, machine, and the revision of its model.

One line of `provenance.jsonl` in the workdir per start of the process. What differs from
the start before is said: bits may differ after it, though nothing is refused.
"""

import json
import pathlib
import platform
import socket
import subprocess
import time
from importlib import metadata

import jax

from aster_jax.train import metrics

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "sympy",
             "math-verify", "tokenizers", "sentencepiece")  # fmt: skip
ROOT = pathlib.Path(__file__).resolve().parents[2]


def now(model_revision: str) -> dict[str, str]:
    """What the process runs on. `model_revision` is "" for a model that has none."""
    found = {"python": platform.python_version(), "commit": commit()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    device = jax.devices()[0]
    return {
        **found,
        "devices": f"{jax.device_count()} {device.device_kind}",
        "processor": _processor(),
        "model_revision": model_revision,
    }


def commit() -> str:
    """The code's commit, with "+changes" where files differ from it; "" outside a checkout."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments) -> str:
    made = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return made.stdout.strip()


def _processor() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def record(workdir: pathlib.Path, model_revision: str) -> list[str]:
    """Add this start's line; returns what differs from the start before, in words."""
    path = workdir / "provenance.jsonl"
    found = now(model_revision)
    before = {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                before = json.loads(line)
            except json.JSONDecodeError:
                continue  # a torn line of a start that was killed
    lines = path.read_text() if path.exists() else ""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": socket.gethostname(), **found}
    metrics.replace(path, lines + json.dumps(line) + "\n")
    return [
        f"{key} was {before[key]!r}, is {value!r}"
        for key, value in found.items()
        if key in before and before[key] != value
    ]
