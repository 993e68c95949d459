"""The `aster` command: the recipe, and by its first word one of the commands beside it."""

import importlib
import importlib.util
import runpy
import sys

from aster_jax import experiment, huge_pages, usage
from aster_jax.errors import InputError

# Modules that are commands, for `aster NAME ...` and `python -m aster_jax.NAME ...`.
BESIDE = {
    "export": "a stage's checkpoint as a Hugging Face directory",
    "report": "the report of a workdir, made again",
    "tools": "what this host can enforce (doctor), a session (repl)",
    "chat": "talk to a checkpoint that has the tool",
    "serve": "a checkpoint with the tool behind an HTTP interface",
}


def main() -> None:
    """Entry point. Help is said without importing JAX."""
    huge_pages.restart()
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else ""
    if name in here():
        sys.argv = [f"aster {name}", *arguments[1:]]
        runpy.run_module(f"aster_jax.{name}", run_name="__main__", alter_sys=True)
        return
    if not arguments or usage.asked(arguments):
        print(usage.text("aster", _others()))
        sys.exit(0 if arguments else 1)
    if not name.startswith("-"):
        sys.exit(
            f"aster_jax: unknown command {name!r}; give one of {', '.join(here())}, or "
            f"--config {_meant(name)} for the recipe"
        )
    importlib.import_module("aster_jax.main").cli()


def here() -> list[str]:
    """The commands beside the recipe: modules, and packages with a `__main__`."""
    found = []
    for name in BESIDE:
        spec = importlib.util.find_spec(f"aster_jax.{name}")
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"aster_jax.{name}.__main__")
        if spec is not None:
            found.append(name)
    return found


def _others() -> str:
    lines = "".join(f"  aster {name:20s}{BESIDE[name]}\n" for name in here())
    return "\nCommands beside the recipe, each with a --help of its own:\n\n" + lines


def _meant(name) -> str:
    """The experiment that was named, if it was one."""
    try:
        experiment.find(name)
    except InputError:
        return "quickstart"
    return name


if __name__ == "__main__":
    main()
