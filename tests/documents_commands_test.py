"""Every command of every page is tried without being carried out, as its program would read it.

Runs: the config is made and checked, with every value that the command gives. Commands beside them:
their own parser reads the arguments. Scripts: a dry run. Benchmarks: their flags exist.
"""

import argparse
import ast
import importlib.util
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from aster_jax import config_check, experiment, pools
from aster_jax.studies import plan
from tests import documents, source_tree

TEXTS = {p: (documents.ROOT / p).read_text("utf-8") for p in documents.PAGES}
# The same command on the same page once; pages have files of their own.
FOUND = {
    (page, *words, *sorted(environment.items())): (page, line, environment, words)
    for page, text in TEXTS.items()
    for line, environment, words in documents.commands(text)
}
GIVEN = [
    pytest.param(page, environment, words, id=f"{page.as_posix()}:{line} {' '.join(words)[:60]}")
    for page, line, environment, words in FOUND.values()
]
RUN_FLAGS = ("workdir", "coordinator", "processes", "process")
PLACEHOLDERS = ("FILE", "NAME", "...")


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """The directory of a page, with the files that its blocks are."""

    def go(page):
        documents.write_files(page, tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [str(documents.ROOT), *sys.path])
        return monkeypatch

    return go


@pytest.mark.parametrize(("page", "environment", "words"), GIVEN)
def test_a_command_is_one_that_its_program_takes(page, environment, words, beside):
    patch = beside(page)
    program = words[0]
    if program.startswith("launch/"):
        _try_script(words, environment)
        _try_run(words[1:], patch) if "--config" in words else None
    elif program == "pip":
        _try_pip(words)
    elif program == "aster":
        _try_aster(words, patch)
    elif program in ("python", "venv/bin/python"):
        _try_python(words, patch)
    else:
        assert program in documents.OTHERS, f"{program}: of which kind is it?"


def _try_python(words, patch):
    if words[1] != "-m":  # a program of the page's own
        assert pathlib.Path(words[1]).is_file()
        if "--config" in words:
            _try_run(words[2:], patch)
        return
    module, arguments = words[2], words[3:]
    if module == "aster_jax.main":
        _try_run(arguments, patch)
    elif module == "pytest":
        _try_pytest(arguments)
    elif module == "aster_jax.tools":
        assert importlib.import_module("aster_jax.tools.__main__").COMMANDS.keys() >= {*arguments}
    elif module.startswith("aster_jax."):
        _try_parser(module, arguments, patch)
    else:
        _try_flags(module, arguments)
        if "--config" in arguments:
            at = arguments.index("--config")
            _try_run(arguments[at : at + 2], patch)


def _try_aster(words, patch):
    if len(words) > 1 and not words[1].startswith("-"):
        _try_python(["python", "-m", f"aster_jax.{words[1]}", *words[2:]], patch)
    elif words[1:] != ["--help"]:
        _try_run(words[1:], patch)


def _try_run(arguments, patch):
    """The config of a run, made as `main` makes it; of a study, those of its members."""
    if {*arguments} & {*PLACEHOLDERS} or "NAME" in " ".join(arguments[:2]):
        return
    patch.setattr(sys, "argv", ["main", *arguments])
    known = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=known, lock_config=True)
    for name in RUN_FLAGS:
        flags.DEFINE_string(name, None, "", flag_values=known)
    rest = known(experiment.in_arguments(["main", *arguments]))
    assert rest == ["main"]
    c = known.config
    if plan.is_study(c):
        assert [plan.config_of(c, m) for m in [*plan.bases(c), *plan.members(c)]]
        return
    config_check.validate(c)
    if pathlib.Path(c.problems.source).is_file():
        pools.check(c, c.stages)


class _Read(BaseException):
    """The arguments have been read, and nothing else is wanted."""


