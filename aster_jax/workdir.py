"""A run's directory: which config made it, which stages are finished, and what is said.

Every stage writes under `workdir/STAGE/` and is finished when its marker exists; the
marker is written last and atomically, so a half-made stage is never taken for whole.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
import time

import jax
from ml_collections import ConfigDict

from aster_jax.config import STAGES
from aster_jax.errors import InputError
from aster_jax.train import metrics


@dataclasses.dataclass(frozen=True)
class Run:
    """What every stage is given: the locked config, the directory and the device mesh."""

    config: ConfigDict
    path: pathlib.Path
    mesh: jax.sharding.Mesh
    began: float = dataclasses.field(default_factory=time.monotonic)

    def say(self, stage: str, text: str) -> None:
        """One line of progress on standard output, with the seconds since the start."""
        if jax.process_index() == 0:
            print(f"[{time.monotonic() - self.began:6.1f} s] {stage:6s} {text}", flush=True)

    def live(self, stage: str, text: str) -> None:
        """A line that the next one overwrites; only where somebody is watching."""
        if jax.process_index() == 0 and sys.stdout.isatty():
            elapsed = time.monotonic() - self.began
            print(f"\r\033[K[{elapsed:6.1f} s] {stage:6s} {text}", end="\r", flush=True)

    def directory(self, stage: str) -> pathlib.Path:
        """The stage's own directory, made if need be."""
        path = self.path / stage
        path.mkdir(parents=True, exist_ok=True)
        return path

    def is_finished(self, stage: str) -> bool:
        """Whether the stage's outputs are complete."""
        return (self.path / stage / "DONE.json").exists()

    def finish(self, stage: str, summary: dict) -> None:
        """Mark a stage complete, with a few numbers for later stages and the report."""
        text = json.dumps(summary, indent=1) + "\n"
        metrics.replace(self.directory(stage) / "DONE.json", text)

    def summary(self, stage: str) -> dict:
        """The numbers a finished stage left; an error when it has not run."""
        if not self.is_finished(stage):
            raise InputError(
                f"stage {stage!r} has not finished in {self.path}; add it to config.stages"
            )
        return json.loads((self.path / stage / "DONE.json").read_text())


def open_run(config: ConfigDict, path: pathlib.Path, mesh: jax.sharding.Mesh) -> Run:
    """The run at `path`, new or to be resumed.

    Raises ValueError when the directory cannot be written or a stage began in it with
    another config: resuming under other numbers would mix two experiments.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise InputError(
            f"workdir {path} cannot be written ({e.strerror}); give another one with --workdir"
        ) from e
    text = config.to_json_best_effort(indent=1, sort_keys=True) + "\n"
    known = path / "config.json"
    if known.exists() and any((path / stage).exists() for stage in STAGES):
        differing = _differences(json.loads(known.read_text()), json.loads(text))
        if differing:
            raise InputError(
                f"workdir {path} was made with another config ({'; '.join(differing[:5])}); "
                "give a new one with --workdir, or repeat the command it was made with"
            )
    else:
        free_gb = shutil.disk_usage(path).free / 1e9
        if free_gb < 0.5:
            raise InputError(f"workdir {path} has only {free_gb:.1f} GB free; at least 0.5 needed")
    metrics.replace(known, text)
    return Run(config, path, mesh)


def _differences(old, new, prefix="") -> list[str]:
    """`key: old -> new` for every differing leaf; the list of stages may grow."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b and prefix + key != "stages":
            found.append(f"{prefix}{key}: {a} -> {b}")
    return found
