"""Fork checkpoints: a session survives what kills its interpreter, as it was before."""

import pytest

from aster_jax.tools import Executor, ToolConfig


@pytest.fixture(scope="module")
def tools():
    config = ToolConfig(
        checkpoints=True, preload=("numpy",), wall_limit_s=1.5, grace_s=0.5, niceness=0,
        min_tier="A2",
    )
    try:
        executor = Executor(config)
    except RuntimeError as error:
        pytest.skip(f"checkpoints need a PID namespace: {error}")
    yield executor
    executor.close()


@pytest.mark.parametrize("cell, status", [
    ("import ctypes; x = 2; ctypes.string_at(0)", "crashed"),
    ("import os; x = 2; os._exit(3)", "crashed"),
    ("import os; os.closerange(0, 64)", "crashed"),
    ("x = 2\nsum(range(10**12))", "timeout"),
    ("import os\nos.write(3, b'\\xff' * 64)\nwhile True: pass", "protocol_violation"),
    ("import os\nwhile True: os.write(1, b'z' * 65536)", "output_limit"),
])
def test_restored_to_before_the_cell(tools, cell, status):
    session = tools.open(seed=5)
    tools.run(session, "x = 1\ng = (n for n in range(9))\nnext(g)\nimport random")
    expected = tools.run(session, "random.seed(7); [random.random(), random.random()][1]").text
    tools.run(session, "random.seed(7); random.random();")
    result = tools.run(session, cell)
    assert (result.status, result.state) == (status, "restored")
    assert tools.run(session, "x, next(g)").text == "(1, 1)\n"
    assert tools.run(session, "random.random()").text == expected
    tools.close(session)


def test_a_cell_still_cannot_fork(tools):
    session = tools.open()
    for code in ("import os; os.fork()", "import subprocess; subprocess.run(['ls'])"):
        assert tools.run(session, code).status == "denied"
    assert tools.run(session, "1").text == "1\n"
    tools.close(session)


def test_a_large_array_survives_and_a_second_crash_too(tools):
    session = tools.open()
    tools.run(session, "import numpy as np\na = np.ones(3_000_000)")
    for _ in range(2):
        assert tools.run(session, "a[:] = 0\nimport os; os.abort()").state == "restored"
        assert tools.run(session, "a.sum()").text == "3000000.0\n"
    tools.close(session)


def test_a_cell_that_collects_the_copies_harms_nothing(tools):
    meddling = "import os\ntry: os.waitpid(-1, os.WNOHANG)\nexcept ChildProcessError: pass"
    session = tools.open()
    for number in range(6):
        tools.run(session, f"x = {number}")
        tools.run(session, meddling)
    assert tools.run(session, "x").text == "5\n"
    assert tools.run(session, "x = 0\nimport os; os.abort()").state == "restored"
    assert tools.run(session, "x").text == "5\n"
    tools.close(session)


def test_checkpoints_are_refused_where_copies_could_outlive_their_session():
    with pytest.raises(RuntimeError, match="tier"):
        Executor(ToolConfig(checkpoints=True, tier="B2", preload=()))