def _try_parser(module, arguments, patch):
    """The module's own parser reads the arguments; what would follow does not happen."""
    read = argparse.ArgumentParser.parse_args

    def parse_args(self, *_):
        read(self, arguments)
        raise _Read

    patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    patch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(_Read):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _try_flags(module, arguments):
    """A program that is not started here declares every flag, or a module that it imports does."""
    found = importlib.util.find_spec(module) or pytest.fail(f"{module} is no module")
    path = pathlib.Path(found.origin)
    if path.name == "__init__.py":
        path = path.with_name("__main__.py")
    text = path.read_text("utf-8")
    words = {w for name in source_tree.imports(ast.parse(text)) for w in name.split(".")[2:]}
    beside = [path.with_name(f"{w}.py") for w in sorted(words)]
    text += "".join(p.read_text("utf-8") for p in beside if p.is_file())
    for argument in arguments:
        if not argument.startswith("--") or argument.startswith("--config."):
            continue
        name = argument[2:].partition("=")[0].removeprefix("no")
        declared = re.search(rf'DEFINE_\w+\(\s*"(no)?{name}"|"--(no)?{name}"', text)
        assert declared, f"{module} has no flag --{name}"


def _try_script(words, environment):
    """A dry run, in the environment that the page gives."""
    known = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DRY_RUN": "1"}
    ended = subprocess.run(
        ["bash", str(documents.ROOT / words[0]), *words[1:]], env={**known, **environment},
        capture_output=True, text=True, timeout=60, cwd=documents.ROOT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def _try_pip(words):
    """What is installed is something that the project knows."""
    known = (documents.ROOT / "requirements.txt").read_text() + (documents.ROOT / "setup.py").read_text()
    assert words[1] == "install"
    for word in words[2:]:
        if word == "-r" or word.startswith("--"):
            continue
        extras = re.fullmatch(r"\.\[([\w,]+)\]", word)
        for extra in extras[1].split(",") if extras else ():
            assert f'"{extra}": ' in known, f"no extra {extra}"
        name = re.split(r"[\[=]", word)[0]
        is_path = (documents.ROOT / word).exists()
        assert extras or is_path or re.search(rf"\b{re.escape(name)}\b", known), f"{word} is not known"


def _try_pytest(arguments):
    for argument in arguments:
        if argument.startswith("tests"):
            assert (documents.ROOT / argument.partition("::")[0]).exists(), argument


PYTHON = [
    pytest.param(block.text, id=f"{page.as_posix()}:{block.line}")
    for page, text in TEXTS.items()
    for block in documents.blocks(text) if block.language == "python"
]  # fmt: skip


@pytest.mark.parametrize("text", PYTHON)
def test_a_program_compiles_and_what_it_imports_is_there(text):
    compile(text, "page", "exec")
    for package, names in re.findall(r"^from (aster_jax[\w.]*) import ([\w, ]+)", text, re.M):
        module = importlib.import_module(package)
        for name in names.split(","):
            found = hasattr(module, name.strip().split(" ")[0])
            assert found or importlib.util.find_spec(f"{package}.{name.strip()}"), name


@pytest.mark.parametrize(
    "line",
    [
        "python -m aster_jax.main --config quickstart --config.rl.lr=1",
        "python -m aster_jax.main --config quickstart --config.rl.group=1",
        "python -m aster_jax.main --config experiments/quikstart.py",
        "python -m aster_jax.main --config quickstart --wokdir=x",
        "python -m aster_jax.chat --modle runs/x",
        "python -m aster_jax.export --workdir runs/x --checkpoint rl3 --out y",
        "python -m experiments.benchmarks.rollout --torch_pithon PATH",
        "python -m experiments.benchmarks.absent", "python -m pytest tests/absent",
        "python -m aster_jax.tools docter", "python absent.py", "aster exprot", "launch/absent.sh",
        "pip install numpie", "pip install .[gup]", "brew install aster", "launch/tpu_run.sh",
    ],
)  # fmt: skip
def test_a_wrong_command_is_seen(line, beside):
    (((_, environment, words),)) = documents.commands(f"```sh\n{line}\n```\n")
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)):
        test_a_command_is_one_that_its_program_takes(documents.PAGES[0], environment, words, beside)
