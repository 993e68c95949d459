"""metrics.jsonl: one JSON line per step, the only thing the report reads about training."""

import json
import os
import pathlib


def every(interval: int, step: int, last: int) -> bool:
    """Whether something with this cadence is due after step `step` (1-based).

    Always at the last step; never when `interval` is 0, except then.
    """
    return step == last or (interval > 0 and step % interval == 0)


def append(workdir: pathlib.Path, stage: str, step: int, time_s: float, values: dict) -> None:
    """Add one line; it reaches the disk before this returns."""
    record = {"stage": stage, "step": step, "time_s": round(time_s, 3), **values}
    with open(workdir / "metrics.jsonl", "a") as f:
        f.write(json.dumps(record) + "\n")
        f.flush()
        os.fsync(f.fileno())


def rewind(workdir: pathlib.Path, stage: str, step: int) -> float:
    """Drop a stage's lines after `step`, and a half-written last line.

    Called when a stage resumes from the checkpoint of `step`: the steps after it are
    made again, identically, and must not stand there twice.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return 0.0
    kept, time_s = [], 0.0
    for line in path.read_text().split("\n"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # an empty or torn last line
        if record["stage"] != stage or record["step"] <= step:
            kept.append(line)
            time_s = record["time_s"] if record["stage"] == stage else time_s
    replace(path, "".join(line + "\n" for line in kept))
    return time_s


def replace(path: pathlib.Path, text: str) -> None:
    """Write a file so that it is either the old one or the whole new one, never a part."""
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
