"""Checkpoints: the train state and the position in the data, whole or not at all.

`directory/STEP/` holds three items: `params`, `optimiser` (the step counter and the
moments, two thirds of the bytes) and `position` (JSON: what comes next, and the score);
and `sums.json`, by which a changed file is told later. Orbax writes them in the background
into a temporary directory and renames it when everything is on disk, so a kill at any
moment leaves either the previous checkpoint or the new one.
"""

import functools
import json
import math
import os
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable

import orbax.checkpoint as ocp

from aster_jax import together
from aster_jax.errors import InputError
from aster_jax.train import metrics, retention, sums
from aster_jax.train import step as train_step

MOMENTS = "optimiser"
ITEMS = ("params", MOMENTS, "position")
SUMS = "sums.json"
SCORE = "score.json"  # in a checkpoint that was measured after it was saved
DROPPED = f"{MOMENTS}.dropped"  # an empty folder where the moments were
UNFINISHED = ".orbax-checkpoint-tmp"
GOING = ".going"  # what a checkpoint is called while it is deleted
LONGEST_WRITE_S = 24 * 3600  # a slow disk is no reason to give a checkpoint up


class Checkpoints:
    """The checkpoints of one stage under `directory`.

    A context manager: closing waits for the last write. One thread may use it. Of several
    processes all make the same calls; each writes its own parts of the arrays, and the first
    one does all else.

    Args:
      directory: of the stage's checkpoints; made by the first save.
      keep: which ones stay after a save.
      say: given a sentence when a checkpoint could not be written or read.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        keep: retention.Keep,
        say: Callable[[str], None] = lambda text: None,
    ):
        self._directory, self._keep, self._say = directory.absolute(), keep, say
        self._reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler(), **_among_processes())
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._owed = False
        scores = together.once("scores", lambda: [[s, self._score(s)] for s in self._here()])
        self._scores = {step: score for step, score in scores if score is not None}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.wait()
        finally:
            self._reader.close()

    @property
    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        return together.once("steps", self._here)

    def _here(self) -> list[int]:
        if not self._directory.is_dir():
            return []
        names = [p.name for p in self._directory.iterdir()]
        return sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the highest score, the later one of equals."""
        return retention.highest(self.steps, self._scores)

    @property
    def best_score(self) -> float | None:
        """The score of `best`, None where nothing has one."""
        return None if self.best is None else self._scores[self.best]

    @property
    def owed(self) -> bool:
        """Whether a save failed, and none has succeeded or is under way since."""
        return together.once("owed", self._is_owed)

    def _is_owed(self):
        return self._owed and not (self._thread is not None and self._thread.is_alive())

    def position(self, step: int) -> dict:
        """What was saved as the position of `step`."""
        return together.once("position", lambda: self._position(step)["position"])

    def save(
        self, step: int, state: train_step.TrainState, position: dict, score: float | None = None
    ) -> None:
        """Write the state after `step` in the background; the state may be donated at once.

        Waits for the write before this one. A checkpoint of that step that is there already
        stays as it is, but for the score: a measurement may be made after a restart. A disk that
        is full, or fails, raises nothing: it is said, and `owed` is true until a later save
        succeeds.

        Args:
          position: JSON; says what comes next.
          score: of a measurement of this state, if there was one; higher is better.
        """
        self.wait()
        score = score if score is not None and math.isfinite(score) else None
        if step in self.steps:
            self._measured_later(step, score)
            return
        # Through text now, for the caller may change what is nested in it while it is written.
        position = json.loads(json.dumps({"position": position, "score": score}))
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimiser=ocp.args.StandardSave(_optimiser(state)),
            position=ocp.args.JsonSave(position),
        )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if together.is_first():
                self._clear()
            # Copies to the host before it returns. On the CPU it only looks at the arrays'
            # memory; jax then leaves them that memory when they are donated.
            writer = self._writer(step)
            writer.save(self._directory / str(step), args=args)
        except Exception as e:
            self._fail(step, e)
            self.wait()
            return
        self._thread = threading.Thread(target=self._finish, args=(writer, step, score))
        self._thread.start()

    def settle(
        self, step: int, state: train_step.TrainState, position: dict, score: float | None = None
    ) -> None:
        """Until the state after a stage's last step is on disk, without which it has not ended. Raises
        OSError when the disk is still full after `metrics.FULL_DISK_WAIT_S`."""
        self.wait()
        waited = 0.0
        while step and step not in self.steps:
            if waited >= metrics.FULL_DISK_WAIT_S:
                raise OSError(f"the checkpoint of step {step} could not be written; see above")
            if self._owed:
                time.sleep(metrics.LOOK_EVERY_S)
                waited += metrics.LOOK_EVERY_S
            self.save(step, state, position, score)
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written any more; raises what was no fault of the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def restore_newest(
        self, abstract: train_step.TrainState
    ) -> tuple[train_step.TrainState, dict] | None:
        """The newest state that is whole, laid out as `abstract` says, and its position.

        None when there is no checkpoint. Newer ones that are damaged are said and moved to
        `damaged/` beside `directory`, so that their steps can be saved again. When none at
        all can be read nothing is moved, for then it is rather `abstract` that is wrong.

        Raises InputError in that case, and for a checkpoint whose moments were dropped.
        """
        self.wait()
        failed = {}
        for step in reversed(self.steps):
            dropped = self._directory / str(step) / DROPPED
            if together.once("dropped", dropped.exists):
                raise InputError(
                    f"checkpoint {self._directory / str(step)} holds parameters only: its stage "
                    "was finished and a later one began, and the optimiser's moments were deleted "
                    "to save disk; continue in a new workdir that starts from them"
                )
            try:
                state = self._read(step, abstract)
                position = self.position(step)
            except Exception as e:
                failed[step] = metrics.brief(e)
                continue
            for bad, reason in failed.items():
                together.once("aside", functools.partial(self._set_aside, bad, reason))
                self._scores.pop(bad, None)
            return state, position
        if failed:
            step, reason = next(iter(failed.items()))
            raise InputError(
                f"checkpoint {self._directory / str(step)} does not fit this model or optimiser, "
                f"or is damaged ({reason}), and there is no older one that can be read; "
                "delete it, or use another workdir"
            )
        return None

    def is_whole(self, step: int) -> bool:
        """Whether the checkpoint of `step` is there as it was written, parameters at least."""
        try:
            self._verify(step, ("params", "position"))
        except Exception:
            return False
        return True

    def params(self, step: int, abstract_params: dict) -> dict:
        """The parameters of `step` alone, a third of its bytes; the optimiser is not read.

        Raises InputError when they are not there, damaged, or of another model.
        """
        self.wait()
        if step not in self.steps:
            raise InputError(
                f"{self._directory} has no checkpoint of step {step}, only {self.steps}"
            )
        try:
            together.once("whole?", lambda: self._verify(step, ("params",)))
            restore = ocp.args.StandardRestore(abstract_params)
            args = ocp.args.Composite(params=restore)
            return self._reader.restore(self._directory / str(step), args=args).params
        except Exception as e:
            raise InputError(
                f"the parameters in checkpoint {self._directory / str(step)} do not fit this "
                f"model, or are damaged ({metrics.brief(e)}); take another step, or use another workdir"
            ) from e

    def drop_moments(self) -> None:
        """Delete the optimiser's part of every checkpoint: two thirds of the bytes.

        For a finished stage whose successor has begun. May be killed and called again.
        """
        self.wait()
        together.once("moments", self._drop_moments)

    def _drop_moments(self):
        self._clear()
        for step in self._here():
            moments = self._directory / str(step) / MOMENTS
            dropped = moments.with_name(DROPPED)
            if moments.exists():
                moments.rename(dropped)
            for path in dropped.iterdir() if dropped.exists() else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _writer(self, step):
        """Orbax for one save: after one that failed it would raise the old failure again."""
        options = ocp.options.AsyncOptions(
            timeout_secs=LONGEST_WRITE_S,
            post_finalization_callback=functools.partial(self._seal, step),
        )
        handler = ocp.CompositeCheckpointHandler()
        return ocp.AsyncCheckpointer(handler, async_options=options, **_among_processes())

    def _finish(self, writer, step, score):
        """In a thread of its own: wait for the write, then delete what need not stay."""
        try:
            writer.close()
        except Exception as e:
            self._fail(step, e)
            return
        self._owed = False
        if score is not None:
            self._scores[step] = score
        if not together.is_first():
            return
        try:
            found = self._here()
            for old in set(found) - retention.retained(found, self._scores, self._keep):
                # Renamed first, so that one half deleted is never taken for whole.
                going = self._directory / f"{old}{GOING}"
                (self._directory / str(old)).rename(going)
                shutil.rmtree(going)
        except Exception as e:
            self._failure = e

    def _seal(self, step):
        """Called by Orbax when all is written, before the directory gets its final name."""
        folder = self._directory / f"{step}{UNFINISHED}"
        with open(folder / SUMS, "w") as f:
            f.write(sums.of(folder))
            f.flush()
            os.fsync(f.fileno())

    def _fail(self, step, error):
        """A save came to nothing: said if the disk is the cause, else kept for `wait`."""
        reason = metrics.fault_of_disk(error)
        if reason is None or together.count() > 1:  # the others wait for this one's part
            self._failure = error
            return
        self._owed = True
        shutil.rmtree(self._directory / f"{step}{UNFINISHED}", ignore_errors=True)
        self._say(
            f"the checkpoint of step {step} could not be written to {self._directory} "
            f"({reason}); training goes on without it, the next step tries again"
        )

    def _read(self, step, abstract) -> train_step.TrainState:
        together.once("whole?", lambda: self._verify(step, ITEMS))
        args = ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract.params),
            optimiser=ocp.args.StandardRestore(_optimiser(abstract)),
        )
        found = self._reader.restore(self._directory / str(step), args=args)
        return train_step.TrainState(params=found.params, **found.optimiser)

    def _verify(self, step, items):
        folder = self._directory / str(step)
        sums.check(folder, (folder / SUMS).read_text(), items)

    def _position(self, step) -> dict:
        self.wait()
        handler = ocp.JsonCheckpointHandler()  # which meets nobody: one process may look alone
        return handler.restore(self._directory / str(step) / "position")

    def _score(self, step) -> float | None:
        """What `save` was given; None also when it cannot be read."""
        try:
            later = self._directory / str(step) / SCORE
            return json.loads(later.read_text()) if later.exists() else self._position(step)["score"]
        except Exception:
            return None  # damaged: `restore_newest` says so if it is asked for

    def _measured_later(self, step, score):
        if score is None or step in self._scores:
            return
        if together.is_first():
            metrics.replace(self._directory / str(step) / SCORE, json.dumps(score))
        self._scores[step] = score

    def _set_aside(self, step, reason):
        kept = self._directory.parent / "damaged"
        kept.mkdir(exist_ok=True)
        name, taken = str(step), 1
        while (kept / name).exists():
            taken += 1
            name = f"{step}_{taken}"
        (self._directory / str(step)).rename(kept / name)
        self._say(
            f"the checkpoint of step {step} is damaged ({reason}): moved to {kept / name}, "
            "the one before is taken"
        )

    def _clear(self):
        """Delete what a kill left half-written or half-deleted."""
        for pattern in (f"*{UNFINISHED}*", f"*{GOING}"):
            for path in self._directory.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _among_processes() -> dict:
    """Several processes meet through the coordinator, with deadlines, and not on the devices:
    they do so in threads of their own too."""
    if together.count() == 1:
        return {}
    everyone = set(range(together.count()))
    return {"multiprocessing_options": ocp.options.MultiprocessingOptions(active_processes=everyone)}


def _optimiser(state: train_step.TrainState) -> dict:
    """What of a state is not parameters."""
    return {"step": state.step, "opt_state": state.opt_state}
