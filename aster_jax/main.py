"""`python -m aster_jax.main --config experiments/NAME.py [--workdir DIR] [--config.a.b=value]`.

`aster --config NAME` is the same (`command.py`); `--help` explains itself (`usage.py`).

Flags -> config -> mesh -> the stages in order; nothing else. A finished stage is skipped,
an interrupted one resumes from its newest checkpoint. A config whose section `study` names
variants stands for many runs (`studies/run.py`).
"""

import difflib
import os
import pathlib
import re
import sys
import time

from aster_jax import huge_pages

if __name__ == "__main__":
    huge_pages.restart()  # before seconds are spent on importing JAX

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from aster_jax import config as configs
from aster_jax import config_check, experiment, mesh, naming, policy, pools, together, usage, workdir
from aster_jax.demos import run as demos
from aster_jax.errors import GAVE_UP, GaveUp, InputError, Leaving
from aster_jax.eval import run as evaluation
from aster_jax.lifetime import changes, hosts, notice
from aster_jax.report import run as report
from aster_jax.rl import filter as rl_filter
from aster_jax.rl import run as rl
from aster_jax.rollout import phase
from aster_jax.sft import run as sft
from aster_jax.studies import plan
from aster_jax.studies import run as studies

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "the experiment, e.g. experiments/quickstart.py", lock_config=True
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, of several that no launcher tells of each other"
)
_PROCESSES = flags.DEFINE_integer("processes", None, "how many processes share the run")
_PROCESS = flags.DEFINE_integer("process", None, "which of them this one is, from 0")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "where everything is written; default runs/NAME and the overrides"
)

_MEMBER = flags.DEFINE_string(
    "member", None, "of a study, only this run: VARIANT/seed_N, or base, which comes first"
)

STAGES = {
    "demos": demos.run,
    "sft": sft.run,
    "rl1": lambda run: rl.run(run, "rl1"),
    "filter": rl_filter.run,
    "rl2": lambda run: rl.run(run, "rl2"),
    "eval": evaluation.run,
    "report": report.run,
}


def main(argv: list[str]) -> None:
    """Run the stages of one experiment."""
    logging.set_verbosity(logging.WARNING)  # orbax tells every step of every save
    if len(argv) > 1:
        raise InputError(
            f"unexpected arguments {argv[1:]}; flags start with --, an experiment is --config NAME"
        )
    if _CONFIG.value is None:
        raise InputError("no experiment given; add --config quickstart, or see --help")
    c = _CONFIG.value
    if not plan.is_study(c):
        config_check.validate(c)
        if _MEMBER.value is not None:
            raise InputError(f"--member={_MEMBER.value}: {c.name} is one run, no study")
    path = pathlib.Path(_WORKDIR.value or default_workdir(c.name, sys.argv[1:]))
    with hosts.joined(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value) as watch:
        # Compiled programs are kept with the run: a resumed one starts working at once.
        jax.config.update("jax_compilation_cache_dir", str((path / "compiled").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        def play(c, path):
            _play(c, path, watch)

        if not plan.is_study(c):
            play(c, path)
            return
        if _MEMBER.value is not None:
            studies.run_one(c, path, _MEMBER.value, play)
            return
        with workdir.held(c, path):
            studies.run(c, path, play, lambda place: _member_command(path, place))


def _member_command(path: pathlib.Path, place: str) -> list[str]:
    """This command again, for one member of its study."""
    own = [f"--workdir={path}", f"--member={place}"]
    return [sys.executable, "-m", "aster_jax.member", *sys.argv[1:], *own]


def _play(c, path, watch):
    """One run, from its start or from where it was stopped."""
    with workdir.held(c, path):
        run = workdir.open_run(c, path, mesh.build(**c.mesh))
        if watch is not None:
            watch.on_leaving(lambda: run.notice.come(c.notice_s))
            run.notice.share(watch.leaving)
        with run.notice.heard(c.notice_s):
            _run_stages(run)


def _run_stages(run: workdir.Run) -> None:
    stage = "run"
    if together.is_first():
        run.log(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} {' '.join(sys.argv[1:])}")
    try:
        _check(run)
        devices = f"{jax.device_count()} {jax.default_backend()} device(s)"
        if jax.process_count() > 1:
            devices += f" of {jax.process_count()} processes"
        run.say("run", f"{run.config.name} in {run.path} on {devices}")
        for stage in run.config.stages:
            run.notice.check()
            if together.once(stage, lambda: _is_current(run, stage)):
                run.say(stage, "finished before, skipped")
                continue
            run.begin(stage)
            if stage != "report":
                run.open_again("report")  # what it says is of before, whatever stops us from here on
            STAGES[stage](run)
    except (InputError, GaveUp):
        if stage != "run":
            run.keep_traceback(stage)
        raise
    except Leaving:
        run.say(stage, "left on SIGTERM; what is whole is saved, the same command goes on")
        sys.exit(notice.EXIT_CODE)
    except Exception:
        hosts.wait_for_cause()
        where = run.keep_traceback(stage)
        print(f"aster_jax: {stage} failed; the traceback is in {where} too", file=sys.stderr)
        raise


def _is_current(run: workdir.Run, stage: str) -> bool:
    """Whether a stage has nothing to do."""
    if not run.is_finished(stage):
        return False
    if stage in changes.TRAINING and policy.is_damaged(run, stage):
        run.say(stage, "its last checkpoint is damaged; the last steps are made again")
        run.open_again(stage)
        return False
    return stage != "eval" or evaluation.is_current(run)


def _check(run: workdir.Run) -> None:
    """What a later stage would stumble over is said before the first one starts."""
    policy.fetch(run)
    left = set(together.once("what is left", lambda: [
        s for s in run.config.stages if not _is_current(run, s)
    ]))  # fmt: skip
    if left - {"filter", "report"}:
        for text in pools.check(run.config, left):
            run.say("run", text)
    if left & {"sft", "rl1", "rl2", "eval"}:
        policy.check(run)
        policy.say_disk(run)
        phase.check(run)
    if left - {"filter", "report"}:
        phase.check_tool(run)
        phase.check_golds(run)
        policy.say_origin(run)


def default_workdir(name: str, arguments: list[str]) -> str:
    """runs/NAME, and what was overridden on the command line, so that runs do not mix.

    A value may follow its flag as a word of its own, and a flag may be taken back (`--noconfig.`).
    """
    words: list[str] = []
    for a in arguments:
        if words and "=" not in words[-1] and not a.startswith("-"):
            words[-1] += f"={a}"
        else:
            words.append(a)
    overrides = [
        re.sub(r"[^A-Za-z0-9_.=-]", "_", a.lstrip("-").replace("config.", "", 1))
        for a in words
        if re.match(r"--?(no)?config\.", a)
    ]
    return os.path.join("runs", "-".join([name, *sorted(overrides)]))


def cli() -> None:
    """Entry point: what the user has to mend is one sentence and exit code 1, no traceback; a
    run that gave up by its own rules has exit code 3."""
    if usage.asked(sys.argv[1:]):
        print(usage.text("python -m aster_jax.main"))
        return
    try:
        app.run(main, flags_parser=_parse)
    except InputError as e:
        sys.exit(f"aster_jax: {e}")
    except GaveUp as e:
        print(f"aster_jax: {e}", file=sys.stderr)
        sys.exit(GAVE_UP)


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, except that what is wrong becomes one line with a remedy."""
    known = configs.keys(configs.default())
    for argument in argv[1:]:
        key = re.match(r"--?config\.([^=]+)", argument)
        if key and key[1] not in known:
            sys.exit(f"aster_jax: {unknown_flag_text(f'config.{key[1]}')}")
    try:
        rest = flags.FLAGS(experiment.in_arguments(argv))
        if _CONFIG.value is not None:
            _CONFIG.value.name  # a file that cannot be read says so when it is first used
    except flags.UnrecognizedFlagError as e:
        sys.exit(f"aster_jax: {unknown_flag_text(e.flagname)}")
    except InputError as e:
        sys.exit(f"aster_jax: {e}")
    except (AttributeError, KeyError, TypeError, ValueError, flags.Error, OSError) as e:
        sys.exit(f"aster_jax: the experiment cannot be read: {' '.join(str(e).split())}")
    return rest


def unknown_flag_text(name: str) -> str:
    """What to say about a flag nobody knows."""
    own = () if name.startswith("config.") else (_CONFIG, _WORKDIR, _COORDINATOR, _PROCESSES, _PROCESS, _MEMBER)
    close = difflib.get_close_matches(name, [flag.name for flag in own], n=1, cutoff=0.7)
    if not close:
        key = naming.nearest(name.removeprefix("config."), configs.keys(configs.default()))
        close = [f"config.{key}"] if key else []
    hint = f"; did you mean --{close[0]}?" if close else "; see aster_jax/config.py"
    return f"unknown flag --{name}{hint}"


if __name__ == "__main__":
    cli()
