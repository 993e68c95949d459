"""A command begins again with huge pages, once, where the kernel waits to be asked."""

import os
import pathlib
import subprocess
import sys

import pytest

from aster_jax import huge_pages

ROOT = pathlib.Path(__file__).resolve().parents[1]
SAYS = (
    "import os, sys\n"
    "print(os.getpid(), flush=True)\n"
    "from aster_jax import huge_pages\n"
    "huge_pages.restart()\n"
    "print(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])\n"
)


def played(tmp_path, name: str, own: str | None = None) -> list[str]:
    script = tmp_path / name
    script.write_text(SAYS)
    env = {k: v for k, v in os.environ.items() if k != huge_pages.NAME} | {"PYTHONPATH": str(ROOT)}
    env |= {huge_pages.NAME: own} if own else {}
    done = subprocess.run(
        [sys.executable, script, "--a=b c"], capture_output=True, text=True, env=env, check=True
    )
    return done.stdout.splitlines()


def test_the_command_begins_again_once_under_its_number_and_with_its_arguments(tmp_path):
    if not huge_pages._can_be_asked():
        pytest.skip("the kernel or the C library of this machine is not to be asked")
    first, again, said = played(tmp_path, "aster")
    assert first == again
    assert said == "glibc.malloc.hugetlb=1 ['--a=b c']"


def test_another_process_and_an_own_choice_are_left_alone(tmp_path):
    assert played(tmp_path, "notebook")[1:] == ["None ['--a=b c']"]
    assert played(tmp_path, "aster", "x.y=2")[1:] == ["x.y=2 ['--a=b c']"]


@pytest.mark.parametrize("says", ["[always] madvise never", "always madvise [never]", None])
def test_a_kernel_that_does_not_wait_to_be_asked_is_not(tmp_path, monkeypatch, says):
    kernel = tmp_path / "enabled"
    if says:
        kernel.write_text(says)
    monkeypatch.setattr(huge_pages, "KERNEL", kernel)
    assert not huge_pages._can_be_asked()
