"""Which file an experiment is, and that it can be read, before anything else is looked at.

Experiments are files of the checkout's `experiments/`; an installation has them beside the
package's own modules, as `aster_jax/experiments/`. A name is a file's path or, where there is no
such file, that of one which comes along: `quickstart`, `experiments/quickstart.py` and
`studies/quickstart_direct` are found from any directory. Behind a colon comes an argument.
"""

import difflib
import importlib.util
import os
import pathlib
import re
import traceback
import types

from ml_collections import ConfigDict

from aster_jax.errors import InputError

_HERE = pathlib.Path(__file__).resolve().parent
_NOT_ONE = ("benchmarks", "colabs", "figures", "__init__")


def folder() -> pathlib.Path:
    """Where the experiments that come along lie."""
    installed = _HERE / "experiments"
    return installed if installed.is_dir() else _HERE.parent / "experiments"


def names() -> list[str]:
    """The names of the experiments that come along; what they only share is none."""
    files = (p for p in folder().rglob("*.py") if "def get_config(" in p.read_text("utf-8"))
    paths = (p.relative_to(folder()).with_suffix("") for p in files)
    return sorted(p.as_posix() for p in paths if not set(p.parts) & set(_NOT_ONE))


def find(name: str) -> str:
    """The path of an experiment's file, with its argument. InputError where there is none."""
    path, colon, argument = name.partition(":")
    if not pathlib.Path(path).is_file():
        plain = path.removeprefix("./").removeprefix("experiments/").removesuffix(".py")
        if plain not in names():
            raise InputError(_absent(path, plain))
        path = str(folder() / f"{plain}.py")
    return path + colon + argument


def _absent(path, plain) -> str:
    is_there = pathlib.Path(path).exists()
    text = f"{path!r} is no file" if is_there else f"there is no experiment {path!r}"
    close = difflib.get_close_matches(plain, names(), n=1, cutoff=0.5)
    if close:
        return f"{text}; did you mean {close[0]}?"
    return f"{text}; give the path of a file or one of {', '.join(names())}"


def in_arguments(argv: list[str]) -> list[str]:
    """A command's arguments with the path for the name after `--config`.

    Raises InputError where the file cannot be read, before a parser of flags runs it.
    """
    argv = list(argv)
    for i, argument in enumerate(argv):
        given = re.fullmatch(r"(--?config)(?:=(.*))?", argument)
        if given and given[2] is None and i + 1 < len(argv):
            argv[i + 1] = _readable(argv[i + 1])
        elif given and given[2] is not None:
            argv[i] = f"{given[1]}={_readable(given[2])}"
    return argv


def _readable(name) -> str:
    read(name)
    return find(name)


def read(name: str) -> ConfigDict:
    """The config that an experiment's file makes. InputError, in one sentence with the line,
    for whatever the file does wrong."""
    path, colon, argument = find(name).partition(":")
    module = _run(path)
    make = getattr(module, "get_config", None)
    if not callable(make):
        raise InputError(
            f"{path} has no function get_config(); an experiment's file defines one that takes "
            "aster_jax.config.default(), assigns keys and returns it"
        )
    try:
        made = make(argument) if colon else make()
    except Exception as e:
        raise InputError(_said(path, e)) from e
    if not isinstance(made, ConfigDict):
        raise InputError(
            f"get_config() of {path} returns {type(made).__name__}, not a config; it has to end "
            "with `return c`"
        )
    return made


def shared(name: str) -> types.ModuleType:
    """What several experiments share, by its name in their folder: `shared("studies/bed")`."""
    return _run(str(folder() / f"{name}.py"))


def _run(path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    if spec is None:
        raise InputError(f"{path} is no Python file; an experiment's name ends with .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise InputError(_said(path, e)) from e
    return module


def _said(path, error) -> str:
    """What went wrong, and in which line of the file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if os.path.abspath(f.filename) == os.path.abspath(path)]
    line = lines[-1] if lines else None
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        line, text = error.lineno, error.msg
        path = error.filename or path
    where = f"{path}, line {line}" if line else path
    return f"the experiment cannot be read: {where}: {type(error).__name__}: {text}"
