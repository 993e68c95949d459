"""A run's directory: which config made it, which stages are finished, and what is said.

Every stage writes under `workdir/STAGE/`. It has begun when `began.json` is there, with
what determines its output, and is finished when `DONE.json` is; that marker is written
last and atomically, so a half-made stage is never taken for whole.

Of several processes the first one reads and writes all this, and tells the others what
stands there: what one has just written, another one may not see yet on a shared disk.
"""

import contextlib
import dataclasses
import json
import pathlib
import secrets
import shutil
import sys
import time
import traceback
import zlib
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from aster_jax import config as configs
from aster_jax import pace, together, track
from aster_jax.errors import InputError
from aster_jax.lifetime import changes, lock
from aster_jax.lifetime.notice import Notice
from aster_jax.report import records
from aster_jax.train import metrics

SHARED_S = 60.0  # until a file that one process has made is seen by all


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage is given: the locked config, the directory and the device mesh.

    `notice` tells whether the machine has asked for the process.
    """

    config: ConfigDict
    path: pathlib.Path
    mesh: jax.sharding.Mesh
    began: float = dataclasses.field(default_factory=time.monotonic)
    notice: Notice = dataclasses.field(default_factory=Notice)
    trackers: track.Trackers = dataclasses.field(default_factory=track.Trackers)
    paces: pace.Pace = dataclasses.field(default_factory=pace.Pace)

    def say(self, stage: str, text: str) -> None:
        """One line of progress on standard output, with the seconds since the start, and in
        `run.log`, which all starts of the run have written to."""
        if jax.process_index() == 0:
            line = f"[{time.monotonic() - self.began:6.1f} s] {stage:6s} {text}"
            print(f"\r\033[K{line}" if self.is_watched() else line, flush=True)
            self.log(line)

    def log(self, line: str) -> None:
        """Add a line to `run.log`; a disk that is full or away loses it, and nothing else."""
        with contextlib.suppress(OSError), open(self.path / "run.log", "a", encoding="utf-8") as f:
            f.write(line + "\n")

    def live(self, stage: str, text: str) -> None:
        """A line that the next one overwrites; only where somebody is watching."""
        if self.is_watched():
            elapsed = time.monotonic() - self.began
            line = f"[{elapsed:6.1f} s] {stage:6s} {text}"
            width = shutil.get_terminal_size().columns - 1  # a longer line would not be overwritten
            print(f"\r\033[K{line[:width]}", end="\r", flush=True)

    def record(self, stage: str, step: int, time_s: float, values: dict) -> None:
        """A step's numbers: to `metrics.jsonl`, and then to the trackers."""
        metrics.append(self.path, stage, step, time_s, values)
        self.paces.note(stage, step, time.monotonic())
        for text in self.trackers.log(stage, step, values):
            self.say(stage, text)

    def rewind(self, stage: str, step: int) -> float:
        """The steps after `step` are made again; the seconds that were spent up to it."""
        time_s = metrics.rewind(self.path, stage, step)
        for text in self.trackers.rewind(stage, step):
            self.say(stage, text)
        return time_s

    def eta(self, stage: str, steps: int) -> str:
        """How long the stage takes until its step `steps`, to be put behind a line."""
        return pace.text(self.paces.left_s(stage, steps))

    def is_watched(self) -> bool:
        """Whether `live` shows anything."""
        return jax.process_index() == 0 and sys.stdout.isatty()

    def directory(self, stage: str) -> pathlib.Path:
        """The stage's own directory, made if need be."""
        path = self.path / stage
        path.mkdir(parents=True, exist_ok=True)
        return path

    def begin(self, stage: str) -> dict:
        """Record, the first time, what determines the stage's output; what is recorded.

        A stage that has ended and is asked for more steps is open again.
        """
        return together.once(f"{stage} begins", lambda: self._begin(stage))

    def _begin(self, stage):
        path = self.directory(stage) / "began.json"
        if not path.exists():
            known = changes.record(self.config, stage)
        else:
            known = records.whole(path)
            if not changes.asks_for_more(self.config, known):
                return known
            self.open_again(stage)
            known["keys"] |= changes.growing(self.config, stage)
        metrics.replace(path, json.dumps(known, indent=1) + "\n")
        return known

    def open_again(self, stage: str) -> None:
        """Take the marker of a finished stage away: there is more to do."""
        if together.is_first():
            (self.path / stage / "DONE.json").unlink(missing_ok=True)

    def has_begun(self, stage: str) -> bool:
        """Whether the stage has recorded what it begins from."""
        return together.once("begun", lambda: (self.path / stage / "began.json").exists())

    def has_ended(self, stage: str) -> bool:
        """Whether the stage has been finished once; more steps may have been asked since."""
        return together.once("ended", lambda: (self.path / stage / "DONE.json").exists())

    def is_finished(self, stage: str) -> bool:
        """Whether the stage's outputs are complete, by what the config asks of it now."""
        return together.once("finished", lambda: self._is_finished(stage))

    def _is_finished(self, stage):
        if not self.has_ended(stage):
            return False
        if stage == "filter" and self.has_ended("rl1") and not self.has_begun("rl2"):
            seen = self.summary("filter").get("rl1_step")
            return seen in (None, self.summary("rl1")["step"])
        if not self.has_begun(stage):
            return True
        known = records.whole(self.path / stage / "began.json")
        return not changes.asks_for_more(self.config, known)

    def finish(self, stage: str, summary: dict) -> None:
        """Mark a stage complete, with a few numbers for later stages and the report."""
        if together.is_first():
            text = json.dumps(summary, indent=1) + "\n"
            metrics.replace(self.directory(stage) / "DONE.json", text)

    def summary(self, stage: str) -> dict:
        """The numbers a finished stage left; an error when it has not run."""
        return together.once("summary", lambda: self._summary(stage))

    def _summary(self, stage):
        if not self.has_ended(stage):
            raise InputError(
                f"stage {stage!r} has not finished in {self.path}; add it to config.stages"
            )
        return records.whole(self.path / stage / "DONE.json")

    def keep_traceback(self, stage: str) -> pathlib.Path:
        """Add the exception under way to `error.log`; where that is."""
        path = self.path / "error.log"
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with contextlib.suppress(OSError), open(path, "a") as f:  # a full disk has no room for it
            who = f" process {jax.process_index()}" if jax.process_count() > 1 else ""
            f.write(f"--- {when} {stage}{who}\n{traceback.format_exc()}\n")
        return path


