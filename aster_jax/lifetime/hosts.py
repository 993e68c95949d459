"""Several processes where one is expected: refused by name, before each believes to be alone."""

from collections.abc import Mapping

from aster_jax.errors import InputError

# What launchers tell each process they start, and how many that is.
_COUNTS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
    "JAX_NUM_PROCESSES": "the environment",
}
_LISTS = {"TPU_WORKER_HOSTNAMES": "the TPU pod", "MEGASCALE_NUM_SLICES": "the TPU multislice"}


def check(process_count: int, environment: Mapping[str, str]) -> None:
    """Raise an InputError where more than one process shares this run.

    `process_count` is JAX's; `environment` shows those that JAX was not told of.
    """
    if process_count > 1:
        raise InputError(
            f"{process_count} processes share this run; only one process with all of its "
            "own devices is supported so far, so a slice of several hosts cannot run any "
            "experiment yet: start it on one host (launch/README.md names slices of one)"
        )
    for name, launcher in {**_COUNTS, **_LISTS}.items():
        value = environment.get(name, "")
        count = len(value.split(",")) if name == "TPU_WORKER_HOSTNAMES" else _number(value)
        if count > 1:
            raise InputError(
                f"{name}={value} says that {launcher} started {count} processes, and each would "
                "take itself for the only one; only one process is supported so far: start one "
                f"(or unset {name} where that is what you did)"
            )


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0
