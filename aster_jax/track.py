"""Trackers: what `metrics.jsonl` says, also for those who look elsewhere (config key `track`).

Where in the flow: `workdir.Run.record` gives every line here after it is in `metrics.jsonl`, which
stays what everything else reads. A tracker that fails is said once and left out from there on;
it never ends a run. Process 0 alone has any.
"""

import contextlib
import importlib
import json
import math
import os
import pathlib
import secrets
import struct
import time
from collections.abc import Callable

from aster_jax import together
from aster_jax.train import metrics

KNOWN = ("tensorboard", "wandb", "trackio")


class Trackers:
    """Those that the config names, each opened when there is something for it."""

    def __init__(self, names: tuple[str, ...] = (), path: pathlib.Path = pathlib.Path(),
                 title: str = "", keys: dict | None = None):  # fmt: skip
        self._make = {name: lambda n=name: _opened(n, path, title, keys or {}) for name in names}
        self._open = {}

    def rewind(self, stage: str, step: int) -> list[str]:
        """The steps after `step` will be made again; what there is to say of failures."""
        return self._all(lambda tracker: tracker.rewind(stage, step))

    def log(self, stage: str, step: int, values: dict) -> list[str]:
        """One step's numbers; what there is to say of failures."""
        numbers = {k: float(v) for k, v in values.items() if _is_number(v)}
        return self._all(lambda tracker: tracker.log(stage, step, numbers))

    def _all(self, call: Callable) -> list[str]:
        said = []
        for name in list(self._make) if together.is_first() else ():
            try:
                if name not in self._open:
                    self._open[name] = self._make[name]()
                call(self._open[name])
            except Exception as e:
                del self._make[name]
                said.append(
                    f"{name} is left out from here on ({metrics.brief(e):.160}); metrics.jsonl "
                    f"has everything{_remedy(name, e)}"
                )
        return said


def _opened(name, path, title, keys):
    return TensorBoard(path) if name == "tensorboard" else Online(name, path, title, keys)


def _remedy(name, error) -> str:
    package = "tensorboardX" if name == "tensorboard" else name
    return f"; pip install {package}" if isinstance(error, ModuleNotFoundError) else ""


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class TensorBoard:
    """One event file per stage, `tensorboard/STAGE/`: TensorBoard shows each stage as a run.

    The same file goes on when the stage resumes: what stands behind the step it resumes from, or
    was torn, is cut off; what `metrics.jsonl` has and the file has not is put in. tensorboardX
    makes the records; its writer is not used, whose thread a full disk ends and then the queue to
    it stands still.
    """

    def __init__(self, path: pathlib.Path):
        # The module is looked for here, where its absence is one tracker's and not the run's.
        self._event = importlib.import_module("tensorboardX.proto.event_pb2").Event
        self._summary = importlib.import_module("tensorboardX.proto.summary_pb2").Summary
        self._crc = importlib.import_module("tensorboardX.record_writer").masked_crc32c
        self._workdir = path
        self._files: dict[str, pathlib.Path] = {}

    def rewind(self, stage: str, step: int) -> None:
        """Cut the stage's file off behind `step`, and fill in what it lacks up to there."""
        folder = self._workdir / "tensorboard" / stage
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(folder.glob("events.out.tfevents.*"))
        path = found[0] if found else folder / f"events.out.tfevents.{int(time.time())}.aster"
        if not found:
            self._append(path, self._event(wall_time=time.time(), file_version="brain.Event:2"))
        data = path.read_bytes()
        end, last = self._whole(data, step)
        if end < len(data):
            with open(path, "r+b") as f:
                f.truncate(end)
        if not end:
            self._append(path, self._event(wall_time=time.time(), file_version="brain.Event:2"))
        for record in metrics.lines(self._workdir, stage):
            if last < record["step"] <= step:
                self._add(path, record["step"], {k: v for k, v in record.items() if _is_number(v)})
        self._files[stage] = path

    def log(self, stage: str, step: int, numbers: dict[str, float]) -> None:
        """Add one step."""
        if stage not in self._files:
            self.rewind(stage, step - 1)
        self._add(self._files[stage], step, numbers)

    def _add(self, path, step, numbers):
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in numbers.items() if name not in ("step", "time_s")
        ]  # fmt: skip
        summary = self._summary(value=values)
        self._append(path, self._event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, path, event):
        data = event.SerializeToString()
        head = struct.pack("<Q", len(data))
        crcs = [struct.pack("<I", self._crc(part)) for part in (head, data)]
        with open(path, "ab") as f:
            f.write(head + crcs[0] + data + crcs[1])

    def _whole(self, data: bytes, step: int) -> tuple[int, int]:
        """Where the last whole record up to `step` ends, and its step."""
        at, last = 0, 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            body = data[at + 12 : at + 12 + length]
            if at + 16 + length > len(data):
                break
            if struct.pack("<I", self._crc(body)) != data[at + 12 + length : at + 16 + length]:
                break
            event = self._event.FromString(body)
            if event.step > step:
                break
            at, last = at + 16 + length, event.step
        return at, last


class Online:
    """Weights & Biases, or trackio, which has the same calls. Points cannot be taken back there,
    so a step that was sent once is not sent again: made again, its numbers are the same."""

    def __init__(self, name: str, path: pathlib.Path, title: str, keys: dict):
        self._module = importlib.import_module(name)
        self._known = path / f"{name}.json"
        self._sent = {"id": secrets.token_hex(8), "steps": {}}
        # What cannot be read is as good as none: a new run is begun there, instead of no run.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self._known.read_text())
            self._sent = {"id": str(found["id"]), "steps": dict(found["steps"])}
        self._drawn: set[str] = set()
        where = {"id": self._sent["id"], "dir": str(path)} if name == "wandb" else {}
        self._module.init(
            project="aster_jax", name=f"{title}-{self._sent['id'][:4]}", resume="allow", config=keys,
            **where,
        )  # fmt: skip

    def rewind(self, stage: str, step: int) -> None:
        """Nothing: see above."""

    def log(self, stage: str, step: int, numbers: dict[str, float]) -> None:
        """Send one step, unless it was."""
        if step <= self._sent["steps"].get(stage, 0):
            return
        if stage not in self._drawn and hasattr(self._module, "define_metric"):
            # Else everything is drawn over how many lines were sent before, by all stages.
            self._module.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._drawn.add(stage)
        # Where two stages write the same names the stage tells them apart: rl1/rl/loss.
        names = {k: k if k.startswith(f"{stage}/") else f"{stage}/{k}" for k in numbers}
        steps = {**self._sent["steps"], stage: step}
        # Counted by us: offline, a start does not know how far the ones before it came.
        line = {f"{stage}/step": step, **{names[k]: v for k, v in numbers.items()}}
        self._module.log(line, step=sum(steps.values()))
        self._sent["steps"] = steps
        beside = self._known.with_name(self._known.name + ".partial")
        beside.write_text(json.dumps(self._sent))
        os.replace(beside, self._known)  # never half a file, whatever ends this process
