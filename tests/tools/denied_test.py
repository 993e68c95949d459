"""The hostile cells again on a poorer host: namespaces, root's rights or Landlock denied."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")


def run_denied(mode: str, groups: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.denied", mode, groups], capture_output=True,
        text=True, cwd=pathlib.Path(__file__).parents[2], check=False,
    )
    print(done.stdout)  # shown with `-s` and on failure: which groups were skipped and why
    if "no isolation tier" in done.stderr:
        pytest.skip(f"no safe tier is left here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("tier ") and "passed" in done.stdout


@pytest.mark.parametrize("mode", ["namespaces", "user", "landlock"])
def test_quick_groups(mode):
    run_denied(mode, "quick")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["namespaces", "user", "landlock"])
def test_all_groups(mode):
    run_denied(mode, "all")
