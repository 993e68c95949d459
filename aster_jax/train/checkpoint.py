"""Checkpoints: the train state and the position in the data, whole or not at all.

Orbax writes into a temporary directory and renames it when everything is on disk, so a
kill at any moment leaves either the previous checkpoint or the new one.
"""

import dataclasses
import pathlib

import orbax.checkpoint as ocp

from aster_jax.errors import InputError
from aster_jax.train import step as steps


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the `last` newest, those of `every` so many steps (0: none),
    and the one with the `best` score, if asked."""

    last: int = 2
    every: int = 0
    best: bool = False


class Checkpoints:
    """The checkpoints of one stage under `directory`; keeps the newest `keep`.

    A context manager: closing waits for the last write.
    """

    def __init__(self, directory: pathlib.Path, keep: int):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: steps.TrainState, position: dict) -> None:
        """Write the state after `step`, with `position` (JSON) saying what comes next."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position)
        )
        self._manager.save(step, args=args, force=True)
        self._manager.wait_until_finished()

    def restore(self, step: int, abstract: steps.TrainState) -> tuple[steps.TrainState, dict]:
        """The state and position of `step`, laid out as `abstract` says."""
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore()
        )
        try:
            found = self._manager.restore(step, args=args)
        except (ValueError, KeyError, FileNotFoundError) as e:
            raise InputError(
                f"checkpoint {self._manager.directory}/{step} does not fit this model or "
                f"optimiser, or is damaged ({e}); delete it, or use another workdir"
            ) from e
        return found.state, found.position
