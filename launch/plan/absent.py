"""Devices that are not here, and programs compiled for them.

`build` gives a mesh of described devices; `compiled` compiles one program for it and says
what the compiler says: bytes per device, collectives, or why it refuses.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time

import jax
import numpy as np
from jax.experimental import topologies

from aster_jax import mesh as meshes
from aster_jax.errors import InputError

# An H100 by its data sheet, as the CUDA compiler wants it described.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
"""
SIZES = {"pred": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8}
NARROW = ("s8", "u8", "f8")
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def build(topology: str, mesh) -> jax.sharding.Mesh:
    """The run's mesh (config section `mesh`) over a topology's devices."""
    return meshes.build(**mesh, devices=_devices(topology))


def _devices(topology):
    kind, _, shape = topology.partition(":")
    if kind == "cpu":
        return jax.devices("cpu")[: int(shape)]
    described = {"platform": "tpu", "topology_name": topology}
    if kind == "h100":
        described = {
            "platform": "cuda", "topology_name": topology,
            "target_config": H100, "topology": f"1x1x{shape}",
        }  # fmt: skip
    try:
        return topologies.get_topology_desc(**described).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as e:
        raise InputError(f"topology {topology!r} is refused: {sentence(str(e))}") from e


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiler says of one program, per device; `refused` is its reason or "".

    `collectives`: by kind how often in one run of the program and bytes of their results,
    the body of a loop of unknown length counted once; None where the text cannot be read.
    """

    seconds: float
    refused: str = ""
    arguments: int = 0
    outputs: int = 0
    temporaries: int = 0
    aliased: int = 0
    collectives: dict | None = None

    @property
    def bytes(self) -> int:
        """Memory of a device while it runs."""
        return self.arguments + self.outputs + self.temporaries - self.aliased


def compiled(lowered) -> Compiled:
    """Compile a lowered program."""
    began = time.monotonic()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
        return Compiled(time.monotonic() - began, refused=sentence(str(e)))
    memory = program.memory_analysis()
    try:
        found = collectives(_partitioned() or program.as_text())
    except jax.errors.JaxRuntimeError:  # libtpu 0.0.52 cannot read some of its own programs
        found = None
    return Compiled(
        time.monotonic() - began, "", memory.argument_size_in_bytes,
        memory.output_size_in_bytes, memory.temp_size_in_bytes, memory.alias_size_in_bytes, found,
    )  # fmt: skip


def _partitioned() -> str:
    """The program compiled last, as the CPU's compiler left it behind after partitioning it.

    Later passes of that compiler widen bfloat16, which other chips do not. "" if it kept none.
    """
    folder = re.search(r"--xla_dump_to=(\S+)", os.environ.get("XLA_FLAGS", ""))
    if not folder:
        return ""
    left = sorted(pathlib.Path(folder[1]).glob("*"), key=lambda p: p.stat().st_mtime_ns)
    texts = [p.read_text() for p in left if "after_spmd-partition" in p.name]
    for path in left:
        if path.is_file():
            path.unlink()
    return texts[-1] if texts else ""


def collectives_on_cpu(arguments: list[str], devices: int, name: str) -> dict | None:
    """Those of one program for as many CPUs, asked of this command in a process of its own.

    For chips whose compiler cannot print what it made. What comes of partitioning is the same
    for all; a TPU then makes reduce-scatters of the all-reduces of which each chip keeps a part.
    """
    kept = [a for a in arguments if not re.match(r"--?(topology|only|tries|json|(no)?hours)\b", a)]
    asked = ["--topology", f"cpu:{devices}", "--only", name, "--tries=0", "--nohours", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "launch.plan", *kept, *asked], capture_output=True, text=True
    )
    made = json.loads(done.stdout)["programs"] if done.returncode == 0 else {}
    return made[name]["collectives"] if name in made else None


def sentence(message: str) -> str:
    """The first sentence of a compiler's message, without its codes."""
    line = " ".join(message.strip().split("\n\n")[0].split())
    line = re.sub(r"^(?:[A-Z_]+: )?(?:E\d+: )?(?:\w+Oom: )?", "", line)
    return re.split(r"(?<=[a-z)])\. ", line)[0].rstrip(". ")[:400]


def collectives(text: str) -> dict[str, dict[str, int]]:
    """By kind: `count` and `bytes` of results in one run, loops multiplied out."""
    bodies, calls, entry = _read(text)
    total: dict[str, dict[str, int]] = {}

    def visit(name, times):
        for kind, size in bodies[name]:
            of = total.setdefault(kind, {"count": 0, "bytes": 0})
            of["count"] += times
            of["bytes"] += times * size
        for callee, often in calls[name]:
            if callee in bodies:
                visit(callee, times * often)

    if entry:
        visit(entry, 1)
    return total


def _read(text):
    """By computation: its collectives as (kind, bytes), and what it calls how often."""
    bodies, calls, entry, name, ends = {}, {}, "", "", _ends(text)
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line)
        if head:
            name = head[2]
            bodies[name], calls[name] = [], []
            entry = name if head[1] else entry
            continue
        of = re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
        if of and name:
            bodies[name].append((of[2], _result_bytes(of[1], max if of[3] else sum)))
        loop = re.search(r"\bwhile\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        if loop and name:
            calls[name].append((loop[2], int(trips[1]) if trips else ends.get(loop[1], 1)))
        for callee in re.findall(r"(?:calls|to_apply|branch_computations=\{)=?%?([\w.\-]+)", line):
            if name and not of:
                calls[name].append((callee, 1))
    return bodies, calls, entry


def _ends(text) -> dict[str, int]:
    """By condition of a loop: the one number in it, up to which the loop counts from 0."""
    found: dict[str, list[int]] = {}
    name = ""
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line)
        name = head[1] if head else name
        number = re.search(r"= s32\[\](?:\{\})? constant\((\d+)\)", line)
        if number:
            found.setdefault(name, []).append(int(number[1]))
    return {name: numbers[0] for name, numbers in found.items() if len(numbers) == 1}


def _result_bytes(result: str, over) -> int:
    """Of a result's type: of several results the sum, of a start's operand and result the max."""
    sizes = []
    for dtype, shape in re.findall(r"\b([a-z]+\d*\w*)\[([\d,]*)\]", result):
        width = 1 if dtype.startswith(NARROW) else SIZES.get(dtype, 4)
        sizes.append(width * math.prod(int(n) for n in shape.split(",") if n))
    return over(sizes) if sizes else 0


def shard_bytes(tree) -> int:
    """Bytes of a tree of placed shapes on one device."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )
