"""Stand-ins on PATH for the programs that launch scripts call: they write down what they are
asked, answer as a small world would, and fail at the call that a test chooses."""

import os
import pathlib
import shlex
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
FAULT = "the network is away"


class StandIns:
    """A folder of them. `world` is bash that answers a call: `$0` is the program's name, `$*` its
    arguments; `$state` is a file that it may keep something in."""

    def __init__(self, folder: pathlib.Path, names: tuple[str, ...], world: str):
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name in names:
            (programs / name).write_text(_PROGRAM.format(folder=folder, world=world))
            (programs / name).chmod(0o755)

    def run(self, script: str, *arguments: str, fail_at: int = 0, **environment):
        """One of the launch scripts; call number `fail_at`, from 1, fails."""
        for left in ("asked", "state"):
            (self.folder / left).unlink(missing_ok=True)
        (self.folder / "fail_at").write_text(str(fail_at))
        known = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": os.environ["HOME"],
            "RETRY_S": "0",
        }  # fmt: skip
        return subprocess.run(
            ["bash", str(ROOT / "launch" / script), *arguments], cwd=ROOT,
            env={**known, **environment}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def asked(self) -> list[list[str]]:
        """Every call since the script was started: the program and its arguments."""
        path = self.folder / "asked"
        return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []


_PROGRAM = """#!/bin/bash
line="${{0##*/}} ${{*@Q}}"
echo "${{line//$'\\n'/ }}" >>{folder}/asked
mapfile -t calls <{folder}/asked
if [[ "${{#calls[@]}}" == "$(<{folder}/fail_at)" ]]; then
  echo '""" + FAULT + """' >&2
  exit 1
fi
state={folder}/state
{world}
"""
