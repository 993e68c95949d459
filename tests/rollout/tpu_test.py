"""Every program of the engine compiles for TPUs, updates its state in place, and talks to nobody.

By the compiler's own word, ahead of time and without a TPU: real widths of Qwen3, bfloat16,
the paged-attention kernel included. Two layers by default, since each layer is the same
again; whole models with `-m slow` (minutes each). Needs the `libtpu` wheel, which is not
among the requirements: `pip install libtpu`.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed: pip install libtpu",
)
ROOT = pathlib.Path(__file__).resolve().parents[2]


def case(topology, mesh, preset, layers, pool_tokens, slots, buckets=(64, 512)):
    """One case for `tests.rollout.tpu_compile`; pool and slots are those of one shard."""
    shards = mesh[0] * mesh[1]
    sizes = {
        "slots": slots * shards, "capacity": 32_768, "page_tokens": 64,
        "pool_tokens": pool_tokens * shards, "steps_per_dispatch": 16,
        "prefill_rows": 4 * shards, "prefill_buckets": buckets,
        "dtype": "bfloat16", "attention": "tpu",
    }  # fmt: skip
    return {
        "topology": topology, "mesh": mesh, "preset": preset, "layers": layers, "engine": sizes,
    }  # fmt: skip


SHALLOW = (
    case("v5e:2x2", (2, 2, 1), "qwen3_0p6b", 2, 131_072, 16, (64,)),
    case("v5p:2x2x1", (2, 1, 2), "qwen3_4b", 2, 131_072, 8, (64,)),
)
WHOLE = (
    case("v5e:2x2", (4, 1, 1), "qwen3_0p6b", 28, 98_304, 64),
    case("v5e:2x2", (1, 1, 4), "qwen3_4b", 36, 262_144, 64),
    case("v5p:2x2x1", (4, 1, 1), "qwen3_4b", 36, 524_288, 128),
    case("v5p:2x2x1", (2, 1, 2), "qwen3_0p6b", 28, 524_288, 64),
    case("v6e:4x4", (8, 2, 1), "qwen3_4b", 36, 131_072, 64),
    case("v6e:4x4", (8, 1, 2), "qwen3_4b", 36, 262_144, 64),
)


def start(given):
    command = [sys.executable, "-m", "tests.rollout.tpu_compile", json.dumps(given)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    out, err = process.communicate(timeout=3600)
    assert process.returncode == 0, err.decode()[-4000:]
    return json.loads(out)


def check(given, found):
    layers, tensor = given["layers"], given["mesh"][2]
    assert found["attention"] == "tpu"
    names = {"adopt", "empty", "share"}
    names |= {f"prefill {c}" for c in given["engine"]["prefill_buckets"]}
    decoding = {n for n in found["programs"] if n.startswith("decode ")}
    assert found["programs"].keys() == names | decoding and len(decoding) > 0
    for name, of in found["programs"].items():
        print(given["topology"], given["mesh"], given["preset"], layers, name, of)
        if name not in ("adopt", "empty"):
            # Donated, and no second one: neither anywhere in the text nor in the memory.
            assert of["alias"] >= found["cache"]
            assert of["copies"] == 0
            assert of["temp"] < found["cache"] / 8
        if name in decoding:
            assert of["kernels"] == layers
            assert of["loops"] == 1  # over steps; a loop over written tokens would be another
            assert of["collectives"] == [] or tensor > 1


@pytest.fixture(scope="module")
def shallow():
    """All at once: the time goes into compiling, on one core each."""
    running = [start(given) for given in SHALLOW]
    return [finish(process) for process in running]


@pytest.mark.parametrize("i", range(len(SHALLOW)), ids=["v5e_data", "v5p_tensor"])
def test_programs_compile_for_a_tpu(shallow, i):
    check(SHALLOW[i], shallow[i])


@pytest.mark.slow
@pytest.mark.parametrize("given", WHOLE, ids=lambda g: f"{g['topology']}-{g['preset']}-{g['mesh']}")
def test_whole_models_compile_for_a_tpu(given):
    check(given, finish(start(given)))
