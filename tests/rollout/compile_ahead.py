"""Compiles the engine's programs for accelerators that are not here; prints facts as JSON.

    python -m tests.rollout.compile_ahead '{"topology": "v5e:2x2", "mesh": [4, 1, 1], ...}'

A process of its own, since the compilers read their environment when they are loaded. The
topology is one of a TPU, or "h100:N" for N of those GPUs in one machine; libtpu, or the
CUDA plugin of JAX, compiles for it as described.
"""

import dataclasses
import importlib.util
import json
import os
import re
import sys

FLAGS = ""  # not those of the tests that run
if importlib.util.find_spec("nvidia"):  # the wheels of jax[cuda13]
    CUDA = os.path.join(*importlib.util.find_spec("nvidia").submodule_search_locations, "cu13")
    os.environ["PATH"] += os.pathsep + os.path.join(CUDA, "bin")
    # Nothing can be tried out on a GPU that is not there.
    FLAGS = f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={CUDA}"
os.environ |= {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened, so several may compile at once
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": FLAGS,
}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from aster_jax import mesh as meshes  # noqa: E402
from aster_jax.model import config, transformer  # noqa: E402
from aster_jax.rollout import arming, engine, sampling  # noqa: E402
from launch.plan.absent import H100  # noqa: E402

KERNEL = re.compile(r'custom_call_target="(?:tpu_custom_call|__gpu\$xla\.gpu\.triton)"')
COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+)(?:-start)?\("
)


# With libtpu 0.0.52 the text of some programs cannot be read back ("async-update instruction
# should have 1 operands"). Fused asynchronous collectives are one cause and left out here;
# others remain in long prefills, of which only the memory is then known.
READABLE = {"xla_tpu_enable_async_collective_fusion": "false"}
UNREADABLE = "async-update instruction should have 1 operands"


def described(name: str) -> list:
    """Devices that are not here."""
    if not name.startswith("h100:"):
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    shape = f"1x1x{name.removeprefix('h100:')}"
    return topologies.get_topology_desc(
        platform="cuda", topology_name=name, target_config=H100, topology=shape
    ).devices


def facts(lowered, cached: tuple[int, ...], options: dict | None) -> dict:
    """Bytes per device, kernels, collectives, and instructions that copy a layer's pages.

    `cached` is the shape of one layer's keys on one device.
    """
    compiled = lowered.compile(compiler_options=options)
    memory = compiled.memory_analysis()
    found = {"temp": memory.temp_size_in_bytes, "alias": memory.alias_size_in_bytes}
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        if UNREADABLE not in str(error):
            raise
        return found | {"text": False}
    shape = re.escape(f"[{','.join(map(str, cached))}]")
    return found | {
        "text": True,
        "kernels": len(KERNEL.findall(text)),
        "collectives": sorted(set(COLLECTIVE.findall(text))),
        "copies": len(re.findall(rf"= \w+{shape}\S* copy\(", text)),
        "scatters": len(re.findall(r" scatter\(", text)),
        "loops": len(re.findall(r" while\(", text)),
    }


def compile_all(case: dict) -> dict:
    """Every program of the engine for one case: topology, mesh, preset, layers, engine."""
    data, fsdp, tensor = case["mesh"]
    platform = "gpu" if case["topology"].startswith("h100") else "tpu"
    devices = np.array(described(case["topology"])).reshape(data, fsdp, 1, tensor)
    mesh = jax.sharding.Mesh(devices, meshes.AXES)
    cfg = dataclasses.replace(config.PRESETS[case["preset"]], num_layers=case["layers"])
    sizes = case["engine"] | {"prefill_buckets": tuple(case["engine"]["prefill_buckets"])}
    engine_cfg = engine.EngineConfig(**sizes)
    how, stops = sampling.Sampling(1.0, 1.0, 0), (151_645,)
    programs = engine.programs(cfg, engine_cfg, how, stops, mesh)
    shards = meshes.batch_shards(mesh)
    P = engine_cfg.write_rows(shards)[-1] * shards
    arm = arming.Arm(
        row_P=ints(P), length_P=ints(P), pending_P=ints(P), left_P=ints(P),
        problem_P=jax.ShapeDtypeStruct((P,), jnp.uint32), sample_P=ints(P),
    )  # fmt: skip
    stacked = transformer.abstract_params(cfg)
    trained = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        stacked, meshes.shardings(stacked, mesh),
    )  # fmt: skip
    weights = jax.eval_shape(programs.adopt, trained)
    slots = jax.eval_shape(programs.empty)
    key = jax.eval_shape(lambda: jax.random.key(0))
    W = engine_cfg.row_pages
    lowered = {
        "adopt": programs.adopt.lower(trained),
        "empty": programs.empty.lower(),
        "share": programs.share.lower(slots.cache, ints(P), ints(P)),
        "arm": programs.arm.lower(slots.replace(cache=None), arm, key),
    }
    for C in engine_cfg.prefill_buckets:
        for rows in engine_cfg.write_rows(shards):
            N = rows * shards
            args = (ints(N, C), ints(N), ints(N), ints(N, W))
            lowered[f"prefill {rows} x {C}"] = programs.prefill.lower(weights, slots.cache, *args)
    for rows in engine_cfg.decode_rows(shards):
        A = rows * shards
        lowered[f"decode {rows}"] = programs.decode.lower(weights, slots, ints(A), ints(A, W))
    heads = tensor if cfg.num_kv_heads % tensor == 0 else 1
    pool = (cfg.num_kv_heads // heads, engine_cfg.pool_pages(shards), engine_cfg.page_tokens)
    cached = (*pool, cfg.head_dim)
    layer = int(np.prod(cached)) * jnp.dtype(engine_cfg.dtype).itemsize
    return {
        "attention": engine.attention(cfg, engine_cfg, mesh)[0],
        "cache": 2 * cfg.num_layers * layer,
        "programs": {
            name: facts(one, cached, READABLE if tensor > 1 and platform == "tpu" else None)
            for name, one in lowered.items()
        },
    }


def ints(*shape) -> jax.ShapeDtypeStruct:
    """An int32 argument."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


if __name__ == "__main__":
    print(json.dumps(compile_all(json.loads(sys.argv[1]))))
