"""Which keys would make a program fit: tried by compiling it again, never guessed."""

from collections.abc import Callable

from ml_collections import ConfigDict

from aster_jax import mesh as meshes
from aster_jax.errors import InputError
from launch.plan import programs


def candidates(c, phase: str) -> list[dict[str, object]]:
    """Changes that save memory in a phase, the cheapest for speed first.

    Each is a dict of dotted keys; the later ones include the earlier.
    """
    found: list[dict[str, object]] = []
    if phase == "update":
        changes: dict[str, object] = {}
        if not c.model.remat:
            changes["model.remat"] = True
            found.append(dict(changes))
        shards = c.mesh.fsdp * max(c.mesh.data, 1)
        for _ in range(3):
            smaller = {
                f"{s}.micro_rows": c[s].micro_rows // 2 for s in ("sft", "rl")
                if c[s].micro_rows // 2 >= shards
            }  # fmt: skip
            if not smaller or any(k in changes for k in smaller):
                break
            changes |= smaller
            found.append(dict(changes))
        if c.mesh.fsdp % 2 == 0:  # half as many rows at a time, each over twice the devices
            half = {"mesh.fsdp": c.mesh.fsdp // 2}
            cut = _rows(c, changes, c.mesh.fsdp // 2 * max(c.mesh.data, 1))
            found.append({**changes, **half, "mesh.context": c.mesh.context * 2, **cut})
            found.append({**changes, **half, "mesh.tensor": c.mesh.tensor * 2})
    else:
        for part in (2, 4, 8):
            found.append({"rollout.pool_tokens": c.rollout.pool_tokens // part})
            if c.rollout.slots % part == 0:
                found[-1]["rollout.slots"] = c.rollout.slots // part
    return found


def _rows(c, changes, shards) -> dict[str, object]:
    """One row per group of devices that share one, where there are more now."""
    names = (f"{s}.micro_rows" for s in ("sft", "rl"))
    now = {name: changes[name] if name in changes else c[name.split(".")[0]].micro_rows for name in names}
    return {name: shards for name, rows in now.items() if rows > shards}


def changed(c, changes: dict[str, object]) -> ConfigDict:
    """A copy of the config with some keys changed."""
    copy = ConfigDict(c.to_dict())
    for key, value in changes.items():
        section, name = key.rsplit(".", 1)
        copy[section][name] = value
    return copy.lock()


def first_that_fits(
    c, name: str, phase: str, remesh: Callable, fits: Callable, tries: int
) -> tuple[dict[str, object] | None, list[str]]:
    """(the changes with which a program fits, or None; what was tried and came to nothing).

    Args:
      c: the run's config.
      name: of the program, as in `programs.of_run`.
      phase: of the program.
      remesh: config section `mesh` -> mesh.
      fits: program -> "" or why not; compiles it.
      tries: programs compiled at most.
    """
    failed = []
    for changes in candidates(c, phase)[:tries]:
        shown = " ".join(f"{key}={value}" for key, value in changes.items())
        try:
            trial = changed(c, changes)
            mesh = remesh(trial.mesh)
            of_run = programs.of_run(trial, programs.model(trial), mesh)
            why_not = fits(next(p for p in of_run if p.name == name))
        except (InputError, ValueError) as e:
            why_not = str(e)
        if not why_not:
            return changes, failed
        failed.append(f"{shown}: {why_not}")
    return None, failed
