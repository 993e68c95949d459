"""How processes find each other; those that each believe to be alone are refused by name."""

import pytest

from aster_jax.errors import InputError
from aster_jax.lifetime import hosts


@pytest.mark.parametrize(
    "name, value",
    [
        ("SLURM_STEP_NUM_TASKS", "4"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("PMI_SIZE", "8"),
        ("JAX_NUM_PROCESSES", "2"),
        ("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2"),
        ("MEGASCALE_NUM_SLICES", "2"),
    ],
)
def test_an_environment_of_several_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name}={value}"):
        hosts.check(1, {name: value, "HOME": "x"})


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"},  # allocated, not started
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"OMPI_COMM_WORLD_SIZE": ""},
        {"PMI_SIZE": "many"},
    ],
)
def test_one_process_is_fine(environment):
    hosts.check(1, environment)


def test_what_jax_knows_of_is_fine():
    hosts.check(2, {"SLURM_STEP_NUM_TASKS": "2"})


@pytest.mark.parametrize(
    "given, words",
    [
        (("h:1", None, None), "go together"),
        ((None, 2, 0), "go together"),
        (("h", 2, 0), "--coordinator=h is no HOST:PORT"),
        ((":1", 2, 0), "is no HOST:PORT"),
        (("h:p", 2, 0), "is no HOST:PORT"),
        (("h:1", 2, 2), "--process=2 must be 0 to 1"),
        (("h:1", 2, -1), "--process=-1 must be"),
        (("h:1", 0, 0), "--process=0 must be"),
    ],
)
def test_flags_that_cannot_be_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        hosts.flags(*given)


def test_flags_of_several_and_of_one():
    assert hosts.flags(None, None, None) is None
    assert hosts.flags("h:1", 1, 0) is None
    told = hosts.flags("[::1]:4000", 4, 3)
    assert (told["coordinator_address"], told["num_processes"], told["process_id"]) == (
        "[::1]:4000", 4, 3,
    )  # fmt: skip


def test_what_jax_finds_by_itself_needs_no_flags(monkeypatch):
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_NTASKS": "2",
             "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert hosts.flags(None, None, None) == {}
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert hosts.flags(None, None, None) is None
