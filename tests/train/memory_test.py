"""The memory floor by hand, and the sentence for a model that cannot fit."""

import dataclasses

import pytest

from aster_jax import mesh as meshes
from aster_jax.model import config, transformer
from aster_jax.train import memory


def test_needs_by_hand(tiny, one_device):
    count = transformer.count_params(tiny)
    # 2 arrays x 2 layers x 2 heads x 16 = 128 numbers per token, a pool of 500 tokens.
    needed = memory.needed_bytes(tiny, one_device, 500, "bfloat16")
    assert needed == {
        "training": 4 * 4 * count,
        "rollout": 3 * 4 * count + 2 * count + 500 * 128 * 2,
        "cache": 500 * 128 * 2,
    }


def test_eight_devices_share(tiny, one_device, eight_devices):
    one = memory.needed_bytes(tiny, one_device, 512, "float32")
    eight = memory.needed_bytes(tiny, eight_devices, 512, "float32")
    # fsdp x tensor hold a fourth of the state; pages over 4, heads over 2.
    assert eight["training"] == pytest.approx(one["training"] / 4, rel=1e-3)
    assert eight["cache"] == one["cache"] / 8
    single = dataclasses.replace(tiny, num_kv_heads=1)
    alone = memory.needed_bytes(single, one_device, 512, "float32")["cache"]
    # A single head is replicated over tensor, not split.
    assert memory.needed_bytes(single, eight_devices, 512, "float32")["cache"] == alone / 4


def test_too_large_is_refused_with_numbers_and_remedies(tiny, one_device):
    large = config.PRESETS["qwen3_4b_thinking_2507"]
    with pytest.raises(ValueError, match=r"4.02 B parameters needs at least .*lower rollout.pool_tokens"):
        memory.check(large, one_device, 100_000 * 32_768, "bfloat16")
    memory.check(tiny, one_device, 256, "float32")


def test_the_papers_model_fits_a_pod_by_this_count():
    mesh = meshes.build(1, 4, 2)
    needed = memory.needed_bytes(
        config.PRESETS["qwen3_4b_thinking_2507"], mesh, 64 * 32_768, "bfloat16"
    )
    # 4.02 G parameters x 16 bytes / 8 devices.
    assert needed["training"] == pytest.approx(8.045e9, rel=1e-3)
