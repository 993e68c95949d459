"""Every program of the engine compiles for TPUs and GPUs, in place, and talks to nobody.

By the compilers' own word, ahead of time and without the devices: real widths of Qwen3,
bfloat16, the kernels over pages included. Two layers by default, since each layer is
the same again; whole models with `-m slow` (minutes each). Needs what is not among the
requirements: `pip install libtpu` for TPUs, `pip install "jax[cuda13]==0.10.2"` for GPUs.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def case(topology, mesh, preset, layers, pool_tokens, slots, buckets=(64, 512)):
    """One case for `tests.rollout.compile_ahead`; pool and slots are those of one shard."""
    shards = mesh[0] * mesh[1]
    sizes = {
        "slots": slots * shards, "capacity": 32_768, "page_tokens": 64,
        "pool_tokens": pool_tokens * shards, "steps_per_dispatch": 16,
        "prefill_rows": 4 * shards, "prefill_buckets": buckets,
        "dtype": "bfloat16", "attention": "gpu" if topology.startswith("h100") else "tpu",
    }  # fmt: skip
    return {
        "topology": topology, "mesh": mesh, "preset": preset, "layers": layers, "engine": sizes,
    }  # fmt: skip


SHALLOW = {
    "v5e_data": case("v5e:2x2", (2, 2, 1), "qwen3_0p6b", 2, 131_072, 16, (64,)),
    "v5p_tensor": case("v5p:2x2x1", (2, 1, 2), "qwen3_4b", 2, 131_072, 8, (64,)),
    "h100_data": case("h100:2", (2, 1, 1), "qwen3_4b", 2, 131_072, 16, (64,)),
    "h100_tensor": case("h100:2", (1, 1, 2), "qwen3_0p6b", 2, 131_072, 16, (64,)),
}
WHOLE = (
    case("v5e:2x2", (4, 1, 1), "qwen3_0p6b", 28, 98_304, 64),
    case("v5e:2x2", (1, 1, 4), "qwen3_4b", 36, 262_144, 64),
    case("v5p:2x2x1", (4, 1, 1), "qwen3_4b", 36, 524_288, 128),
    case("v5p:2x2x1", (2, 1, 2), "qwen3_0p6b", 28, 524_288, 64),
    case("v6e:4x4", (8, 2, 1), "qwen3_4b", 36, 131_072, 64),
    case("v6e:4x4", (8, 1, 2), "qwen3_4b", 36, 262_144, 64),
    case("h100:1", (1, 1, 1), "qwen3_0p6b", 28, 524_288, 256),
    case("h100:2", (1, 1, 2), "qwen3_4b", 36, 524_288, 64),
)


def missing(given) -> str:
    """What has to be installed to compile this case, or ""."""
    gpu = given["topology"].startswith("h100")
    module = "jax_plugins.xla_cuda13" if gpu else "libtpu"
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    wheel = '"jax[cuda13]==0.10.2"' if gpu else "libtpu"
    return "" if there else f"the compiler is not installed: pip install {wheel}"


def start(given):
    command = [sys.executable, "-m", "tests.rollout.compile_ahead", json.dumps(given)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    out, err = process.communicate(timeout=3600)
    assert process.returncode == 0, err.decode()[-4000:]
    return json.loads(out)


def check(given, found):
    layers, tensor = given["layers"], given["mesh"][2]
    assert found["attention"] == given["engine"]["attention"]
    names = {"adopt", "empty", "share", "arm"}
    names |= {f"prefill {p} x {c}" for p in (1, 4) for c in given["engine"]["prefill_buckets"]}
    decoding = {n for n in found["programs"] if n.startswith("decode ")}
    assert found["programs"].keys() == names | decoding and len(decoding) > 0
    for name, of in found["programs"].items():
        print(given["topology"], given["mesh"], given["preset"], layers, name, of)
        if name not in ("adopt", "empty", "arm"):
            # Donated, and no second one: neither anywhere in the text nor in the memory.
            assert of["alias"] >= found["cache"]
            assert of["temp"] < found["cache"] / 8
            assert of["text"] or name.startswith("prefill")
            assert not of["text"] or of["copies"] == 0
        if name.startswith("prefill") and of["text"]:
            assert of["kernels"] == layers - 1  # of the last only keys and values are kept
        if name in decoding:
            assert of["kernels"] == layers
            assert of["loops"] == 1  # over steps; a loop over written tokens would be another
            assert of["collectives"] == [] or tensor > 1


@pytest.fixture(scope="module")
def shallow():
    """All at once: the time goes into compiling, on one core each."""
    running = {name: start(g) for name, g in SHALLOW.items() if not missing(g)}
    return {name: finish(process) for name, process in running.items()}


@pytest.mark.parametrize("name", SHALLOW)
def test_programs_compile(shallow, name):
    if missing(SHALLOW[name]):
        pytest.skip(missing(SHALLOW[name]))
    check(SHALLOW[name], shallow[name])


@pytest.mark.slow
@pytest.mark.parametrize("given", WHOLE, ids=lambda g: f"{g['topology']}-{g['preset']}-{g['mesh']}")
def test_whole_models_compile(given):
    if missing(given):
        pytest.skip(missing(given))
    check(given, finish(start(given)))
