"""The memory floor by hand, and the sentence for a model that cannot fit."""

import dataclasses
import os

import jax
import pytest

from aster_jax import mesh as meshes
from aster_jax.model import config, transformer
from aster_jax.train import memory


def test_needs_by_hand(tiny, one_device):
    count = transformer.count_params(tiny)
    # 2 arrays x 2 layers x 2 heads x 16 = 128 numbers per token, a pool of 500 tokens.
    # 8 rows of 10 tokens: 2 layers x 10 x 32 float32.
    micro = 8 * 2 * 10 * 32 * 4
    needed = memory.needed_bytes(tiny, one_device, 500, "bfloat16", (8, 10))
    assert needed == {
        "training": 4 * 4 * count + micro,
        "activations": micro,
        "rollout": 3 * 4 * count + 2 * count + 500 * 128 * 2,
        "cache": 500 * 128 * 2,
    }
    doubled = memory.needed_bytes(tiny, one_device, 500, "bfloat16", (8, 10), copies=2)
    assert doubled["training"] - needed["training"] == doubled["rollout"] - needed["rollout"]
    assert doubled["rollout"] - needed["rollout"] == 4 * count
    halved = memory.needed_bytes(tiny, one_device, 500, "bfloat16", (8, 10), "bfloat16")
    assert needed["training"] - halved["training"] == 2 * 2 * count
    assert needed["rollout"] - halved["rollout"] == 2 * 2 * count


def test_eight_devices_share(tiny, one_device, eight_devices):
    one = memory.needed_bytes(tiny, one_device, 512, "float32", (8, 1))
    eight = memory.needed_bytes(tiny, eight_devices, 512, "float32", (8, 1))
    # fsdp x tensor hold a fourth of the state; pages over 4, heads over 2.
    assert eight["training"] == pytest.approx(one["training"] / 4, rel=1e-2)
    assert eight["cache"] == one["cache"] / 8
    single = dataclasses.replace(tiny, num_kv_heads=1)
    alone = memory.needed_bytes(single, one_device, 512, "float32", (8, 1))["cache"]
    # A single head is replicated over tensor, not split.
    assert memory.needed_bytes(single, eight_devices, 512, "float32", (8, 1))["cache"] == alone / 4


def test_too_large_is_refused_with_numbers_and_remedies(tiny, one_device):
    large = config.PRESETS["qwen3_4b_thinking_2507"]
    with pytest.raises(ValueError, match=r"4.02 B parameters needs at least .*or rollout.pool_tokens"):
        memory.check(large, one_device, 100_000 * 32_768, "bfloat16", (1, 512))
    memory.check(tiny, one_device, 256, "float32", (1, 512))


def test_the_papers_model_fits_a_pod_by_this_count():
    mesh = meshes.build(1, 4, 2)
    needed = memory.needed_bytes(
        config.PRESETS["qwen3_4b_thinking_2507"], mesh, 64 * 32_768, "bfloat16", (4, 32_768)
    )
    # 36 layers x 32,768 x 2,560 bfloat16, over 2 devices.
    assert needed["activations"] == 36 * 32_768 * 2_560 * 2 // 2
    # 4.02 G parameters x 16 bytes / 8 devices.
    rest = needed["training"] - needed["activations"]
    assert rest == pytest.approx(8.045e9, rel=1e-3)


def groups(root, lines, files):
    """A root directory with these lines in /proc/self/cgroup and these control files."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text("".join(line + "\n" for line in lines))
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


V1_UNLIMITED = str((1 << 63) - 4096)


@pytest.mark.parametrize(
    "lines, files, expected",
    [
        # Version 2: the least one from the process's own group up to the top.
        (["0::/job/a"], {"job/a/memory.max": "max", "job/memory.max": "4000"}, 4000),
        (["0::/job/a"], {"job/a/memory.max": "3000", "job/memory.max": "4000"}, 3000),
        (["0::/job/a"], {"job/a/memory.max": "max", "job/memory.max": "max"}, None),
        # Seen from inside a container, the group is the top.
        (["0::/"], {"memory.max": "5000"}, 5000),
        (["0::/../outside"], {"memory.max": "5000", "outside/memory.max": "1"}, 5000),
        # Version 1; its mount in a container does not have the path that is named.
        (["5:cpu,memory:/docker/x", "2:cpuset:/"], {"memory/memory.limit_in_bytes": "6000"}, 6000),
        (["4:memory:/a"], {"memory/a/memory.limit_in_bytes": "7", "memory/memory.limit_in_bytes": V1_UNLIMITED}, 7),
        (["4:memory:/a"], {"memory/memory.limit_in_bytes": V1_UNLIMITED}, int(V1_UNLIMITED)),
        # Both at once, a group of another controller, a path with a colon, no file at all.
        (["4:memory:/a", "0::/b"], {"memory/a/memory.limit_in_bytes": "9", "unified/b/memory.max": "8"}, 8),
        (["3:cpuset:/a"], {"memory/a/memory.limit_in_bytes": "9"}, None),
        (["0::/a:b"], {"a:b/memory.max": "10"}, 10),
        (["0::/gone"], {}, None),
    ],
)  # fmt: skip
def test_a_containers_limit_is_found(tmp_path, lines, files, expected):
    assert memory.container_bytes(groups(tmp_path, lines, files)) == expected


def test_on_cpu_the_lesser_of_machine_and_container_counts(tmp_path):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shares = jax.local_device_count()
    assert memory.container_bytes(tmp_path) is None
    machine = (physical // shares, "this machine's memory, per device")
    assert memory.available_bytes(tmp_path) == machine
    loose = groups(tmp_path / "loose", ["0::/"], {"memory.max": str(2 * physical)})
    assert memory.available_bytes(loose) == machine
    tight = groups(tmp_path / "tight", ["0::/"], {"memory.max": "8000"})
    expected = (8000 // shares, "this container's memory limit, per device")
    assert memory.available_bytes(tight) == expected


def test_this_process_has_a_limit_that_makes_sense():
    limit = memory.container_bytes()
    assert limit is None or limit > 1 << 20
