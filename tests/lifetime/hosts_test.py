"""Processes that each believe to be alone are refused, by the name of what says otherwise."""

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


def test_what_jax_knows_is_refused():
    with pytest.raises(InputError, match="2 processes share this run"):
        hosts.check(2, {})