def make(path: pathlib.Path) -> None:
    """Make the directory. Raises InputError where it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise InputError(
            f"workdir {path} cannot be written ({e.strerror}); give another one with --workdir"
        ) from e


@contextlib.contextmanager
def held(config: ConfigDict, path: pathlib.Path) -> Iterator[None]:
    """Make the directory and hold it: process 0 has the lock, for all of the run.

    Raises InputError where it cannot be had, and where the processes have different
    configs, directories or disks.
    """
    asked = [zlib.crc32(as_json(config).encode()), str(path.absolute())]
    _check_same(together.everybody("config", asked))
    with contextlib.ExitStack() as stack:
        together.once("workdir", lambda: stack.enter_context(_locked(path)))
        if together.count() > 1:
            _check_shared(path)
        yield


@contextlib.contextmanager
def _locked(path):
    make(path)
    with lock.held(path):
        yield


def _check_same(asked: list[list]) -> None:
    for i, (digest, where) in enumerate(asked):
        if digest != asked[0][0]:
            raise InputError(f"process {i} has another config than process 0; give all the same")
        if where != asked[0][1]:
            raise InputError(
                f"process {i} has workdir {where}, process 0 {asked[0][1]}; give --workdir DIR, a "
                "directory on a disk that all processes share"
            )


def _check_shared(path: pathlib.Path) -> None:
    """InputError where a process does not see what process 0 writes here."""
    name = together.once("shared", lambda: _leave_word(path))
    seen = together.everybody("shared?", _sees(path / name))
    if together.is_first():
        (path / name).unlink(missing_ok=True)
    if not all(seen):
        blind = [i for i, there in enumerate(seen) if not there]
        raise InputError(
            f"processes {blind} do not see what process 0 writes to {path.absolute()}; give "
            "--workdir DIR, a directory on a disk that all processes share"
        )


def _leave_word(path) -> str:
    name = f".shared-{secrets.token_hex(8)}"
    (path / name).write_text("")
    return name


def _sees(path) -> bool:
    deadline = time.monotonic() + SHARED_S
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def open_run(config: ConfigDict, path: pathlib.Path, mesh: jax.sharding.Mesh) -> Run:
    """The run at `path`, new or to be resumed.

    Raises InputError when the directory cannot be written, or holds a stage whose output
    the config would change (`lifetime/changes.py`).
    """
    keys = json.loads(as_json(config))
    run = Run(config, path, mesh, trackers=track.Trackers(config.track, path, config.name, keys))
    together.once("open", lambda: _take_config(run))
    return run


def _take_config(run: Run) -> None:
    """Check the config against what is there, and make it the run's; changes are recorded."""
    make(run.path)
    changes.check(run.config, run.path)
    known = run.path / "config.json"
    text = as_json(run.config)
    if known.exists():
        changed = changes.differences(records.whole(known), json.loads(text))
        if changed:
            when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            with open(run.path / "config_history.jsonl", "a") as f:
                f.write(json.dumps({"time": when, "changed": changed}) + "\n")
            for key, (old, new) in changed.items():
                run.say("run", f"config changed: {key}: {old} -> {new}")
    metrics.replace(known, text)


def as_json(config: ConfigDict) -> str:
    """The config as it is kept in config.json."""
    return config.to_json_best_effort(indent=1, sort_keys=True) + "\n"


def read_config(path: pathlib.Path) -> ConfigDict:
    """The config of the run at `path`, for commands that look at it; InputError if there is none."""
    known = path / "config.json"
    if not known.exists():
        raise InputError(f"{path} is no workdir of a run: {known} is missing")
    c = configs.default()
    _fill(c, records.whole(known))
    return c.lock()


def _fill(c, values):
    for key, value in values.items():
        if key not in c:
            continue  # of another version
        if isinstance(value, dict):
            _fill(c[key], value)
        elif value is not None:
            c[key] = tuple(value) if isinstance(value, list) else value
