"""What chips are: their memory, their speed, and how a compiler for absent ones is asked.

Nothing here needs jax, since the compilers read their environment when they are loaded.
"""

import dataclasses
import importlib.util
import os

from aster_jax.errors import InputError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device: bytes of memory that programs may use, dense bf16 FLOP/s, bytes/s of memory."""

    name: str
    memory: float
    flops: float
    bandwidth: float


# Memory of TPUs: what the compiler of libtpu 0.0.52 says is there when it refuses a program.
# Speeds: the makers' pages, cloud.google.com/tpu/docs/system-architecture-tpu-vm and the data
# sheet of the H100 SXM. A v4 is counted per core as its topologies list them.
CHIPS = {
    "v4": Chip("TPU v4, one core", 15.25 * GIB, 137.5e12, 614e9),
    "v5e": Chip("TPU v5e", 15.75 * GIB, 197e12, 819e9),
    "v5p": Chip("TPU v5p", 95.73 * GIB, 459e12, 2765e9),
    "v6e": Chip("TPU v6e", 31.24 * GIB, 918e12, 1640e9),
    "h100": Chip("H100 SXM", 79.1 * GIB, 989e12, 3352e9),
    "cpu": Chip("CPU", 0, 0, 0),  # nothing is known of this one's
}

_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened, so several may compile at once
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Stack traces of what is caught: some programs cannot be printed.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
# A plan runs nothing, so the machine code for virtual CPUs need not be good.
_CPU_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def chip(topology: str) -> Chip:
    """The chip of a topology's name, "v5p:4x4x4", "h100:8" or "cpu:8"."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS or not shape:
        raise InputError(
            f"topology {topology!r} is not known; give one such as v5p:4x4x4, v6e:4x4, h100:8 or "
            f"cpu:8 (kinds: {', '.join(CHIPS)})"
        )
    return CHIPS[kind]


def environment(topology: str, dump: str) -> dict[str, str]:
    """Environment variables to set before jax starts; InputError where a compiler is missing.

    `dump` is a folder in which the compiler for CPUs leaves programs as they are once they
    have been partitioned (`absent.compiled` reads them).
    """
    chip(topology)
    kind, _, shape = topology.partition(":")
    if kind in ("cpu", "h100") and not (shape.isdecimal() and int(shape)):
        raise InputError(f"topology {topology!r}: after {kind}: stands the number of devices")
    if kind == "cpu":
        devices = f"--xla_force_host_platform_device_count={shape}"
        kept = f"--xla_dump_to={dump} --xla_dump_hlo_pass_re=spmd.*"
        return {"XLA_FLAGS": f"{devices} {_CPU_FLAGS} {kept}"}
    if kind == "h100":
        return _cuda()
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("the compiler for TPUs is not installed: pip install libtpu==0.0.52")
    return {**_TPU, "XLA_FLAGS": ""}


def _cuda():
    try:
        there = importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
    except ModuleNotFoundError:
        there = False
    if not there or importlib.util.find_spec("nvidia") is None:
        raise InputError('the compiler for GPUs is not installed: pip install "jax[cuda13]==0.10.2"')
    folder = importlib.util.find_spec("nvidia").submodule_search_locations[0]
    cuda = os.path.join(folder, "cu13")
    return {
        "PATH": os.environ["PATH"] + os.pathsep + os.path.join(cuda, "bin"),
        # Nothing can be tried out on a GPU that is not there.
        "XLA_FLAGS": f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={cuda}",
    }
