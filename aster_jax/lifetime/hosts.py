"""How the processes of a run find each other, and how they end together.

On a TPU pod, under SLURM and under Open MPI, JAX knows who they are; elsewhere (terminals,
other launchers) each is told by `--coordinator HOST:PORT --processes N --process I`. Several
processes that were not told of each other are refused by name, before each believes to be
alone.
"""

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping

import jax
from jax._src import clusters, distributed

from aster_jax import together
from aster_jax.errors import GaveUp, InputError
from aster_jax.lifetime import notice
from aster_jax.lifetime.watch import Watch

# What launchers tell each process they start, and how many that is.
_COUNTS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
    "JAX_NUM_PROCESSES": "the environment",
}
_LISTS = {"TPU_WORKER_HOSTNAMES": "the TPU pod", "MEGASCALE_NUM_SLICES": "the TPU multislice"}
FIND_S = 300  # for all processes to have started
SILENT_S = 50  # of JAX's own heartbeat, for a process that is there and stands still
CAUSE_S = 3.0  # an error may come of another process's end, which is known within so long


def check(process_count: int, environment: Mapping[str, str]) -> None:
    """Raise an InputError where the environment speaks of processes that JAX does not know."""
    if process_count > 1:
        return
    for name, launcher in {**_COUNTS, **_LISTS}.items():
        value = environment.get(name, "")
        count = len(value.split(",")) if name == "TPU_WORKER_HOSTNAMES" else _number(value)
        if count > 1:
            raise InputError(
                f"{name}={value} says that {launcher} started {count} processes, and each would "
                "take itself for the only one, as JAX does not find the others here; give each "
                f"--coordinator HOST:PORT --processes {count} --process 0 ... {count - 1}, or "
                f"start one (and unset {name} where that is what you did)"
            )


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0


def flags(coordinator: str | None, processes: int | None, process: int | None) -> dict:
    """What `jax.distributed.initialize` is told: by the three flags, else {} where JAX finds
    several processes by itself, else None for one process. InputError for flags that cannot be."""
    given = [x is not None for x in (coordinator, processes, process)]
    if not any(given):
        return {} if _found() else None
    if not all(given):
        raise InputError("--coordinator HOST:PORT, --processes N and --process I go together")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator={coordinator} is no HOST:PORT, the same for all processes")
    if not 0 <= process < processes:
        raise InputError(f"--process={process} must be 0 to {processes - 1}, of --processes={processes}")
    if processes == 1:
        return None
    return {
        "coordinator_address": coordinator, "num_processes": processes, "process_id": process,
        "cluster_detection_method": "deactivate",
    }  # fmt: skip


def _found() -> bool:
    """Whether this is one of several processes of a launcher that JAX knows."""
    known = (env for env in clusters.ClusterEnv._cluster_types if not env.opt_in_only_method)
    here = next((env for env in known if env.is_env_present()), None)
    return here is not None and here.get_process_count() > 1


@contextlib.contextmanager
def joined(coordinator: str | None, processes: int | None, process: int | None) -> Iterator:
    """The processes of the run, from when they have found each other to their common end.

    Gives the `Watch` over the others, None for one process, which nothing changes for. Where
    one process fails inside, all end with its sentence and exit code 1.
    """
    how = flags(coordinator, processes, process)
    if how is None:
        check(jax.process_count(), os.environ)
        yield None
        return
    watch = _join(how)
    try:
        yield watch
        together.meet("the end")
    except SystemExit:
        _end(watch)
        raise
    except (InputError, GaveUp) as e:
        _fail(watch, str(e), f"aster_jax: process {together.index()}: {e}")
    except BaseException as e:
        wait_for_cause()
        _fail(watch, f"{type(e).__name__}: {e!s:.300}", traceback.format_exc())
    _end(watch)


def _join(how: dict) -> Watch:
    # SIGTERM is ours (`notice.py`); till that listens, it ends the process as it does any.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX gives up with a bare abort; ours comes first and is a sentence.
    alarm = threading.Timer(FIND_S, _not_found)
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            **how, initialization_timeout=FIND_S + 60, heartbeat_timeout_seconds=SILENT_S,
            shutdown_timeout_seconds=SILENT_S,
        )  # fmt: skip
    except (RuntimeError, ValueError) as e:
        raise InputError(
            f"the processes of this run did not find each other ({e!s:.200}); all have to be "
            "started with the same coordinator and number of processes"
        ) from e
    finally:
        alarm.cancel()
    state = distributed.global_state
    host = state.coordinator_address.rpartition(":")[0].strip("[]")
    watch = Watch(state.client, state.process_id, state.num_processes, host, notice.EXIT_CODE)
    together.know_hosts(together.everybody("hosts", socket.gethostname()))
    counts = together.everybody("devices", jax.local_device_count())
    if len(set(counts)) > 1:
        raise InputError(f"the processes have {counts} devices; each needs as many as the others")
    return watch


def _not_found():
    print(
        f"aster_jax: the processes of this run did not find each other within {FIND_S} s; all "
        "have to be started with the same coordinator, whose port is open, and the same number "
        "of processes",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    os._exit(1)


def wait_for_cause() -> None:
    """Before an unexpected error is told: it may come of the end of another process, which then
    ends this one too."""
    if jax.process_count() > 1:
        time.sleep(CAUSE_S)


def _fail(watch, sentence, shown):
    print(shown, file=sys.stderr, flush=True)
    watch.failed(sentence)
    sys.stdout.flush()
    os._exit(1)


def _end(watch):
    watch.over()
    jax.distributed.shutdown()
